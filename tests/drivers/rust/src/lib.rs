//! What the programs here share: many clients at once, each keeping a transcript of what it saw.
//! It holds results and errors, no times and no process ids, so that two runs can be compared.

use std::error::Error;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Barrier, Mutex};

pub const CLIENTS: usize = 20;
pub const SERVERS: usize = 4;
pub const SCENARIO_MAX: Duration = Duration::from_secs(60);
pub const MEGABYTE: usize = 1 << 20;
pub const ASLEEP: &str =
    "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";

/// Only one client sleeps at a time: who looks whether it does needs a server too.
pub static SLEEPING: Mutex<()> = Mutex::const_new(());

pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

pub struct Transcript {
    pub number: usize,
    lines: Vec<String>,
}

impl Transcript {
    pub fn new(number: usize) -> Transcript {
        Transcript { number, lines: Vec::new() }
    }

    pub fn saw(&mut self, what: impl Display) {
        self.lines.push(what.to_string());
    }

    pub fn print(&self) {
        println!("== client {}\n{}", self.number, self.lines.join("\n"));
    }
}

/// Plays scenarios, functions of `$client`, one after another.
#[macro_export]
macro_rules! play {
    ($client:expr, $($scenario:ident),+ $(,)?) => {$({
        $client.transcript.saw(concat!("# ", stringify!($scenario)));
        match tokio::time::timeout($crate::SCENARIO_MAX, $scenario($client)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => $client.transcript.saw(format!("UNEXPECTED {e:?}")),
            Err(_) => $client.transcript.saw("UNEXPECTED it hangs"),
        }
    })+};
}

pub fn digest(data: impl AsRef<[u8]>) -> String {
    let mut hasher = DefaultHasher::new();
    data.as_ref().hash(&mut hasher);
    format!("{} bytes {:x}", data.as_ref().len(), hasher.finish())
}

/// Runs `work` for all clients at once, and hands them back in their order.
pub async fn at_once<C, F, W>(clients: Vec<C>, work: W) -> Vec<C>
where
    C: Send + 'static,
    F: Future<Output = C> + Send + 'static,
    W: Fn(C) -> F,
{
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(work(client))).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.expect("a client panicked"));
    }
    done
}

/// Runs `hold` for as many clients at once as there are servers, again and again: what a client does
/// in a transaction before it waits at the barrier is then done on every server, whoever serves whom.
pub async fn on_every_server<C, F, H>(mut clients: Vec<C>, hold: H) -> Vec<C>
where
    C: Send + 'static,
    F: Future<Output = C> + Send + 'static,
    H: Fn(C, Arc<Barrier>) -> F,
{
    let mut done = Vec::new();
    while !clients.is_empty() {
        let together = Arc::new(Barrier::new(SERVERS));
        let group = clients.drain(..SERVERS).collect();
        done.extend(at_once(group, |client| hold(client, together.clone())).await);
    }
    done
}
