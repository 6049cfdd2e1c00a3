//! What a server answers to a login and to queries; here, the answers of our console
//! and the welcome of a client.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use pgwire::messages::{data as pg_data, response as pg};

use crate::backend::{self, TransactionStatus};
use crate::extended::Formats;
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

/// How a value is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

impl Format {
    /// `None` for a code that the protocol does not know.
    pub(crate) fn read(code: u16) -> Option<Format> {
        match code {
            0 => Some(Format::Text),
            1 => Some(Format::Binary),
            _ => None,
        }
    }

    fn code(self) -> i16 {
        match self {
            Format::Text => pg_data::FORMAT_CODE_TEXT,
            Format::Binary => pg_data::FORMAT_CODE_BINARY,
        }
    }
}

/// Appends RowDescription for columns of no table.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, TypeOid)], formats: &Formats) {
    let field = |(column, &(name, kind)): (usize, &(&str, TypeOid))| {
        let (table, attribute, modifier) = (0, 0, -1);
        pg_data::FieldDescription::new(
            encode::text(name),
            table,
            attribute,
            kind.oid(),
            kind.size(),
            modifier,
            formats.of(column).code(),
        )
    };
    let fields = columns.iter().enumerate().map(field).collect();
    encode::message(out, &pg_data::RowDescription::new(fields));
}

/// Appends DataRow of values in their text form; `None` is NULL. Body: `u16` count, then per
/// column `i32` length (-1 for NULL) and value. A text that is no value of its column's type is
/// sent as NULL where it is to be binary.
pub fn data_row<'a>(
    out: &mut Vec<u8>,
    columns: &[(&str, TypeOid)],
    formats: &Formats,
    values: impl IntoIterator<Item = Option<&'a str>>,
) {
    let mut data = BytesMut::new();
    for (column, (value, (_, kind))) in values.into_iter().zip(columns).enumerate() {
        let value = match formats.of(column) {
            Format::Text => value.map(|text| text.as_bytes().into()),
            Format::Binary => value.and_then(|text| binary(*kind, text)),
        };
        match value {
            Some(value) => {
                data.put_u32(value.len() as u32);
                data.put_slice(&value);
            }
            None => data.put_i32(-1),
        }
    }
    encode::message(out, &pg_data::DataRow::new(data, columns.len() as i16));
}

/// The binary form of a value.
fn binary(kind: TypeOid, text: &str) -> Option<Cow<'_, [u8]>> {
    Some(match kind {
        TypeOid::Text | TypeOid::Bytea => text.as_bytes().into(),
        TypeOid::Int4 => text.parse::<i32>().ok()?.to_be_bytes().to_vec().into(),
        TypeOid::Int8 => text.parse::<i64>().ok()?.to_be_bytes().to_vec().into(),
        TypeOid::Numeric => numeric(text.parse().ok()?).into(),
    })
}

/// A whole number as numeric: `u16` number of digits to the base 10,000, `i16` weight of the first
/// of them, `u16` sign, `u16` number of decimal places, digits.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push((number % 10_000) as u16);
        number /= 10_000;
    }
    let weight = digits.len().saturating_sub(1) as u16;
    let head = [digits.len() as u16, weight, 0, 0];
    head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
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
        let out = written(|out| row_description(out, &columns, &Formats::default()));
        assert_eq!(&out[..HEADER_LEN + 2], b"T\0\0\0\x42\0\x03");
        assert_eq!(out[HEADER_LEN + 2..HEADER_LEN + 22], *b"a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        assert_eq!(out[HEADER_LEN + 22..][10..14], *b"\0\x14\0\x08");
        assert_eq!(out[HEADER_LEN + 42..][8..14], *b"\0\0\x06\xa4\xff\xff");
    }

    #[test]
    fn data_row_layout() {
        let columns = [("a", TypeOid::Text), ("b", TypeOid::Int8), ("c", TypeOid::Numeric)];
        let out = written(|out| data_row(out, &columns, &Formats::default(), [Some("xy"), None, Some("")]));
        assert_eq!(out, b"D\0\0\0\x14\0\x03\0\0\0\x02xy\xff\xff\xff\xff\0\0\0\0");
    }

    #[test]
    fn binary_forms_are_postgresql_s() {
        let binary = |kind, text| super::binary(kind, text).map(Cow::into_owned);
        assert_eq!(binary(TypeOid::Text, "ä"), Some(vec![0xc3, 0xa4]));
        assert_eq!(binary(TypeOid::Int4, "-2"), Some(vec![255, 255, 255, 254]));
        assert_eq!(binary(TypeOid::Int8, "258"), Some(vec![0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(binary(TypeOid::Int4, "4294967296"), None);
        // As numeric_send has them.
        assert_eq!(binary(TypeOid::Numeric, "0"), Some(vec![0; 8]));
        assert_eq!(binary(TypeOid::Numeric, "10000"), Some(vec![0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]));
        let digits = [1844_u16, 6744, 737, 955, 1615].into_iter().flat_map(u16::to_be_bytes);
        let expected: Vec<u8> = [0, 5, 0, 4, 0, 0, 0, 0].into_iter().chain(digits).collect();
        assert_eq!(binary(TypeOid::Numeric, "18446744073709551615"), Some(expected));
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
