//! tokio-postgres: statements prepared by hand and by the way, dropped, pipelined; portals, COPY, cancel.

use std::env::args;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use driver_clients::*;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::sleep;
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, Config, NoTls, SimpleQueryMessage};

struct Session {
    transcript: Transcript,
    client: Client,
}

impl Session {
    fn saw(&mut self, what: impl std::fmt::Display) {
        self.transcript.saw(what);
    }

    fn refused<T>(&mut self, answer: Result<T, tokio_postgres::Error>) {
        let seen = told(&answer.map(|_| ()));
        self.saw(seen);
    }
}

fn told(answer: &Result<(), tokio_postgres::Error>) -> String {
    match answer {
        Ok(()) => "no error".to_owned(),
        Err(e) => match e.as_db_error() {
            Some(error) => format!("error {} {}", error.code().code(), error.message()),
            None => format!("UNEXPECTED {e:?}"),
        },
    }
}

fn url() -> String {
    args().nth(1).expect("a URL")
}

async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&url(), NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

async fn types(session: &mut Session) -> Outcome {
    let sql = "select $1::int4, $2::int8, $3::float8, $4::text, $5::bool, $6::bytea, $7::jsonb, $8::timestamptz, \
               $9::int4[], $10::text[], $11::date";
    let at: DateTime<Utc> = "2024-02-29T12:30:01.25Z".parse()?;
    let (list, texts) = (vec![Some(1), None, Some(3)], vec![Some("a,b"), Some(""), None, Some("\"")]);
    let (bytes, document) = (vec![0u8, 255, 92], json!({"a": [1, null]}));
    let values: [&(dyn ToSql + Sync); 11] = [
        &-7i32,
        &(1i64 << 40),
        &1.1f64,
        &"naïve 'text'",
        &true,
        &bytes,
        &document,
        &at,
        &list,
        &texts,
        &NaiveDate::from_ymd_opt(1999, 12, 31),
    ];
    let none: Option<&str> = None;
    for _ in 0..3 {
        let row = session.client.query_one(sql, &values).await?;
        let numbers: (i32, i64, f64) = (row.get(0), row.get(1), row.get(2));
        let (text, truth, bytes): (&str, bool, Vec<u8>) = (row.get(3), row.get(4), row.get(5));
        let (document, at): (Value, DateTime<Utc>) = (row.get(6), row.get(7));
        let lists: (Vec<Option<i32>>, Vec<Option<String>>) = (row.get(8), row.get(9));
        session.saw(format!(
            "{numbers:?} {text} {truth} {bytes:?} {document} {at} {lists:?} {}",
            row.get::<_, NaiveDate>(10)
        ));
        let row = session.client.query_one("select $1::text, null::int8, null::bytea", &[&none]).await?;
        let nulls: (Option<&str>, Option<i64>, Option<&[u8]>) = (row.get(0), row.get(1), row.get(2));
        session.saw(format!("{nulls:?}"));
    }
    Ok(())
}

async fn types_of_ones_own(session: &mut Session) -> Outcome {
    // The driver asks the catalog about them, by statements that it prepares and keeps.
    let name = format!("mood_{}", session.transcript.number);
    session.client.batch_execute(&format!("create type {name} as enum ('good', 'bad')")).await?;
    for sql in [format!("select 'bad'::{name}"), format!("select array['good', null]::{name}[]")] {
        let statement = session.client.prepare(&sql).await?;
        let kind = format!("{:?}", statement.columns()[0].type_().name());
        session.saw(kind);
        session.client.query_one(&statement, &[]).await?;
    }
    Ok(())
}

async fn simple_queries(session: &mut Session) -> Outcome {
    let sql = format!(
        "select 1 as a; select {}, 'b', null; create temp table t (i int) on commit drop",
        session.transcript.number
    );
    for message in session.client.simple_query(&sql).await? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<_> = (0..row.len()).map(|i| row.get(i)).collect();
                session.saw(format!("{values:?}"));
            }
            SimpleQueryMessage::CommandComplete(count) => session.saw(count),
            _ => {}
        }
    }
    let answer = session.client.batch_execute("select 1; select 1 / 0; select 2").await;
    session.refused(answer);
    Ok(())
}

async fn shared_statement(session: &mut Session) -> Outcome {
    let number = session.transcript.number as i32;
    let statement = session.client.prepare("select $1::int * 2, $2::text").await?;
    for i in 0..12 {
        let row = session.client.query_one(&statement, &[&(number * 100 + i), &format!("of {number}")]).await?;
        session.saw(format!("{} {}", row.get::<_, i32>(0), row.get::<_, &str>(1)));
    }
    Ok(())
}

