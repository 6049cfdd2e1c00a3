//! What the pooler uses, watched for a while.

use std::time::Duration;

use tokio::time::Instant;

use crate::maintenance::console::{Console, Need};
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::options::Target;
use crate::maintenance::progress::Counted;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);

/// Of all processes that serve by the configuration together.
#[derive(Debug)]
pub(super) struct Use {
    /// Servers at work and clients waiting for one in the busiest pool of a process: as many as 99 of 100 looks found at the
    /// most.
    pub(super) wanted_p99: i64,
    /// Connections to PostgreSQL at the last look.
    pub(super) servers: i64,
    /// Pools of the process that has most.
    pub(super) pools: i64,
    /// Clients at the most.
    pub(super) clients: i64,
}

pub(super) async fn measure(job: &Job, target: &Target, time: Duration) -> Result<Use, Failure> {
    let consoles = Console::connect_all(job, target, Need::Figures).await?;
    let progress = job.progress("watching the pooler", Counted::Things("s"), Some(time.as_secs().max(1)));
    let begun = Instant::now();
    let mut wanted = Vec::new();
    let mut found = Use { wanted_p99: 0, servers: 0, pools: 0, clients: 0 };
    loop {
        let mut busiest = 0;
        let mut clients = 0;
        found.servers = 0;
        for console in &consoles {
            let pools = console.show("POOLS").await?;
            let pools: Vec<_> =
                pools.iter().filter(|pool| pool.text("database") != pgweir_config::CONSOLE_DATABASE).collect();
            found.pools = found.pools.max(i64::try_from(pools.len()).unwrap_or(i64::MAX));
            for pool in pools {
                let sum = |columns: &[&str]| columns.iter().filter_map(|name| pool.number(name)).sum::<f64>() as i64;
                busiest = busiest.max(sum(&["sv_active", "cl_waiting"]));
                clients += sum(&["cl_active", "cl_waiting"]);
                found.servers += sum(&["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"]);
            }
        }
        wanted.push(busiest);
        found.clients = found.clients.max(clients);
        if begun.elapsed() >= time {
            found.wanted_p99 = p99(wanted);
            return Ok(found);
        }
        progress.at(begun.elapsed().as_secs());
        job.interrupt.sleep(EVERY).await?;
    }
}

/// As many as are enough in 99 of 100 looks.
fn p99(mut looks: Vec<i64>) -> i64 {
    looks.sort_unstable();
    let enough = (looks.len() * 99).div_ceil(100);
    looks.get(enough.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        assert_eq!(p99(vec![]), 0);
        assert_eq!(p99(vec![3]), 3);
        assert_eq!(p99((1..=100).rev().collect()), 99);
        assert_eq!(p99((1..=1000).collect()), 990);
    }
}
