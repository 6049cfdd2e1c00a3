//! The `pgbouncer` database.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::bouncer::assert_error;
use crate::support::tls::{certificate, key};
use crate::support::*;

/// Columns of every SHOW command, taken from PgBouncer.
const COLUMNS: &str = include_str!("../data/show_columns.tsv");

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup)
}

fn columns_of(command: &str) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for line in COLUMNS.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] == command {
            let oid = match fields[3] {
                "text" => 25,
                "int4" => 23,
                "int8" => 20,
                "numeric" => 1700,
                other => other.parse().expect("a type"),
            };
            found.push((fields[2].to_owned(), oid));
        }
    }
    found
}

fn value(rows: &[HashMap<String, String>], key: &str, of: &str, column: &str) -> String {
    let row = rows.iter().find(|row| row[key] == of);
    row.unwrap_or_else(|| panic!("no {key} {of} in {rows:?}"))[column].clone()
}

#[test]
fn show_commands_have_pgbouncer_s_columns_and_types() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.peer(7, "host=127.0.0.1"));
    let mut client = bouncer.client();
    client.run("select 1");
    let mut admin = bouncer.admin();
    let commands: BTreeSet<&str> = COLUMNS.lines().skip(1).filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(commands.len(), 21);
    for command in commands {
        for spelled in [format!("SHOW {command}"), format!("show {};", command.to_lowercase())] {
            admin.send(&msg::query(&spelled));
            let columns = admin.expect("T")[0].columns();
            assert_eq!(columns, columns_of(command), "{spelled}");
            let mut rows = 0;
            let end = loop {
                let message = admin.recv();
                if message.tag != b'D' {
                    break message;
                }
                assert_eq!(message.row().len(), columns.len(), "{spelled}");
                rows += 1;
            };
            // Where nothing is under way: no cancel request, no name.
            let may_be_empty = ["ACTIVE_SOCKETS", "DNS_HOSTS", "DNS_ZONES", "PEER_POOLS"];
            assert!(rows > 0 || may_be_empty.contains(&command), "{spelled}");
            assert_eq!((end.tag, end.strings(0)), (b'C', vec!["SHOW".to_owned()]), "{spelled}");
            admin.expect("Z");
        }
    }
}

#[test]
fn show_pools_counts_who_does_what() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 2));
    let mut busy: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    let mut idle = bouncer.client();
    idle.run("select 1");
    busy[0].run("begin");
    let row = || {
        let pools = bouncer.show("POOLS");
        let pool = pools.into_iter().find(|pool| pool["database"] == "app").expect("the pool");
        ["cl_active", "cl_waiting", "sv_active", "sv_idle"].map(|name| pool[name].clone())
    };
    assert_eq!(row(), ["4", "0", "1", "0"]);
    busy[1].run("begin");
    busy[2].send(&msg::query("begin"));
    bouncer.wait_pool("cl_waiting", 1);
    assert_eq!(row(), ["3", "1", "2", "0"]);
    busy[0].run("commit");
    busy[2].expect("CZ");
    assert_eq!(row(), ["4", "0", "2", "0"]);
    busy[1].run("commit");
    busy[2].run("commit");
    bouncer.wait_pool("sv_idle", 2);
    let pools = bouncer.show("POOLS");
    assert_eq!(value(&pools, "database", "app", "pool_mode"), "transaction");
    assert_eq!(value(&pools, "database", "pgbouncer", "pool_mode"), "statement");
}

#[test]
fn show_pools_tells_the_longest_wait() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut holder = bouncer.client();
    holder.run("begin");
    let mut waiter = bouncer.client();
    waiter.send(&msg::query("select 1"));
    bouncer.wait_pool("maxwait", 1);
    holder.run("commit");
    waiter.expect("TDCZ");
    bouncer.wait_pool("maxwait", 0);
}

#[test]
fn show_clients_and_servers_name_both_ends() {
    let pg = Postgres::shared();
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    client.login("app", "app", "", &[("application_name", "shop")]).expect("log in");
    client.run("begin");
    let pid = client.backend().to_string();
    let clients = bouncer.show("CLIENTS");
    let servers = bouncer.show("SERVERS");
    let seen = clients.iter().find(|row| row["database"] == "app").expect("the client");
    let server = servers.iter().find(|row| row["database"] == "app").expect("the server");
    for (column, expected) in [
        ("type", "C"),
        ("user", "app"),
        ("state", "active"),
        ("addr", "127.0.0.1"),
        ("local_addr", "127.0.0.1"),
        ("application_name", "shop"),
        ("local_port", &bouncer.port.to_string()),
    ] {
        assert_eq!(seen[column], expected, "{column} of the client");
    }
    for (column, expected) in [
        ("type", "S"),
        ("user", "app"),
        ("state", "active"),
        ("addr", "127.0.0.1"),
        ("port", &pg.port.to_string()),
        ("remote_pid", &pid),
    ] {
        assert_eq!(server[column], expected, "{column} of the server");
    }
    assert_eq!(seen["link"], server["ptr"]);
    assert_eq!(server["link"], seen["ptr"]);
    client.run("commit");
    assert_eq!(value(&bouncer.show("SERVERS"), "database", "app", "state"), "idle");
}

