//! What a server answers to a login and to simple queries; here, the answers of our console
//! and the welcome of a client.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use bytes::{BufMut, BytesMut};
use pgwire::messages::{data as pg_data, response as pg};

use crate::backend::{self, TransactionStatus};
use crate::{encode, frame};

/// The column types that the console uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeOid {
    Bytea,
    Int8,
    Int4,
    Text,
    Numeric,
}

impl TypeOid {
    /// As in the catalog `pg_type`.
    pub fn oid(self) -> u32 {
        match self {
            TypeOid::Bytea => 17,
            TypeOid::Int8 => 20,
            TypeOid::Int4 => 23,
            TypeOid::Text => 25,
            TypeOid::Numeric => 1700,
        }
    }

    /// Bytes of the binary form, -1 if it varies.
    fn size(self) -> i16 {
        match self {
            TypeOid::Int4 => 4,
            TypeOid::Int8 => 8,
            TypeOid::Bytea | TypeOid::Text | TypeOid::Numeric => -1,
        }
    }
}

/// Appends RowDescription for columns of no table, in text form.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, TypeOid)]) {
    let field = |&(name, kind): &(&str, TypeOid)| {
        let (table, attribute, modifier) = (0, 0, -1);
        pg_data::FieldDescription::new(
            encode::text(name),
            table,
            attribute,
            kind.oid(),
            kind.size(),
            modifier,
            pg_data::FORMAT_CODE_TEXT,
        )
    };
    let fields = columns.iter().map(field).collect();
    encode::message(out, &pg_data::RowDescription::new(fields));
}

/// Appends DataRow; `None` is NULL. Body: `u16` count, then per column `i32` length (-1 for
/// NULL) and value.
pub fn data_row(out: &mut Vec<u8>, values: &[Option<&str>]) {
    let mut data = BytesMut::new();
    for value in values {
        match value {
            Some(value) => {
                data.put_u32(value.len() as u32);
                data.put_slice(value.as_bytes());
            }
            None => data.put_i32(-1),
        }
    }
    encode::message(out, &pg_data::DataRow::new(data, values.len() as i16));
}

/// Appends CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    encode::message(out, &pg::CommandComplete::new(encode::text(tag)));
}

/// Appends EmptyQueryResponse.
pub fn empty_query_response(out: &mut Vec<u8>) {
    encode::message(out, &pg::EmptyQueryResponse::new());
}

/// Appends ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    let status = match status {
        TransactionStatus::Idle => pg::TransactionStatus::Idle,
        TransactionStatus::InBlock => pg::TransactionStatus::Transaction,
        TransactionStatus::Failed => pg::TransactionStatus::Error,
    };
    encode::message(out, &pg::ReadyForQuery::new(status));
}

/// Appends ParameterStatus. Values come from servers and may be in any encoding, which
/// pgwire's strings could not hold.
pub fn parameter_status(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    let at = frame::begin(out, backend::PARAMETER_STATUS);
    for text in [name.as_ref(), value.as_ref()] {
        out.extend(text.iter().filter(|&&byte| byte != 0));
        out.push(0);
    }
    frame::finish(out, at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_LEN;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn row_description_layout() {
        let columns = [("a", TypeOid::Text), ("b", TypeOid::Int8), ("c", TypeOid::Numeric)];
        let out = written(|out| row_description(out, &columns));
        assert_eq!(&out[..HEADER_LEN + 2], b"T\0\0\0\x42\0\x03");
        assert_eq!(out[HEADER_LEN + 2..HEADER_LEN + 22], *b"a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        assert_eq!(out[HEADER_LEN + 22..][10..14], *b"\0\x14\0\x08");
        assert_eq!(out[HEADER_LEN + 42..][8..14], *b"\0\0\x06\xa4\xff\xff");
    }

    #[test]
    fn data_row_layout() {
        let out = written(|out| data_row(out, &[Some("xy"), None, Some("")]));
        assert_eq!(out, b"D\0\0\0\x14\0\x03\0\0\0\x02xy\xff\xff\xff\xff\0\0\0\0");
    }

    #[test]
    fn small_messages() {
        assert_eq!(written(|out| command_complete(out, "SHOW")), b"C\0\0\0\x09SHOW\0");
        assert_eq!(written(empty_query_response), b"I\0\0\0\x04");
        for status in [TransactionStatus::Idle, TransactionStatus::InBlock, TransactionStatus::Failed] {
            let out = written(|out| ready_for_query(out, status));
            assert_eq!(TransactionStatus::read(&out[HEADER_LEN..]), Some(status));
        }
        let long = [b'\xfc'; 40_000];
        let out = written(|out| parameter_status(out, "a\0", long));
        assert_eq!(backend::parameter_status(&out[HEADER_LEN..]), Some((&b"a"[..], &long[..])));
    }
}
