//! A client's prepared statements on whichever server it gets.

use crate::support::bouncer::Setup;
use crate::support::messages::Message;
use crate::support::*;

/// Up to two servers in transaction mode.
fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| change(setup.set("default_pool_size", 2)))
}

/// Sends `messages` and a Sync, and reads what `tags` say.
#[track_caller]
fn exchange(client: &mut Wire, messages: &[Vec<u8>], tags: &str) -> Vec<Message> {
    client.send(&[messages.concat(), msg::sync()].concat());
    client.expect(tags)
}

#[track_caller]
fn prepare(client: &mut Wire, name: &str, sql: &str) {
    exchange(client, &[msg::parse(name, sql)], "1Z");
}

/// The only value of what a prepared statement returns.
#[track_caller]
fn value(client: &mut Wire, name: &str, params: &[&str]) -> String {
    let got = exchange(client, &[msg::bind(name, params), msg::execute(0)], "2DCZ");
    got[1].row().remove(0).expect("a value")
}

/// Another server than the one that is free now: a client that keeps that one.
fn occupy(bouncer: &Bouncer) -> Wire {
    let mut holder = bouncer.client();
    holder.run("begin");
    holder
}

/// The statements of the server that the client gets, in the order in which they came.
fn on_server(client: &mut Wire) -> Vec<String> {
    let rows = client.query("select statement from pg_prepared_statements order by prepare_time").expect("rows");
    rows.into_iter().map(|mut row| row.remove(0).expect("a text")).collect()
}

#[test]
fn statement_works_on_a_server_that_has_never_seen_it() {
    let bouncer = start(|setup| setup);
    let mut client = bouncer.client();
    prepare(&mut client, "s", "select $1::text || pg_backend_pid()");
    let first = value(&mut client, "s", &["x"]);
    let _holder = occupy(&bouncer);
    assert_ne!(value(&mut client, "s", &["x"]), first);
    let got = exchange(&mut client, &[msg::describe(b'S', "s")], "tTZ");
    assert_eq!(got[1].columns()[0].1, 25);
}

#[test]
fn equal_statements_are_one_on_the_server_and_names_are_the_clients_own() {
    let bouncer = start(|setup| setup.set("default_pool_size", 1));
    let (mut first, mut second) = (bouncer.client(), bouncer.client());
    prepare(&mut first, "a", "select 'equal'");
    prepare(&mut first, "b", "select 'of first'");
    prepare(&mut second, "other name", "select 'equal'");
    prepare(&mut second, "b", "select 'of second'");
    assert_eq!(on_server(&mut first), ["select 'equal'", "select 'of first'", "select 'of second'"]);
    assert_eq!(value(&mut first, "b", &[]), "of first");
    assert_eq!(value(&mut second, "b", &[]), "of second");
    assert_eq!(value(&mut second, "other name", &[]), "equal");
}

#[test]
fn least_recently_used_statement_goes_and_comes_back() {
    let bouncer = start(|setup| setup.set("default_pool_size", 1).set("max_prepared_statements", 2));
    let mut client = bouncer.client();
    for name in ["a", "b"] {
        prepare(&mut client, name, &format!("select '{name}'"));
    }
    value(&mut client, "a", &[]);
    prepare(&mut client, "c", "select 'c'");
    assert_eq!(on_server(&mut client), ["select 'a'", "select 'c'"]);
    assert_eq!(value(&mut client, "b", &[]), "b");
    assert_eq!(on_server(&mut client), ["select 'c'", "select 'b'"]);
    // More in one pipeline than there is room for.
    let all = ["a", "b", "c", "a"].map(|name| [msg::bind(name, &[]), msg::execute(0)].concat());
    let got = exchange(&mut client, &all, "2DC2DC2DC2DCZ");
    let values: Vec<_> = [1, 4, 7, 10].map(|i| got[i].row().remove(0).unwrap()).into();
    assert_eq!(values, ["a", "b", "c", "a"]);
}