#[test]
fn show_databases_shows_the_entries() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.database(
            "full",
            format!(
                "host=127.0.0.1 port={} dbname=postgres user=third pool_size=7 min_pool_size=1 \
                     reserve_pool_size=2 pool_mode=session max_db_connections=9",
                pg.port
            ),
        )
    });
    let rows = bouncer.show("DATABASES");
    for (column, expected) in [
        ("host", "127.0.0.1"),
        ("port", &pg.port.to_string()),
        ("database", "postgres"),
        ("force_user", "third"),
        ("pool_size", "7"),
        ("min_pool_size", "1"),
        ("reserve_pool_size", "2"),
        ("pool_mode", "session"),
        ("max_connections", "9"),
        ("paused", "0"),
        ("disabled", "0"),
    ] {
        assert_eq!(value(&rows, "name", "full", column), expected, "{column}");
    }
    assert_eq!(value(&rows, "name", "app", "pool_size"), "20");
    assert_eq!(value(&rows, "name", "pgbouncer", "force_user"), "pgbouncer");
}

#[test]
fn show_stats_counts_transactions_queries_and_bytes() {
    let bouncer = start();
    let mut client = bouncer.client();
    let stats = |column: &str| -> u64 {
        let rows = bouncer.show("STATS");
        value(&rows, "database", "app", column).parse().expect("a number")
    };
    let before = ["total_xact_count", "total_query_count", "total_received", "total_sent"].map(stats);
    for _ in 0..10 {
        client.run("begin");
        client.run("select repeat('x', 1000)");
        client.run("commit");
    }
    wait_until("they are counted", PATIENCE, || stats("total_query_count") >= before[1] + 30);
    let after = ["total_xact_count", "total_query_count", "total_received", "total_sent"].map(stats);
    assert_eq!(after[0] - before[0], 10);
    assert_eq!(after[1] - before[1], 30);
    assert!((200..5000).contains(&(after[2] - before[2])), "received {}", after[2] - before[2]);
    assert!((10_000..20_000).contains(&(after[3] - before[3])), "sent {}", after[3] - before[3]);
    assert_eq!(stats("total_client_login_count"), 1);
    assert!(stats("total_server_assignment_count") >= 10);
}

#[test]
fn show_stats_counts_time_spent() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut first = bouncer.client();
    let mut second = bouncer.client();
    first.send(&msg::query("select pg_sleep(0.5)"));
    bouncer.wait_pool("sv_active", 1);
    second.send(&msg::query("select 1"));
    first.expect("TDCZ");
    second.expect("TDCZ");
    let rows = bouncer.show("STATS");
    let us = |column: &str| -> u64 { value(&rows, "database", "app", column).parse().expect("a number") };
    assert!((500_000..3_000_000).contains(&us("total_query_time")), "{}", us("total_query_time"));
    assert!((500_000..3_000_000).contains(&us("total_xact_time")), "{}", us("total_xact_time"));
    assert!((100_000..3_000_000).contains(&us("total_wait_time")), "{}", us("total_wait_time"));
}

#[test]
fn show_lists_counts_things() {
    let bouncer = start();
    let _clients: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    let rows = bouncer.show("LISTS");
    let names: Vec<&str> = rows.iter().map(|row| row["list"].as_str()).collect();
    assert_eq!(
        names,
        [
            "databases",
            "users",
            "peers",
            "pools",
            "peer_pools",
            "free_clients",
            "used_clients",
            "login_clients",
            "free_servers",
            "used_servers",
            "dns_names",
            "dns_zones",
            "dns_queries",
            "dns_pending",
        ]
    );
    assert_eq!(value(&rows, "list", "databases", "items"), "2");
    assert_eq!(value(&rows, "list", "pools", "items"), "2");
    // The three and the console itself.
    assert_eq!(value(&rows, "list", "used_clients", "items"), "4");
    assert_eq!(value(&rows, "list", "used_servers", "items"), "1");
}

