//! What must hold for any bytes that come in: what the fuzz targets in `fuzz/` run, by name.
//! A target panics when it does not hold.

use pgweir_config::fuzzing as config;
use pgweir_proto::fuzzing as proto;

use crate::admin;
use crate::net;
use crate::relay;
use crate::server;

/// Takes any bytes.
type Target = fn(&[u8]);

/// All targets. Each has a file in `fuzz/targets/` and seeds in `fuzz/seeds/`.
const TARGETS: &[(&str, Target)] = &[
    ("auth", proto::auth),
    ("cancel_key", proto::cancel_key),
    ("certificate", net::tls::fuzz_certificate),
    ("console", admin::fuzzing::console),
    ("dns", server::dns::fuzz),
    ("error_response", proto::error_response),
    ("frame", proto::frame),
    ("hba", config::hba),
    ("ini", config::ini),
    ("options", proto::options),
    ("proxy_header", proto::proxy_header),
    ("relay", relay::fuzzing::relay),
    ("scram_client", proto::scram_client),
    ("scram_server", proto::scram_server),
    ("secret", proto::secret),
    ("session_use", relay::fuzzing::session_use),
    ("startup", proto::startup),
    ("tls_records", net::tls::fuzz_records),
    ("toml", config::toml),
    ("url", config::url),
    ("userlist", config::userlist),
];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    target(data);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::panic::catch_unwind;
    use std::path::{Path, PathBuf};

    use super::*;

    fn entries(dir: &str) -> Vec<PathBuf> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir);
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn every_seed_passes_its_target() {
        let mut failed = Vec::new();
        for (name, target) in TARGETS {
            let seeds = entries(&format!("seeds/{name}"));
            assert!(seeds.len() > 1, "{name} has no seeds");
            for seed in seeds {
                let bytes = fs::read(&seed).unwrap();
                if catch_unwind(|| target(&bytes)).is_err() {
                    failed.push(seed);
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn every_target_has_its_file() {
        let files: BTreeSet<String> =
            entries("targets").iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, names);
    }
}
