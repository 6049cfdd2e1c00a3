//! Statements whose effect is the session's and not the transaction's: where a client gets
//! another server for each transaction, they do not do what it expects.
//!
//! Found by their words, without a parser: exotic spellings are missed (`select` in
//! parentheses, what is behind the first few KB or inside of a
//! DO block), but what is reported is one. Of a text with several statements all are looked at, and
//! the first use in each is reported.

use memchr::memchr;
use pgweir_proto::frontend as tag;

use super::sql::{Token, Tokens, skip_blank};

/// What needs a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionUse<'a> {
    /// A temporary table, view or sequence that outlives its transaction.
    TemporaryTable,
    /// `pg_advisory_lock` and its like, not those of the transaction.
    AdvisoryLock,
    Listen,
    /// `DECLARE ... WITH HOLD`
    HoldCursor,
    /// SET of this parameter, or `set_config` with `false`. To a value: going back to the
    /// default needs no session.
    Set(&'a str),
    Load,
    /// PREPARE in SQL.
    Prepare,
}

impl SessionUse<'_> {
    pub(crate) const KINDS: usize = 7;

    /// Below `KINDS`, in the order of the columns of SHOW SESSION_USE.
    pub(crate) fn kind(self) -> usize {
        match self {
            SessionUse::TemporaryTable => 0,
            SessionUse::AdvisoryLock => 1,
            SessionUse::Listen => 2,
            SessionUse::HoldCursor => 3,
            SessionUse::Set(_) => 4,
            SessionUse::Load => 5,
            SessionUse::Prepare => 6,
        }
    }
}

/// So many bytes of a text are looked at.
const LOOK_MAX: usize = 4 * 1024;

/// The longest name of a parameter, as PostgreSQL cuts names.
const PARAMETER_LEN_MAX: usize = 63;

/// What makes it worth the time to read a SELECT, in capitals or not: eight bytes of each.
const NEEDLES: [u64; 3] = [lower(b"ory_lock"), lower(b"t_config"), lower(b"nto temp")];

/// Letters in lower case; other bytes may change too, but equal ones stay equal.
const fn lower(bytes: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*bytes) | u64::from_ne_bytes([0x20; 8])
}

/// Calls `on_use` for what needs a session in a whole message of a client.
#[inline]
pub(crate) fn look<'a>(message: u8, body: &'a [u8], on_use: impl FnMut(SessionUse<'a>)) {
    let sql = match message {
        tag::QUERY => body,
        // Behind the statement's name.
        tag::PARSE => match memchr(0, body) {
            Some(end) => &body[end + 1..],
            None => return,
        },
        _ => return,
    };
    if is_worth_reading(&sql[..sql.len().min(LOOK_MAX)]) {
        read(sql, on_use);
    }
}

/// Most texts are dismissed by their first letters.
#[inline]
fn is_worth_reading(sql: &[u8]) -> bool {
    let Some(sql) = skip_blank(sql) else { return false };
    let Some(first) = sql.first_chunk::<3>() else { return false };
    match &first.map(|b| b | 0x20) {
        b"set" | b"cre" | b"lis" | b"loa" | b"dec" | b"pre" => true,
        b"sel" | b"wit" if may_have_needle(sql) && has_needle(sql) => true,
        _ => has_several(sql),
    }
}

/// Four bytes of a needle are there: 16 places at a time, each without a branch, so that the compiler
/// makes vectors of them.
#[inline]
fn may_have_needle(sql: &[u8]) -> bool {
    const PLACES: usize = 16;
    const SEEN: usize = PLACES + 3;
    let is_at_any = |sql: &[u8; SEEN]| {
        (0..PLACES).fold(false, |found, at| {
            let [a, b, c, d] = [sql[at] | 0x20, sql[at + 1], sql[at + 2] | 0x20, sql[at + 3] | 0x20];
            let is_name = (b == b'_') & (d == b'o') & (((a == b'y') & (c == b'l')) | ((a == b't') & (c == b'c')));
            let is_temp = (a == b'o') & (b == b' ') & (c == b't') & (d == b'e');
            found | is_name | is_temp
        })
    };
    (0..sql.len()).step_by(PLACES).any(|at| match sql[at..].first_chunk() {
        Some(chunk) => is_at_any(chunk),
        None => {
            let mut end = [0; SEEN];
            end[..sql.len() - at].copy_from_slice(&sql[at..]);
            is_at_any(&end)
        }
    })
}