#[test]
fn show_config_shows_values_and_defaults() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("default_pool_size", 7).set("server_reset_query", "DISCARD ALL")
    });
    let rows = bouncer.show("CONFIG");
    for (key, current, default, changeable) in [
        ("default_pool_size", "7", "20", "yes"),
        ("max_client_conn", "100", "100", "yes"),
        ("pool_mode", "transaction", "session", "yes"),
        ("listen_port", &bouncer.port.to_string(), "6432", "no"),
        ("server_lifetime", "3600", "3600", "yes"),
        ("server_reset_query", "DISCARD ALL", "DISCARD ALL", "yes"),
        ("max_packet_size", "2147483647", "2147483647", "yes"),
    ] {
        let row = ["value", "default", "changeable"].map(|column| value(&rows, "key", key, column));
        assert_eq!(row, [current, default, changeable], "{key}");
    }
}

#[test]
fn show_config_has_pgbouncer_s_settings_with_their_defaults() {
    let bouncer = start();
    let rows = bouncer.show("CONFIG");
    let mut compared = 0;
    for line in include_str!("../data/settings.tsv").lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (key, default, changeable) = (fields[0], fields[1], fields[2]);
        let Some(row) = rows.iter().find(|row| row["key"] == key) else {
            // Those of entries only have no value of their own.
            let of_entries_only = default.is_empty() && !fields[4].is_empty();
            assert!(changeable.is_empty() || of_entries_only, "{key} is missing");
            continue;
        };
        assert_eq!((row["default"].as_str(), row["changeable"].as_str()), (default, changeable), "{key}");
        compared += 1;
    }
    assert!(compared > 80, "{compared}");
}

#[test]
fn show_version_names_the_product() {
    let bouncer = start();
    let version = &bouncer.show("VERSION")[0]["version"];
    assert!(version.chars().any(|c| c.is_ascii_digit()), "{version}");
}

#[test]
fn pause_waits_for_transactions_and_resume_lets_queries_go_on() {
    let pg = Postgres::shared();
    let bouncer = start();
    let mut busy = bouncer.client();
    busy.run("begin");
    let mut admin = bouncer.admin();
    admin.send(&msg::query("PAUSE"));
    // It waits for the open transaction, and nobody new gets a server.
    admin.expect_silence(millis(300));
    let mut held = bouncer.client();
    held.send(&msg::query("select 'resumed'"));
    held.expect_silence(millis(200));
    busy.run("commit");
    assert_eq!(admin.expect("CZ")[0].strings(0), ["PAUSE"]);
    bouncer.wait_backends(pg, 0);
    assert_eq!(admin.fails("PAUSE").message, "already suspended/paused");
    held.expect_silence(millis(200));
    admin.run("RESUME");
    assert_eq!(held.expect("TDCZ")[1].row(), [Some("resumed".into())]);
    assert_eq!(busy.one("select 1"), "1");
    assert_eq!(admin.fails("RESUME").message, "pooler is not paused/suspended");
}

#[test]
fn pause_of_one_database_leaves_others_alone() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.database("second", format!("host=127.0.0.1 port={} dbname=postgres", pg.port))
    });
    let mut here = bouncer.client();
    let mut there = bouncer.client_of("app", "second");
    let mut admin = bouncer.admin();
    admin.run("PAUSE app");
    here.send(&msg::query("select 'resumed'"));
    here.expect_silence(millis(300));
    assert_eq!(there.one("select 'running'"), "running");
    assert_eq!(value(&bouncer.show("DATABASES"), "name", "app", "paused"), "1");
    admin.run("RESUME app");
    here.expect("TDCZ");
    assert_eq!(admin.fails("RESUME app").message, "database app is not paused");
    assert_eq!(admin.fails("PAUSE nowhere").message, "no such database: nowhere");
    assert_eq!(admin.fails("RESUME nowhere").message, "no such database: nowhere");
}

#[test]
fn login_while_paused_waits_only_if_it_needs_a_server() {
    let bouncer = start();
    bouncer.client().run("select 1");
    let mut admin = bouncer.admin();
    admin.run("PAUSE");
    let mut client = bouncer.client();
    client.send(&msg::query("select 1"));
    client.expect_silence(millis(200));
    admin.run("RESUME");
    client.expect("TDCZ");
}

#[test]
fn reload_takes_new_settings_and_entries() {
    let pg = Postgres::shared();
    let mut bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 1));
    let mut clients: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    clients[0].run("begin");
    bouncer.reload(|setup| {
        let entry = format!("host=127.0.0.1 port={} dbname=postgres", pg.port);
        setup.set("default_pool_size", 3).database("second", entry)
    });
    for client in &mut clients[1..] {
        client.run("begin");
    }
    assert_eq!(bouncer.backends(pg), 3);
    bouncer.client_of("app", "second").run("select 1");
    assert_eq!(value(&bouncer.show("CONFIG"), "key", "default_pool_size", "value"), "3");
}

