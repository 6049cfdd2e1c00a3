//! What the exporter of the Prometheus community asks of a PgBouncer, and what it makes of the answers.
//!
//! A column that is missing is a metric that is missing; one whose value is no number, or whose label is of a type that
//! its driver does not know, is an error. Its version 0.12 gives the same metrics of both.

use crate::support::*;

/// What it makes metrics of: a SHOW, the columns that become labels, those that become numbers.
const NAMESPACES: [(&str, &[&str], &[&str]); 3] = [
    (
        "databases",
        &["name", "host", "port", "database", "force_user", "pool_mode"],
        &["pool_size", "reserve_pool_size", "max_connections", "current_connections", "paused", "disabled"],
    ),
    (
        "stats_totals",
        &["database"],
        &[
            "query_count",
            "query_time",
            "bytes_received",
            "bytes_sent",
            "wait_time",
            "xact_count",
            "xact_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "server_assignment_count",
        ],
    ),
    (
        "pools",
        &["database", "user"],
        &[
            "cl_active",
            "cl_active_cancel_req",
            "cl_waiting",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    ),
];

const LISTS: [&str; 11] = [
    "databases",
    "users",
    "pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
];

const SETTINGS: [&str; 2] = ["max_client_conn", "max_user_connections"];

/// Types that its driver makes a text or a whole number of: int8, int4, text.
const LABEL_TYPES: [u32; 3] = [20, 23, 25];

/// Columns with their types, and rows.
type Table = (Vec<(String, u32)>, Vec<Vec<Option<String>>>);

fn show(exporter: &mut Wire, command: &str) -> Table {
    exporter.send(&msg::query(command));
    let columns = exporter.expect("T")[0].columns();
    let rows = exporter.answer_of_query().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(!rows.is_empty(), "{command}");
    (columns, rows)
}

#[track_caller]
fn place(columns: &[(String, u32)], name: &str) -> usize {
    columns.iter().position(|(column, _)| column == name).unwrap_or_else(|| panic!("no {name} in {columns:?}"))
}

/// A missing value is none of its errors.
fn assert_number(value: Option<&str>, what: &str) {
    assert!(value.is_none_or(|text| text.parse::<f64>().is_ok()), "{what}: {value:?}");
}

#[test]
fn the_exporter_s_metrics_can_be_made() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("ignore_startup_parameters", "extra_float_digits"));
    let mut client = bouncer.client();
    client.run("select 1");
    let mut exporter = Wire::tcp(bouncer.port);
    // As lib/pq greets.
    let greeting = [("extra_float_digits", "2"), ("datestyle", "ISO, MDY"), ("client_encoding", "UTF8")];
    exporter.login("watcher", "pgbouncer", "", &greeting).expect("log in");
    show(&mut exporter, "SHOW STATS");
    let (columns, rows) = show(&mut exporter, "SHOW VERSION;");
    assert_eq!((columns[0].0.as_str(), columns.len(), rows.len()), ("version", 1, 1));
    for (command, columns_expected, keys) in [("SHOW LISTS;", 2, &LISTS[..]), ("SHOW CONFIG;", 4, &SETTINGS[..])] {
        let (columns, rows) = show(&mut exporter, command);
        assert_eq!(columns.len(), columns_expected, "{command}");
        for key in keys {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(*key));
            let row = row.unwrap_or_else(|| panic!("{command}: no {key}"));
            assert_number(Some(row[1].as_deref().expect("a value")), key);
        }
    }
    let (columns, _) = show(&mut exporter, "SHOW CLIENTS;");
    for name in ["database", "user", "application_name", "state"] {
        place(&columns, name);
    }
    for (namespace, labels, numbers) in NAMESPACES {
        let (columns, rows) = show(&mut exporter, &format!("SHOW {namespace};"));
        for label in labels {
            assert!(LABEL_TYPES.contains(&columns[place(&columns, label)].1), "{namespace}.{label}");
        }
        for number in numbers {
            let place = place(&columns, number);
            rows.iter().for_each(|row| assert_number(row[place].as_deref(), &format!("{namespace}.{number}")));
        }
    }
}
