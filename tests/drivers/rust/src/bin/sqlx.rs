//! sqlx, which prepares every query and keeps 100 statements a connection.

use std::env::args;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use driver_clients::*;
use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::types::chrono::{DateTime, NaiveDate, Utc};
use sqlx::types::{BigDecimal, Json};
use sqlx::{Connection, Executor, Row, Statement, ValueRef, query, query_as, query_scalar};
use tokio::sync::Barrier;
use tokio::time::timeout;

struct Session {
    transcript: Transcript,
    connection: PgConnection,
}

impl Session {
    fn saw(&mut self, what: impl Display) {
        self.transcript.saw(what);
    }

    fn refused<T>(&mut self, answer: Result<T, sqlx::Error>) {
        let seen = told(answer);
        self.saw(seen);
    }
}

fn told<T>(answer: Result<T, sqlx::Error>) -> String {
    match answer {
        Ok(_) => "no error".to_owned(),
        Err(sqlx::Error::Database(error)) => format!("error {:?} {}", error.code(), error.message()),
        Err(e) => format!("UNEXPECTED {e:?}"),
    }
}

fn url() -> String {
    args().nth(1).expect("a URL")
}

async fn types(session: &mut Session) -> Outcome {
    let sql = "select $1::int4, $2::int8, $3::float8, $4::numeric, $5::text, $6::bool, $7::bytea, $8::jsonb, \
               $9::timestamptz, $10::int4[], $11::text[], $12::date";
    type Values = (
        Option<i32>,
        Option<i64>,
        Option<f64>,
        Option<BigDecimal>,
        Option<String>,
        Option<bool>,
        Option<Vec<u8>>,
        Option<Json<serde_json::Value>>,
        Option<DateTime<Utc>>,
    );
    let values: Values = (
        Some(-7),
        Some(1 << 40),
        Some(1.1),
        Some("12345.678900".parse()?),
        Some("naïve 'text'".to_owned()),
        Some(true),
        Some(vec![0, 255, 92]),
        Some(Json(serde_json::json!({"a": [1, null]}))),
        Some("2024-02-29T12:30:01.25Z".parse()?),
    );
    let lists = (vec![Some(1), None, Some(3)], vec![Some("a,b"), Some(""), None, Some("\"")]);
    let none: Values = Default::default();
    for values in [&values, &none, &values] {
        let row: PgRow = query(sql)
            .bind(values.0)
            .bind(values.1)
            .bind(values.2)
            .bind(&values.3)
            .bind(&values.4)
            .bind(values.5)
            .bind(&values.6)
            .bind(&values.7)
            .bind(values.8)
            .bind(&lists.0)
            .bind(&lists.1)
            .bind(NaiveDate::from_ymd_opt(1999, 12, 31))
            .fetch_one(&mut session.connection)
            .await?;
        let first: Values = (
            row.get(0),
            row.get(1),
            row.get(2),
            row.get(3),
            row.get(4),
            row.get(5),
            row.get(6),
            row.get(7),
            row.get(8),
        );
        let rest: (Vec<Option<i32>>, Vec<Option<String>>, NaiveDate) = (row.get(9), row.get(10), row.get(11));
        session.saw(format!("{first:?} {rest:?}"));
    }
    Ok(())
}

async fn types_of_ones_own(session: &mut Session) -> Outcome {
    // The driver asks the catalog about them, by statements that it prepares.
    let name = format!("mood_{}", session.transcript.number);
    session.connection.execute(&*format!("create type {name} as enum ('good', 'bad')")).await?;
    let row = query(&format!("select 'bad'::{name}, array['good']::{name}[], $1::int"))
        .bind(1)
        .fetch_one(&mut session.connection)
        .await?;
    for i in 0..2 {
        session.transcript.saw(row.try_get_raw(i)?.type_info());
    }
    Ok(())
}

async fn shared_statement(session: &mut Session) -> Outcome {
    let number = session.transcript.number as i32;
    for i in 0..12 {
        let row: (i32, String) = query_as("select $1::int * 2, $2::text")
            .bind(number * 100 + i)
            .bind(format!("of {number}"))
            .fetch_one(&mut session.connection)
            .await?;
        session.saw(format!("{row:?}"));
    }
    Ok(())
}

async fn own_statements(session: &mut Session) -> Outcome {
    let number = session.transcript.number as i32;
    for _ in 0..5 {
        for i in 0..15 {
            let sql = format!("select {number} + {i} + $1::int4");
            let sum: i32 = query_scalar(&sql).bind(i).fetch_one(&mut session.connection).await?;
            session.saw(sum);
        }
    }
    Ok(())
}