#[test]
fn reload_by_sighup_does_the_same() {
    let mut bouncer = start();
    bouncer.rewrite(|setup| setup.set("default_pool_size", 3));
    bouncer.signal("HUP");
    wait_until("the new value", PATIENCE, || {
        value(&bouncer.show("CONFIG"), "key", "default_pool_size", "value") == "3"
    });
}

#[test]
fn sighup_as_soon_as_it_listens_does_not_end_it() {
    let mut bouncer = Bouncer::start_before(1, |setup| setup);
    bouncer.signal("QUIT");
    bouncer.wait_exit();
    for _ in 0..20 {
        let mut again = Bouncer::spawn(&bouncer.dir.join("pooler.ini"), "log");
        wait_until("it listens", PATIENCE, || Wire::try_tcp(bouncer.port).is_ok());
        process::signal(again.id(), "HUP");
        bouncer.wait_log("SIGHUP");
        process::signal(again.id(), "QUIT");
        assert_eq!(again.wait().expect("wait").code(), Some(0));
    }
}

#[test]
fn reload_of_a_changed_entry_moves_idle_clients_to_the_new_server() {
    let pg = Postgres::shared();
    let mut bouncer = start();
    let mut client = bouncer.client();
    client.run("select 1");
    let second = pg.create_database();
    let entry = format!("host=127.0.0.1 port={} dbname={second}", pg.port);
    bouncer.reload(|setup| setup.database("app", entry));
    wait_until("it is served by the new one", PATIENCE, || client.one("select current_database()") == second);
    bouncer.wait_backends(pg, 0);
}

/// Settings before and after one that makes no sense.
fn break_configuration(bouncer: &Bouncer) -> PgError {
    bouncer.overwrite_ini("[pgbouncer]\nmax_client_conn = 1\ndefault_pool_size = many\n[databases]\n");
    bouncer.admin().fails("RELOAD")
}

#[test]
fn reload_reads_the_file_that_set_conffile_has_named() {
    let bouncer = start();
    let other = bouncer.other_ini("query_wait_timeout = 77");
    let mut admin = bouncer.admin();
    admin.run(&format!("SET conffile = '{other}'"));
    admin.run("RELOAD");
    assert_eq!(value(&bouncer.show("CONFIG"), "key", "query_wait_timeout", "value"), "77");
    assert_eq!(value(&bouncer.show("CONFIG"), "key", "conffile", "value"), other);
}

#[test]
fn reload_that_fails_says_so_and_serves_on() {
    let bouncer = start();
    let mut client = bouncer.client();
    let error = break_configuration(&bouncer);
    assert_eq!(error.message, "RELOAD failed, see logs for additional details");
    assert_eq!(error.code, "F0000");
    bouncer.wait_log("default_pool_size");
    assert_eq!(client.one("select 1"), "1");
}

#[test]
fn only_admin_users_may_act_and_only_stats_users_may_look() {
    let bouncer = start();
    let mut watcher = bouncer.client_of("watcher", "pgbouncer");
    watcher.run("SHOW POOLS");
    for command in ["PAUSE", "RESUME", "RELOAD", "SHUTDOWN", "PAUSE app", "RESUME app"] {
        let error = watcher.fails(command);
        assert_error(&error, "admin access needed", "42501");
    }
    assert_error(&bouncer.refusal("app", "pgbouncer", ""), "not allowed", "08P01");
    watcher.run("SHOW POOLS");
}

#[test]
fn unknown_commands_and_protocols_are_refused_politely() {
    let bouncer = start();
    let mut admin = bouncer.admin();
    for command in ["FROBNICATE", "select 1", "SHOW", "SHOW NONSENSE", "PAUSE a b c"] {
        let error = admin.fails(command);
        assert_eq!(error.severity, "ERROR", "{command}: {error}");
    }
    assert_eq!(admin.fails("FROBNICATE").message, "invalid command 'FROBNICATE', use SHOW HELP;");
    admin.run("SHOW VERSION");
    admin.send(&msg::function_call(1, &[]));
    let error = admin.expect("E")[0].error();
    assert_eq!(error.message, "unsupported packet type for admin console: 70");
}

#[test]
fn console_is_open_over_the_unix_socket() {
    let bouncer = start();
    let mut admin = Wire::unix(bouncer.socket_path());
    admin.login("admin", "pgbouncer", "", &[]).expect("log in");
    admin.run("SHOW VERSION");
}

