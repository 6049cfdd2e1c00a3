//! Session parameters, of which the console has none: some clients ask for them, or set them,
//! before they do anything else.

use pgweir_proto::console::TypeOid;

use crate::admin::columns::Columns;
use crate::admin::table::{Table, row};

const PARAMETERS: [(Columns, &str); 5] = [
    (&[("client_encoding", TypeOid::Text)], "UTF-8"),
    (&[("default_transaction_isolation", TypeOid::Text)], "read committed"),
    (&[("standard_conforming_strings", TypeOid::Text)], "on"),
    (&[("datestyle", TypeOid::Text)], "ISO"),
    (&[("timezone", TypeOid::Text)], "GMT"),
];

/// The answer to `SHOW name`, if it is one of them.
pub(super) fn show(name: &str) -> Option<Table> {
    let (columns, value) = PARAMETERS.into_iter().find(|(columns, _)| columns[0].0.eq_ignore_ascii_case(name))?;
    Some(Table { columns, rows: vec![row![value]] })
}

/// Whether SET of it is taken, and ignored.
pub(in crate::admin) fn is_session_parameter(name: &str) -> bool {
    PARAMETERS.iter().any(|(columns, _)| columns[0].0.eq_ignore_ascii_case(name))
}