async fn own_statements(session: &mut Session) -> Outcome {
    let number = session.transcript.number;
    // Once kept, once dropped after use, which closes it on the server.
    let mut kept = Vec::new();
    for i in 0..15 {
        kept.push(session.client.prepare(&format!("select {number} + {i} + $1::int4")).await?);
    }
    for _ in 0..5 {
        for (i, statement) in kept.iter().enumerate() {
            let sum: i32 = session.client.query_one(statement, &[&1]).await?.get(0);
            let again: i32 =
                session.client.query_one(&format!("select {number} * {i} + $1::int4"), &[&1]).await?.get(0);
            session.transcript.saw(format!("{sum} {again}"));
        }
    }
    Ok(())
}

async fn unnamed_statements(session: &mut Session) -> Outcome {
    for i in 0..10i64 {
        let row = session.client.query_typed("select $1, $2", &[(&i, Type::INT8), (&"text", Type::TEXT)]).await?;
        session.saw(format!("{} {}", row[0].get::<_, i64>(0), row[0].get::<_, &str>(1)));
    }
    Ok(())
}

async fn pipelined(session: &mut Session) -> Outcome {
    let statement = session.client.prepare("select 12 / $1::int4").await?;
    let client = &session.client;
    for _ in 0..3 {
        // All is sent before the first answer is read, prepares too; each has its own Sync.
        let queries = (0..30).map(|i| {
            let statement = statement.clone();
            async move {
                let row = if i % 3 == 0 {
                    client.query_one(&format!("select 100 + 12 / $1::int4 + {i}"), &[&(i % 5)]).await
                } else {
                    client.query_one(&statement, &[&(i % 5)]).await
                };
                match row {
                    Ok(row) => row.get::<_, i32>(0).to_string(),
                    Err(e) => told(&Err(e)),
                }
            }
        });
        let answers = join_all(queries).await.join(", ");
        session.transcript.saw(answers);
    }
    Ok(())
}

async fn transaction_with_error(session: &mut Session) -> Outcome {
    for i in 0..8i32 {
        let transaction = session.client.transaction().await?;
        transaction.query("select $1::int4", &[&i]).await?;
        let failed = transaction.query("select 1 / $1::int4", &[&0i32]).await.map(|_| ());
        let after = transaction.query("select $1::int4", &[&i]).await.map(|_| ());
        transaction.rollback().await?;
        session.saw(format!("{}; {}", told(&failed), told(&after)));
        let row = session.client.query_one("select $1::int4", &[&i]).await?;
        session.saw(row.get::<_, i32>(0));
        let wrong = session.client.prepare(&format!("select $1::int + nonsense, {i}")).await;
        session.refused(wrong);
    }
    Ok(())
}

async fn savepoints(session: &mut Session) -> Outcome {
    let table = format!("saved_{}", session.transcript.number);
    session.client.batch_execute(&format!("create table {table} (i int)")).await?;
    let insert = session.client.prepare(&format!("insert into {table} values (10 / $1::int4)")).await?;
    for i in 1..8i32 {
        let mut transaction = session.client.transaction().await?;
        transaction.execute(&insert, &[&i]).await?;
        let inner = transaction.transaction().await?;
        let failed = inner.execute(&insert, &[&0i32]).await.map(|_| ());
        inner.rollback().await?;
        transaction.execute(&insert, &[&(i * 2)]).await?;
        transaction.commit().await?;
        session.saw(told(&failed));
    }
    let row = session.client.query_one(&format!("select array_agg(i order by i) from {table}"), &[]).await?;
    session.saw(format!("{:?}", row.get::<_, Vec<i32>>(0)));
    Ok(())
}

async fn portals(session: &mut Session) -> Outcome {
    let transaction = session.client.transaction().await?;
    let statement = transaction.prepare("select i from generate_series(1, $1::int4) i").await?;
    let (one, other) = (transaction.bind(&statement, &[&20]).await?, transaction.bind(&statement, &[&7]).await?);
    for _ in 0..4 {
        for portal in [&one, &other] {
            let rows = transaction.query_portal(portal, 6).await?;
            let values: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
            session.transcript.saw(format!("{values:?}"));
        }
    }
    drop((one, other));
    transaction.commit().await?;
    Ok(())
}

