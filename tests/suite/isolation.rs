//! Nobody ever sees a row, a parameter or a transaction of somebody else.

use std::thread;
use std::time::Instant;

use crate::support::*;

const ACTORS: u32 = 64;
/// As many as `bouncer` must be configured for.
pub(crate) const SERVERS: usize = 4;

/// A client that does everything clients do, also to break off in the middle of it, and checks
/// that all it gets is its own.
struct Actor<'a> {
    bouncer: &'a Bouncer,
    id: u32,
    random: Random,
    wire: Wire,
    application_name: String,
    /// How many rows of its own it has committed.
    rows: u64,
    done: u64,
}

impl<'a> Actor<'a> {
    fn new(bouncer: &'a Bouncer, id: u32) -> Actor<'a> {
        let application_name = format!("actor {id}");
        let wire = connect(bouncer, &application_name);
        let random = Random::seeded(u64::from(id));
        Actor { bouncer, id, random, wire, application_name, rows: 0, done: 0 }
    }

    fn act(&mut self) {
        match self.random.below(14) {
            0 | 1 => self.ask(),
            2 | 3 => self.pipeline(),
            4 => self.insert(),
            5 | 6 => self.transaction(),
            7 => self.fail_in_transaction(),
            8 => self.vanish_in_transaction(),
            9 => self.vanish_in_a_message(),
            10 => self.vanish_in_a_result(),
            11 => self.cancel(),
            12 => self.rename(),
            _ => self.copy_in(),
        }
        self.done += 1;
    }

    fn nonce(&mut self) -> String {
        format!("{}-{:x}", self.id, self.random.next())
    }

    /// Own name, own rows, and a nonce.
    fn ask(&mut self) {
        let (id, nonce) = (self.id, self.nonce());
        let sql = format!(
            "select '{nonce}', current_setting('application_name'), count(*), \
             count(*) filter (where owner <> {id}) from ledger where owner = {id}"
        );
        let rows = self.wire.query(&sql).unwrap_or_else(|e| panic!("actor {id}: {e}"));
        let expected = [nonce, self.application_name.clone(), self.rows.to_string(), "0".to_owned()];
        assert_eq!(rows, [expected.map(Some)]);
    }

    fn pipeline(&mut self) {
        let nonces: Vec<String> = (0..5).map(|_| self.nonce()).collect();
        let broken = self.random.below(8) as usize;
        let mut bytes = Vec::new();
        for (i, nonce) in nonces.iter().enumerate() {
            let fail = if i == broken { msg::unsynced("select 1/0", &[]) } else { Vec::new() };
            bytes.extend([fail, msg::extended("select $1", &[nonce])].concat());
        }
        // In two parts, cut anywhere.
        let cut = self.random.below(bytes.len() as u64) as usize;
        self.wire.send(&bytes[..cut]);
        self.wire.send(&bytes[cut..]);
        for (i, nonce) in nonces.iter().enumerate() {
            let answer = self.wire.answer_of_query();
            if i == broken {
                assert_eq!(answer.expect_err("a division by zero").code, "22012");
            } else {
                assert_eq!(answer.expect("a row"), [[Some(nonce.clone())]]);
            }
        }
    }

    fn insert(&mut self) {
        self.wire.run(&format!("insert into ledger values ({})", self.id));
        self.rows += 1;
    }

    /// Begins a transaction, which must be a new one, and writes a row in it.
    fn begin_and_write(&mut self) {
        let id = self.id;
        self.wire.run("begin");
        let fresh = "select pg_current_xact_id_if_assigned() is null \
                     and coalesce(current_setting('actor.id', true), '') = ''";
        assert_eq!(self.wire.one(fresh), "t", "actor {id} began in somebody's transaction");
        self.wire.run(&format!("set local actor.id to '{id}'"));
        // If an earlier transaction of this actor were still open, this would wait for ever.
        self.wire.run(&format!("select pg_advisory_xact_lock({id})"));
        self.wire.run(&format!("insert into ledger values ({id})"));
    }

    fn transaction(&mut self) {
        self.begin_and_write();
        let own = self.wire.one("select current_setting('actor.id')");
        assert_eq!(own, self.id.to_string());
        if self.random.below(3) == 0 {
            self.wire.run("rollback");
        } else {
            self.wire.run("commit");
            self.rows += 1;
        }
    }

    fn fail_in_transaction(&mut self) {
        self.begin_and_write();
        assert_eq!(self.wire.fails("select 1/0").code, "22012");
        assert_eq!(self.wire.fails("select 1").code, "25P02");
        match self.random.below(2) {
            0 => self.wire.run("rollback"),
            _ => self.reconnect(),
        }
    }

    fn vanish_in_transaction(&mut self) {
        self.begin_and_write();
        match self.random.below(3) {
            0 => self.wire.send(&msg::terminate()),
            1 => self.wire.send(&msg::unsynced("select 1", &[])),
            _ => {}
        }
        self.reconnect();
    }

    fn vanish_in_a_message(&mut self) {
        let insert = msg::query(&format!("insert into ledger values ({})", self.id));
        let cut = 1 + self.random.below(insert.len() as u64 - 1) as usize;
        self.wire.send(&insert[..cut]);
        self.reconnect();
    }

    fn vanish_in_a_result(&mut self) {
        let sql = format!("select '{}', repeat('x', 1000) from generate_series(1, 3000)", self.id);
        self.wire.send(&msg::query(&sql));
        self.wire.expect("T");
        for _ in 0..self.random.below(50) {
            assert_eq!(self.wire.expect("D")[0].row()[0], Some(self.id.to_string()));
        }
        self.reconnect();
    }

    fn cancel(&mut self) {
        self.wire.send(&msg::query("select pg_sleep(0.02)"));
        let mut canceller = Wire::tcp(self.bouncer.port);
        canceller.send(&self.wire.cancel_packet());
        canceller.drain();
        // It may come too late for one query, and then hit this client's next.
        for answer in [self.wire.answer_of_query(), self.wire.query("select 1")] {
            if let Err(e) = answer {
                assert_eq!(e.code, "57014", "actor {}: {e}", self.id);
            }
        }
    }

    fn rename(&mut self) {
        let name = format!("actor {} {}", self.id, self.random.below(100));
        self.wire.run(&format!("set application_name to '{name}'"));
        self.application_name = name;
    }

    fn copy_in(&mut self) {
        self.wire.send(&msg::query("copy ledger from stdin"));
        self.wire.expect("G");
        self.wire.send(&msg::copy_data(&format!("{}\n", self.id)).repeat(2));
        match self.random.below(3) {
            0 => {
                self.wire.send(&msg::copy_done());
                self.wire.expect("CZ");
                self.rows += 2;
            }
            1 => {
                self.wire.send(&msg::copy_fail("enough"));
                self.wire.expect("EZ");
            }
            _ => self.reconnect(),
        }
    }

    fn reconnect(&mut self) {
        self.wire = connect(self.bouncer, &self.application_name);
    }
}

fn connect(bouncer: &Bouncer, application_name: &str) -> Wire {
    let mut wire = Wire::tcp(bouncer.port);
    wire.login("app", "app", "", &[("application_name", application_name)]).expect("log in");
    wire
}

/// Lets the actors loose on `app` and then compares what is stored with what they committed.
pub(crate) fn run(bouncer: &Bouncer, pg: &Postgres) {
    pg.direct(&bouncer.server_database)
        .run("create table ledger (owner int); create index on ledger (owner); grant all on ledger to app");
    let deadline = Instant::now() + secs(8);
    let counts: Vec<(u32, u64)> = thread::scope(|scope| {
        let actors: Vec<_> = (0..ACTORS)
            .map(|id| {
                scope.spawn(move || {
                    let mut actor = Actor::new(bouncer, id);
                    while Instant::now() < deadline {
                        actor.act();
                    }
                    assert!(actor.done >= 5, "actor {id} did {} things only", actor.done);
                    (id, actor.rows)
                })
            })
            .collect();
        while Instant::now() < deadline {
            assert!(bouncer.show("SERVERS").len() <= SERVERS);
            pg.sql("select pg_sleep(0.05)");
        }
        actors.into_iter().map(|actor| actor.join().expect("an actor")).collect()
    });
    let mut direct = pg.direct(&bouncer.server_database);
    for (id, rows) in counts {
        let stored = direct.one(&format!("select count(*) from ledger where owner = {id}"));
        assert_eq!(stored, rows.to_string(), "rows of actor {id}");
    }
    wait_until("no transaction is left open", PATIENCE, || {
        let open = format!(
            "select 1 from pg_stat_activity where datname = '{}' and state like 'idle in%'",
            bouncer.server_database
        );
        pg.sql(&open).is_empty()
    });
}

#[test]
fn clients_that_share_servers_share_nothing_else() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", SERVERS).set("max_client_conn", 1000));
    run(&bouncer, pg);
}