async fn statements_beyond_the_cache(session: &mut Session) -> Outcome {
    for _ in 0..2 {
        let mut sum = 0;
        for i in 0..110 {
            sum += query_scalar::<_, i32>(&format!("select $1::int4 + {i}"))
                .bind(1)
                .fetch_one(&mut session.connection)
                .await?;
        }
        session.saw(sum);
    }
    session.connection.clear_cached_statements().await?;
    let one: i32 = query_scalar("select $1::int4 + 1").bind(0).fetch_one(&mut session.connection).await?;
    session.saw(one);
    Ok(())
}

async fn prepared_by_hand(session: &mut Session) -> Outcome {
    let statement = session.connection.prepare("select $1::int8 + $2::int8 as total").await?;
    session.transcript.saw(format!(
        "{:?} {:?}",
        statement.parameters().map(|one| format!("{one:?}")),
        statement.columns().len()
    ));
    for i in 0..5i64 {
        let row = statement.query().bind(i).bind(2i64).fetch_one(&mut session.connection).await?;
        session.transcript.saw(row.get::<i64, _>(0));
    }
    Ok(())
}

async fn unnamed_statements(session: &mut Session) -> Outcome {
    for i in 0..10i64 {
        let sql = format!("select $1::int8 * {i}");
        let value: i64 = query_scalar(&sql).bind(i).persistent(false).fetch_one(&mut session.connection).await?;
        session.saw(value);
    }
    Ok(())
}

async fn simple_queries(session: &mut Session) -> Outcome {
    let sql = format!("select 1; select {} where false; select 3", session.transcript.number);
    let rows: Vec<PgRow> = session.connection.fetch_all(&*sql).await?;
    session.saw(rows.len());
    let answer = session.connection.execute("select 1; select 1 / 0; select 2").await;
    session.refused(answer);
    Ok(())
}

async fn transaction_with_error(session: &mut Session) -> Outcome {
    for i in 0..8 {
        let mut transaction = session.connection.begin().await?;
        query("select $1::int4").bind(i).execute(&mut *transaction).await?;
        let failed = told(query("select 1 / $1::int4").bind(0).execute(&mut *transaction).await);
        let after = told(query("select $1::int4").bind(i).execute(&mut *transaction).await);
        let new = told(query(&format!("select {i} + $1::int4")).bind(i).execute(&mut *transaction).await);
        transaction.rollback().await?;
        session.saw(format!("{failed}; {after}; {new}"));
        let sum: i32 =
            query_scalar(&format!("select {i} + $1::int4")).bind(i).fetch_one(&mut session.connection).await?;
        session.saw(sum);
        let wrong = query(&format!("select $1::int + nonsense, {i}")).bind(i).execute(&mut session.connection).await;
        session.refused(wrong);
    }
    Ok(())
}

async fn savepoints(session: &mut Session) -> Outcome {
    let table = format!("saved_{}", session.transcript.number);
    session.connection.execute(&*format!("create table {table} (i int)")).await?;
    let insert = format!("insert into {table} values (10 / $1::int4)");
    for i in 1..8 {
        let mut transaction = session.connection.begin().await?;
        query(&insert).bind(i).execute(&mut *transaction).await?;
        let mut inner = transaction.begin().await?;
        let failed = told(query(&insert).bind(0).execute(&mut *inner).await);
        // Dropped, it is rolled back by the way of the next query.
        drop(inner);
        query(&insert).bind(i * 2).execute(&mut *transaction).await?;
        transaction.commit().await?;
        session.saw(failed);
    }
    let all: Vec<i32> = query_scalar(&format!("select array_agg(i order by i) from {table}"))
        .fetch_one(&mut session.connection)
        .await?;
    session.saw(format!("{all:?}"));
    Ok(())
}

async fn streams(session: &mut Session) -> Outcome {
    let sql = "select i from generate_series(1, $1::int4) i";
    let mut sum = 0;
    let mut rows = query_scalar::<_, i32>(sql).bind(1000).fetch(&mut session.connection);
    while let Some(i) = rows.try_next().await? {
        sum += i;
    }
    drop(rows);
    session.saw(sum);
    // Left in the middle: the driver reads what is still to come before its next query.
    for i in 1..4 {
        let first = query_scalar::<_, i32>(sql).bind(5000 * i).fetch(&mut session.connection).try_next().await?;
        let left: i32 = query_scalar("select $1::int4").bind(i).fetch_one(&mut session.connection).await?;
        session.saw(format!("{first:?} {left}"));
    }
    Ok(())
}

