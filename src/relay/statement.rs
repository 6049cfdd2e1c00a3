//! The texts that clients prepare, each held once for all clients and servers that know it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use dashmap::DashMap;
use pgweir_proto::frame::{self, HEADER_LEN};
use pgweir_proto::frontend as tag;

/// Server-side names are this and the statement's number.
const PREFIX: &str = "PGWEIR_";

/// What the meaning of a text depends on. Only equal texts of one dialect are one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Dialect {
    /// The number of the pool: a table of the same name has other columns in another database.
    pub(crate) pool: u64,
    /// The settings under which it is analysed: `'1/2/2003'::date` becomes a constant already
    /// when it is parsed, by the DateStyle of that moment. Equal numbers stand for equal settings.
    pub(crate) settings: u128,
}

/// A text with its parameter types, as any number of clients have prepared it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) id: u64,
    pub(crate) dialect: Dialect,
    /// DEALLOCATE or DISCARD: to run it may take statements from the server.
    pub(crate) deallocates: bool,
    /// The Parse message that prepares it under its server-side name.
    parse: Box<[u8]>,
    /// Bytes of that name.
    name_len: usize,
    hash: u64,
    /// Its result has another type than when it was prepared: whoever uses it is told so, and
    /// whoever prepares the text again gets a new statement.
    is_retired: AtomicBool,
}

