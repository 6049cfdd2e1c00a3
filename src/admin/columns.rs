//! The columns of every SHOW: names, order and types are PgBouncer's, but for those of our own.

use pgweir_proto::console::TypeOid::{self, Int4, Int8, Numeric, Text};

pub(super) type Columns = &'static [(&'static str, TypeOid)];

pub(super) const VERSION: Columns = &[("version", Text)];

pub(super) const POOLS: Columns = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
];

/// Of SHOW CLIENTS and SHOW SERVERS.
pub(super) const SOCKETS: Columns = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int4),
];

pub(super) const DATABASES: Columns = &[
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
];

pub(super) const PEERS: Columns = &[("peer_id", Int4), ("host", Text), ("port", Int4), ("pool_size", Int4)];

pub(super) const PEER_POOLS: Columns = &[
    ("peer_id", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active_cancel", Int4),
    ("sv_login", Int4),
];

pub(super) const STATS: Columns = &[
    ("database", Text),
    ("total_server_assignment_count", Numeric),
    ("total_xact_count", Numeric),
    ("total_query_count", Numeric),
    ("total_received", Numeric),
    ("total_sent", Numeric),
    ("total_xact_time", Numeric),
    ("total_query_time", Numeric),
    ("total_wait_time", Numeric),
    ("total_client_parse_count", Numeric),
    ("total_server_parse_count", Numeric),
    ("total_bind_count", Numeric),
    ("total_client_login_count", Numeric),
    ("avg_server_assignment_count", Numeric),
    ("avg_xact_count", Numeric),
    ("avg_query_count", Numeric),
    ("avg_recv", Numeric),
    ("avg_sent", Numeric),
    ("avg_xact_time", Numeric),
    ("avg_query_time", Numeric),
    ("avg_wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
    ("avg_client_login_count", Numeric),
];

pub(super) const STATS_TOTALS: Columns = &[
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("client_parse_count", Numeric),
    ("server_parse_count", Numeric),
    ("bind_count", Numeric),
    ("client_login_count", Numeric),
];

pub(super) const STATS_AVERAGES: Columns = &[
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
    ("avg_client_login_count", Numeric),
];

pub(super) const TOTALS: Columns = &[("name", Text), ("value", Numeric)];

pub(super) const LISTS: Columns = &[("list", Text), ("items", Int4)];

pub(super) const CONFIG: Columns = &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)];

pub(super) const USERS: Columns = &[
    ("name", Text),
    ("pool_size", Text),
    ("reserve_pool_size", Text),
    ("pool_mode", Text),
    ("max_user_connections", Int4),
    ("current_connections", Int4),
    ("max_user_client_connections", Int4),
    ("current_client_connections", Int4),
];

pub(super) const STATE: Columns = &[("key", Text), ("value", Text)];

pub(super) const DNS_HOSTS: Columns = &[("hostname", Text), ("ttl", Int8), ("addrs", Text)];

/// Not one of PgBouncer's.
pub(super) const PREPARED_STATEMENTS: Columns =
    &[("statements", Int8), ("bytes", Int8), ("client_names", Int8), ("on_servers", Int8)];

/// Not one of PgBouncer's.
pub(super) const CERTIFICATES: Columns = &[
    ("setting", Text),
    ("file", Text),
    ("position", Int8),
    ("subject", Text),
    ("issuer", Text),
    ("serial", Text),
    ("not_before", Text),
    ("not_after", Text),
    ("seconds_left", Int8),
];

/// Not one of PgBouncer's.
pub(super) const SESSION_USE: Columns = &[
    ("database", Text),
    ("user", Text),
    ("temporary_tables", Numeric),
    ("advisory_locks", Numeric),
    ("listens", Numeric),
    ("hold_cursors", Numeric),
    ("sets", Numeric),
    ("loads", Numeric),
    ("prepares", Numeric),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// `command  position  column  type`, as PgBouncer 1.25 answers.
    const PGBOUNCER: &str = include_str!("../../tests/data/show_columns.tsv");

    const ALL: [(&str, Columns); 16] = [
        ("VERSION", VERSION),
        ("POOLS", POOLS),
        ("CLIENTS", SOCKETS),
        ("SERVERS", SOCKETS),
        ("DATABASES", DATABASES),
        ("PEERS", PEERS),
        ("PEER_POOLS", PEER_POOLS),
        ("STATS", STATS),
        ("STATS_TOTALS", STATS_TOTALS),
        ("STATS_AVERAGES", STATS_AVERAGES),
        ("TOTALS", TOTALS),
        ("LISTS", LISTS),
        ("CONFIG", CONFIG),
        ("USERS", USERS),
        ("STATE", STATE),
        ("DNS_HOSTS", DNS_HOSTS),
    ];

    fn type_name(kind: TypeOid) -> &'static str {
        match kind {
            TypeOid::Text => "text",
            TypeOid::Int4 => "int4",
            TypeOid::Int8 => "int8",
            TypeOid::Numeric => "numeric",
            TypeOid::Bytea => "17",
        }
    }

    #[test]
    fn are_pgbouncers() {
        for (command, columns) in ALL {
            let own: Vec<String> = (columns.iter().enumerate())
                .map(|(position, (name, kind))| format!("{command}\t{position}\t{name}\t{}", type_name(*kind)))
                .collect();
            let of_command = |line: &&str| line.split('\t').next() == Some(command);
            let expected: Vec<&str> = PGBOUNCER.lines().filter(of_command).collect();
            assert_eq!(own, expected);
        }
    }
}