async fn abandoned_query(session: &mut Session) -> Outcome {
    // The driver knows no cancel request: it waits for the end of what is left behind.
    let slow = query("select pg_sleep($1), $2::text").bind(0.3).bind("left behind").execute(&mut session.connection);
    session.transcript.saw(timeout(Duration::from_millis(20), slow).await.is_err());
    let next: i32 = query_scalar("select $1::int4").bind(7).fetch_one(&mut session.connection).await?;
    session.saw(next);
    Ok(())
}

async fn copy(session: &mut Session) -> Outcome {
    let table = format!("copied_{}", session.transcript.number);
    session.connection.execute(&*format!("create table {table} (i int, s text, b bytea)")).await?;
    let lines: String = (0..2000).map(|i| format!("{i}\tline of {table}\t\\\\x00ff\n")).collect();
    let into = format!("copy {table} from stdin");
    let mut copy = session.connection.copy_in_raw(&into).await?;
    for part in lines.as_bytes().chunks(10_000) {
        copy.send(part).await?;
    }
    let count = copy.finish().await?;
    let out = session.connection.copy_out_raw(&format!("copy (select * from {table} order by i) to stdout")).await?;
    let copied: Vec<_> = out.try_collect().await?;
    session.saw(format!("{count} {}", digest(copied.concat())));
    let mut broken = session.connection.copy_in_raw(&into).await?;
    broken.send(&b"1\tone\t\nnot a number\t\t\n"[..]).await?;
    let answer = broken.finish().await;
    session.refused(answer);
    let mut aborted = session.connection.copy_in_raw(&into).await?;
    aborted.send(&b"-1\tone\t\n"[..]).await?;
    aborted.abort("changed my mind").await?;
    let left: i64 = query_scalar(&format!("select count(*) from {table}")).fetch_one(&mut session.connection).await?;
    session.saw(left);
    Ok(())
}

async fn large_values(session: &mut Session) -> Outcome {
    let text = "x".repeat(MEGABYTE - session.transcript.number);
    let data: Vec<u8> = (0..MEGABYTE).map(|i| (i * 7) as u8).collect();
    for _ in 0..3 {
        let (back, bytes, length): (String, Vec<u8>, i32) = query_as("select $1::text, $2::bytea, length($1)")
            .bind(&text)
            .bind(&data)
            .fetch_one(&mut session.connection)
            .await?;
        session.saw(format!("{} {} {length}", digest(back), digest(bytes)));
    }
    Ok(())
}

async fn ping(session: &mut Session) -> Outcome {
    // What the driver's pool asks of a connection before it hands it out.
    session.connection.ping().await?;
    let one: i32 = query_scalar("select $1::int4").bind(1).fetch_one(&mut session.connection).await?;
    session.saw(one);
    Ok(())
}

const PLANNED: &str = "select * from planned where a = $1::int4";

async fn hold(mut session: Session, together: Arc<Barrier>) -> Session {
    let mut transaction = session.connection.begin().await.expect("begin");
    query(PLANNED).bind(1).execute(&mut *transaction).await.expect("select");
    together.wait().await;
    transaction.commit().await.expect("commit");
    session
}

async fn changed_plan(session: &mut Session) -> Outcome {
    let mut answer = query(PLANNED).bind(1).fetch_one(&mut session.connection).await;
    if answer.is_err() {
        // The driver leaves it to the application to forget what it has prepared.
        session.connection.clear_cached_statements().await?;
        answer = query(PLANNED).bind(1).fetch_one(&mut session.connection).await;
    }
    let row = answer?;
    session.saw(format!("{} {:?}", row.get::<i32, _>(0), row.try_get::<&str, _>(1).ok()));
    Ok(())
}

async fn all(mut session: Session) -> Session {
    play!(
        &mut session,
        types,
        types_of_ones_own,
        shared_statement,
        own_statements,
        statements_beyond_the_cache,
        prepared_by_hand,
        unnamed_statements,
        simple_queries,
        transaction_with_error,
        savepoints,
        streams,
        abandoned_query,
        copy,
        large_values,
        ping
    );
    session
}

#[tokio::main]
async fn main() {
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        let connection = PgConnection::connect(&url()).await.expect("connect");
        sessions.push(Session { transcript: Transcript::new(number), connection });
    }
    let mut sessions = at_once(sessions, all).await;
    sessions[0].connection.execute("create table planned as select 1 as a").await.expect("create");
    let mut sessions = on_every_server(sessions, hold).await;
    sessions[0].connection.execute("alter table planned add column b text default 'new'").await.expect("alter");
    for session in &mut sessions {
        play!(session, changed_plan);
        session.transcript.print();
    }
}
