//! The console over the extended query protocol, which PgBouncer's refuses.

use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::support::*;

mod beyond_pgbouncer {
    use super::*;

    fn start() -> Bouncer {
        Bouncer::start(Postgres::shared(), |setup| setup)
    }

    /// Bind of the unnamed statement to the unnamed portal, every column in binary.
    fn bind_binary() -> Vec<u8> {
        msg::message(b'B', &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1])
    }

    #[test]
    fn a_command_is_parsed_described_and_executed() {
        let bouncer = start();
        let mut admin = bouncer.admin();
        let steps = [
            msg::parse("", "SHOW LISTS"),
            msg::describe(b'S', ""),
            bind_binary(),
            msg::describe(b'P', ""),
            msg::execute(1),
            msg::execute(0),
            msg::sync(),
        ];
        admin.send(&steps.concat());
        let messages = admin.expect("1tT2TDs");
        let columns = [("list".to_owned(), 25), ("items".to_owned(), 23)];
        assert_eq!((messages[2].columns(), messages[4].columns()), (columns.to_vec(), columns.to_vec()));
        // The last two bytes of a column say its format.
        assert!(messages[2].body.ends_with(&[0, 0]) && messages[4].body.ends_with(&[0, 1]));
        assert!(messages[5].body.ends_with(&[0, 0, 0, 4, 0, 0, 0, 2]), "two databases: {}", messages[5]);
        admin.expect("DDDDDDDDDDDDDCZ");
    }

    #[test]
    fn commands_act_as_in_simple_queries() {
        let bouncer = start();
        let mut admin = bouncer.admin();
        admin.send(&msg::extended("SET query_wait_timeout = 77", &[]));
        assert_eq!(admin.expect("12CZ")[2].strings(0), ["SET query_wait_timeout=77"]);
        admin.send(&[msg::parse("", "PAUSE"), msg::describe(b'S', ""), msg::bind("", &[]), msg::execute(0)].concat());
        admin.send(&msg::sync());
        admin.expect("1tn2CZ");
        assert_eq!(bouncer.show("STATE")[1]["value"], "yes");
        let mut watcher = bouncer.client_of("watcher", "pgbouncer");
        watcher.send(&msg::extended("RESUME", &[]));
        assert_eq!(watcher.expect("12EZ")[2].error().code, "42501");
        admin.send(&msg::extended("", &[]));
        admin.expect("12IZ");
    }

    #[test]
    fn after_an_error_everything_is_skipped_until_sync() {
        let bouncer = start();
        let mut admin = bouncer.admin();
        admin.send(&msg::unsynced("SHOW NONSENSE", &[]));
        admin.send(&msg::unsynced("PAUSE", &[]));
        admin.send(&msg::query("PAUSE"));
        admin.send(&msg::extended("PAUSE", &[]));
        admin.send(&msg::extended("SHOW STATE", &[]));
        let messages = admin.expect("EZ12DDDDCZ");
        assert_eq!(messages[0].error().message, "invalid command 'SHOW NONSENSE', use SHOW HELP;");
        assert_eq!(messages[4].row(), [Some("active".into()), Some("yes".into())]);
        for (steps, code) in [
            (msg::unsynced("SET query_timeout = $1", &["5"]), "0A000"),
            (msg::bind("unknown", &[]), "26000"),
            (msg::describe(b'P', "unknown"), "34000"),
            ([msg::parse("twice", "RELOAD"), msg::parse("twice", "RELOAD")].concat(), "42P05"),
        ] {
            admin.send(&[steps, msg::sync()].concat());
            assert_eq!(admin.answer_of_query().expect_err("refused").code, code);
        }
        admin.run("SHOW VERSION");
    }

    #[test]
    fn what_is_not_the_protocol_ends_the_session() {
        let bouncer = start();
        let mut admin = bouncer.admin();
        admin.send(&msg::message(b'B', b"no"));
        assert_eq!(admin.expect_fatal().message, "broken Bind packet");
    }

    #[test]
    fn transactions_are_words() {
        let bouncer = start();
        let mut admin = bouncer.admin();
        for (command, status) in
            [("BEGIN", "T"), ("SHOW NONSENSE", "T"), ("COMMIT", "I"), ("START TRANSACTION", "T"), ("ROLLBACK;", "I")]
        {
            admin.send(&msg::query(command));
            let tag = if command == "SHOW NONSENSE" { "E" } else { "C" };
            let ready = &admin.expect(&format!("{tag}Z"))[1];
            assert_eq!(ready.body, status.as_bytes(), "{command}");
        }
    }

    /// After a ROLLBACK, when they take a connection back, to see that we are there.
    #[test]
    fn what_drivers_send_by_themselves_is_understood() {
        let bouncer = start();
        let mut admin = bouncer.admin();
        let prepare = |name: &str| [msg::parse(name, "SHOW STATE"), msg::sync()].concat();
        for (command, tag) in [
            ("DEALLOCATE one", "DEALLOCATE"),
            ("DEALLOCATE ALL", "DEALLOCATE ALL"),
            ("discard all;", "DISCARD ALL"),
            ("-- to be traced\nDEALLOCATE \"one\"", "DEALLOCATE"),
        ] {
            admin.send(&prepare("one"));
            admin.expect("1Z");
            admin.send(&msg::query(command));
            assert_eq!(admin.expect("CZ")[0].strings(0), [tag]);
        }
        assert_eq!(admin.fails("DEALLOCATE one").code, "26000");
        for ping in ["", ";", "-- ping", "/* ping */"] {
            admin.send(&msg::query(ping));
            admin.expect("IZ");
        }
    }

    #[test]
    fn tokio_postgres_reads_it_in_binary() {
        let bouncer = start();
        Runtime::new().expect("a runtime").block_on(async {
            let config = format!("host=127.0.0.1 port={} user=admin dbname=pgbouncer", bouncer.port);
            let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
            tokio::spawn(connection);
            let lists = client.query("SHOW LISTS", &[]).await.expect("show");
            assert_eq!((lists[0].get::<_, &str>(0), lists[0].get::<_, i32>(1)), ("databases", 2));
            let prepared = client.query_one("SHOW PREPARED_STATEMENTS", &[]).await.expect("show");
            assert_eq!(prepared.get::<_, i64>("statements"), 0);
            assert_eq!(client.execute("RELOAD", &[]).await.expect("reload"), 0);
            let error = client.query("SHOW NONSENSE", &[]).await.expect_err("an error");
            assert_eq!(error.code().map(|code| code.code()), Some("08P01"));
        });
    }
}
