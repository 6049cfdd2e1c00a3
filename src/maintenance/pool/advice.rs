//! From what the server can take and what is used to settings.

use crate::maintenance::rows::row;

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) max_connections: i64,
    /// For superusers and the like.
    pub(super) reserved: i64,
    /// Connections of others than the pooler.
    pub(super) others: i64,
    pub(super) instances: i64,
    /// Of one instance.
    pub(super) pools: i64,
    /// Connections that the machine can make use of at once; None: not known.
    pub(super) useful: Option<i64>,
    pub(super) safety: f64,
    /// Servers that the busiest pool of an instance wants in 99 of 100 moments; None: not measured.
    pub(super) wanted: Option<i64>,
    /// Of one instance; None: not known.
    pub(super) clients: Option<i64>,
}

row! {
    /// One setting.
    Advice {
        setting: String,
        advised: i64,
        /// None: the pooler was not asked.
        now: Option<String>,
        reason: String,
    }
}

/// The reserve, of a pool's size.
const RESERVE: f64 = 0.25;
/// What is left free above what was measured.
const HEADROOM: f64 = 1.25;
/// Clients, to those that are expected.
const CLIENTS: i64 = 3;

/// None: there is not a connection for each pool.
pub(super) fn advise(facts: &Facts, now: impl Fn(&str) -> Option<String>) -> Option<Vec<Advice>> {
    let Facts { max_connections, reserved, others, instances, pools, safety, .. } = facts;
    let free = max_connections - reserved - others;
    let share = (free as f64 / (*instances as f64 * safety * *pools as f64)).floor() as i64;
    if share < 1 {
        return None;
    }
    let mut reason = format!(
        "{max_connections} max_connections - {reserved} reserved - {others} of others = {free}; \
         / {instances} instances / {safety} for safety / {pools} pools = {share} with the reserve"
    );
    // Pool and reserve together must fit.
    let most = ((share as f64 / (1.0 + RESERVE)).floor() as i64).max(1);
    let mut size = most;
    if let Some(useful) = facts.useful {
        let useful = (useful / instances / pools).max(1);
        reason += &format!("; cores and disks make use of {useful}");
        size = size.min(useful);
    }
    if let Some(wanted) = facts.wanted.filter(|wanted| *wanted > 0) {
        let enough = (wanted as f64 * HEADROOM).ceil() as i64;
        reason += &format!("; the busiest pool wants {wanted} in 99 of 100 moments, {enough} with room to spare");
        reason += if enough > size { ", which is more than can be given: its clients wait" } else { "" };
        size = size.min(enough);
    }
    // A pool of one has none.
    let reserve = ((size as f64 * RESERVE).ceil() as i64).min(share - size).max(0);
    let mut rows = Vec::new();
    let mut row = |setting: &str, advised: i64, reason: String| {
        rows.push(Advice { setting: setting.to_owned(), advised, now: now(setting), reason });
    };
    row("default_pool_size", size, reason);
    row("reserve_pool_size", reserve, format!("{:.0} % of the pool, for peaks", RESERVE * 100.0));
    let total = (size + reserve) * pools;
    row("max_db_connections", total, format!("({size} + {reserve}) x {pools} pools: no database gets more"));
    if let Some(clients) = facts.clients.filter(|clients| *clients > 0) {
        row("max_client_conn", clients * CLIENTS, format!("{CLIENTS} x {clients} clients"));
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        max_connections: 100,
        reserved: 3,
        others: 7,
        instances: 2,
        pools: 1,
        useful: None,
        safety: 1.5,
        wanted: None,
        clients: None,
    };

    fn advised(facts: &Facts) -> Vec<i64> {
        advise(facts, |_| None).unwrap().iter().map(|row| row.advised).collect()
    }

    #[test]
    fn all_instances_together_stay_below_the_limit() {
        // 90 / 2 / 1.5 = 30 = 24 + 6
        assert_eq!(advised(&FACTS), [24, 6, 30]);
        assert_eq!(advised(&Facts { pools: 3, ..FACTS }), [8, 2, 30]);
        for instances in 1..=20 {
            for pools in 1..=4 {
                let facts = Facts { instances, pools, ..FACTS };
                if let Some(rows) = advise(&facts, |_| None) {
                    let total = rows[2].advised * instances;
                    assert!(total <= 60, "{facts:?}: {rows:?}");
                    assert!(rows[0].advised >= 1);
                }
            }
        }
        assert!(advise(&Facts { instances: 61, ..FACTS }, |_| None).is_none());
        assert!(advise(&Facts { others: 200, ..FACTS }, |_| None).is_none());
    }

    #[test]
    fn what_is_useful_and_what_is_used() {
        assert_eq!(advised(&Facts { useful: Some(2 * 8 + 1), ..FACTS }), [8, 2, 10]);
        assert_eq!(advised(&Facts { wanted: Some(4), ..FACTS }), [5, 2, 7]);
        // More than there is.
        let rows =
            advise(&Facts { wanted: Some(40), clients: Some(50), ..FACTS }, |name| Some(name.to_owned())).unwrap();
        assert!(rows[0].reason.contains("its clients wait"), "{rows:?}");
        assert_eq!((rows[3].setting.as_str(), rows[3].advised), ("max_client_conn", 150));
        assert_eq!(rows[0].now.as_deref(), Some("default_pool_size"));
    }
}