#[test]
fn client_gone_in_a_transaction_leaves_no_lock_and_no_row() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    bouncer.client().run("create table ledger (owner int)");
    for farewell in [&[][..], &msg::terminate(), b"Q\0\0\0\x10sele", &msg::parse("", "select 1")] {
        let mut client = bouncer.client();
        client.run("begin");
        client.run("set local work_mem to '1234kB'");
        client.run("insert into ledger values (1)");
        client.run("lock table ledger in access exclusive mode");
        client.run("select pg_advisory_xact_lock(1)");
        client.send(farewell);
        drop(client);
        let mut next = bouncer.client();
        assert_eq!(next.one("select pg_current_xact_id_if_assigned() is null"), "t");
        assert_eq!(next.one("select count(*) from ledger"), "0");
        // Its backend ends by itself, and releases one lock after the other.
        wait_until("the lock is free", PATIENCE, || {
            next.one("select pg_try_advisory_lock(1) and pg_advisory_unlock(1)") == "t"
        });
        assert_eq!(next.one("show work_mem"), "4MB");
    }
}

#[test]
fn client_gone_during_a_query_leaves_no_answer_to_the_next() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    for request in [
        msg::query("select 'wrong' from pg_sleep(0.1)"),
        msg::extended("select 'wrong' from pg_sleep(0.1)", &[]).repeat(3),
        [msg::unsynced("select 'wrong' from pg_sleep(0.1)", &[]), msg::flush()].concat(),
        msg::parse("", "select 'wrong'"),
    ] {
        let mut client = bouncer.client();
        client.send(&request);
        client.wait_taken();
        drop(client);
        assert_eq!(bouncer.client().one("select 'right'"), "right");
    }
}

#[test]
fn locks_of_a_killed_client_process_are_freed() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let mut holder = bouncer.client();
    holder.run("create table busy (i int)");
    holder.run("begin");
    holder.run("lock table busy");
    let mut waiter = bouncer.client();
    waiter.send(&msg::query("select count(*) from busy"));
    waiter.expect_silence(millis(200));
    // As when the process is killed: a reset, no goodbye.
    holder.reset();
    waiter.expect("TDCZ");
}
