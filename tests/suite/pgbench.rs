//! pgbench, many clients on few servers: no error, no server too many, no money lost.

use std::fs;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::*;

const SERVERS: usize = 20;

struct Bank {
    pg: &'static Postgres,
    bouncer: Bouncer,
}

impl Bank {
    /// pgbench's tables behind a pool of [`SERVERS`].
    fn open(mode: &str, clients: usize) -> Bank {
        let pg = Postgres::shared();
        let bouncer = Bouncer::start(pg, |setup| {
            setup
                .set("pool_mode", mode)
                .set("default_pool_size", SERVERS)
                .set("max_client_conn", clients + 100)
                .set("log_connections", 0)
                .set("log_disconnections", 0)
        });
        let made = Command::new(postgres::program("pgbench"))
            .args(["-i", "-q", "-s", "10", "-h", "127.0.0.1", "-U", "app", "-p"])
            .args([&pg.port.to_string(), &bouncer.server_database])
            .output()
            .expect("run pgbench");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Bank { pg, bouncer }
    }

    /// Runs pgbench through the pooler while the backends are counted.
    fn run(&self, clients: usize, transactions: usize, args: &[&str]) {
        let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
        let out = thread::scope(|scope| {
            scope.spawn(|| {
                let mut direct = self.pg.direct("postgres");
                let sql =
                    format!("select count(*) from pg_stat_activity where datname = '{}'", self.bouncer.server_database);
                while !over.load(Ordering::Relaxed) {
                    most.fetch_max(direct.one(&sql).parse().expect("a count"), Ordering::Relaxed);
                    direct.run("select pg_sleep(0.01)");
                }
            });
            let out = self.pgbench(clients, transactions, args);
            over.store(true, Ordering::Relaxed);
            out
        });
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{args:?}: {stdout}{stderr}");
        let total = clients * transactions;
        let processed = format!("actually processed: {total}/{total}\n");
        assert!(stdout.contains(&processed), "{args:?}: {stdout}");
        assert!(stdout.contains("failed transactions: 0 "), "{args:?}: {stdout}");
        assert!(!stderr.contains("error"), "{args:?}: {stderr}");
        let most = most.into_inner();
        assert!((1..=SERVERS).contains(&most), "{args:?}: {most} backends");
    }

    fn pgbench(&self, clients: usize, transactions: usize, args: &[&str]) -> Output {
        // As many files as the hard limit has: every client is a socket.
        Command::new("sh")
            .args(["-c", "ulimit -n $(ulimit -Hn) && exec \"$@\"", "sh"])
            .arg(postgres::program("pgbench"))
            .args(["-n", "-h", "127.0.0.1", "-U", "app", "-p"])
            .arg(self.bouncer.port.to_string())
            .args(["-c", &clients.to_string(), "-t", &transactions.to_string()])
            .args(args)
            .arg("app")
            .output()
            .expect("run pgbench")
    }

    fn assert_balanced(&self, transactions: usize) {
        let mut direct = self.pg.direct(&self.bouncer.server_database);
        let sums = direct.one(
            "select concat_ws(' ', sum(abalance) = history.delta, \
                 (select sum(bbalance) from pgbench_branches) = history.delta, \
                 (select sum(tbalance) from pgbench_tellers) = history.delta, history.count) \
             from pgbench_accounts, \
                 (select coalesce(sum(delta), 0) as delta, count(*) from pgbench_history) history \
             group by history.delta, history.count",
        );
        assert_eq!(sums, format!("t t t {transactions}"));
    }
}

#[test]
fn two_hundred_clients_on_twenty_servers() {
    let bank = Bank::open("transaction", 200);
    bank.run(200, 50, &["-M", "simple", "-S"]);
    bank.run(200, 50, &["-M", "extended", "-S"]);
    bank.run(200, 10, &["-M", "simple"]);
    bank.run(200, 10, &["-M", "extended"]);
    bank.assert_balanced(4000);
}

#[test]
fn two_thousand_clients_on_twenty_servers() {
    let limits = fs::read_to_string("/proc/self/limits").expect("read the limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = files.and_then(|line| line.split_whitespace().nth(1)).expect("a hard limit");
    let enough = hard.parse().map_or(hard == "unlimited", |count: u64| count >= 4096);
    assert!(enough, "raise the hard limit of open files: {hard}, and this test needs 4096");
    let bank = Bank::open("transaction", 2000);
    bank.run(2000, 3, &["-M", "simple", "-S"]);
    bank.run(2000, 1, &["-M", "extended"]);
    bank.assert_balanced(2000);
}

#[test]
fn prepared_statements_of_pgbench_work_in_both_modes() {
    for (mode, clients) in [("session", SERVERS), ("transaction", 3 * SERVERS)] {
        let bank = Bank::open(mode, clients);
        // A thread each: pgbench blocks a thread while it prepares, and with it all clients of the
        // thread, also those that hold the servers.
        bank.run(clients, 20, &["-M", "prepared", "-j", &clients.to_string()]);
        bank.assert_balanced(clients * 20);
    }
}

#[test]
fn connections_per_transaction_are_no_trouble() {
    let bank = Bank::open("transaction", 50);
    bank.run(50, 10, &["-M", "simple", "-C", "-S"]);
}

#[test]
fn failing_transactions_leave_the_money_conserved() {
    let bank = Bank::open("transaction", 200);
    let script = bank.bouncer.dir.join("fail.sql");
    fs::write(
        &script,
        "\\set delta random(-5000, 5000)\nbegin;\n\
         update pgbench_accounts set abalance = abalance + :delta where aid = 1;\n\
         select 1/(:delta % 1);\nend;\n",
    )
    .expect("write the script");
    // Every client breaks off in its transaction, at the division.
    let out = bank.pgbench(200, 1, &["-f", script.to_str().expect("a path")]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(stderr.matches("division by zero").count(), 200, "{stderr}");
    bank.assert_balanced(0);
    bank.run(200, 5, &["-M", "extended"]);
    bank.assert_balanced(1000);
}
