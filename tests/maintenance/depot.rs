//! Backups as `backup run` leaves them, made by pg_dump itself, so that a test may have them as it likes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::program::{Program, dsn, pgweir};
use crate::support::process::scratch_dir;
use crate::support::*;

/// A directory of backups.
pub(crate) struct Depot {
    pub(crate) dir: PathBuf,
    /// What the ids of its backups begin with.
    name: String,
    /// How many there are: each is a minute younger than the one before.
    count: usize,
}

/// One of them.
pub(crate) struct Backup {
    pub(crate) id: String,
    dir: PathBuf,
}

fn sha256(path: &Path) -> String {
    let bytes = fs::read(path).expect("read a file of the backup");
    digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs one of PostgreSQL's programs on a server as its superuser.
#[track_caller]
pub(crate) fn run_program(pg: &Postgres, name: &str, database: &str, args: &[&str]) {
    let mut command = Command::new(pg.bindir.join(name));
    command.env_clear().env("PGHOST", "127.0.0.1").env("PGPORT", pg.port.to_string()).env("PGUSER", "postgres");
    let out = command.env("PGDATABASE", database).args(args).output().expect("run a program");
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Depot {
    pub(crate) fn new() -> Depot {
        Depot { dir: scratch_dir("backups"), name: fresh("of"), count: 0 }
    }

    /// `format` is `custom`, `directory` or `plain`.
    pub(crate) fn backup(&mut self, pg: &Postgres, database: &str, format: &str) -> Backup {
        self.count += 1;
        let at = format!("2026-01-01T00:{:02}:00Z", self.count);
        let id = format!("{}-{}", self.name, self.count);
        let dir = self.dir.join(&id);
        fs::create_dir(&dir).expect("create the backup");
        let (letter, name) = match format {
            "custom" => ("-Fc", "data.dump"),
            "directory" => ("-Fd", "data"),
            _ => ("-Fp", "data.sql"),
        };
        run_program(pg, "pg_dump", database, &[letter, "-f", dir.join(name).to_str().expect("a path")]);
        run_program(pg, "pg_dumpall", database, &["-g", "-f", dir.join("globals.sql").to_str().expect("a path")]);
        let version = pg.sql("show server_version").remove(0).remove(0).expect("a version");
        let number: u64 =
            pg.sql("show server_version_num")[0][0].as_deref().expect("a version").parse().expect("a number");
        let mut manifest = json!({
            "manifest_version": 1, "id": id, "database": database,
            "server_version": version.split(' ').next(), "server_version_num": number,
            "pg_dump_version": version.split(' ').next(), "format": format,
            "options": { "schema_only": false, "tables": [], "excluded": [], "inserts": false, "compress": null },
            "started_at": at, "finished_at": at, "bytes": 0, "sha256": "", "files": [],
            "rows": rows(pg, database), "globals": "globals.sql", "upload": null, "verified": null, "held": false,
        });
        manifest["files"] = Value::Array(Vec::new());
        let backup = Backup { id, dir };
        backup.write(&manifest);
        backup.seal();
        backup
    }

    /// The one that was made last.
    pub(crate) fn latest(&self) -> Backup {
        let id = format!("{}-{}", self.name, self.count);
        Backup { dir: self.dir.join(&id), id }
    }

    pub(crate) fn program(&self, line: &str) -> Program {
        pgweir(line).arg("--to").arg(self.dir.to_str().expect("a path"))
    }

    /// As the superuser of a server, with its own programs.
    pub(crate) fn on(&self, line: &str, pg: &Postgres, database: &str) -> Program {
        let bin = pg.bindir.to_str().expect("a path").to_owned();
        self.program(line).arg("--pg-bin").arg(bin).arg("--dsn").arg(dsn(pg, "postgres", database))
    }

    /// What the list says of a backup.
    pub(crate) fn listed(&self, backup: &Backup) -> Value {
        let rows = self.program("backup list").rows();
        rows.into_iter().find(|row| row["id"] == backup.id.as_str()).expect("it is listed")
    }
}

/// The tables' rows, counted one by one.
fn rows(pg: &Postgres, database: &str) -> Value {
    let mut direct = pg.direct(database);
    let tables = direct
        .query(
            "select n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) from pg_class c
             join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2",
        )
        .expect("tables");
    let count = |table: Vec<Option<String>>| {
        let rows: i64 = direct
            .one(&format!("select count(*) from only {}", table[2].as_deref().expect("a name")))
            .parse()
            .expect("a count");
        json!({ "schema": table[0], "name": table[1], "rows": rows })
    };
    Value::Array(tables.into_iter().map(count).collect())
}

impl Backup {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn manifest(&self) -> Value {
        let text = fs::read(self.file("manifest.json")).expect("read the manifest");
        serde_json::from_slice(&text).expect("JSON")
    }

    pub(crate) fn write(&self, manifest: &Value) {
        fs::write(self.file("manifest.json"), manifest.to_string()).expect("write the manifest");
    }

    /// Makes the manifest say of the files what they are now.
    pub(crate) fn seal(&self) {
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&self.dir).expect("list").map(|entry| entry.expect("an entry")) {
            let name = entry.file_name().into_string().expect("a name");
            if entry.path().is_dir() {
                let inside =
                    fs::read_dir(entry.path()).expect("list").map(|entry| entry.expect("an entry").file_name());
                names.extend(inside.map(|inside| format!("{name}/{}", inside.to_str().expect("a name"))));
            } else if name != "manifest.json" {
                names.push(name);
            }
        }
        names.sort();
        let mut manifest = self.manifest();
        let bytes = |name: &String| fs::metadata(self.file(name)).expect("a file").len();
        manifest["bytes"] = names.iter().map(bytes).sum::<u64>().into();
        let files =
            names.iter().map(|name| json!({ "name": name, "bytes": bytes(name), "sha256": sha256(&self.file(name)) }));
        manifest["files"] = files.collect();
        self.write(&manifest);
    }

    /// Turns one bit of a file, at a share of its length.
    pub(crate) fn flip(&self, name: &str, share: f64) {
        let mut bytes = fs::read(self.file(name)).expect("read");
        let at = ((bytes.len() - 1) as f64 * share) as usize;
        bytes[at] ^= 0x10;
        fs::write(self.file(name), bytes).expect("write");
    }

    /// Cuts a file to a share of its length.
    pub(crate) fn cut(&self, name: &str, share: f64) {
        let bytes = fs::read(self.file(name)).expect("read");
        fs::write(self.file(name), &bytes[..(bytes.len() as f64 * share) as usize]).expect("write");
    }
}

/// Whether a server has such a database.
pub(crate) fn has_database(pg: &Postgres, name: &str) -> bool {
    !pg.sql(&format!("select 1 from pg_database where datname = '{}'", name.replace('\'', "''"))).is_empty()
}

/// A name that nobody else takes.
pub(crate) fn fresh(name: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{name}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Tables with unusual names, of several kinds.
pub(crate) const UNUSUAL: &str = r#"
    create schema "Odd sch.ema"; create schema sales;
    create type sales.mood as enum ('sad', 'happy');
    create table "Odd sch.ema"."it's ""quoted""" (id int generated always as identity primary key, "Größe" text);
    insert into "Odd sch.ema"."it's ""quoted""" ("Größe") select 'x' || n from generate_series(1, 100) n;
    create table sales.customers (id serial primary key, mood sales.mood default 'happy');
    insert into sales.customers select n from generate_series(1, 50) n;
    create table sales.orders (id int primary key, customer int references sales.customers, at date) ;
    insert into sales.orders select n, n % 50 + 1, '2026-01-01' from generate_series(1, 1000) n;
    create table events (at date, what text) partition by range (at);
    create table events_1 partition of events for values from ('2026-01-01') to ('2026-02-01');
    create table events_2 partition of events for values from ('2026-02-01') to ('2026-03-01');
    insert into events select date '2026-01-01' + n, 'e' from generate_series(0, 57) n;
    create table parent (a int); create table child () inherits (parent);
    insert into parent select generate_series(1, 3); insert into child select generate_series(1, 4);
    create materialized view sales.totals as select customer, count(*) from sales.orders group by 1;
    create index on sales.orders (at);
    create view sales.recent as select * from sales.orders where at > '2025-01-01'"#;
