//! `locks`: who waits for whom.

use serde_json::Value;

use crate::program::{monitored, pgweir};
use crate::servers::restart_with;
use crate::support::*;

/// A database with the table `t`, and a server that prepares transactions and leaves deadlocks alone for a while.
fn server() -> (Postgres, &'static str, String) {
    let pg = Postgres::dedicated();
    restart_with(&pg, &[("max_prepared_transactions", "5"), ("deadlock_timeout", "'10min'")]);
    let (monitor, database) = monitored(&pg);
    pg.direct(&database).run("create table t (i int primary key); insert into t values (1), (2)");
    (pg, monitor, database)
}

/// A session that sends `sql` and is not waited for.
fn waiting(pg: &Postgres, database: &str, sql: &str) -> (Wire, String) {
    let mut wire = pg.direct(database);
    let pid = wire.backend().to_string();
    wire.send(&msg::query(sql));
    let asked = format!("select 1 from pg_locks where pid = {pid} and not granted");
    wait_until("it waits", PATIENCE, || !pg.sql(&asked).is_empty());
    (wire, pid)
}

fn trees(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["tree"].as_str().expect("a text")).collect()
}

#[test]
fn chains_from_the_root_down() {
    let (pg, monitor, database) = server();
    let none = pgweir("locks").on(&pg, monitor, &database).run().ok();
    assert_eq!(none.stdout, "Nobody waits for a lock.\n");
    let mut root = pg.direct(&database);
    // Held by the fast path.
    root.run("begin; select * from t");
    let root_pid = root.backend().to_string();
    assert!(!pg.sql(&format!("select 1 from pg_locks where pid = {root_pid} and fastpath")).is_empty());
    let (_wants_all, middle) = waiting(&pg, &database, "begin; lock table t in access exclusive mode");
    let (_reader, last) = waiting(&pg, &database, "select * from t");
    let rows = pgweir("locks").on(&pg, monitor, &database).rows();
    assert_eq!(trees(&rows), [root_pid.clone(), format!(". {middle}"), format!(". . {last}")]);
    let (top, second) = (&rows[0], &rows[1]);
    assert_eq!(
        (&top["blocks"], &top["state"], &top["deadlock"]),
        (&2.into(), &"idle in transaction".into(), &false.into())
    );
    assert_eq!(second["wants"], "AccessExclusiveLock on public.t");
    assert_eq!(second["blocked_by"], Value::from(vec![root_pid]));
    assert!(second["waits_s"].as_f64().expect("a time") < 60.0 && top["waits_s"].is_null());
    assert_eq!(rows[2]["query"], "select * from t");
    let text = pgweir("locks").on(&pg, monitor, &database).run().ok().stdout;
    assert!(text.contains(&format!("\n. . {last} ")), "{text}");
}

#[test]
fn prepared_transactions_hold_locks_without_a_process() {
    let (pg, monitor, database) = server();
    pg.direct(&database).run("begin; select * from t; prepare transaction 'harmless'");
    pg.direct(&database).run("begin; update t set i = 10 where i = 1; prepare transaction 'in the way'");
    let (_wire, pid) = waiting(&pg, &database, "update t set i = 11 where i = 1");
    let rows = pgweir("locks").on(&pg, monitor, &database).rows();
    assert_eq!(trees(&rows), ["prepared in the way".to_owned(), format!(". {pid}")], "{rows:#?}");
    assert_eq!((&rows[0]["prepared"], &rows[0]["user"]), (&"in the way".into(), &"postgres".into()));
}

#[test]
fn prepared_transactions_by_the_mode_of_their_lock() {
    let (pg, monitor, database) = server();
    pg.direct(&database).run("begin; lock table t in access share mode; prepare transaction 'reads'");
    pg.direct(&database).run("begin; lock table t in row exclusive mode; prepare transaction 'writes'");
    let (_wire, pid) = waiting(&pg, &database, "begin; lock table t in share mode");
    let holders = |pid: &str| {
        let rows = pgweir("locks").on(&pg, monitor, &database).rows();
        assert_eq!(trees(&rows), ["prepared writes".to_owned(), format!(". {pid}")]);
    };
    holders(&pid);
    // Afterwards the server knows them from its files.
    pg.stop("INT");
    pg.start();
    let (_wire, pid) = waiting(&pg, &database, "begin; lock table t in share mode");
    holders(&pid);
}

#[test]
fn deadlocks_are_told_before_the_server_ends_them() {
    let (pg, monitor, database) = server();
    let (mut one, mut two) = (pg.direct(&database), pg.direct(&database));
    one.run("begin; update t set i = 10 where i = 1");
    two.run("begin; update t set i = 20 where i = 2");
    let pids = [one.backend().to_string(), two.backend().to_string()];
    one.send(&msg::query("update t set i = 21 where i = 2"));
    two.send(&msg::query("update t set i = 11 where i = 1"));
    wait_until("both wait", PATIENCE, || pg.sql("select 1 from pg_locks where not granted").len() == 2);
    let (_third, third) = waiting(&pg, &database, "update t set i = 12 where i = 1");
    let rows = pgweir("locks").on(&pg, monitor, &database).rows();
    let members: Vec<&Value> = rows.iter().filter(|row| row["deadlock"] == true).collect();
    assert_eq!(members.len(), 2, "{rows:#?}");
    assert!(members.iter().all(|row| pids.contains(&row["pid"].to_string())), "{rows:#?}");
    let behind =
        rows.iter().find(|row| row["tree"].as_str().is_some_and(|tree| tree.ends_with(&third))).expect("the third");
    assert_eq!((&behind["deadlock"], &behind["depth"] != 0), (&false.into(), true));
    assert_eq!(rows.iter().filter(|row| row["depth"] == 0).count(), 1, "{rows:#?}");
}
