use std::sync::Arc;

use super::super::prepared::Known;
use super::super::statement::{Dialect, Statement, intern};
use super::*;
use TransactionStatus::{Idle, InBlock};

/// A server's queue with what hangs on it.
#[derive(Default)]
struct Bench {
    names: Names,
    prepared: Prepared,
}

impl Bench {
    fn feed(&mut self, o: &mut Outstanding, replies: &str) -> Result<Vec<Verdict>, Unexpected> {
        let mut books = Books { names: &mut self.names, prepared: &mut self.prepared };
        let mut verdicts = Vec::new();
        for tag in replies.bytes() {
            match tag {
                b'Z' => o.ready(Idle, &mut books)?,
                b'z' => o.ready(InBlock, &mut books)?,
                b'E' => verdicts.push(o.error(StatementError::Other, &mut books).expect("in step")),
                b'e' => verdicts.push(o.error(StatementError::Stale, &mut books).expect("in step")),
                b'x' => verdicts.push(o.error(StatementError::NotSupported, &mut books).expect("in step")),
                tag => verdicts.push(o.reply(tag, &mut books)?),
            }
        }
        Ok(verdicts)
    }
}

fn step(kind: Kind) -> Request {
    Request::Step(Step::client(kind))
}

/// Queues Query, Function call, Sync, Parse, Bind, Describe, Execute, cLose, Copy end.
fn ask(o: &mut Outstanding, requests: &str) {
    for request in requests.bytes() {
        o.request(match request {
            b'Q' => Request::Query,
            b'F' => Request::FunctionCall,
            b'S' => Request::Sync,
            b'P' => step(Kind::Parse),
            b'B' => step(Kind::Bind),
            b'D' => step(Kind::Describe),
            b'E' => step(Kind::Execute),
            b'L' => step(Kind::Close),
            _ => Request::CopyEnd,
        });
    }
}

fn feed(o: &mut Outstanding, replies: &str) {
    Bench::default().feed(o, replies).unwrap();
}

/// Feeds requests, then reply tags; `Z` is ReadyForQuery idle, `z` in a block.
fn after(requests: &str, replies: &str) -> Outstanding {
    let mut o = Outstanding::new();
    ask(&mut o, requests);
    feed(&mut o, replies);
    o
}

#[test]
fn simple_and_extended_queries_end_idle() {
    assert!(after("", "").is_idle());
    assert!(!after("Q", "TDC").is_idle());
    assert!(after("Q", "TDCZ").is_idle());
    assert!(after("F", "VZ").is_idle());
    assert!(after("PBDES", "12TDCZ").is_idle());
    let in_block = after("Q", "Cz");
    assert!(in_block.is_answered() && !in_block.is_idle());
}

#[test]
fn a_pipeline_is_idle_only_after_its_last_sync() {
    assert!(!after("PBESPBES", "12CZ").is_idle());
    assert!(after("PBESPBES", "12CZ12CZ").is_idle());
}

#[test]
fn flush_without_sync_is_answered_but_not_idle() {
    let mut o = after("PB", "12");
    assert!(o.is_answered() && !o.is_idle());
    ask(&mut o, "S");
    feed(&mut o, "Z");
    assert!(o.is_idle());
}

#[test]
fn an_error_skips_to_the_groups_sync_even_past_a_query() {
    assert!(after("PBDEQS", "1EZ").is_idle());
    assert!(!after("PBDESPBS", "1EZ").is_idle());
    // A Query's own error is answered by its own ReadyForQuery.
    assert!(!after("QQ", "EZ").is_idle());
    assert!(after("QQ", "EZCZ").is_idle());
    // An error while a Sync commits.
    assert!(after("BES", "2CEZ").is_idle());
}

#[test]
fn syncs_in_a_copy_are_not_answered() {
    let mut o = after("BES", "2G");
    assert!(o.is_copying_in());
    ask(&mut o, "cS");
    feed(&mut o, "CZ");
    assert!(o.is_idle() && !o.is_doubtful());
}

#[test]
fn a_copy_may_be_sent_before_the_server_asks_for_it() {
    let o = after("PBEcSPBES", "12GCZ12CZ");
    assert!(o.is_idle() && !o.is_doubtful());
    assert!(after("QcQ", "GCZCZ").is_idle());
    // It turns out to be none.
    assert!(after("QcQ", "EZCZ").is_idle());
    assert!(after("PBEcS", "1EZ").is_idle());
    assert!(after("PcS", "1Z").is_idle());
}

#[test]
fn a_failed_copy_with_syncs_leaves_a_doubt() {
    let mut o = after("BES", "2GE");
    ask(&mut o, "cS");
    feed(&mut o, "Z");
    assert!(o.is_idle() && o.is_doubtful());
    // Without a Sync in it there is none.
    let mut o = after("Q", "G");
    ask(&mut o, "c");
    feed(&mut o, "EZ");
    assert!(o.is_idle() && !o.is_doubtful());
    // Nor when the server fails before the client has ended its copy.
    let mut o = after("Q", "GEZ");
    ask(&mut o, "c");
    assert!(o.is_idle() && o.is_answered() && !o.is_doubtful());
}

#[test]
fn only_syncs_are_swallowed_by_a_copy() {
    // The copy had failed before the server read the rest, which it answers.
    let mut o = after("QPBc", "GEZ");
    assert!(!o.is_answered());
    feed(&mut o, "12");
    assert!(o.is_answered() && !o.is_idle() && !o.is_doubtful());
    let mut o = after("QQc", "GEZ");
    assert!(!o.is_answered());
    // The end is the second copy's.
    feed(&mut o, "GCZ");
    assert!(o.is_idle() && !o.is_doubtful());
    let mut o = after("Q", "G");
    ask(&mut o, "PSS");
    feed(&mut o, "EZ1ZZ");
    assert!(o.is_idle() && !o.is_doubtful());
}

