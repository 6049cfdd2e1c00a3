//! PostgreSQL's own programs that speak the replication protocol, through the pooler.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::support::postgres::program;
use crate::support::process::{open_to_all, scratch_dir, signal, unprivileged};
use crate::support::*;

/// Physical replication asks for a database of the name `replication`, whatever the program was
/// told; none of the name is on the server.
fn start(pg: &Postgres) -> Bouncer {
    let entry = format!("host=127.0.0.1 port={}", pg.port);
    Bouncer::start(pg, |setup| setup.set("default_pool_size", 3).database("replication", entry))
}

/// One of PostgreSQL's programs as a client, with the rights of the server: it may start one on
/// what it has fetched.
fn client_program(bouncer: &Bouncer, name: &str) -> Command {
    let mut command = unprivileged(program(name), "KILL");
    command.args(["-h", "127.0.0.1", "-p", &bouncer.port.to_string(), "-U", "replicator"]);
    command
}

#[track_caller]
fn succeed(command: &mut Command) {
    let out = command.output().expect("run it");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A server of its own with some data, written to while it is backed up.
fn filled() -> (Postgres, Bouncer) {
    let pg = Postgres::dedicated();
    let bouncer = start(&pg);
    bouncer.client().run("create table kept as select i, md5(i::text) as hash from generate_series(1, 50000) i");
    (pg, bouncer)
}

/// A server starts on the backup and has what was there.
#[track_caller]
fn assert_restores(dir: &Path, bouncer: &Bouncer) {
    open_to_all(dir, 0o700);
    let restored = Postgres::restored(dir.to_owned());
    let sum = "select count(*) || ' ' || md5(string_agg(hash, '' order by i)) from kept where i <= 50000";
    let expected = bouncer.client().one(sum);
    assert!(expected.starts_with("50000 "), "{expected}");
    assert_eq!(restored.direct(&bouncer.server_database).one(sum), expected);
}

#[test]
fn a_plain_base_backup_with_streamed_wal_becomes_a_server() {
    let (_pg, bouncer) = filled();
    let dir = scratch_dir("backup");
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| {
            let mut command = client_program(&bouncer, "pg_basebackup");
            command.args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&dir);
            succeed(&mut command);
        });
        // Beside it, others are served.
        let mut client = bouncer.client();
        for i in 50_001.. {
            client.run(&format!("insert into kept values ({i}, 'later')"));
            if backup.is_finished() {
                break;
            }
        }
    });
    assert_restores(&dir, &bouncer);
}

#[test]
fn a_tar_base_backup_becomes_a_server() {
    let (_pg, bouncer) = filled();
    let (tar, dir) = (scratch_dir("tar"), scratch_dir("backup"));
    let mut command = client_program(&bouncer, "pg_basebackup");
    command.args(["--format=tar", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--pgdata"]);
    succeed(command.arg(&tar));
    let wal = dir.join("pg_wal");
    for (archive, target) in [("base.tar", &dir), ("pg_wal.tar", &wal)] {
        succeed(unprivileged("tar", "KILL").arg("-xf").arg(tar.join(archive)).arg("-C").arg(target));
    }
    assert_restores(&dir, &bouncer);
}

#[test]
fn pg_receivewal_receives_what_the_server_writes() {
    let pg = Postgres::shared();
    let bouncer = start(pg);
    let dir = scratch_dir("wal");
    let slot = format!("--slot={}", bouncer.server_database);
    let receivewal = || {
        let mut command = client_program(&bouncer, "pg_receivewal");
        command.arg(&slot).arg("--directory").arg(&dir).arg("--no-loop");
        command
    };
    succeed(receivewal().arg("--create-slot"));
    let mut running = receivewal().spawn().expect("start pg_receivewal");
    let streams =
        format!("select 1 from pg_replication_slots where slot_name = '{}' and active", bouncer.server_database);
    wait_until("it streams", PATIENCE, || !pg.sql(&streams).is_empty());
    let write = "select pg_logical_emit_message(false, 'x', repeat('x', 1000))";
    let switch = "select pg_walfile_name(pg_switch_wal())";
    pg.sql(write);
    let segment = pg.sql(switch).remove(0).remove(0).expect("a name");
    wait_until("the segment is whole", PATIENCE, || dir.join(&segment).exists());
    let server_s = fs::read(pg.dir.join("pg_wal").join(&segment)).expect("read the server's");
    assert!(fs::read(dir.join(&segment)).expect("read ours") == server_s, "{segment} differs");
    // `setpriv` has become the program.
    signal(running.id(), "INT");
    assert!(running.wait().expect("wait").success());
    succeed(receivewal().arg("--drop-slot"));
}

/// pg_recvlogical at work.
struct Received {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Received {
    fn start(command: &mut Command) -> Received {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start pg_recvlogical");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Received { child, lines }
    }

    /// What the next transaction did.
    fn transaction(&mut self) -> Vec<String> {
        let mut next = || self.lines.next().expect("a line").expect("read it");
        assert!(next().starts_with("BEGIN "));
        std::iter::from_fn(|| Some(next()).filter(|line| !line.starts_with("COMMIT "))).collect()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pg_recvlogical_follows_a_slot_from_its_making_to_its_end() {
    let pg = Postgres::shared();
    let bouncer = start(pg);
    let slot = format!("--slot={}", bouncer.server_database);
    let recvlogical = || {
        let mut command = client_program(&bouncer, "pg_recvlogical");
        command.arg(&slot).args(["--no-loop", "--dbname=app"]);
        command
    };
    let mut client = bouncer.client();
    client.run("create table followed (i int)");
    succeed(recvlogical().args(["--create-slot", "--plugin=test_decoding"]));
    let mut received = Received::start(recvlogical().args(["--start", "--file=-"]));
    client.run("insert into followed values (42)");
    assert_eq!(received.transaction(), ["table public.followed: INSERT: i[integer]:42"]);
    client.run("insert into followed select generate_series(1, 20000)");
    let all = received.transaction();
    assert_eq!(all.len(), 20_000);
    let expected = |i| format!("table public.followed: INSERT: i[integer]:{i}");
    assert!(all.iter().zip(1..).all(|(line, i)| *line == expected(i)));
    drop(received);
    // The server lets go of the slot when it sees the end of the connection.
    let active =
        format!("select 1 from pg_replication_slots where slot_name = '{}' and active", bouncer.server_database);
    wait_until("the slot is free", PATIENCE, || pg.sql(&active).is_empty());
    succeed(recvlogical().arg("--drop-slot"));
    let left = format!("select 1 from pg_replication_slots where slot_name = '{}'", bouncer.server_database);
    assert!(pg.sql(&left).is_empty());
}
