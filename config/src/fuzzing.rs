//! What must hold for any text: the bodies of the fuzz targets in `fuzz/`, a function per
//! format. Each panics when it does not hold. The seeds are run through them by `cargo test`, too.

use std::path::Path;

use crate::config::Config;
use crate::hba::{self, Access, Hba, Parsed};
use crate::ident::{IdentMap, IdentMaps};
use crate::problem::{Place, Problem, Problems};
use crate::raw::Raw;
use crate::resolve::resolve;
use crate::url::{self, Url};
use crate::userlist::{UserSecret, Userlist};
use crate::{ini, toml};

/// Every problem is on a line of the text.
fn check_problems(problems: &[Problem], text: &str) {
    let lines = text.split('\n').count();
    for problem in problems.iter().filter(|problem| problem.file == "x") {
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&(line as usize))), "{problem}");
    }
}

fn load(text: &str, read: impl FnOnce(&Place, &str, &mut Raw)) -> Option<Config> {
    let mut raw = Raw::default();
    read(&Place::file("x"), text, &mut raw);
    match resolve(raw, None) {
        Ok(loaded) => {
            check_problems(&loaded.warnings, text);
            Some(loaded.config)
        }
        Err(Problems { errors, warnings }) => {
            assert!(!errors.is_empty());
            check_problems(&errors, text);
            check_problems(&warnings, text);
            None
        }
    }
}

fn load_ini(text: &str) -> Option<Config> {
    load(text, ini::read_str)
}

pub fn ini(data: &[u8]) {
    let Some(config) = load_ini(&String::from_utf8_lossy(data)) else { return };
    let shown = config.effective();
    let again = load_ini(&shown).unwrap_or_else(|| panic!("what is shown does not load:\n{shown}"));
    assert_eq!(again.effective(), shown);
}

pub fn toml(data: &[u8]) {
    let Some(config) =
        load(&String::from_utf8_lossy(data), |place, text, raw| toml::read_str(place.clone(), text, raw))
    else {
        return;
    };
    let shown = config.effective();
    assert!(load_ini(&shown).is_some(), "what is shown does not load:\n{shown}");
}

pub fn userlist(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (users, problems) = Userlist::parse(&text, &Place::file("x"));
    check_problems(&problems, &text);
    assert!(users.len() + problems.len() <= text.split('\n').count());
    let secret = |secret: &UserSecret| match secret {
        UserSecret::Empty => String::new(),
        UserSecret::Plain(text) | UserSecret::Md5(text) => text.expose().to_owned(),
        UserSecret::Scram(scram) => scram.text.expose().to_owned(),
    };
    let quote = |text: &str| text.replace('"', "\"\"");
    let line = |(user, of): (&str, &UserSecret)| format!("\"{}\" \"{}\"\n", quote(user), quote(&secret(of)));
    let (again, problems) = Userlist::parse(&users.iter().map(line).collect::<String>(), &Place::file("y"));
    assert_eq!((again, problems), (users, Vec::new()));
}

/// Rules without maps and further files, for tests of those who ask them.
pub fn rules(text: &str) -> Hba {
    let no_files = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let Parsed { hba, errors, .. } = hba::parse(text, &Place::file("x"), &IdentMaps::default(), &no_files);
    assert_eq!(errors, []);
    hba
}

/// The map of this name in a text, for the same.
pub fn ident_map(name: &str, text: &str) -> IdentMap {
    let (maps, problems) = IdentMaps::parse(text, &Place::file("x"));
    assert_eq!(problems, []);
    (**maps.get(name).expect("a map of this name")).clone()
}

/// The text is both files.
pub fn hba(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (maps, problems) = IdentMaps::parse(&text, &Place::file("x"));
    check_problems(&problems, &text);
    let circular = |_: &Path| Ok(text.to_string());
    let no_files = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    // Files that name themselves many times over take long, and tell no more.
    let read: hba::ReadFile<'_> = if text.matches('@').count() <= 1 { &circular } else { &no_files };
    let Parsed { hba, errors, warnings } = hba::parse(&text, &Place::file("x"), &maps, read);
    check_problems(&errors, &text);
    check_problems(&warnings, &text);
    let access = |address, is_tls| Access { address, is_tls, is_physical_replication: false, database: "d", user: "u" };
    for address in [None, Some([10, 0, 0, 1].into()), Some([0; 16].into())] {
        let [plain, tls] = [false, true].map(|is_tls| hba.find(&access(address, is_tls)));
        assert!(address.is_some() || plain == tls);
    }
}

pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = Url::parse(text) {
        assert!(!url.hosts.is_empty());
        let parts = [url.user, url.password.map(|secret| secret.expose().to_owned()), url.port, url.database];
        let len: usize = parts.iter().flatten().chain([&url.hosts]).map(String::len).sum();
        // A byte that is not UTF-8 takes three.
        assert!(len <= 3 * text.len());
        assert!(url.parameters.len() <= text.len());
    }
    let list = url::split_list(text);
    assert!(list.iter().all(|url| !url.is_empty()));
    assert_eq!(url::split_list(&list.join(",")), list);
}
