//! SHOW CERTIFICATES: what is in the files that the TLS settings in force name.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::admin::table::{Cell, Row, row, unix_timestamp};
use crate::net::tls::Listed;
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    pools.tls().certificates.iter().map(|listed| certificate_row(listed, now_s)).collect()
}

fn certificate_row(listed: &Listed, now_s: u64) -> Vec<Cell> {
    let time = |at_s: u64| unix_timestamp(at_s.saturating_mul(1_000_000));
    row![
        &*listed.setting,
        listed.file.display().to_string(),
        listed.position,
        &*listed.subject,
        &*listed.issuer,
        &*listed.serial,
        time(listed.not_before_s),
        time(listed.not_after_s),
        // Below zero: it has expired.
        (i128::from(listed.not_after_s) - i128::from(now_s)).to_string(),
    ]
}
