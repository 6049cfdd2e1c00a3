//! Commands of the console that act on connections: KILL, KILL_CLIENT, SUSPEND, WAIT_CLOSE; and
//! what SHOW tells of single connections.

use crate::support::bouncer::assert_error;
use crate::support::*;

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup)
}

/// The id of the only client of `app`.
fn client_id(bouncer: &Bouncer) -> String {
    let clients = bouncer.show("CLIENTS");
    clients.iter().find(|row| row["database"] == "app").expect("a client")["id"].clone()
}

/// One figure of SHOW LISTS.
fn listed(bouncer: &Bouncer, list: &str) -> u64 {
    let lists = bouncer.show("LISTS");
    lists.iter().find(|row| row["list"] == list).expect("a list")["items"].parse().expect("a number")
}

#[test]
fn kill_drops_clients_and_servers_of_one_database_until_resume() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.database("second", format!("host=127.0.0.1 port={} dbname=postgres", pg.port))
    });
    let (mut idle, mut busy) = (bouncer.client(), bouncer.client());
    idle.run("select 1");
    busy.run("begin");
    let mut spared = bouncer.client_of("app", "second");
    let mut admin = bouncer.admin();
    admin.send(&msg::query("KILL app"));
    assert_eq!(admin.expect("CZ")[0].strings(0), ["KILL"]);
    assert_eq!(bouncer.pool("app", "app", "cl_active"), 0);
    for client in [&mut idle, &mut busy] {
        assert_error(&client.expect_fatal(), "database removed", "57P01");
    }
    bouncer.wait_backends(pg, 0);
    assert_eq!(spared.one("select 'spared'"), "spared");
    let mut newcomer = bouncer.client();
    newcomer.send(&msg::query("select 1"));
    newcomer.expect_silence(millis(200));
    admin.run("RESUME app");
    newcomer.expect("TDCZ");
    assert_eq!(admin.fails("KILL nowhere").message, "no such database: nowhere");
    assert_eq!(admin.fails("KILL pgbouncer").message, "cannot kill admin db: pgbouncer");
    admin.run("PAUSE");
    assert_eq!(admin.fails("KILL").message, "already suspended/paused");
    assert_error(&bouncer.client_of("watcher", "pgbouncer").fails("KILL"), "admin access needed", "42501");
}

#[test]
fn kill_of_all_leaves_the_console() {
    let pg = Postgres::shared();
    let bouncer = start();
    let mut clients = [bouncer.client(), bouncer.client()];
    clients[0].run("begin");
    clients[1].send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(pg, 1);
    let mut admin = bouncer.admin();
    admin.run("KILL");
    for client in &mut clients {
        assert_error(&client.expect_fatal(), "database removed", "57P01");
    }
    bouncer.wait_backends(pg, 0);
    admin.run("SHOW POOLS");
}

#[test]
fn kill_client_drops_the_one_it_names() {
    let pg = Postgres::shared();
    let bouncer = start();
    let mut doomed = bouncer.client();
    doomed.run("begin");
    let id = client_id(&bouncer);
    let mut spared = bouncer.client();
    spared.run("select 1");
    let mut admin = bouncer.admin();
    admin.run(&format!("KILL_CLIENT {id}"));
    assert_error(&doomed.expect_fatal(), "admin forced disconnect", "57P01");
    assert_eq!(spared.one("select 'spared'"), "spared");
    bouncer.wait_backends(pg, 1);
    assert_eq!(admin.fails(&format!("KILL_CLIENT {id}")).message, "client not found");
    assert_eq!(admin.fails("KILL_CLIENT x").message, "invalid client pointer supplied");
    assert_eq!(admin.fails("KILL_CLIENT").message, "invalid client pointer supplied");
    // A client that waits, and one of the console.
    admin.run("PAUSE app");
    spared.send(&msg::query("select 1"));
    bouncer.wait_pool("cl_waiting", 1);
    admin.run(&format!("KILL_CLIENT {}", client_id(&bouncer)));
    assert_error(&spared.expect_fatal(), "admin forced disconnect", "57P01");
    let mut other = bouncer.client_of("watcher", "pgbouncer");
    let clients = bouncer.show("CLIENTS");
    let found = clients.iter().find(|row| row["user"] == "watcher");
    admin.run(&format!("KILL_CLIENT {}", found.expect("the watcher")["id"]));
    assert_error(&other.expect_fatal(), "admin forced disconnect", "57P01");
}

