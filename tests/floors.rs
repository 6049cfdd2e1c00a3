//! The structure holds: a module imports only from floors below it, the crates without I/O
//! have none, and `unsafe` stays in one file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    files
}

/// The floors as `src/lib.rs` lists them, lowest first.
fn floors() -> BTreeMap<String, usize> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let name = |line: &str| Some(line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')?.to_owned());
    lib.lines().filter_map(name).enumerate().map(|(floor, name)| (name, floor)).collect()
}

/// The names behind every `crate::` in `text`.
fn imported(text: &str) -> Vec<&str> {
    let name = |rest: &'_ str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    text.split("crate::").skip(1).map(|rest| &rest[..name(rest)]).collect()
}

#[test]
fn modules_import_only_from_floors_below() {
    let (floors, src) = (floors(), root().join("src"));
    assert!(floors.len() > 10, "{floors:?}");
    let mut upward = Vec::new();
    for file in rust_files(&src) {
        let place = file.strip_prefix(&src).unwrap();
        let top = place.components().next().unwrap().as_os_str().to_str().unwrap();
        let Some(&own) = floors.get(top.trim_end_matches(".rs")) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for name in imported(&text) {
            if floors.get(name).is_some_and(|&floor| floor > own) {
                upward.push(format!("{} imports crate::{name}", place.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn proto_and_config_do_no_io_of_their_own() {
    for (dir, banned) in
        [("proto/src", &["tokio", "std::net", "std::fs", "std::time"][..]), ("config/src", &["tokio", "std::net"])]
    {
        for file in rust_files(&root().join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            for word in banned {
                assert!(!text.contains(word), "{} mentions {word}", file.display());
            }
        }
    }
}

#[test]
fn only_the_ring_is_unsafe() {
    for dir in ["src", "proto/src", "config/src"] {
        for file in rust_files(&root().join(dir)) {
            let allows = fs::read_to_string(&file).unwrap().contains("allow(unsafe_code)");
            assert_eq!(allows, file.ends_with("net/ring.rs"), "{}", file.display());
        }
    }
}
