//! What a new configuration changes, in words for the log and the console. Never a secret.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::entries::{DATABASE, MAINTENANCE, PEER, USER};
use crate::settings::SETTINGS;
use crate::table::Row;

/// Of each kind so many are named; of more, the number is told.
const NAMED_MAX: usize = 20;

/// Its text is run on servers, and may hold what nobody else should read.
const NEVER_SHOWN: &str = "connect_query";

/// What `after` changes, a line each. Settings first, then databases, users, peers, jobs and secrets.
pub fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = differences(SETTINGS, &before.settings, &after.settings);
    let fallback = |config: &Config| config.autodb.iter().map(|entry| ("*".to_owned(), entry.clone())).collect();
    let databases = |config: &Config| -> BTreeMap<_, _> {
        let fallback: BTreeMap<_, _> = fallback(config);
        config.databases.clone().into_iter().chain(fallback).collect()
    };
    lines.extend(entries("database", &databases(before), &databases(after), |a, b| differences(DATABASE, a, b)));
    lines.extend(entries("user", &before.users, &after.users, |a, b| differences(USER, a, b)));
    lines.extend(entries("peer", &before.peers, &after.peers, |a, b| differences(PEER, a, b)));
    let (jobs, jobs_after) = (&before.maintenance, &after.maintenance);
    lines.extend(entries("maintenance job", jobs, jobs_after, |a, b| differences(MAINTENANCE, a, b)));
    let secrets = |config: &Config| -> BTreeMap<String, _> {
        config.userlist.iter().map(|(name, secret)| (name.to_owned(), secret.clone())).collect()
    };
    lines.extend(entries("auth_file user", &secrets(before), &secrets(after), |_, _| vec!["secret".to_owned()]));
    if before.hba != after.hba {
        lines.push("rules of auth_hba_file changed".to_owned());
    }
    lines
}

/// The settings that differ, each with both values.
fn differences<S>(rows: &'static [Row<S>], before: &S, after: &S) -> Vec<String> {
    let differing = rows.iter().filter(|row| !(row.same)(before, after));
    differing.map(|row| difference(row, before, after)).collect()
}

pub(crate) fn difference<S>(row: &Row<S>, before: &S, after: &S) -> String {
    if row.secret || row.key == NEVER_SHOWN {
        return format!("{} changed", row.key);
    }
    let value = |section: &S| match (row.show)(section) {
        Some(value) if !value.is_empty() => value,
        _ => "(empty)".to_owned(),
    };
    format!("{}: {} -> {}", row.key, value(before), value(after))
}

/// The entries that were added, removed and changed.
fn entries<K: Ord + ToString, E: PartialEq>(
    kind: &str,
    before: &BTreeMap<K, E>,
    after: &BTreeMap<K, E>,
    differences: impl Fn(&E, &E) -> Vec<String>,
) -> Vec<String> {
    let names = |in_these: &BTreeMap<K, E>, but_not: &BTreeMap<K, E>| -> Vec<String> {
        in_these.keys().filter(|name| !but_not.contains_key(name)).map(ToString::to_string).collect()
    };
    let mut lines = Vec::new();
    for (what, names) in [("added", names(after, before)), ("removed", names(before, after))] {
        lines.extend(named(names.into_iter().map(|name| format!("{kind} {what}: {name}")), kind, what));
    }
    let changed = after.iter().filter_map(|(name, entry)| {
        let earlier = before.get(name).filter(|earlier| *earlier != entry)?;
        Some(format!("{kind} changed: {} ({})", name.to_string(), differences(earlier, entry).join(", ")))
    });
    lines.extend(named(changed, kind, "changed"));
    lines
}

/// The first lines, and how many more there are.
fn named(lines: impl Iterator<Item = String>, kind: &str, what: &str) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    if lines.len() > NAMED_MAX {
        let more = lines.len() - NAMED_MAX;
        lines.truncate(NAMED_MAX);
        lines.push(format!("{more} more of kind {kind} {what}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::entries::{Database, Peer, User};
    use crate::secret::Secret;
    use crate::userlist::{UserSecret, Userlist};

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::default();
        change(&mut config);
        config
    }

    fn database(name: &str, change: impl FnOnce(&mut Database)) -> (String, Arc<Database>) {
        let mut entry = Database::new(name);
        change(&mut entry);
        (name.to_owned(), Arc::new(entry))
    }

    #[test]
    fn settings_are_told_with_both_values() {
        let before = Config::default();
        let after = config(|config| {
            config.settings.default_pool_size = 3;
            config.settings.set("admin_users", "a").unwrap();
            config.settings.auth_ldap_options = Some(Secret::new("hunter2"));
        });
        let expected = ["admin_users: (empty) -> a", "auth_ldap_options changed", "default_pool_size: 20 -> 3"];
        assert_eq!(changes(&before, &after), expected);
        assert_eq!(changes(&after, &after), Vec::<String>::new());
    }

    #[test]
    fn entries_are_told_without_their_secrets() {
        let before = config(|config| {
            config.databases.extend([database("gone", |_| ()), database("same", |_| ())]);
            config.databases.extend([database("app", |entry| entry.password = Some(Secret::new("hunter2")))]);
            config.users.insert("u".into(), Arc::new(User::new("u")));
            config.peers.insert(1, Peer::new(1));
            let mut userlist = Userlist::default();
            userlist.insert("alice", UserSecret::parse("hunter2"));
            config.userlist = Arc::new(userlist);
        });
        let after = config(|config| {
            config.databases.extend([database("same", |_| ()), database("new", |_| ())]);
            config.databases.extend([database("app", |entry| {
                entry.password = Some(Secret::new("hunter3"));
                entry.pool_size = Some(5);
                entry.connect_query = Some("set x = 'hunter2'".into());
            })]);
            config.autodb = Some(database("*", |_| ()).1);
            let changed = User { pool_size: Some(2), ..User::new("u") };
            config.users.insert("u".into(), Arc::new(changed));
            let mut userlist = Userlist::default();
            userlist.insert("alice", UserSecret::parse("hunter3"));
            config.userlist = Arc::new(userlist);
        });
        let lines = changes(&before, &after);
        assert!(!lines.concat().contains("hunter"), "{lines:?}");
        let expected = [
            "database added: *",
            "database added: new",
            "database removed: gone",
            "database changed: app (connect_query changed, password changed, pool_size: (empty) -> 5)",
            "user changed: u (pool_size: (empty) -> 2)",
            "peer removed: 1",
            "auth_file user changed: alice (secret)",
        ];
        let mut sorted: Vec<&str> = lines[3].split(['(', ')']).nth(1).unwrap().split(", ").collect();
        sorted.sort_unstable();
        assert!(lines[3].starts_with("database changed: app (") && sorted.contains(&"password changed"), "{lines:?}");
        assert_eq!(lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(expected).filter(|(_, expected)| !expected.contains(" app ")) {
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn many_are_counted() {
        let after = config(|config| config.databases.extend((0..30).map(|n| database(&n.to_string(), |_| ()))));
        let lines = changes(&Config::default(), &after);
        assert_eq!(lines.len(), NAMED_MAX + 1);
        assert_eq!(lines[NAMED_MAX], "10 more of kind database added");
    }
}