#[test]
fn wait_close_waits_for_obsolete_servers() {
    let bouncer = start();
    let mut admin = bouncer.admin();
    admin.run("WAIT_CLOSE");
    let mut busy = bouncer.client();
    busy.run("begin");
    admin.run("RECONNECT");
    for command in ["WAIT_CLOSE", "WAIT_CLOSE app"] {
        busy.run("select 1");
        let mut waiting = bouncer.admin();
        waiting.send(&msg::query(command));
        waiting.expect_silence(millis(150));
        if command == "WAIT_CLOSE" {
            continue;
        }
        busy.run("commit");
        assert_eq!(waiting.expect("CZ")[0].strings(0), ["WAIT_CLOSE"]);
    }
    busy.run("begin");
    admin.run("WAIT_CLOSE app");
    assert_eq!(admin.fails("WAIT_CLOSE nowhere").message, "no such database: nowhere");
    assert_eq!(admin.fails("WAIT_CLOSE pgbouncer").message, "cannot wait in admin db: pgbouncer");
}

#[test]
fn suspend_holds_everything_until_resume() {
    let bouncer = start();
    let (mut idle, mut busy, mut admin) = (bouncer.client(), bouncer.client(), bouncer.admin());
    idle.run("select 1");
    busy.run("begin");
    admin.run("SUSPEND");
    assert_eq!(admin.query("SHOW STATE").expect("the state")[2][1].as_deref(), Some("yes"));
    assert_eq!(admin.fails("SUSPEND").message, "already suspended/paused");
    assert_eq!(admin.fails("PAUSE").message, "already suspended/paused");
    idle.send(&msg::query("select 1"));
    busy.send(&msg::query("select 2"));
    let mut newcomer = Wire::tcp(bouncer.port);
    newcomer.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    idle.expect_silence(millis(200));
    busy.expect_silence(millis(100));
    newcomer.expect_silence(millis(100));
    admin.run("RESUME");
    idle.expect("TDCZ");
    busy.expect("TDCZ");
    busy.run("commit");
    newcomer.authenticate("app", "").expect("log in");
    newcomer.run("select 1");
    admin.run("PAUSE app");
    assert_eq!(admin.fails("SUSPEND").message, "cannot suspend with paused databases");
}

#[test]
fn suspend_gives_up_on_those_who_do_not_come_to_rest() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("suspend_timeout", 1).set("verbose", 0));
    let (mut stuck, mut idle, mut admin) = (bouncer.client(), bouncer.client(), bouncer.admin());
    // A message that never ends.
    stuck.send(&msg::query("select 1")[..8]);
    idle.run("select 1");
    admin.send(&msg::query("SUSPEND"));
    admin.expect_silence(millis(300));
    admin.expect("CZ");
    assert_error(&stuck.expect_fatal(), "suspend_timeout", "57P01");
    bouncer.signal("USR2");
    bouncer.wait_log("got SIGUSR2, continuing from SUSPEND");
    idle.run("select 1");
}

#[test]
fn suspend_ends_with_its_admin() {
    let bouncer = start();
    let mut client = bouncer.client();
    let mut admin = bouncer.admin();
    admin.run("SUSPEND");
    client.send(&msg::query("select 1"));
    client.expect_silence(millis(100));
    drop(admin);
    client.expect("TDCZ");
    bouncer.wait_log("admin disappeared when suspended, doing RESUME");
}

