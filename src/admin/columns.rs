//! The columns of every SHOW: names, order and types are PgBouncer's, but for those of our own.

use pgweir_proto::console::TypeOid::{self, Bytea, Int4, Int8, Numeric, Text};

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

/// Of SHOW SOCKETS and SHOW ACTIVE_SOCKETS: those of SHOW CLIENTS, and the state of the buffer.
pub(super) const SOCKETS_DEBUG: Columns = &[
    SOCKETS[0],
    SOCKETS[1],
    SOCKETS[2],
    SOCKETS[3],
    SOCKETS[4],
    SOCKETS[5],
    SOCKETS[6],
    SOCKETS[7],
    SOCKETS[8],
    SOCKETS[9],
    SOCKETS[10],
    SOCKETS[11],
    SOCKETS[12],
    SOCKETS[13],
    SOCKETS[14],
    SOCKETS[15],
    SOCKETS[16],
    SOCKETS[17],
    SOCKETS[18],
    SOCKETS[19],
    SOCKETS[20],
    ("recv_pos", Int4),
    ("pkt_pos", Int4),
    ("pkt_remain", Int4),
    ("send_pos", Int4),
    ("send_remain", Int4),
    ("pkt_avail", Int4),
    ("send_avail", Int4),
];

pub(super) const FDS: Columns = &[
    ("fd", Int4),
    ("task", Text),
    ("user", Text),
    ("database", Text),
    ("addr", Text),
    ("port", Int4),
    ("cancel", Int8),
    ("link", Int4),
    ("client_encoding", Text),
    ("std_strings", Text),
    ("datestyle", Text),
    ("timezone", Text),
    ("password", Text),
    ("scram_client_key", Bytea),
    ("scram_server_key", Bytea),
];

pub(super) const MEM: Columns = &[("name", Text), ("size", Int4), ("used", Int4), ("free", Int4), ("memtotal", Int4)];

pub(super) const DNS_ZONES: Columns = &[("zonename", Text), ("serial", Int8), ("count", Int4)];

/// Not one of PgBouncer's.
pub(super) const LATENCIES: Columns = &[
    ("database", Text),
    ("user", Text),
    ("assignments", Int8),
    ("wait_p50_us", Int8),
    ("wait_p90_us", Int8),
    ("wait_p99_us", Int8),
    ("wait_max_us", Int8),
    ("queries", Int8),
    ("query_p50_us", Int8),
    ("query_p90_us", Int8),
    ("query_p99_us", Int8),
    ("query_max_us", Int8),
    ("xacts", Int8),
    ("xact_p50_us", Int8),
    ("xact_p90_us", Int8),
    ("xact_p99_us", Int8),
    ("xact_max_us", Int8),
];

/// Not one of PgBouncer's.
pub(super) const WORKERS: Columns = &[
    ("worker", Int4),
    ("thread_id", Int4),
    ("clients", Int4),
    ("linked", Int4),
    ("waiting", Int4),
    ("cpu_us", Int8),
    ("cpu_percent", Int4),
    ("turns", Int8),
    ("io_uring", Int4),
];

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
pub(super) const SCHEDULE: Columns = &[
    ("name", Text),
    ("schedule", Text),
    ("next_due", Text),
    ("state", Text),
    ("last_due", Text),
    ("last_start", Text),
    ("last_end", Text),
    ("exit_code", Int8),
    ("message", Text),
    ("missed", Numeric),
    ("last_missed", Text),
    ("missed_why", Text),
    ("command", Text),
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