#[test]
fn closed_statement_is_gone_for_its_client_alone() {
    let bouncer = start(|setup| setup);
    let (mut client, mut other) = (bouncer.client(), bouncer.client());
    prepare(&mut client, "s", "select 1");
    prepare(&mut other, "s", "select 1");
    exchange(&mut client, &[msg::close(b'S', "s"), msg::close(b'S', "s"), msg::close(b'S', "none")], "333Z");
    prepare(&mut client, "s", "select 2");
    assert_eq!((value(&mut client, "s", &[]), value(&mut other, "s", &[])), ("2".into(), "1".into()));
}

#[test]
fn deallocate_all_and_discard_all_take_the_clients_statements_only() {
    for all in ["deallocate all", "DISCARD ALL"] {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        prepare(&mut client, "s", "select 's'");
        prepare(&mut other, "s", "select 's'");
        client.run(all);
        assert_eq!(on_server(&mut client), [""; 0]);
        prepare(&mut client, "s", "select 'new'");
        assert_eq!((value(&mut client, "s", &[]), value(&mut other, "s", &[])), ("new".into(), "s".into()));
    }
}

#[test]
fn parse_and_bind_may_be_as_long_as_they_like() {
    let bouncer = start(|setup| setup);
    let mut client = bouncer.client();
    let long = "x".repeat(200_000);
    prepare(&mut client, "long", &format!("select '{long}' || $1"));
    let _holder = occupy(&bouncer);
    assert_eq!(value(&mut client, "long", &["y"]), format!("{long}y"));
    let longer = "z".repeat(3_000_000);
    assert_eq!(value(&mut client, "long", &[&longer]), format!("{long}{longer}"));
    let name = "n".repeat(16 * 1024);
    prepare(&mut client, &name, "select 'named'");
    assert_eq!(value(&mut client, &name, &[]), "named");
    exchange(&mut client, &[msg::describe(b'S', &name), msg::close(b'S', &name)], "tT3Z");
}

#[test]
fn every_cut_of_a_pipeline_means_the_same() {
    let bouncer = start(|setup| setup.set("default_pool_size", 1).set("max_prepared_statements", 1));
    let mut client = bouncer.client();
    prepare(&mut client, "a", "select 'a' || $1");
    let pipeline = [
        msg::bind("a", &["1"]),
        msg::execute(0),
        msg::parse("b", "select 'b'"),
        msg::describe(b'S', "b"),
        msg::bind("b", &[]),
        msg::execute(0),
        msg::close(b'S', "b"),
        msg::sync(),
    ]
    .concat();
    for cut in 1..pipeline.len() {
        client.send(&pipeline[..cut]);
        client.wait_taken();
        client.send(&pipeline[cut..]);
        let got = client.expect("2DC1tT2DC3Z");
        assert_eq!((got[1].row(), got[7].row()), (vec![Some("a1".into())], vec![Some("b".into())]), "cut at {cut}");
    }
}

#[test]
fn zero_turns_tracking_off() {
    let bouncer = start(|setup| setup.set("default_pool_size", 1).set("max_prepared_statements", 0));
    let mut client = bouncer.client();
    prepare(&mut client, "raw", "select 1");
    assert_eq!(client.one("select name from pg_prepared_statements"), "raw");
    let mut other = bouncer.client();
    assert_eq!(exchange(&mut other, &[msg::parse("raw", "select 2")], "EZ")[0].error().code, "42P05");
}

#[test]
fn session_mode_passes_names_on() {
    let bouncer = start(|setup| setup.set("pool_mode", "session"));
    let mut client = bouncer.client();
    prepare(&mut client, "raw", "select 1");
    assert_eq!(client.one("select name from pg_prepared_statements"), "raw");
}

#[test]
fn statement_mode_tracks_too() {
    let bouncer = start(|setup| setup.set("pool_mode", "statement"));
    let mut client = bouncer.client();
    prepare(&mut client, "s", "select 's'");
    assert_eq!(value(&mut client, "s", &[]), "s");
}