#[test]
fn show_sockets_lists_clients_servers_and_who_logs_in() {
    let pg = Postgres::shared();
    let bouncer = start();
    let mut client = bouncer.client();
    client.run("begin");
    // Half a message is kept; of a long one the rest is yet to come.
    let long = msg::query(&format!("select length('{}')", "x".repeat(100_000)));
    client.send(&long[..50_000]);
    let newcomer = Wire::tcp(bouncer.port);
    let state = |state: &str| {
        let rows = bouncer.show("SOCKETS");
        rows.into_iter().find(|row| row["state"] == state && row["database"] != "pgbouncer")
    };
    wait_until("the newcomer", PATIENCE, || state("cl_login").is_some());
    assert_eq!(state("cl_login").expect("the newcomer")["user"], "(nouser)");
    wait_until("what is left", PATIENCE, || {
        state("cl_active").is_some_and(|row| row["pkt_remain"].parse::<u64>().expect("a number") > 40_000)
    });
    assert_eq!(state("sv_active").expect("the server")["port"], pg.port.to_string());
    let active = bouncer.show("ACTIVE_SOCKETS");
    assert!(active.iter().any(|row| row["state"] == "cl_active" && row["database"] == "app"), "{active:?}");
    drop(newcomer);
    client.send(&long[50_000..]);
    client.expect("TDCZ");
    client.run("commit");
    wait_until("nothing under way", PATIENCE, || {
        bouncer.show("ACTIVE_SOCKETS").iter().all(|row| row["database"] != "app")
    });
    wait_until("the newcomer is gone", PATIENCE, || listed(&bouncer, "login_clients") == 0);
}

#[test]
fn show_servers_lists_logins() {
    let server = FakeServer::start(|_, mut peer| {
        peer.read_startup();
        // It says nothing, and waits.
        peer.read_tag();
    });
    let bouncer = Bouncer::start_before(server.port, |setup| setup);
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    let login = || bouncer.show("SERVERS").into_iter().find(|row| row["state"] == "new");
    wait_until("a login", PATIENCE, || login().is_some_and(|row| row["port"] == server.port.to_string()));
    let row = login().expect("a login");
    assert_eq!([&row["user"], &row["database"], &row["addr"]], ["app", "app", "127.0.0.1"]);
    assert!(bouncer.show("SOCKETS").iter().any(|row| row["state"] == "sv_login"));
}

