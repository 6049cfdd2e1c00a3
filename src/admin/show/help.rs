//! SHOW HELP: a notice.

use crate::admin::notice;
use crate::admin::reply::Reply;

const USAGE: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW CERTIFICATES|LATENCIES|PREPARED_STATEMENTS|SCHEDULE|SESSION_USE|WORKERS
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tSUSPEND
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]";

pub(super) fn show() -> Reply {
    let mut reply = Reply::done("SHOW");
    notice(&mut reply.notices, "Console usage", Some(USAGE));
    reply
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::ALL;
    use super::*;

    #[test]
    fn every_show_is_named() {
        let named: Vec<String> = (USAGE.split("\n\tSHOW ").skip(1))
            .filter_map(|rest| rest.lines().next())
            .flat_map(|names| names.split('|').map(str::to_lowercase))
            .collect();
        let known: BTreeSet<&str> = ALL.iter().map(|show| show.name).chain(["help"]).collect();
        assert_eq!(named.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
        assert_eq!(named.len(), known.len(), "once each");
    }
}