/// PostgreSQL signals twice, and may a moment after the query has ended: its end of file comes after both.
async fn cancel_and_wait(token: &CancelToken) -> Outcome {
    let config: Config = url().parse()?;
    let mut stream = TcpStream::connect(("127.0.0.1", config.get_ports()[0])).await?;
    token.cancel_query_raw(&mut stream, NoTls).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn cancel(session: &mut Session) -> Outcome {
    for i in 0..2 {
        let alone = SLEEPING.lock().await;
        let observer = connect().await;
        let token = session.client.cancel_token();
        let (answer, canceled) = tokio::join!(session.client.query("select pg_sleep($1::int4)", &[&60]), async {
            while observer.query_one(ASLEEP, &[]).await?.get::<_, i64>(0) != 1 {
                sleep(Duration::from_millis(5)).await;
            }
            cancel_and_wait(&token).await
        });
        drop(alone);
        canceled?;
        session.refused(answer);
        let row = session.client.query_one("select 'goes on', $1::int4", &[&i]).await?;
        session.saw(row.get::<_, i32>(1));
    }
    Ok(())
}

async fn copy(session: &mut Session) -> Outcome {
    let number = session.transcript.number;
    let table = format!("copied_{number}");
    session.client.batch_execute(&format!("create table {table} (i int, s text, b bytea)")).await?;
    let mut into =
        pin!(session.client.copy_in::<_, std::io::Cursor<Vec<u8>>>(&format!("copy {table} from stdin")).await?);
    for i in 0..2000 {
        into.send(std::io::Cursor::new(format!("{i}\tline of {number}\t\\\\x00ff\n").into_bytes())).await?;
    }
    let text = into.as_mut().finish().await?;
    let columns = [Type::INT4, Type::TEXT, Type::BYTEA];
    let sink = session.client.copy_in(&format!("copy {table} from stdin (format binary)")).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &columns));
    for i in 2000..2100i32 {
        writer.as_mut().write(&[&i, &None::<&str>, &vec![i as u8; 20]]).await?;
    }
    let binary = writer.finish().await?;
    let out = session.client.copy_out(&format!("copy (select * from {table} order by i) to stdout")).await?;
    let copied: Vec<_> = out.try_collect().await?;
    session.saw(format!("{text} {binary} {}", digest(copied.concat())));
    let out =
        session.client.copy_out(&format!("copy (select * from {table} order by i) to stdout (format binary)")).await?;
    let sum: i32 = BinaryCopyOutStream::new(out, &columns)
        .map(|row| row.map_or(0, |row| row.get::<i32>(0)))
        .fold(0, async |a, b| a + b)
        .await;
    session.saw(sum);
    let mut broken = pin!(session.client.copy_in::<_, &[u8]>(&format!("copy {table} from stdin")).await?);
    broken.send(b"1\tone\t\nnot a number\t\t\n").await?;
    let answer = broken.as_mut().finish().await;
    session.refused(answer);
    // Dropped without an end, it fails by CopyFail.
    let mut left = Box::pin(session.client.copy_in::<_, &[u8]>(&format!("copy {table} from stdin")).await?);
    left.send(b"-1\tleft\t\n").await?;
    drop(left);
    let row = session.client.query_one(&format!("select count(*), min(i) from {table}"), &[]).await?;
    session.saw(format!("{} {}", row.get::<_, i64>(0), row.get::<_, i32>(1)));
    Ok(())
}

async fn large_values(session: &mut Session) -> Outcome {
    let text = "x".repeat(MEGABYTE - session.transcript.number);
    let data: Vec<u8> = (0..MEGABYTE).map(|i| (i * 7) as u8).collect();
    for _ in 0..3 {
        let row = session.client.query_one("select $1::text, $2::bytea, length($1)", &[&text, &data]).await?;
        let length: i32 = row.get(2);
        session.saw(format!("{} {} {length}", digest(row.get::<_, &str>(0)), digest(row.get::<_, &[u8]>(1))));
    }
    Ok(())
}

const PLANNED: &str = "select * from planned where a = $1::int4";

async fn hold(mut planned: Planned, together: Arc<Barrier>) -> Planned {
    let transaction = planned.0.client.transaction().await.expect("begin");
    transaction.query(&planned.1, &[&1]).await.expect("select");
    together.wait().await;
    transaction.commit().await.expect("commit");
    planned
}

/// With the statement whose result type changes.
struct Planned(Session, tokio_postgres::Statement);

async fn changed_plan(planned: &mut Planned) -> Outcome {
    let Planned(session, statement) = planned;
    // The driver leaves it to the application to prepare again.
    if let Err(e) = session.client.query(&*statement, &[&1]).await {
        assert_eq!(e.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{e:?}");
        *statement = session.client.prepare(PLANNED).await?;
    }
    for row in session.client.query(&*statement, &[&1]).await? {
        session.saw(format!("{} {:?}", row.get::<_, i32>(0), row.try_get::<_, &str>(1).ok()));
    }
    Ok(())
}

impl std::ops::Deref for Planned {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl std::ops::DerefMut for Planned {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

async fn all(mut session: Session) -> Session {
    play!(
        &mut session,
        types,
        types_of_ones_own,
        simple_queries,
        shared_statement,
        own_statements,
        unnamed_statements,
        pipelined,
        transaction_with_error,
        savepoints,
        portals,
        cancel,
        copy,
        large_values
    );
    session
}

#[tokio::main]
async fn main() {
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        sessions.push(Session { transcript: Transcript::new(number), client: connect().await });
    }
    let sessions = at_once(sessions, all).await;
    sessions[0].client.batch_execute("create table planned as select 1 as a").await.expect("create");
    let mut planned = Vec::new();
    for session in sessions {
        let statement = session.client.prepare(PLANNED).await.expect("prepare");
        planned.push(Planned(session, statement));
    }
    let mut planned = on_every_server(planned, hold).await;
    planned[0].client.batch_execute("alter table planned add column b text default 'new'").await.expect("alter");
    for session in &mut planned {
        play!(session, changed_plan);
        session.transcript.print();
    }
}