fn has_needle(sql: &[u8]) -> bool {
    sql.windows(8).any(|w| w.first_chunk().is_some_and(|bytes| NEEDLES.contains(&lower(bytes))))
}

/// There is something behind a `;`.
#[inline]
fn has_several(sql: &[u8]) -> bool {
    memchr(b';', sql).is_some_and(|at| sql[at + 1..].iter().any(|b| !matches!(b, b' ' | b'\n' | b'\r' | b'\t' | 0)))
}

/// Looks at each statement of `text`, which ends at a NUL.
#[cold]
fn read<'a>(text: &'a [u8], mut on_use: impl FnMut(SessionUse<'a>)) {
    let sql = &text[..memchr(0, text).unwrap_or(text.len())];
    let (sql, is_whole) = match sql.get(..LOOK_MAX) {
        Some(head) => (head, sql.len() == LOOK_MAX),
        None => (sql, true),
    };
    let mut tokens = Tokens::new(sql);
    while let Some(first) = tokens.next() {
        let mut statement = Statement { tokens: tokens.clone(), is_whole };
        if let Some(found) = statement.look(first) {
            on_use(found);
        }
        if first != Token::Symbol(b';') {
            tokens.find(|token| *token == Token::Symbol(b';'));
        }
    }
}

/// One statement, behind its first word.
struct Statement<'a> {
    tokens: Tokens<'a>,
    /// The text was not cut.
    is_whole: bool,
}

impl<'a> Iterator for Statement<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.tokens.next().filter(|token| *token != Token::Symbol(b';'))
    }
}

impl<'a> Statement<'a> {
    fn look(&mut self, first: Token<'a>) -> Option<SessionUse<'a>> {
        let Token::Word(word) = first else { return None };
        match word.to_ascii_lowercase().as_slice() {
            b"set" => self.set(),
            b"create" => self.create(),
            b"declare" => self.declare(),
            b"select" | b"with" => self.select(),
            b"listen" => matches!(self.next()?, Token::Word(_) | Token::Quoted(_)).then_some(SessionUse::Listen),
            b"load" => matches!(self.next()?, Token::Literal(_)).then_some(SessionUse::Load),
            b"prepare" => self.prepare(),
            _ => None,
        }
    }

    fn set(&mut self) -> Option<SessionUse<'a>> {
        let mut text = self.tokens.rest();
        let mut first = self.next()?;
        if first.is("session") {
            text = self.tokens.rest();
            first = self.next()?;
            if first.is("characteristics") {
                return self.characteristics();
            }
            if first.is("authorization") {
                return self.set_to("session_authorization", "default");
            }
        }
        if first.is_one_of(&["local", "transaction", "constraints"]) {
            return None;
        }
        if first.is("role") {
            return self.set_to("role", "none");
        }
        let alias = [("time", "TimeZone"), ("names", "client_encoding"), ("schema", "search_path")];
        if let Some((keyword, name)) = alias.into_iter().find(|(keyword, _)| first.is(keyword)) {
            if keyword == "time" && !self.next()?.is("zone") {
                return None;
            }
            return self.set_to(name, "default");
        }
        let name = self.parameter(first, text)?;
        self.set_to(name, "default")
    }