#[test]
fn show_fds_is_for_admins() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    client.login("app", "app", "", &[("client_encoding", "LATIN1"), ("TimeZone", "Asia/Tokyo")]).expect("log in");
    client.run("begin");
    let rows = bouncer.show("FDS");
    let find =
        |task: &str| rows.iter().find(|row| row["task"] == task).unwrap_or_else(|| panic!("no {task}: {rows:?}"));
    let (own, server) = (find("client"), find("server"));
    assert_eq!(find("pooler")["port"], bouncer.port.to_string());
    assert_eq!((&own["link"], &server["link"]), (&server["fd"], &own["fd"]));
    for row in [own, server] {
        let values = ["client_encoding", "std_strings", "timezone"].map(|column| row[column].as_str());
        assert_eq!(values, ["LATIN1", "on", "Asia/Tokyo"]);
        let link = format!("/proc/{}/fd/{}", bouncer.pid(), row["fd"]);
        let target = std::fs::read_link(&link).expect("an open descriptor");
        assert!(target.to_string_lossy().starts_with("socket:"), "{target:?}");
    }
    assert_error(&bouncer.client_of("watcher", "pgbouncer").fails("SHOW FDS"), "admin access needed", "42501");
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer drops it, too, but does not count the commands by which it is seen here that it is stuck.
    #[test]
    fn kill_client_drops_a_client_of_the_console_that_does_not_read() {
        let bouncer = start();
        let mut deaf = bouncer.client_of("watcher", "pgbouncer");
        // More to answer than the sockets take.
        deaf.send(&msg::query("SHOW CONFIG").repeat(3000));
        let commands = || -> u64 {
            let stats = bouncer.show("STATS_TOTALS");
            let console = stats.iter().find(|row| row["database"] == "pgbouncer").expect("the console");
            console["query_count"].parse().expect("a number")
        };
        let mut before = 0;
        wait_until("it is stuck", PATIENCE, || {
            let now = commands();
            let is_stuck = now > 100 && now == before + 1;
            before = now;
            is_stuck
        });
        let id =
            || bouncer.show("CLIENTS").into_iter().find(|row| row["user"] == "watcher").map(|row| row["id"].clone());
        bouncer.admin().run(&format!("KILL_CLIENT {}", id().expect("the watcher")));
        wait_until("it is gone", PATIENCE, || id().is_none());
    }

    /// In PgBouncer every database has to be resumed by its name.
    #[test]
    fn resume_ends_a_kill_of_all() {
        let bouncer = start();
        bouncer.client().run("select 1");
        let mut admin = bouncer.admin();
        admin.run("KILL");
        let mut client = bouncer.client();
        client.send(&msg::query("select 1"));
        client.expect_silence(millis(100));
        admin.run("RESUME");
        client.expect("TDCZ");
        assert_eq!(admin.fails("RESUME").message, "pooler is not paused/suspended");
    }

    #[test]
    fn show_mem_counts_what_there_is() {
        let bouncer = start();
        let kind = |name: &str, column: &str| -> u64 {
            let rows = bouncer.show("MEM");
            let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"));
            row[column].parse().expect("a number")
        };
        let _clients: Vec<Wire> = (0..5).map(|_| bouncer.client()).collect();
        // With the console's.
        assert_eq!([kind("client", "used"), kind("server", "used"), kind("pool", "used")], [6, 1, 1]);
        assert_eq!(kind("client", "memtotal"), kind("client", "size") * 6);
        for row in bouncer.show("MEM") {
            let n = |column: &str| row[column].parse::<u64>().expect("a number");
            assert_eq!(n("memtotal"), n("size") * (n("used") + n("free")), "{row:?}");
        }
        assert!(kind("process", "memtotal") > 1_000_000);
        let mut preparing = bouncer.client();
        preparing.send(&[msg::parse("s", "select 'a statement'"), msg::sync()].concat());
        preparing.expect("1Z");
        assert_eq!(kind("prepared_statement", "used"), 1);
        assert!(kind("prepared_statement", "memtotal") > 10);
    }

    #[test]
    fn show_latencies_tells_percentiles() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
        let (mut first, mut second) = (bouncer.client(), bouncer.client());
        // Of 35 queries one takes long and five take a while; one has to wait, as has the first login.
        for _ in 0..28 {
            first.run("select 1");
        }
        first.send(&msg::query("select pg_sleep(0.4)"));
        bouncer.wait_pool("sv_active", 1);
        second.send(&msg::query("select 1"));
        bouncer.wait_pool("cl_waiting", 1);
        first.expect("TDCZ");
        second.expect("TDCZ");
        for _ in 0..5 {
            second.run("begin; select pg_sleep(0.1); commit");
        }
        let rows = bouncer.show("LATENCIES");
        let row = rows.iter().find(|row| row["database"] == "app").expect("the pool");
        let n = |column: &str| row[column].parse::<u64>().expect("a number");
        assert_eq!([n("assignments"), n("queries"), n("xacts")], [35, 35, 35]);
        assert_eq!([n("wait_p50_us"), n("wait_p90_us")], [0, 0]);
        assert!(n("wait_p99_us") == n("wait_max_us") && (1..2_000_000).contains(&n("wait_max_us")), "{row:?}");
        for kind in ["query", "xact"] {
            let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(|name| n(&format!("{kind}_{name}_us")));
            assert!(p50 < 100_000 && (100_000..400_000).contains(&p90), "{row:?}");
            assert!(p99 == max && (400_000..3_000_000).contains(&max), "{row:?}");
        }
    }

    #[test]
    fn show_workers_tells_what_they_do() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("workers", 2).set("default_pool_size", 1));
        let mut clients: Vec<Wire> = (0..4).map(|_| bouncer.client()).collect();
        clients[0].run("begin");
        clients[1].send(&msg::query("begin"));
        let sum = |column: &str| -> u64 {
            let rows = bouncer.show("WORKERS");
            assert_eq!(rows.len(), 2);
            rows.iter().map(|row| row[column].parse::<u64>().expect("a number")).sum()
        };
        // Until it is in, a client of the console is a worker's.
        wait_until("all clients", PATIENCE, || sum("clients") == 4);
        wait_until("one linked, one waiting", PATIENCE, || [sum("linked"), sum("waiting")] == [1, 1]);
        wait_until("turns and time", PATIENCE, || sum("turns") > 4 && sum("cpu_us") > 0);
        for row in bouncer.show("WORKERS") {
            let task = format!("/proc/{}/task/{}/comm", bouncer.pid(), row["thread_id"]);
            let name = std::fs::read_to_string(task).expect("a thread");
            assert_eq!(name.trim(), format!("worker-{}", row["worker"]));
        }
    }
}
