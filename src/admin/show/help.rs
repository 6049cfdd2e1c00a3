//! SHOW HELP: a notice.

use crate::admin::notice;
use crate::admin::reply::Reply;

const USAGE: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW LISTS|STATE
\tSHOW PREPARED_STATEMENTS
\tSHOW DNS_HOSTS
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW SESSION_USE
\tSHOW CERTIFICATES
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS";

pub(super) fn show() -> Reply {
    let mut reply = Reply::done("SHOW");
    notice(&mut reply.notices, "Console usage", Some(USAGE));
    reply
}
