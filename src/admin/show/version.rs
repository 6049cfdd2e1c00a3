//! SHOW VERSION

use crate::admin::table::{Row, row};
use crate::process::VERSION;

pub(super) fn show() -> Vec<Row> {
    vec![row![VERSION]]
}