#[test]
fn a_failed_copy_with_unusual_syncs_ends_both() {
    for requests in ["QS", "BESS"] {
        let mut o = Outstanding::new();
        ask(&mut o, requests);
        let mut bench = Bench::default();
        bench.feed(&mut o, if requests.starts_with('B') { "2G" } else { "G" }).unwrap();
        let mut books = Books { names: &mut bench.names, prepared: &mut bench.prepared };
        assert_eq!(o.error(StatementError::Other, &mut books), Err(OutOfStep), "{requests}");
    }
}

#[test]
fn what_a_server_swallows_takes_no_memory() {
    let mut o = after("PBE", "12G");
    (0..1000).for_each(|_| ask(&mut o, "S"));
    assert!(o.queue.len() <= 2);
    ask(&mut o, "cS");
    feed(&mut o, "CZ");
    assert!(o.is_idle() && !o.is_doubtful());
    let mut o = after("Q", "");
    (0..1000).for_each(|_| ask(&mut o, "c"));
    assert!(o.queue.len() <= COPY_ENDS_MAX + 1);
    let mut o = after("P", "E");
    (0..1000).for_each(|_| ask(&mut o, "QP"));
    assert_eq!(o.queue.len(), 1);
    ask(&mut o, "SQ");
    feed(&mut o, "ZCZ");
    assert!(o.is_idle());
}

#[test]
fn one_request_is_one_ready() {
    for (requests, is_one) in [("Q", true), ("PBES", true), ("PBE", false), ("", false), ("QP", false), ("QS", false)] {
        assert_eq!(after(requests, "").is_one_request(), is_one, "{requests}");
    }
}

#[test]
fn a_reply_to_something_else_is_a_fault() {
    for (requests, replies) in
        [("", "Z"), ("PS", "2"), ("BS", "1"), ("BS", "C"), ("DS", "3"), ("ES", "T"), ("LS", "1"), ("QS", "CZZZ")]
    {
        let mut o = Outstanding::new();
        ask(&mut o, requests);
        assert!(Bench::default().feed(&mut o, replies).is_err(), "{requests} {replies}");
    }
}

fn statement(text: &str) -> Arc<Statement> {
    intern(format!("outstanding {text}\0\0\0").as_bytes(), Dialect { pool: 1, settings: 1 })
}

#[test]
fn what_the_pooler_asks_is_hidden_and_what_it_knows_is_answered_in_turn() {
    let a = statement("a");
    let (mut bench, mut o) = (Bench::default(), Outstanding::new());
    let hidden = Step { asker: Asker::Pooler, statement: a.id, ..Step::client(Kind::Parse) };
    let unasked = Step { asker: Asker::Nobody, ..Step::client(Kind::Close) };
    bench.prepared.begin(&a, o.group());
    for request in [Request::Step(hidden), step(Kind::Bind), Request::Step(unasked), Request::Sync] {
        o.request(request);
    }
    let answer = |bench: &mut Bench, o: &mut Outstanding| {
        o.answer(&mut Books { names: &mut bench.names, prepared: &mut bench.prepared })
    };
    assert_eq!(bench.feed(&mut o, "1"), Ok(vec![Verdict::Hide]));
    assert_eq!((answer(&mut bench, &mut o), bench.prepared.look(&a, 9)), (None, Known::Ready));
    assert_eq!(bench.feed(&mut o, "2"), Ok(vec![Verdict::Forward]));
    assert_eq!(answer(&mut bench, &mut o), Some(CLOSE_COMPLETE));
    assert_eq!(bench.feed(&mut o, "Z"), Ok(vec![]));
    assert!(o.is_idle());
}

#[test]
fn an_error_undoes_what_it_has_skipped_and_no_more() {
    let (a, b) = (statement("a"), statement("b"));
    let (mut bench, mut o) = (Bench::default(), Outstanding::new());
    let named = |statement: &Arc<Statement>| {
        let step = Step { statement: statement.id, renames: true, ..Step::client(Kind::Parse) };
        Request::Step(step)
    };
    for (name, statement) in [(b"a", &a), (b"b", &b)] {
        o.request(named(statement));
        bench.prepared.begin(statement, o.group());
        bench.names.insert(name, Arc::clone(statement), 1);
    }
    ask(&mut o, "S");
    bench.feed(&mut o, "1EZ").unwrap();
    assert!(bench.names.get(b"a").is_some() && bench.names.get(b"b").is_none());
    assert_eq!((bench.prepared.look(&a, 9), bench.prepared.look(&b, 9)), (Known::Ready, Known::Absent));
}

#[test]
fn whoever_is_told_of_a_stale_plan_goes_on_with_a_new_statement() {
    let (a, mut bench, mut o) = (statement("stale"), Bench::default(), Outstanding::new());
    bench.names.insert(b"a", Arc::clone(&a), 0);
    bench.names.confirm();
    o.request(Request::Step(Step { statement: a.id, ..Step::client(Kind::Bind) }));
    ask(&mut o, "ES");
    assert_eq!(bench.feed(&mut o, "eZ"), Ok(vec![Verdict::Forward]));
    let new = bench.names.get(b"a").unwrap().id;
    assert!(a.is_retired() && new != a.id);
    // Elsewhere the server does not say so by itself.
    let stale = Step { asker: Asker::RefusedAsStale, statement: new, ..Step::client(Kind::Parse) };
    o.request(Request::Step(stale));
    ask(&mut o, "BES");
    assert_eq!(bench.feed(&mut o, "xZ"), Ok(vec![Verdict::Replace(&STALE)]));
    assert!(bench.names.get(b"a").unwrap().id > new && o.is_idle());
}