#[test]
fn passwords_are_never_shown() {
    let secret = "hunter2-in-the-entry";
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.app(&format!("user=clear password='{secret}'")).secret("other", "hunter2-in-the-file")
    });
    bouncer.refusal("app", "app", "");
    for command in ["POOLS", "CLIENTS", "SERVERS", "DATABASES", "CONFIG", "LISTS", "STATS"] {
        let shown = format!("{:?}", bouncer.show(command));
        assert!(!shown.contains("hunter2"), "SHOW {command}");
    }
    assert!(!bouncer.log().contains("hunter2"));
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer keeps what it read before the error.
    #[test]
    fn reload_that_fails_changes_nothing() {
        let bouncer = start();
        let before = bouncer.show("CONFIG");
        break_configuration(&bouncer);
        assert_eq!(bouncer.show("CONFIG"), before);
        let _clients = [bouncer.client(), bouncer.client()];
    }

    #[test]
    fn show_commands_of_our_own_are_open_to_stats_users() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            setup
                .set("client_tls_sslmode", "allow")
                .set("client_tls_key_file", key("site"))
                .set("client_tls_cert_file", certificate("site"))
                .set("maintenance_state_dir", "/nowhere")
                .job("yearly", "command='report sizes --database app' schedule=@yearly")
        });
        bouncer.client().run("select 1");
        let mut watcher = bouncer.client_of("watcher", "pgbouncer");
        for command in ["CERTIFICATES", "LATENCIES", "PREPARED_STATEMENTS", "SCHEDULE", "SESSION_USE", "WORKERS"] {
            assert_eq!(columns_of(command), [], "{command} is not PgBouncer's");
            watcher.send(&msg::query(&format!("SHOW {command}")));
            let columns = watcher.expect("T")[0].columns();
            let rows = watcher.answer_of_query().expect("rows");
            assert!(!rows.is_empty(), "{command}");
            assert!(rows.iter().all(|row| row.len() == columns.len()), "{command}: {columns:?} {rows:?}");
        }
    }

    /// PgBouncer takes a connection that is logging in for a failed one, and throws out who asks.
    #[test]
    fn pause_and_reload_spare_clients_whose_server_is_logging_in() {
        for command in ["PAUSE", "RELOAD"] {
            let welcome = Arc::new(AtomicBool::new(false));
            let welcoming = welcome.clone();
            // The first connection serves one query; later ones log in when the test says so.
            let server = FakeServer::start(move |number, mut peer| {
                if !peer.read_startup() {
                    return;
                }
                if number > 0 {
                    wait_until("the test goes on", PATIENCE, || welcoming.load(Ordering::Relaxed));
                }
                peer.welcome();
                while peer.read_tag() == Some(b'Q') {
                    peer.send(&fake_server::one_row("served"));
                    if number == 0 {
                        return;
                    }
                }
            });
            let mut bouncer = Bouncer::start_before(server.port, |setup| setup.set("query_wait_notify", 0));
            let mut clients = [bouncer.client(), bouncer.client()];
            clients[0].run("select 1");
            bouncer.wait_pool("sv_idle", 0);
            clients[0].send(&msg::query("select 2"));
            bouncer.wait_pool("sv_login", 1);
            let mut admin = bouncer.admin();
            if command == "RELOAD" {
                let entry = format!("host=127.0.0.1 port={} dbname=other", server.port);
                bouncer.rewrite(|setup| setup.database("app", entry));
            }
            admin.send(&msg::query(command));
            clients[0].expect_silence(millis(500));
            clients[1].send(&msg::query("select 3"));
            clients[1].expect_silence(millis(500));
            welcome.store(true, Ordering::Relaxed);
            admin.answer_of_query().unwrap_or_else(|e| panic!("{command}: {e}"));
            if command == "PAUSE" {
                admin.run("RESUME");
            }
            for client in &mut clients {
                client.expect("TDCZ");
            }
        }
    }
}

#[test]
fn signal_to_resume_is_ignored_while_shutting_down() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let _client = bouncer.client();
    bouncer.signal("USR2");
    bouncer.wait_log("got SIGUSR2, but not paused/suspended");
    bouncer.signal("USR1");
    bouncer.wait_log("got SIGUSR1, pausing all activity");
    bouncer.signal("USR2");
    bouncer.wait_log("got SIGUSR2, continuing from PAUSE");
    bouncer.admin().run("SHUTDOWN WAIT_FOR_CLIENTS");
    bouncer.signal("USR2");
    bouncer.wait_log("got SIGUSR2 while shutting down, ignoring");
}
