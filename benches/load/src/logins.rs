//! `logins`: clients that log in and leave, again and again.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use pgweir_proto::frontend::{self, TERMINATE_MESSAGE};

use crate::connection::{Stream, Target};
use crate::histogram::Histogram;
use crate::transaction::Replies;

/// After a login that has failed.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Logins {
    pub(crate) clients: usize,
    pub(crate) seconds: f64,
    /// Each runs one before it leaves.
    pub(crate) query: bool,
}

/// What came of it.
struct Outcome {
    /// From the first packet to ReadyForQuery.
    took: Histogram,
    failed: u64,
    last_error: Option<io::Error>,
}

/// Prints how many per second, and how long one took.
pub(crate) fn run(target: &Target, logins: &Logins) -> io::Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(logins.seconds);
    let mut all = Outcome { took: Histogram::new(), failed: 0, last_error: None };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..logins.clients).map(|_| scope.spawn(|| client(target, logins, end))).collect();
        for client in clients {
            let Outcome { took, failed, last_error } = client.join().expect("a client does not panic");
            all.took.merge(&took);
            all.failed += failed;
            all.last_error = last_error.or(all.last_error.take());
        }
    });
    let Outcome { took, failed, last_error } = all;
    let (n, seconds) = (took.count(), start.elapsed().as_secs_f64());
    if let Some(e) = last_error {
        if n == 0 {
            return Err(e);
        }
        eprintln!("{failed} logins have failed, the last with: {e}");
    }
    let tps = n as f64 / seconds;
    println!(r#"{{"tps": {tps:.1}, "transactions": {n}, "failed": {failed}, {}}}"#, took.json());
    Ok(())
}

fn client(target: &Target, logins: &Logins, end: Instant) -> Outcome {
    let mut outcome = Outcome { took: Histogram::new(), failed: 0, last_error: None };
    loop {
        let start = Instant::now();
        if start >= end {
            return outcome;
        }
        let visit = || -> io::Result<Duration> {
            let mut stream = target.log_in(0)?;
            let took = start.elapsed();
            if logins.query {
                query(&mut stream)?;
            }
            stream.write_all(&TERMINATE_MESSAGE)?;
            stream.flush()?;
            Ok(took)
        };
        match visit() {
            Ok(took) => outcome.took.add(took),
            Err(e) => {
                outcome.failed += 1;
                outcome.last_error = Some(e);
                thread::sleep(PAUSE);
            }
        }
    }
}

fn query(stream: &mut Stream) -> io::Result<()> {
    let (mut out, mut replies, mut chunk) = (Vec::new(), Replies::default(), [0; 4096]);
    frontend::query(&mut out, "select 1");
    stream.write_all(&out)?;
    loop {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if replies.take(&chunk[..n])? => return Ok(()),
            _ => {}
        }
    }
}
