//! What a command has come to, and the messages that say so.

use pgweir_proto::console as message;
use pgweir_proto::extended::Formats;

use super::table::{Row, Table};

/// The result of a command, for either protocol.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Whole NoticeResponses, to be sent before anything else.
    pub(super) notices: Vec<u8>,
    /// `None`: the command has no rows.
    pub(super) table: Option<Table>,
    /// What CommandComplete says; `None`: there was no command.
    pub(super) tag: Option<String>,
}

impl Reply {
    /// The answer of a command that has nothing to show.
    pub(super) fn done(tag: impl Into<String>) -> Reply {
        Reply { tag: Some(tag.into()), ..Reply::default() }
    }

    /// The answer of a SHOW.
    pub(super) fn rows(table: Table) -> Reply {
        Reply { table: Some(table), ..Reply::done("SHOW") }
    }

    /// Appends the whole answer to a simple query, but for the ReadyForQuery.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend(&self.notices);
        if let Some(Table { columns, rows }) = &self.table {
            let formats = Formats::default();
            message::row_description(out, columns, &formats);
            rows.iter().for_each(|row| data_row(out, columns, &formats, row));
        }
        complete(out, self.tag.as_deref());
    }
}

pub(super) fn data_row(out: &mut Vec<u8>, columns: super::columns::Columns, formats: &Formats, row: &Row) {
    debug_assert_eq!(row.len(), columns.len());
    message::data_row(out, columns, formats, row.iter().map(|cell| cell.0.as_deref()));
}

/// Appends CommandComplete, or what stands for it where there was no command.
pub(super) fn complete(out: &mut Vec<u8>, tag: Option<&str>) {
    match tag {
        Some(tag) => message::command_complete(out, tag),
        None => message::empty_query_response(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::columns;
    use crate::admin::table::row;

    #[test]
    fn a_reply_is_messages() {
        let mut out = Vec::new();
        let table = Table { columns: columns::STATE, rows: vec![row!["active", "yes"]] };
        Reply { notices: vec![b'N'], ..Reply::rows(table) }.encode(&mut out);
        assert!(out.starts_with(b"NT"));
        assert!(out.ends_with(b"D\0\0\0\x17\0\x02\0\0\0\x06active\0\0\0\x03yesC\0\0\0\x09SHOW\0"));
        let mut empty = Vec::new();
        Reply::default().encode(&mut empty);
        assert_eq!(empty, b"I\0\0\0\x04");
    }
}