    /// The name in `SET name = ...`, of which `first` is the first part; `text` begins with it.
    fn parameter(&mut self, first: Token<'a>, text: &'a [u8]) -> Option<&'a str> {
        let name = match first {
            Token::Quoted(name) => name,
            Token::Word(_) => {
                let text = skip_blank(text)?;
                &text[..text.iter().position(|&b| !is_in_parameter(b)).unwrap_or(text.len())]
            }
            _ => return None,
        };
        loop {
            match self.next()? {
                Token::Symbol(b'=') => break,
                // A name of two parts.
                Token::Symbol(b'.') => {}
                word if word.is("to") => break,
                Token::Word(_) => {}
                _ => return None,
            }
        }
        parameter_name(name)
    }

    /// SET of `name`, unless to its default.
    fn set_to(&mut self, name: &'a str, default: &str) -> Option<SessionUse<'a>> {
        (!self.next()?.is(default)).then_some(SessionUse::Set(name))
    }

    /// `SET SESSION CHARACTERISTICS AS TRANSACTION ...` sets the defaults of transactions.
    fn characteristics(&mut self) -> Option<SessionUse<'a>> {
        let mode = self.nth(2)?;
        Some(SessionUse::Set(match mode {
            mode if mode.is("isolation") => "default_transaction_isolation",
            mode if mode.is("read") => "default_transaction_read_only",
            _ => "default_transaction_deferrable",
        }))
    }

    fn create(&mut self) -> Option<SessionUse<'a>> {
        let before = ["or", "replace", "local", "global"];
        let is_temporary = self.find(|token| !token.is_one_of(&before))?.is_one_of(&["temp", "temporary"]);
        if !is_temporary {
            return None;
        }
        // ON COMMIT DROP may come late.
        let mut last = [None; 2];
        for token in self.by_ref() {
            let [on, commit] = last;
            let is_after = |token: Option<Token>, keyword| token.is_some_and(|token: Token| token.is(keyword));
            if token.is("drop") && is_after(commit, "commit") && is_after(on, "on") {
                return None;
            }
            last = [commit, Some(token)];
        }
        (self.is_whole && !self.tokens.is_unclear()).then_some(SessionUse::TemporaryTable)
    }

    /// `DECLARE name ... CURSOR WITH HOLD FOR`
    fn declare(&mut self) -> Option<SessionUse<'a>> {
        self.next()?;
        let before = ["binary", "insensitive", "asensitive", "no", "scroll"];
        let is_cursor = self.find(|token| !token.is_one_of(&before))?.is("cursor");
        let is_held = is_cursor && self.next()?.is("with") && self.next()?.is("hold");
        is_held.then_some(SessionUse::HoldCursor)
    }

    /// `PREPARE name [(types)] AS`, not PREPARE TRANSACTION.
    fn prepare(&mut self) -> Option<SessionUse<'a>> {
        self.next()?;
        let behind = self.next()?;
        (behind == Token::Symbol(b'(') || behind.is("as")).then_some(SessionUse::Prepare)
    }

    fn select(&mut self) -> Option<SessionUse<'a>> {
        const LOCKS: [&str; 4] =
            ["pg_advisory_lock", "pg_try_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock_shared"];
        let mut before = None;
        while let Some(token) = self.next() {
            let found = if token.is("into") && !before.is_some_and(|token: Token| token.is_one_of(&["insert", "merge"]))
            {
                self.ahead().temporary_target()
            } else if token.is_one_of(&LOCKS) {
                (self.ahead().next() == Some(Token::Symbol(b'('))).then_some(SessionUse::AdvisoryLock)
            } else if token.is("set_config") {
                self.ahead().set_config()
            } else {
                None
            };
            if found.is_some() {
                return found;
            }
            before = Some(token);
        }
        None
    }

    /// The same place once more.
    fn ahead(&self) -> Statement<'a> {
        Statement { tokens: self.tokens.clone(), is_whole: self.is_whole }
    }

    /// `INTO [LOCAL] TEMP [TABLE] name`
    fn temporary_target(&mut self) -> Option<SessionUse<'a>> {
        let is_temporary = self.find(|token| !token.is_one_of(&["local", "global"]))?.is_one_of(&["temp", "temporary"]);
        let is_named = matches!(self.next()?, Token::Word(_) | Token::Quoted(_));
        (is_temporary && is_named).then_some(SessionUse::TemporaryTable)
    }

    /// `set_config('name', value, false)`, with a name and a `false` that stand in the text.
    fn set_config(&mut self) -> Option<SessionUse<'a>> {
        if self.next()? != Token::Symbol(b'(') {
            return None;
        }
        let Token::Literal(name) = self.next()? else { return None };
        let (mut depth, mut commas) = (1_usize, 0);
        while commas < 2 {
            match self.next()? {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') => depth -= 1,
                Token::Symbol(b',') if depth == 1 => commas += 1,
                _ => {}
            }
            if depth == 0 {
                return None;
            }
        }
        let is_local = self.next()?;
        let is_false = is_local.is("false") || matches!(is_local, Token::Literal(b"false" | b"f" | b"off"));
        let is_last = self.next()? == Token::Symbol(b')');
        if is_false && is_last { parameter_name(name).map(SessionUse::Set) } else { None }
    }
}

fn is_in_parameter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$')
}

/// The name of a parameter: it is logged, so it must be one.
fn parameter_name(name: &[u8]) -> Option<&str> {
    let is_name = !name.is_empty() && name.len() <= PARAMETER_LEN_MAX && name.iter().all(|&b| is_in_parameter(b));
    if is_name { std::str::from_utf8(name).ok() } else { None }
}

#[cfg(test)]
mod tests;
