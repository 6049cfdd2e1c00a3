//! Texts made from the tables of settings: what is effective, a sample file, and the reference page.

use crate::config::Config;
use crate::container::{BITNAMI_PREFIX, BITNAMI_SETTINGS, CONTAINER_DATABASE, CONTAINER_DEFAULTS, CONTAINER_SETTINGS};
use crate::entries::{DATABASE, Database, MAINTENANCE, MaintenanceJob, PEER, Peer, USER, User};
use crate::env::{FILE_SUFFIX, PREFIX};
use crate::settings::SETTINGS;
use crate::table::{Change, Row, Status};

impl Config {
    /// All of the configuration as an ini file, defaults included and secrets masked.
    pub fn effective(&self) -> String {
        let mut text = String::from("[databases]\n");
        for database in self.databases.values().chain(&self.autodb) {
            let mut shown = Database::clone(database);
            if shown.password_file.is_some() {
                shown.password = None;
            }
            push_entry(&mut text, &shown.name, DATABASE, &shown, &Database::new(""));
        }
        text.push_str("\n[users]\n");
        for user in self.users.values() {
            push_entry(&mut text, &user.name, USER, user, &User::new(""));
        }
        text.push_str("\n[peers]\n");
        for peer in self.peers.values() {
            push_entry(&mut text, &peer.id.to_string(), PEER, peer, &Peer::new(0));
        }
        text.push_str("\n[maintenance]\n");
        for job in self.maintenance.values() {
            push_entry(&mut text, &job.name, MAINTENANCE, job, &MaintenanceJob::new(""));
        }
        text.push_str("\n[pgbouncer]\n");
        for row in SETTINGS {
            match (row.write)(&self.settings) {
                Some(value) => push_line(&mut text, &format!("{} = {value}", row.key)),
                None if row.default.is_some() => push_line(&mut text, &format!("{} =", row.key)),
                None => push_line(&mut text, &format!(";{} =", row.key)),
            }
        }
        text
    }
}

/// A value from TOML or the environment may hold line breaks, which an ini file cannot.
fn push_line(text: &mut String, line: &str) {
    text.push_str(&line.trim_end().replace('\n', " "));
    text.push('\n');
}

/// One entry of a section as `name = key=value ...`, without what is at its default.
fn push_entry<S>(text: &mut String, name: &str, rows: &[Row<S>], entry: &S, defaults: &S) {
    let mut line = format!("{} =", quote_name(name));
    for row in rows {
        let value = (row.write)(entry);
        if let Some(value) = value.as_deref().filter(|_| value != (row.write)(defaults)) {
            line.push_str(&format!(" {}={}", row.key, quote_value(value)));
        }
    }
    push_line(text, &line);
}

