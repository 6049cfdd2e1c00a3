//! Clients as they are in the wild: psql, and tokio-postgres.

use std::process::{Command, Output};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage, types::Type};

use crate::support::*;

fn psql(bouncer: &Bouncer, args: &[&str]) -> Output {
    Command::new(postgres::program("psql"))
        .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "app", "-p"])
        .arg(bouncer.port.to_string())
        .args(args)
        .env("PGDATABASE", "app")
        .output()
        .expect("run psql")
}

#[track_caller]
fn printed(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

#[test]
fn psql_works_in_every_pool_mode() {
    for mode in ["session", "transaction", "statement"] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", mode));
        let out = psql(
            &bouncer,
            &[
                "-c",
                "create table t (i int, s text)",
                "-c",
                "\\copy t from program 'printf \"1\\\\tone\\\\n2\\\\ttwo\\\\n\"'",
                "-c",
                "\\copy (select s from t order by i) to stdout",
                "-c",
                "select count(*) from t",
                "-c",
                "\\dt",
            ],
        );
        let text = printed(&out);
        assert!(text.contains("COPY 2\none\ntwo\n2\npublic|t|table|app"), "{mode}: {text}");
    }
}

#[test]
fn psql_reads_the_console() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let out = psql(&bouncer, &["-U", "admin", "-d", "pgbouncer", "-c", "show databases"]);
    assert!(printed(&out).contains("app|127.0.0.1|"), "{}", printed(&out));
    let out = psql(&bouncer, &["-U", "admin", "-d", "pgbouncer", "-c", "show nonsense"]);
    assert!(!out.status.success());
}

#[test]
fn psql_runs_a_script_in_one_transaction() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 2));
    let script = bouncer.dir.join("script.sql");
    std::fs::write(&script, "create table t (i int);\ninsert into t values (1);\nselect 1/0;\n").expect("write");
    let out = psql(&bouncer, &["-1", "-f", script.to_str().expect("a path")]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("division by zero"));
    assert_eq!(printed(&psql(&bouncer, &["-c", "select to_regclass('t') is null"])), "t");
}

/// A connection of tokio-postgres, driven in the background.
async fn connect(bouncer: &Bouncer) -> Client {
    let config = format!("host=127.0.0.1 port={} user=app dbname=app", bouncer.port);
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

#[test]
fn tokio_postgres_works_in_session_mode() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session"));
    Runtime::new().expect("a runtime").block_on(async {
        let mut client = connect(&bouncer).await;
        client.batch_execute("create table t (i int8, s text)").await.expect("create");
        let statement = client.prepare("insert into t values ($1, $2)").await.expect("prepare");
        for i in 0..10_i64 {
            let count = client.execute(&statement, &[&i, &"x"]).await.expect("insert");
            assert_eq!(count, 1);
        }
        let transaction = client.transaction().await.expect("begin");
        transaction.execute("delete from t", &[]).await.expect("delete");
        transaction.rollback().await.expect("rollback");
        let row = client.query_one("select count(*), $1::text from t", &[&"own"]).await.expect("select");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (10, "own"));
        let error = client.query("select $1::int4 / 0", &[&1_i32]).await.expect_err("an error");
        assert_eq!(error.code().map(|code| code.code()), Some("22012"));
        client.query_one("select 1", &[]).await.expect("the session goes on");
    });
}

#[test]
fn tokio_postgres_works_in_transaction_mode_with_unnamed_statements() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 2));
    Runtime::new().expect("a runtime").block_on(async {
        let mut tasks = Vec::new();
        for i in 0..20_i64 {
            let mut client = connect(&bouncer).await;
            tasks.push(tokio::spawn(async move {
                for j in 0..20_i64 {
                    let transaction = client.transaction().await.expect("begin");
                    let params: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] =
                        &[(&i, Type::INT8), (&j, Type::INT8)];
                    let rows = transaction.query_typed("select $1, $2", params).await.expect("select");
                    assert_eq!((rows[0].get::<_, i64>(0), rows[0].get::<_, i64>(1)), (i, j));
                    transaction.commit().await.expect("commit");
                    let messages = client.simple_query(&format!("select {j}")).await.expect("simple");
                    let found = messages.iter().any(
                        |message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(&j.to_string())),
                    );
                    assert!(found, "no row of {j}");
                }
            }));
        }
        for task in tasks {
            task.await.expect("a task");
        }
    });
}

#[test]
fn tokio_postgres_pipelines_queries() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 2));
    Runtime::new().expect("a runtime").block_on(async {
        let client = connect(&bouncer).await;
        let client = &client;
        // The driver sends all before it reads the first answer.
        let queries = (0..50_i64).map(|i| async move {
            let rows = client.query_typed("select $1", &[(&i, Type::INT8)]).await.expect("select");
            assert_eq!(rows[0].get::<_, i64>(0), i);
        });
        let mut all = Box::pin(join(queries));
        all.as_mut().await;
    });
}

/// Polls all futures until the last is done.
async fn join<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn tokio_postgres_cancels_its_query() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    Runtime::new().expect("a runtime").block_on(async {
        let client = connect(&bouncer).await;
        let token = client.cancel_token();
        let (answer, ()) = tokio::join!(client.batch_execute("select pg_sleep(60)"), async {
            bouncer.wait_asleep(Postgres::shared(), 1);
            token.cancel_query(NoTls).await.expect("cancel");
        });
        let error = answer.expect_err("canceled");
        assert_eq!(error.code().map(|code| code.code()), Some("57014"));
    });
}

#[test]
fn tokio_postgres_hears_notifications_in_session_mode() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session"));
    Runtime::new().expect("a runtime").block_on(async {
        let config = format!("host=127.0.0.1 port={} user=app dbname=app", bouncer.port);
        let (client, mut connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
        let (give, mut take) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = give.send(notification.payload().to_owned());
                }
            }
        });
        client.batch_execute("listen news").await.expect("listen");
        connect(&bouncer).await.batch_execute("notify news, 'heard'").await.expect("notify");
        let heard = tokio::time::timeout(Duration::from_secs(10), take.recv()).await;
        assert_eq!(heard.expect("in time").as_deref(), Some("heard"));
    });
}
