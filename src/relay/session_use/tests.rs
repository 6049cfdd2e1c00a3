//! Texts in which a session is used, and texts that only look so.

use super::*;
use SessionUse::*;

fn uses(sql: &str) -> Vec<SessionUse<'_>> {
    let mut found = Vec::new();
    look(tag::QUERY, sql.as_bytes(), |one| found.push(one));
    found
}

#[test]
fn what_needs_a_session_is_found() {
    let cases = [
        ("create temp table t (i int)\0", TemporaryTable),
        ("CREATE LOCAL TEMPORARY TABLE t AS SELECT 1 ON COMMIT", TemporaryTable),
        ("create temp table t (i int) on commit delete rows", TemporaryTable),
        ("create temp table t as select 'on commit drop'", TemporaryTable),
        ("create or replace temporary view v as select 1", TemporaryTable),
        ("create temp sequence s", TemporaryTable),
        ("select 1 as i into temp t", TemporaryTable),
        ("with a as (select 1) SELECT * INTO TEMPORARY TABLE \"T\" from a", TemporaryTable),
        ("select pg_advisory_lock(1)", AdvisoryLock),
        ("SELECT pg_catalog.PG_TRY_advisory_LOCK (1, 2)", AdvisoryLock),
        ("with k as (select 1 as k) select pg_advisory_lock_shared(k) from k", AdvisoryLock),
        ("listen news", Listen),
        ("/* app */ -- x\n LISTEN \"News\";\n", Listen),
        ("declare c cursor with hold for select 1", HoldCursor),
        ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1", HoldCursor),
        ("set statement_timeout = 1000", Set("statement_timeout")),
        ("SET SESSION search_path TO a, b", Set("search_path")),
        ("set  my.own=1", Set("my.own")),
        ("set \"work_mem\" to '1MB'", Set("work_mem")),
        ("set time zone 'UTC'", Set("TimeZone")),
        ("set session time zone local", Set("TimeZone")),
        ("set names 'utf8'", Set("client_encoding")),
        ("set schema 'a'", Set("search_path")),
        ("set role other", Set("role")),
        ("set session authorization 'other'", Set("session_authorization")),
        (
            "set session characteristics as transaction isolation level serializable",
            Set("default_transaction_isolation"),
        ),
        ("set session characteristics as transaction read only", Set("default_transaction_read_only")),
        ("select set_config('jit', 'off', false)", Set("jit")),
        ("SELECT pg_catalog.set_config('search_path', concat('a', ','), 'f'), 1", Set("search_path")),
        ("load 'auto_explain'", Load),
        ("prepare p as select 1", Prepare),
        ("PREPARE p(int) AS select $1", Prepare),
    ];
    for (sql, expected) in cases {
        assert_eq!(uses(sql), [expected], "{sql}");
    }
}

#[test]
fn what_needs_none_is_let_be() {
    let cases = [
        "",
        "s",
        "select 1",
        "update t set role = 1",
        "create table temp (i int)",
        "create temp table t (i int) on commit drop",
        "create temporary table t on commit drop as select 1; commit",
        "insert into temp values (1)",
        "with a as (select 1) insert into temp select * from a",
        "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2), pg_advisory_unlock(1)",
        "select 'pg_advisory_lock(1)' /* pg_advisory_lock(1) */ as \"pg_advisory_lock\"",
        "select my_advisory_lock(1), pg_advisory_lock from t",
        "unlisten *",
        "listen",
        "declare c cursor for select 'with hold'",
        "declare c cursor without hold for select 1",
        "set local statement_timeout = 1",
        "set transaction read only",
        "set constraints all deferred",
        "set statement_timeout to default",
        "set role none",
        "set session authorization default",
        "set",
        "set x",
        "set \"a\nb\" = 1",
        "reset all",
        "select set_config('jit', 'off', true)",
        "select set_config('jit', 'off', $1), set_config($1, 'off', false)",
        "select set_config('jit', 'off')",
        "load data",
        "prepare transaction 'x'",
        "deallocate p",
        "create function f() returns void language sql as $$ set jit = off; listen x $$",
        "/* set jit = off; */ select 1",
        "select 1 -- ; listen x",
        "select E'\\'; listen x; --'",
        "select '\0listen x'; listen x",
    ];
    for sql in cases {
        assert_eq!(uses(sql), [], "{sql}");
    }
}

#[test]
fn every_statement_of_a_text_is_looked_at() {
    let sql = "begin; set jit = off; select 'a;listen b'; ; Listen b;create temp table t (i int);commit";
    assert_eq!(uses(sql), [Set("jit"), Listen, TemporaryTable]);
}

#[test]
fn only_the_sql_of_query_and_parse_is_looked_at() {
    let mut count = 0;
    for (message, body) in [
        (tag::PARSE, &b"listen x\0select 1\0\0\0"[..]),
        (tag::PARSE, b"listen x"),
        (tag::BIND, b"listen x\0"),
        (tag::COPY_DATA, b"listen x\0"),
    ] {
        look(message, body, |_| count += 1);
    }
    assert_eq!(count, 0);
    look(tag::PARSE, b"name\0listen x\0\0\0", |one| count += usize::from(one == Listen));
    assert_eq!(count, 1);
}

#[test]
fn of_a_long_text_only_the_beginning_counts() {
    let long = "x".repeat(LOOK_MAX);
    assert_eq!(uses(&format!("set jit = off; select '{long}'; listen x")), [Set("jit")]);
    // Whether it says ON COMMIT DROP is not known.
    assert_eq!(uses(&format!("create temp table t as select '{long}'")), []);
    let columns = "i int, ".repeat(LOOK_MAX / 7);
    assert_eq!(uses(&format!("create temp table t ({columns} j int) on commit drop")), []);
    let fits = format!("listen a{}", "x".repeat(LOOK_MAX - 8));
    assert_eq!(uses(&fits), [Listen]);
}

#[test]
fn any_bytes_will_do() {
    let pieces: &[&[u8]] = &[
        b"set ",
        b"select ",
        b"create ",
        b"temp ",
        b"table ",
        b"into temp ",
        b"listen ",
        b"declare c cursor with hold ",
        b"session ",
        b"characteristics ",
        b"time zone ",
        b"set_config(",
        b"pg_advisory_lock(",
        b"'",
        b"\"",
        b"$$",
        b"$a$",
        b"/*",
        b"*/",
        b"--",
        b"\n",
        b";",
        b",",
        b")",
        b"=",
        b".",
        b"\\",
        b"\0",
        b"\xff",
        b"false",
        b"a",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % bound
    };
    let mut found = 0;
    for _ in 0..50_000 {
        let mut sql = Vec::new();
        for _ in 0..below(12) {
            match below(8) {
                0 => sql.push(below(256) as u8),
                _ => sql.extend(pieces[below(pieces.len())]),
            }
        }
        look(tag::QUERY, &sql, |_| found += 1);
        read(&sql, |_| found += 1);
    }
    assert!(found > 1000, "{found}");
}