#[test]
fn rollback_prepared_elsewhere_ends_a_failed_transaction() {
    let bouncer = start(|setup| setup);
    let mut client = bouncer.client();
    prepare(&mut client, "r", "rollback");
    let _holder = occupy(&bouncer);
    client.run("begin");
    client.fails("select 1/0");
    exchange(&mut client, &[msg::bind("r", &[]), msg::execute(0)], "2CZ");
    assert_eq!(client.one("select 1"), "1");
}

#[test]
fn console_counts_statements() {
    let bouncer = start(|setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    prepare(&mut client, "a", "select 'counted a'");
    prepare(&mut client, "b", "select 'counted b'");
    value(&mut client, "a", &[]);
    let counts = |show: &str| bouncer.show(show).iter().map(|row| row["prepared_statements"].clone()).max();
    assert_eq!((counts("clients"), counts("servers")), (Some("2".into()), Some("2".into())));
    let totals = bouncer.show("stats_totals").into_iter().find(|row| row["database"] == "app").expect("app");
    let figures = ["client_parse_count", "server_parse_count", "bind_count"].map(|name| totals[name].clone());
    assert_eq!(figures, ["2", "2", "1"]);
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn failed_parse_leaves_the_name_free() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut client = bouncer.client();
        exchange(&mut client, &[msg::parse("s", "select * from nowhere_yet")], "EZ");
        client.run("create table nowhere_yet as select 1 as i");
        prepare(&mut client, "s", "select * from nowhere_yet");
        assert_eq!(value(&mut client, "s", &[]), "1");
        // Skipped behind an error: neither parsed nor closed.
        let skipped = [msg::parse("bad", "selec"), msg::parse("t", "select 't'"), msg::close(b'S', "s")];
        exchange(&mut client, &skipped, "EZ");
        assert_eq!(value(&mut client, "s", &[]), "1");
        prepare(&mut client, "t", "select 'other t'");
        assert_eq!(value(&mut client, "t", &[]), "other t");
        assert_eq!(on_server(&mut client).len(), 2);
    }

    #[test]
    fn later_groups_of_a_pipeline_see_what_earlier_ones_came_to() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut client = bouncer.client();
        // The first group fails; the second prepares the same text anew; the third uses it.
        let pipeline = [
            [msg::parse("bad", "selec"), msg::parse("s", "select 'same'"), msg::sync()].concat(),
            [msg::parse("s", "select 'same'"), msg::sync()].concat(),
            [msg::parse("again", "select 'same'"), msg::bind("s", &[]), msg::execute(0)].concat(),
        ];
        exchange(&mut client, &pipeline, "EZ1Z12DCZ");
        assert_eq!(value(&mut client, "again", &[]), "same");
        assert_eq!(on_server(&mut client), ["select 'same'"]);
    }

    #[test]
    fn unknown_and_taken_names_are_errors_as_without_a_pooler() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut client = bouncer.client();
        prepare(&mut client, "s", "select 's'");
        for wrong in [msg::bind("none", &[]), msg::describe(b'S', "none"), msg::bind("PGWEIR_1", &[])] {
            assert_eq!(exchange(&mut client, &[wrong], "EZ")[0].error().code, "26000");
        }
        let error = exchange(&mut client, &[msg::bind("none", &[])], "EZ")[0].error();
        assert_eq!(error.message, "prepared statement \"none\" does not exist");
        client.run("begin");
        let got = exchange(&mut client, &[msg::parse("s", "select 'other'"), msg::parse("t", "select 't'")], "EZ");
        assert_eq!((got[0].error().code.as_str(), &got[1].body[..]), ("42P05", &b"E"[..]));
        client.run("rollback");
        assert_eq!(value(&mut client, "s", &[]), "s");
    }

    #[test]
    fn name_is_free_again_behind_a_deallocate_all_in_the_same_pipeline() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        prepare(&mut client, "s", "select 'old'");
        prepare(&mut other, "o", "select 'new'");
        let all = [msg::query("deallocate all"), msg::parse("s", "select 'new'")].concat();
        exchange(&mut client, &[all, msg::bind("s", &[]), msg::execute(0)], "CZ12DCZ");
        assert_eq!((value(&mut client, "s", &[]), value(&mut other, "o", &[])), ("new".into(), "new".into()));
        let all = [msg::parse("", "deallocate all"), msg::bind("", &[]), msg::execute(0)].concat();
        let then = [msg::parse("s", "select 'newer'"), msg::bind("s", &[]), msg::execute(0)].concat();
        exchange(&mut client, &[all, then], "12C12DCZ");
        assert_eq!(value(&mut client, "s", &[]), "newer");
    }

    #[test]
    fn deallocate_by_sql_knows_the_clients_names() {
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        prepare(&mut client, "s", "select 1");
        let _holder = occupy(&bouncer);
        client.send(&msg::query("deallocate prepare s"));
        assert_eq!(client.expect("CZ")[0].strings(0), ["DEALLOCATE"]);
        assert_eq!(client.fails("deallocate s").code, "26000");
        prepare(&mut client, "s", "select 2");
        assert_eq!(value(&mut client, "s", &[]), "2");
    }

    #[test]
    fn sql_level_prepare_keeps_the_server_until_deallocate() {
        let pg = Postgres::shared();
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        client.run("prepare p as select pg_backend_pid()");
        let pid = client.one("execute p");
        let mut holder = occupy(&bouncer);
        assert_eq!(client.one("execute p"), pid);
        assert_ne!(holder.backend().to_string(), pid);
        holder.run("commit");
        // By the extended protocol too.
        assert_eq!(value(&mut client, "p", &[]), pid);
        client.run("deallocate p");
        bouncer.wait_pool("sv_idle", 2);
        // One that leaves without it takes its statements along.
        client.run("prepare p as select 1");
        client.send(&msg::terminate());
        bouncer.wait_pool("sv_idle", 2);
        let mut others = [occupy(&bouncer), occupy(&bouncer)];
        for other in &mut others {
            assert_eq!(other.one("select count(*) from pg_prepared_statements where name = 'p'"), "0");
        }
        assert_eq!(bouncer.backends(pg), 2);
    }

    #[test]
    fn retry_after_a_changed_result_type_succeeds() {
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        client.run("create table changing (a int); insert into changing values (1)");
        prepare(&mut client, "s", "select * from changing");
        let mut holder = occupy(&bouncer);
        value(&mut client, "s", &[]);
        holder.run("commit");
        client.run("alter table changing alter a type text");
        let used = [msg::bind("s", &[]), msg::execute(0)];
        let error = exchange(&mut client, &used, "EZ")[0].error();
        assert_eq!(error.message, "cached plan must not change result type");
        // On either server.
        assert_eq!(value(&mut client, "s", &[]), "1");
        let _holder = occupy(&bouncer);
        assert_eq!(value(&mut client, "s", &[]), "1");
    }

    /// Each client may have the old type in mind.
    #[test]
    fn every_client_is_told_of_a_changed_result_type() {
        let bouncer = start(|setup| setup);
        let mut clients: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
        clients[0].run("create table changing_for_all (a int); insert into changing_for_all values (1)");
        for client in &mut clients {
            prepare(client, "s", "select * from changing_for_all");
        }
        clients[0].run("alter table changing_for_all alter a type text");
        let mut holder = None;
        for (i, client) in clients.iter_mut().enumerate() {
            // The second meets a server that has never had the statement.
            holder = (i == 1).then(|| occupy(&bouncer));
            let error = exchange(client, &[msg::bind("s", &[])], "EZ")[0].error();
            assert_eq!((&*error.code, &*error.message), ("0A000", "cached plan must not change result type"));
            assert_eq!(value(client, "s", &[]), "1");
        }
        drop(holder);
    }

    #[test]
    fn changed_result_type_concerns_its_own_database_only() {
        let pg = Postgres::shared();
        let entry = format!("host=127.0.0.1 port={} dbname={}", pg.port, pg.create_database());
        let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 1).database("second", entry));
        let (mut client, mut other) = (bouncer.client(), bouncer.client_of("app", "second"));
        for client in [&mut client, &mut other] {
            client.run("create table in_both (a int); insert into in_both values (1)");
            prepare(client, "s", "select * from in_both");
        }
        client.run("alter table in_both alter a type text");
        exchange(&mut client, &[msg::bind("s", &[])], "EZ");
        bouncer.admin().run("reconnect second");
        assert_eq!(value(&mut other, "s", &[]), "1");
    }

    #[test]
    fn unnamed_statement_is_the_clients_own() {
        let bouncer = start(|setup| setup);
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        exchange(&mut client, &[msg::parse("", "select 'mine'"), msg::describe(b'S', "")], "1tTZ");
        exchange(&mut other, &[msg::parse("", "select 'theirs'"), msg::describe(b'S', "")], "1tTZ");
        assert_eq!((value(&mut client, "", &[]), value(&mut other, "", &[])), ("mine".into(), "theirs".into()));
        let _holder = occupy(&bouncer);
        assert_eq!((value(&mut client, "", &[]), value(&mut other, "", &[])), ("mine".into(), "theirs".into()));
        // A Query ends it, and one that never had one gets nobody else's.
        client.run("select 1");
        for client in [client, bouncer.client()].iter_mut() {
            let error = exchange(client, &[msg::bind("", &[]), msg::execute(0)], "EZ")[0].error();
            assert_eq!((error.code.as_str(), &*error.message), ("26000", "unnamed prepared statement does not exist"));
        }
    }

    #[test]
    fn unnamed_parse_of_a_text_that_is_prepared_is_not_parsed_again() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        prepare(&mut client, "s", "select $1::int + 1");
        let got = exchange(&mut other, &[msg::unsynced("select $1::int + 1", &["41"])], "12DCZ");
        assert_eq!(got[2].row(), [Some("42".into())]);
        let plans = "select generic_plans + custom_plans from pg_prepared_statements";
        assert_eq!(client.one(plans), "1");
        exchange(&mut other, &[msg::parse("", "select $1::int + 1"), msg::parse("", "select 'x'")], "11Z");
        assert_eq!(value(&mut other, "", &[]), "x");
    }

    #[test]
    fn texts_are_shared_only_among_those_who_mean_the_same_by_them() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let sql = "select extract(month from '1/2/2003'::date)::text";
        let month = |style: &str| {
            let mut client = Wire::tcp(bouncer.port);
            client.login("app", "app", "", &[("DateStyle", style)]).expect("login");
            prepare(&mut client, "s", sql);
            value(&mut client, "s", &[])
        };
        assert_eq!((month("ISO, MDY"), month("ISO, DMY"), month("ISO, MDY")), ("1".into(), "2".into(), "1".into()));
    }

    #[test]
    fn text_behind_a_change_of_settings_in_a_pipeline_is_not_shared() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        let sql = "select extract(month from '1/2/2003'::date)::text as pipelined";
        let pipeline = [msg::query("set datestyle = 'ISO, DMY'"), msg::parse("s", sql), msg::bind("s", &[])].concat();
        let got = exchange(&mut client, &[pipeline, msg::execute(0)], "CSZ12DCZ");
        assert_eq!(got[5].row(), [Some("2".into())]);
        prepare(&mut other, "s", sql);
        assert_eq!(value(&mut other, "s", &[]), "1");
    }

    #[test]
    fn text_prepared_anew_has_the_meaning_that_its_users_agree_on() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        let sql = "select extract(month from '1/2/2003'::date)::text";
        prepare(&mut client, "s", sql);
        client.run("set datestyle = 'ISO, DMY'");
        // Now the pooler does not know what is left on the server.
        client.fails("deallocate none");
        value(&mut client, "s", &[]);
        prepare(&mut other, "s", sql);
        assert_eq!(value(&mut other, "s", &[]), "1");
    }

    #[test]
    fn client_that_goes_while_its_request_has_to_wait_leaves_the_server_to_others() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut client = bouncer.client();
        let named = [msg::parse("s", "select 1"), msg::bind("s", &[]), msg::execute(0)].concat();
        client.send(&[msg::unsynced("select pg_sleep(1000)", &[]), named, msg::sync()].concat());
        client.send(&[msg::bind("s", &[]), msg::sync()].concat());
        client.wait_taken();
        drop(client);
        assert_eq!(bouncer.client().one("select 'free'"), "free");
    }

    #[test]
    fn name_of_the_poolers_is_not_given_to_another_statement() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let (mut client, mut other) = (bouncer.client(), bouncer.client());
        for name in ["s", "t"] {
            prepare(&mut client, name, &format!("select '{name}'"));
        }
        let rows = other.query("select name from pg_prepared_statements order by prepare_time").expect("rows");
        let names: Vec<String> = rows.into_iter().flatten().flatten().collect();
        other.run(&format!("select 1; deallocate \"{}\"", names[0]));
        other.run(&format!("prepare \"{}\" as select 'other'", names[0]));
        other.run(&format!("select 1; deallocate \"{}\"", names[1]));
        assert_eq!(value(&mut client, "s", &[]), "s");
    }

    #[test]
    fn unnamed_statement_of_before_tracking_was_off_is_gone() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut client = bouncer.client();
        prepare(&mut client, "", "select 'before'");
        bouncer.admin().run("set max_prepared_statements = 0");
        prepare(&mut client, "", "select 'meanwhile'");
        bouncer.admin().run("set max_prepared_statements = 100");
        let error = exchange(&mut client, &[msg::bind("", &[])], "EZ")[0].error();
        assert_eq!(error.code, "26000");
    }

    #[test]
    fn tracking_can_be_turned_off_in_the_middle_of_a_long_parse() {
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        let long = msg::parse("s", &format!("select 'long' -- {}", "x".repeat(50_000)));
        client.send(&long[..20_000]);
        client.wait_taken();
        bouncer.admin().run("set max_prepared_statements = 0");
        client.send(&long[20_000..]);
        let got = exchange(&mut client, &[msg::bind("s", &[]), msg::execute(0)], "12DCZ");
        assert_eq!(got[2].row(), [Some("long".into())]);
    }

    #[test]
    fn too_much_is_refused() {
        let bouncer = start(|setup| setup.set("max_client_prepared_size", 100_000));
        let mut client = bouncer.client();
        let mut other = bouncer.client();
        for i in 0..3 {
            prepare(&mut client, &i.to_string(), &format!("select '{i}{}'", "x".repeat(30_000)));
        }
        client.send(&msg::parse("one more", &format!("select '{}'", "x".repeat(30_000))));
        let error = client.expect_fatal();
        assert_eq!(error.code, "54000");
        assert_eq!(error.message, "prepared statements take too much memory (max_client_prepared_size)");
        other.send(&msg::bind(&"n".repeat(40_000), &[]));
        assert_eq!(other.expect_fatal().message, "prepared statement name is too long");
    }

    #[test]
    fn pipeline_of_closes_without_end_takes_no_memory() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut client = bouncer.client();
        // None of these is sent on, and none can be answered before the query is.
        client.send(&msg::unsynced("select pg_sleep(0.5)", &[]));
        client.send(&msg::close(b'S', "x").repeat(100_000));
        client.send(&msg::sync());
        client.expect("12");
        let mut closed = 0;
        loop {
            match client.recv().tag {
                b'3' => closed += 1,
                b'Z' => break,
                _ => {}
            }
        }
        assert_eq!(closed, 100_000);
    }
}