/// A name as the key of a line.
fn quote_name(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
    if name.chars().all(bare) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A value inside a connection string.
fn quote_value(value: &str) -> String {
    if value.starts_with('\'') || value.contains(char::is_whitespace) {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        value.to_owned()
    }
}

/// What this version makes of a setting, where that is not just what its text says.
fn status_note<S>(row: &Row<S>) -> String {
    match row.status {
        Status::Acts => String::new(),
        Status::ActsExcept(values) => format!(" Refused by this build: {}.", values.join(", ")),
        Status::NoEffect(reason) => format!(" No effect: {reason}."),
    }
}

/// A sample `pgbouncer.ini` with every setting in a comment, at its default.
pub fn sample_ini() -> String {
    let mut text = String::from(
        ";; A configuration of pgweir, with every setting at its default. PgBouncer's own files work as they are.\n",
    );
    push_sample_entries(&mut text, "databases", "Databases that clients can ask for, `*` for all others.", DATABASE);
    text.push_str(";orders = host=db.example.com port=5432 dbname=orders\n");
    text.push_str(";replica = host=a.example.com,b.example.com user=reader password='two words'\n");
    text.push_str(";* = host=db.example.com\n");
    push_sample_entries(&mut text, "users", "Settings of single users.", USER);
    text.push_str(";batch = pool_mode=session query_timeout=3600\n");
    push_sample_entries(&mut text, "peers", "Other processes behind the same address, by their peer_id.", PEER);
    text.push_str(";2 = host=/tmp/second\n");
    push_sample_entries(&mut text, "maintenance", "Commands of pgweir that are run by the calendar.", MAINTENANCE);
    text.push_str(";nightly = command='analyze --database orders --yes' schedule='0 3 * * *' timezone=Europe/Berlin\n");
    text.push_str("\n[pgbouncer]\n");
    for row in SETTINGS {
        text.push_str(&format!("\n;; {}{}\n", row.doc, status_note(row)));
        push_line(&mut text, &format!(";{} = {}", row.key, row.default.unwrap_or_default()));
    }
    text
}

fn push_sample_entries<S>(text: &mut String, section: &str, intro: &str, rows: &[Row<S>]) {
    text.push_str(&format!("\n[{section}]\n;; {intro} An entry is \"name = key=value key=value\", with:\n"));
    for row in rows {
        text.push_str(&format!(";;   {}: {}{}\n", row.key, row.doc, status_note(row)));
    }
}

/// The reference of all settings, for `docs/settings.md`.
pub fn reference_markdown() -> String {
    let mut text = String::from(REFERENCE_INTRO);
    text.push_str("\n## Section [pgbouncer]\n\n");
    push_table(&mut text, SETTINGS);
    text.push_str("\n## Section [databases]\n\nOne entry per database; `*` stands for every name without an entry. ");
    text.push_str("The name `pgbouncer` is the console's.\n\n");
    push_table(&mut text, DATABASE);
    text.push_str("\n## Section [users]\n\nOne entry per user.\n\n");
    push_table(&mut text, USER);
    text.push_str("\n## Section [peers]\n\nOne entry per process, by its `peer_id`.\n\n");
    push_table(&mut text, PEER);
    text.push_str("\n## Section [maintenance]\n\n");
    text.push_str(MAINTENANCE_INTRO);
    push_table(&mut text, MAINTENANCE);
    push_environment(&mut text);
    text
}

const REFERENCE_INTRO: &str = "\
# Settings

Made from the tables in `config/src/settings.rs` and `config/src/entries.rs`; a test fails when it differs from them.

A configuration is a file in PgBouncer's ini form, or in TOML if its name ends in `.toml`, with the environment over it.
In TOML the sections are tables, and so are their entries; lists may be arrays:

```toml
[pgbouncer]
listen_addr = [\"127.0.0.1\", \"::1\"]
pool_mode = \"transaction\"
query_wait_timeout = \"2min\"

[databases.orders]
host = \"db.example.com\"
pool_size = 30
```

Times are in seconds unless they say otherwise; a number may carry a unit: `us`, `ms`, `s`, `min`, `h` or `d`.
`%include FILE` in an ini file reads another, relative to the working directory.
\"RELOAD\" means that `RELOAD` and `SET` change a setting in a running process, \"restart\" that only a restart does.
Settings marked (pgweir) are not PgBouncer's.
";

const MAINTENANCE_INTRO: &str = "\
One entry per job: a command of pgweir, run by the serving process at the times of a cron expression (see [Maintenance](maintenance.md)).

";

fn push_table<S>(text: &mut String, rows: &[Row<S>]) {
    text.push_str("| setting | default | changed by | value | |\n|---|---|---|---|---|\n");
    for row in rows {
        let ours = if row.ours { " (pgweir)" } else { "" };
        let default = match row.default {
            None => "not set".to_owned(),
            Some("") => "empty".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let change = match row.change {
            Change::Reload => "RELOAD",
            Change::Restart => "restart",
        };
        let accepts = (row.accepts)();
        let line =
            format!("| `{}`{ours} | {default} | {change} | {accepts} | {}{} |\n", row.key, row.doc, status_note(row));
        text.push_str(&line);
    }
}

fn push_environment(text: &mut String) {
    let join = |names: Vec<String>| names.join(", ");
    let defaults = CONTAINER_DEFAULTS.iter().map(|(key, value)| format!("`{key} = {value}`")).collect();
    let settings = CONTAINER_SETTINGS.iter().map(|key| format!("`{}`", key.to_ascii_uppercase())).collect();
    let database = CONTAINER_DATABASE.iter().map(|(name, _)| format!("`{name}`")).collect();
    let renamed = BITNAMI_SETTINGS.iter().map(|(name, key)| format!("`{name}` (`{key}`)")).collect();
    text.push_str(&format!(
        "
## Environment

`{PREFIX}<SETTING>` sets a setting of `[pgbouncer]` over any file, as in `{PREFIX}POOL_MODE=transaction`.
Any variable can be given as `<NAME>{FILE_SUFFIX}` instead, the path of a file that holds the value, for secrets.

Without a file, the variables of the common PgBouncer container images stand in for it; with one they are not read.
Where neither a variable nor `{PREFIX}<SETTING>` says otherwise, {} then. `admin_users` is empty unless set.

- Server: `DATABASE_URL`, or several in `DATABASE_URLS`; or `DB_HOST`, `DB_PORT`, `DB_NAME`, `DB_USER`, `DB_PASSWORD`.
  Without a database name the entry is `*`. The user and the password also make an entry of the user list.
  `ADMIN_USERS` with `ADMIN_PASSWORDS` and `STATS_USERS` with `STATS_PASSWORDS` add further users.
- Settings of that database: {}.
- Settings: {}.
- Under bitnami's names: `POSTGRESQL_HOST`, `POSTGRESQL_PORT`, `POSTGRESQL_USERNAME`, `POSTGRESQL_PASSWORD`,
  `POSTGRESQL_DATABASE`, `{BITNAMI_PREFIX}DATABASE`, `{BITNAMI_PREFIX}SET_DATABASE_USER`, `{BITNAMI_PREFIX}SET_DATABASE_PASSWORD`,
  `{BITNAMI_PREFIX}CONNECT_QUERY`, `{BITNAMI_PREFIX}USERLIST`, `{BITNAMI_PREFIX}DSN_0` and so on,
  `{BITNAMI_PREFIX}<SETTING>` for every setting but `user`, and {}.
",
        join(defaults),
        join(database),
        join(settings),
        join(renamed)
    ));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::Settings;

    /// Settings of PgBouncer's `[databases]` that its table of settings does not list.
    const NOT_IN_TABLE: &[&str] = &["application_name"];

    /// One line of the table of PgBouncer's settings.
    struct Known<'a> {
        key: &'a str,
        default: &'a str,
        changeable: bool,
        unit: &'a str,
        database: bool,
        user: bool,
    }

    fn known() -> Vec<Known<'static>> {
        let table = include_str!("../tests/data/settings.tsv");
        let line = |line: &'static str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [key, default, changeable, unit, database, user] = fields[..] else {
                panic!("not six fields: {line}");
            };
            let yes = |field| field == "yes";
            Known { key, default, changeable: yes(changeable), unit, database: yes(database), user: yes(user) }
        };
        table.lines().skip(1).map(line).collect()
    }

    fn keys<S>(rows: &[Row<S>]) -> Vec<&'static str> {
        rows.iter().filter(|row| !row.ours).map(|row| row.key).collect()
    }

    fn set<'a>(keys: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        keys.into_iter().collect()
    }

    #[test]
    fn the_tables_agree_with_pgbouncer_s_settings() {
        let known = known();
        let (settings, others): (Vec<&Known<'_>>, Vec<&Known<'_>>) =
            known.iter().partition(|known| SETTINGS.iter().any(|row| row.key == known.key));
        // In the order of SHOW CONFIG.
        assert_eq!(keys(SETTINGS), settings.iter().map(|known| known.key).collect::<Vec<_>>());
        for (row, known) in SETTINGS.iter().zip(settings) {
            assert_eq!(row.default.unwrap_or_default(), known.default, "{}", row.key);
            assert_eq!(row.change == Change::Reload, known.changeable, "{}", row.key);
            let accepts = (row.accepts)();
            let unit = ["milliseconds", "seconds"].into_iter().find(|unit| accepts.contains(unit));
            assert_eq!(unit.unwrap_or_default(), known.unit, "{}", row.key);
        }
        assert!(others.iter().all(|known| known.database || known.user));
        let databases = known.iter().filter(|known| known.database).map(|known| known.key);
        let not_listed = NOT_IN_TABLE.iter().copied();
        assert_eq!(set(keys(DATABASE)), set(databases.chain(not_listed)));
        let users = known.iter().filter(|known| known.user).map(|known| known.key);
        assert_eq!(set(keys(USER)), set(users));
    }

    /// Every default of a table reads as the value that the defaults have, and as itself once written.
    fn check_rows<S: Clone + PartialEq + std::fmt::Debug>(rows: &[Row<S>], defaults: &S) {
        for row in rows {
            let mut section = defaults.clone();
            for text in [row.default.unwrap_or_default(), &(row.write)(defaults).unwrap_or_default()] {
                assert!((row.parse)(&mut section, text), "{}: {text}", row.key);
                assert_eq!(&section, defaults, "{}: {text}", row.key);
            }
            assert!(row.doc.ends_with('.') && !row.doc.contains('|'), "{}", row.key);
        }
        let unique = set(rows.iter().map(|row| row.key));
        assert_eq!(unique.len(), rows.len());
    }

    #[test]
    fn defaults_read_back() {
        check_rows(SETTINGS, &Settings::default());
        check_rows(DATABASE, &Database::new("d"));
        check_rows(USER, &User::new("u"));
        check_rows(PEER, &Peer::new(1));
        check_rows(MAINTENANCE, &MaintenanceJob::new("j"));
    }

    #[test]
    fn refused_values_are_values() {
        for row in SETTINGS {
            for value in row.refused() {
                let mut settings = Settings::default();
                assert!((row.parse)(&mut settings, value), "{}={value}", row.key);
                assert_eq!((row.show)(&settings).as_deref(), Some(*value));
            }
        }
    }

    #[test]
    fn names_of_images_are_settings() {
        let renamed = BITNAMI_SETTINGS.iter().map(|(_, key)| key);
        let defaults = CONTAINER_DEFAULTS.iter().map(|(key, _)| key);
        for key in CONTAINER_SETTINGS.iter().chain(renamed).chain(defaults) {
            assert!(SETTINGS.iter().any(|row| row.key == *key), "{key}");
        }
        for (_, key) in CONTAINER_DATABASE {
            assert!(DATABASE.iter().any(|row| row.key == *key), "{key}");
        }
        // It means the user of the shell.
        assert!(!CONTAINER_SETTINGS.contains(&"user"));
    }

    #[test]
    fn the_reference_and_the_sample_name_everything() {
        let (reference, sample) = (reference_markdown(), sample_ini());
        for key in keys(SETTINGS) {
            assert!(reference.contains(&format!("\n| `{key}` |")), "{key}");
            assert!(sample.contains(&format!("\n;{key} =")), "{key}");
        }
        for key in keys(DATABASE).into_iter().chain(keys(USER)).chain(keys(PEER)) {
            assert!(reference.contains(&format!("\n| `{key}` |")), "{key}");
            assert!(sample.contains(&format!("\n;;   {key}: ")), "{key}");
        }
        assert!(reference.contains("| `workers` (pgweir) |"));
        assert!(reference.lines().all(|line| line.trim_end() == line));
    }
}
