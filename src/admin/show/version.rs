//! SHOW VERSION

use crate::admin::columns::VERSION as COLUMNS;
use crate::admin::table::{Table, row};
use crate::process::VERSION;

pub(super) fn show() -> Table {
    Table::with(COLUMNS, [row![VERSION]])
}
