//! Files of authorities that others have gathered: the system's, and those that users name.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use super::verify::Authorities;

/// Where systems keep the authorities that they trust: Debian, Red Hat, Alpine, SUSE.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

pub(super) fn system_file() -> Option<PathBuf> {
    SYSTEM_FILES.iter().map(PathBuf::from).find(|file| file.exists())
}

/// All that is usable in these files.
pub(super) fn of_files(files: &[PathBuf]) -> Result<Authorities, String> {
    let mut certificates = Vec::new();
    for file in files {
        certificates.extend(certificates_of(file)?);
    }
    Authorities::of_usable(certificates).ok_or_else(|| {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        format!("no certificates of authorities in {files:?}")
    })
}

/// What else is in a file does not matter: a directory may hold many things.
fn certificates_of(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_file_iter(file) {
        Ok(found) => Ok(found.filter_map(Result::ok).collect()),
        Err(pem::Error::Io(e)) => Err(format!("{}: {e}", file.display())),
        Err(_) => Ok(Vec::new()),
    }
}