/// All of them, by the hash of text, types and dialect.
static KNOWN: LazyLock<DashMap<u64, Vec<Weak<Statement>>>> = LazyLock::new(DashMap::new);
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
/// So many bits of a number are counted by one process, those above them count the processes that took over.
const NUMBERS_BITS: u32 = 32;
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// How many there are, and the bytes that they take.
pub(crate) fn in_memory() -> (usize, usize) {
    (COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
}

/// Whether a name is one of those that the pooler gives on servers.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// Whether to run `sql` may take prepared statements from the server.
pub(crate) fn deallocates(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii_start();
    let begins = |word: &[u8]| sql.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    matches!(sql.first(), Some(b'd' | b'D')) && (begins(b"deallocate") || begins(b"discard"))
}

/// What follows the name in a Parse: the text with its NUL, the number of parameter types, and
/// their OIDs, nothing else.
pub(crate) fn is_parse_body(body: &[u8]) -> bool {
    let Some(end) = body.iter().position(|&b| b == 0) else { return false };
    match body[end + 1..].split_first_chunk::<2>() {
        Some((n, types)) => types.len() == 4 * usize::from(u16::from_be_bytes(*n)),
        None => false,
    }
}

/// The statement of this text and these types, if somebody has prepared it.
pub(crate) fn find(body: &[u8], dialect: Dialect) -> Option<Arc<Statement>> {
    let known = KNOWN.get(&hash(body, dialect))?;
    known.iter().filter_map(Weak::upgrade).find(|statement| statement.is(body, dialect))
}

/// The statement of this text and these types, which becomes known by this.
pub(crate) fn intern(body: &[u8], dialect: Dialect) -> Arc<Statement> {
    let hash = hash(body, dialect);
    let mut known = KNOWN.entry(hash).or_default();
    if let Some(statement) = known.iter().filter_map(Weak::upgrade).find(|statement| statement.is(body, dialect)) {
        return statement;
    }
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let statement = Arc::new(Statement::new(id, body, dialect, hash));
    known.push(Arc::downgrade(&statement));
    statement
}

/// Numbers of statements are given from here on, so far from those of the process before this one that the two
/// never give the same.
pub(crate) fn begin_numbers_after(last: u64) {
    NEXT_ID.fetch_max(((last >> NUMBERS_BITS) + 1) << NUMBERS_BITS, Ordering::Relaxed);
}

/// The number that the next new text gets.
pub(crate) fn last_number() -> u64 {
    NEXT_ID.load(Ordering::Relaxed)
}

/// The statement that another process has called by this number. Servers know it by that.
pub(crate) fn adopt(id: u64, body: &[u8], dialect: Dialect, is_retired: bool) -> Arc<Statement> {
    let hash = hash(body, dialect);
    let statement = Arc::new(Statement::new(id, body, dialect, hash));
    statement.is_retired.store(is_retired, Ordering::Relaxed);
    let mut known = KNOWN.entry(hash).or_default();
    if !is_retired && known.iter().filter_map(Weak::upgrade).all(|other| !other.is(body, dialect)) {
        known.push(Arc::downgrade(&statement));
    }
    drop(known);
    statement
}

fn hash(body: &[u8], dialect: Dialect) -> u64 {
    HASHER.hash_one((dialect, body))
}

impl Statement {
    fn new(id: u64, body: &[u8], dialect: Dialect, hash: u64) -> Statement {
        let name = format!("{PREFIX}{id}");
        let mut parse = Vec::with_capacity(HEADER_LEN + name.len() + 1 + body.len());
        let at = frame::begin(&mut parse, tag::PARSE);
        parse.extend_from_slice(name.as_bytes());
        parse.push(0);
        parse.extend_from_slice(body);
        frame::finish(&mut parse, at);
        COUNT.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(parse.len(), Ordering::Relaxed);
        Statement {
            id,
            dialect,
            deallocates: deallocates(body),
            parse: parse.into(),
            name_len: name.len(),
            hash,
            is_retired: AtomicBool::new(false),
        }
    }

    fn is(&self, body: &[u8], dialect: Dialect) -> bool {
        self.dialect == dialect && self.body() == body
    }

    /// The Parse message that prepares it on a server.
    pub(crate) fn parse(&self) -> &[u8] {
        &self.parse
    }

    /// Its name on servers, with the NUL.
    pub(crate) fn name(&self) -> &[u8] {
        &self.parse[HEADER_LEN..HEADER_LEN + self.name_len + 1]
    }

    /// Text and parameter types.
    pub(crate) fn body(&self) -> &[u8] {
        &self.parse[HEADER_LEN + self.name_len + 1..]
    }

    #[inline]
    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Nobody who prepares the text from now on gets this one.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.forget(|statement| !std::ptr::eq(statement.as_ptr(), self));
    }

    /// Only those that `keep` wants can still be found.
    fn forget(&self, keep: impl Fn(&Weak<Statement>) -> bool) {
        KNOWN.remove_if_mut(&self.hash, |_, known| {
            known.retain(keep);
            known.is_empty()
        });
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        BYTES.fetch_sub(self.parse.len(), Ordering::Relaxed);
        self.forget(|statement| statement.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Dialect = Dialect { pool: 1, settings: 1 };

    #[test]
    fn equal_texts_are_one_until_nobody_holds_them() {
        let body = b"select 'equal texts'\0\0\0";
        let first = intern(body, A);
        let second = intern(body, A);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&find(body, A).unwrap(), &first));
        let id = first.id;
        drop((first, second));
        assert!(find(body, A).is_none());
        assert_ne!(intern(body, A).id, id);
    }

    #[test]
    fn an_adopted_statement_keeps_its_number_and_is_found() {
        let body = b"select 'adopted'\0\0\0";
        let adopted = adopt(7 << 40, body, A, false);
        assert_eq!(adopted.name(), format!("PGWEIR_{}\0", 7u64 << 40).as_bytes());
        assert!(Arc::ptr_eq(&intern(body, A), &adopted));
        let again = adopt(8 << 40, body, A, false);
        assert!(Arc::ptr_eq(&intern(body, A), &adopted));
        drop((adopted, again));
        let retired = adopt(9 << 40, body, A, true);
        assert!(retired.is_retired() && find(body, A).is_none());
    }

    #[test]
    fn a_retired_statement_is_not_found_any_more() {
        let body = b"select 'retired'\0\0\0";
        let old = intern(body, A);
        old.retire();
        let new = intern(body, A);
        assert!(old.is_retired() && !new.is_retired() && old.id != new.id);
        drop(old);
        assert!(Arc::ptr_eq(&find(body, A).unwrap(), &new));
    }

    #[test]
    fn text_types_and_dialect_tell_statements_apart() {
        let plain = intern(b"select $1\0\0\0", A);
        let typed = intern(b"select $1\0\0\x01\0\0\0\x17", A);
        let other = intern(b"select $1\0\0\0", Dialect { pool: 1, settings: 2 });
        assert!(plain.id != typed.id && plain.id != other.id);
    }

    #[test]
    fn the_parse_message_is_whole() {
        let statement = intern(b"select 'whole'\0\0\0", A);
        let name = format!("PGWEIR_{}\0", statement.id);
        let mut expected = Vec::new();
        frame::message(&mut expected, b'P', &[name.as_bytes(), b"select 'whole'\0\0\0"].concat());
        assert_eq!(statement.parse(), expected);
        assert_eq!((statement.name(), statement.body()), (name.as_bytes(), &b"select 'whole'\0\0\0"[..]));
        assert!(is_ours(statement.name()));
    }

    #[test]
    fn what_may_deallocate_is_seen_at_its_first_word() {
        for (sql, expected) in [
            (&b"DEALLOCATE ALL\0"[..], true),
            (b" \n discard all", true),
            (b"delete from t", false),
            (b"select 'deallocate'", false),
            (b"d", false),
            (b"", false),
        ] {
            assert_eq!(deallocates(sql), expected, "{}", sql.escape_ascii());
        }
    }

    #[test]
    fn only_a_whole_body_is_one() {
        for (body, expected) in [
            (&b"x\0\0\0"[..], true),
            (b"\0\0\x01\0\0\0\x17", true),
            (b"x\0\0\x01\0\0\0", false),
            (b"x\0\0\0\0", false),
            (b"x\0\0", false),
            (b"x", false),
            (b"", false),
        ] {
            assert_eq!(is_parse_body(body), expected, "{}", body.escape_ascii());
        }
    }
}
