//! The page about the settings that is in the repository is the one that the tables of settings make.

// A build without one of them has another page.
#![cfg(all(feature = "ldap", feature = "pam"))]

use std::fs;

use pgweir_config::reference_markdown;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
const REMEDY: &str = "make it again, at the top of the repository: cargo run -- config reference > docs/settings.md";

#[test]
fn committed_page_is_the_generated_one() {
    let committed = fs::read_to_string(PAGE).unwrap_or_else(|error| panic!("docs/settings.md: {error}; {REMEDY}"));
    let generated = reference_markdown();
    let (mut old, mut new) = (committed.lines(), generated.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (old, new) => assert_eq!(
                old, new,
                "docs/settings.md (left) differs from the tables of settings (right) in line {number}; {REMEDY}"
            ),
        }
    }
    assert!(committed == generated, "docs/settings.md differs in the ends of its lines; {REMEDY}");
}
