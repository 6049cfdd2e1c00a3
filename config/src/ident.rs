//! The `auth_ident_file`: which system users, or names in client certificates, may log in as which users.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fields::{Field, Fields};
use crate::problem::{Place, Problem};

/// The lines of one map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentMap {
    pub name: String,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    system_user: String,
    /// None: all.
    user: Option<String>,
}

impl IdentMap {
    /// Whether whoever has this name elsewhere may log in as `user`.
    pub fn allows(&self, system_user: &str, user: &str) -> bool {
        self.system_users(user).any(|allowed| allowed == system_user)
    }

    /// Who may log in as `user`.
    pub fn system_users<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a str> {
        let is_for = move |line: &&Line| line.user.as_deref().is_none_or(|allowed| allowed == user);
        self.lines.iter().filter(is_for).map(|line| &*line.system_user)
    }
}

/// All maps by their names.
#[derive(Debug, Default)]
pub(crate) struct IdentMaps(BTreeMap<String, Arc<IdentMap>>);

impl IdentMaps {
    /// Reads lines of `map system-user user`.
    pub(crate) fn parse(text: &str, file: &Place) -> (IdentMaps, Vec<Problem>) {
        let mut maps: BTreeMap<String, IdentMap> = BTreeMap::new();
        let mut problems = Vec::new();
        for (text, number) in text.split('\n').zip(1..) {
            match parse_line(text) {
                Ok(None) => {}
                Ok(Some((name, line))) => {
                    let map = maps.entry(name.clone()).or_insert_with(|| IdentMap { name, lines: Vec::new() });
                    map.lines.push(line);
                }
                Err(message) => problems.push(file.line(number).problem(message)),
            }
        }
        (IdentMaps(maps.into_iter().map(|(name, map)| (name, Arc::new(map))).collect()), problems)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<IdentMap>> {
        self.0.get(name)
    }
}

/// None for a line that says nothing.
fn parse_line(text: &str) -> Result<Option<(String, Line)>, String> {
    let mut fields = Fields::new(text);
    if fields.is_end() {
        return Ok(None);
    }
    let name = fields.expect("the name of a map")?.into_text();
    let system_user = fields.expect("the name of a system user")?;
    let user = fields.expect("the name of a database user")?;
    if !fields.is_end() {
        return Err("nothing but map, system user and database user expected".to_owned());
    }
    if matches!(&system_user, Field::Word(word) if word.starts_with('/')) {
        return Err("regular expressions are not supported".to_owned());
    }
    if matches!(&user, Field::Word(word) if word.starts_with(['/', '+'])) {
        return Err("regular expressions and groups are not supported".to_owned());
    }
    let user = if user.is("all") { None } else { Some(user.into_text()) };
    Ok(Some((name, Line { system_user: system_user.into_text(), user })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (IdentMaps, Vec<String>) {
        let (maps, problems) = IdentMaps::parse(text, &Place::file("ident"));
        (maps, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn maps_allow_what_they_say() {
        let (maps, problems) = parse(
            "# comment\n\nstaff ann postgres\nstaff bob all # everybody\r\nother \"c d\" \"all\"\nstaff ann app\n\tstaff\teve\t\"x y\"",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let allows = |map: &str, system_user, user| maps.get(map).unwrap().allows(system_user, user);
        assert!(allows("staff", "ann", "postgres") && allows("staff", "ann", "app") && allows("staff", "eve", "x y"));
        assert!(
            !allows("staff", "ann", "ann") && !allows("staff", "Ann", "app") && !allows("staff", "postgres", "ann")
        );
        assert!(allows("staff", "bob", "anybody") && !allows("other", "bob", "all"));
        // In quotes it is a name.
        assert!(allows("other", "c d", "all") && !allows("other", "c d", "x"));
        assert!(maps.get("ann").is_none());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let (maps, problems) = parse("a\na b\na b c d\na /^x$ c\na b +g\na b \"c\na , b c");
        let expected = [
            "1: the name of a system user expected",
            "2: the name of a database user expected",
            "3: nothing but map, system user and database user expected",
            "4: regular expressions are not supported",
            "5: regular expressions and groups are not supported",
            "6: a quote is not closed",
            "7: the name of a system user expected",
        ];
        assert_eq!(problems, expected.map(|line| format!("ident:{line}")));
        assert!(maps.get("a").is_none());
    }
}
