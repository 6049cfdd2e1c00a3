//! What needs a session is counted and warned about where there is none.

use crate::support::bouncer::Setup;
use crate::support::*;

/// All of it is beyond PgBouncer.
mod beyond_pgbouncer {
    use super::*;

    const KINDS: [&str; 7] =
        ["temporary_tables", "advisory_locks", "listens", "hold_cursors", "sets", "loads", "prepares"];

    fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        Bouncer::start(Postgres::shared(), |setup| change(setup.set("default_pool_size", 1)))
    }

    /// The counts of the pool of `app`.
    fn counts(bouncer: &Bouncer) -> [u64; 7] {
        let rows = bouncer.show("SESSION_USE");
        let row = rows.iter().find(|row| row["database"] == "app" && row["user"] == "app").expect("the pool");
        KINDS.map(|kind| row[kind].parse().expect("a number"))
    }

    fn warnings(bouncer: &Bouncer) -> Vec<String> {
        // What is logged before this answer is written with it.
        let mark = format!("mark-{}-", counts(bouncer).iter().sum::<u64>());
        let _ = bouncer.try_client("nobody", &mark, "");
        bouncer.wait_log(&mark);
        bouncer.log().lines().filter(|line| line.contains(" needs a session")).map(str::to_owned).collect()
    }

    #[test]
    fn each_kind_is_counted_and_told_once_per_client() {
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        let uses = [
            ("create temp table t (i int)", "a temporary table"),
            ("select pg_advisory_lock(1)", "a session advisory lock"),
            ("listen news", "LISTEN"),
            ("begin; declare c cursor with hold for select 1; commit", "a cursor WITH HOLD"),
            ("set statement_timeout = '1min'", "SET statement_timeout"),
            ("load 'plpgsql'", "LOAD"),
            ("prepare p as select 1", "PREPARE in SQL"),
        ];
        for (i, (sql, what)) in uses.into_iter().enumerate() {
            // Whether it works is the server's business: no plain user may LOAD this.
            assert_eq!(client.query(sql).is_err(), what == "LOAD");
            let mut expected = [0; 7];
            expected[..=i].fill(1);
            assert_eq!(counts(&bouncer), expected, "{sql}");
            let warnings = warnings(&bouncer);
            assert_eq!(warnings.len(), i + 1, "{warnings:#?}");
            let expected = format!(" {what} needs a session, which pool_mode=transaction does not give: ");
            assert!(warnings[i].contains(&expected), "{warnings:#?}");
            assert!(warnings[i].contains(" WARNING C-0x") && warnings[i].contains(": app/app@127.0.0.1:"));
        }
        // Or nobody else gets the server.
        client.run("deallocate p");
        client.run("set statement_timeout = '2min'; set lock_timeout = '1min'");
        bouncer.client().run("set statement_timeout = 0");
        assert_eq!(counts(&bouncer), [1, 1, 1, 1, 4, 1, 1]);
        assert_eq!(warnings(&bouncer).len(), 8, "one more, of the other client");
    }

    #[test]
    fn what_follows_the_client_or_ends_with_the_transaction_is_not_told() {
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        for sql in [
            "set application_name = 'x'",
            "set time zone 'UTC'",
            "set datestyle to iso",
            "select set_config('TimeZone', 'UTC', false)",
            "begin; create temp table t (i int) on commit drop; set local statement_timeout = 1000; commit",
            "select pg_advisory_xact_lock(1)",
            "select 'listen x; set a = b'",
        ] {
            client.run(sql);
        }
        assert_eq!(counts(&bouncer), [0; 7]);
        assert_eq!(warnings(&bouncer), Vec::<String>::new());
    }

    #[test]
    fn whoever_may_look_at_the_console_may_look_at_it() {
        let bouncer = start(|setup| setup);
        bouncer.client_of("watcher", "pgbouncer").run("SHOW SESSION_USE");
        let mut admin = bouncer.admin();
        admin.run("SHOW HELP");
        assert!(admin.notices.iter().any(|notice| notice.message == "Console usage"));
        assert_eq!(columns(&mut admin), [&["database", "user"][..], &KINDS].concat());
    }

    fn columns(admin: &mut Wire) -> Vec<String> {
        admin.send(&msg::query("SHOW SESSION_USE"));
        let columns = admin.expect("T")[0].columns();
        admin.answer_of_query().expect("rows");
        columns.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn it_is_found_in_parse_messages_and_in_pieces() {
        let bouncer = start(|setup| setup.set("pool_mode", "statement"));
        let mut client = bouncer.client();
        let bytes = [msg::extended("listen a", &[]), msg::query("listen b")].concat();
        for piece in bytes.chunks(3) {
            client.send(piece);
            client.wait_taken();
        }
        client.expect("12CZCZ");
        assert_eq!(counts(&bouncer), [0, 0, 2, 0, 0, 0, 0]);
        assert!(warnings(&bouncer)[0].contains("pool_mode=statement"));
    }

    #[test]
    fn where_there_is_a_session_or_nobody_wants_to_know_nothing_is_counted() {
        let mut bouncer = start(|setup| setup.set("pool_mode", "session"));
        bouncer.client().run("listen a");
        assert_eq!(counts(&bouncer), [0; 7]);
        bouncer.reload(|setup| setup.set("pool_mode", "transaction").set("track_session_use", 0));
        let mut client = bouncer.client();
        client.run("listen a");
        assert_eq!(counts(&bouncer), [0; 7]);
        assert_eq!(warnings(&bouncer), Vec::<String>::new());
        bouncer.reload(|setup| setup.set("track_session_use", 1));
        wait_until("it is counted", PATIENCE, || {
            client.run("listen a");
            counts(&bouncer)[2] > 0
        });
    }
}
