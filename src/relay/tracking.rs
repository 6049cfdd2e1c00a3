//! A client's prepared statements on whichever server it has: Parse, Bind, Describe and Close
//! speak of the client's names and are rewritten to the pooler's.

use std::sync::Arc;

use pgweir_proto::frame::{HEADER_LEN, Header};
use pgweir_proto::frontend as tag;

use super::RequestFault;
use super::names::{Names, Unnamed};
use super::outstanding::Outstanding;
use super::prepared::{Known, Prepared};
use super::queue::{Asker, Kind, Request, Step};
use super::statement::{self, Dialect, Statement};

/// Names of portal and statement in one message, together with their NULs.
pub(crate) const NAMES_LEN_MAX: usize = 32 * 1024;

/// A Parse that PostgreSQL refuses with the code that it has for a plan whose result has changed.
const NOT_SUPPORTED: &[u8] = b"P\0\0\0\x41PGWEIR_STALE\0select from (select) t group by () for update\0\0\0";

/// PostgreSQL ends a connection over a Close of more than 10,000 bytes.
const CLOSE_NAME_LEN_MAX: usize = 9 * 1024;

/// What hangs on a client's prepared statements while it has a server.
pub(crate) struct Tracking<'a> {
    pub(crate) owed: &'a mut Outstanding,
    pub(crate) names: &'a mut Names,
    pub(crate) prepared: &'a mut Prepared,
    pub(crate) settings: TrackingSettings,
    pub(crate) dialect: Dialect,
    pub(crate) parses: Parses,
    /// A name that the client has given twice, for the log.
    pub(crate) taken: Option<Box<[u8]>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct TrackingSettings {
    /// `max_prepared_statements`; 0: statements are not tracked.
    pub(crate) per_server: usize,
    /// `max_client_prepared_size`, in bytes.
    pub(crate) client_len_max: usize,
}

/// For the statistics.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Parses {
    /// Named statements that the client has asked to prepare.
    pub(crate) client: u64,
    /// Those that the server was asked to.
    pub(crate) server: u64,
    /// Binds of named statements.
    pub(crate) binds: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewritten {
    /// It goes to the server as it is.
    AsItIs,
    /// So many of its bytes are dealt with; what follows goes to the server as it is.
    Replaced(usize),
    /// It must be sent later: what it means hangs on answers that have not come.
    Hold,
    NeedMore,
    Fault(RequestFault),
}

/// The two names in Bind, and how many bytes they take.
struct BindNames<'b> {
    portal: &'b [u8],
    statement: &'b [u8],
}

/// The bytes up to the first NUL, and those behind it.
fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The server's name for the client's statement.
enum Target {
    /// One of the pooler's statements, which the server has.
    Shared(Arc<Statement>),
    /// Whatever the server makes of the client's own name.
    Own,
    Hold,
}

impl Tracking<'_> {
    /// Rewrites one message, of which `buf` holds the beginning or all; `out` takes what goes to the
    /// server in its place.
    #[inline]
    pub(crate) fn rewrite(&mut self, head: Header, buf: &[u8], out: &mut impl FnMut(&[u8])) -> Rewritten {
        let body = &buf[HEADER_LEN..buf.len().min(head.len)];
        let is_whole = buf.len() >= head.len;
        match head.tag {
            tag::BIND => self.bind(head, body, out),
            tag::PARSE if !is_whole => self.long_unnamed(),
            tag::PARSE => self.parse(body, out),
            tag::DESCRIBE | tag::CLOSE if !is_whole => too_long_or_more(buf.len()),
            tag::DESCRIBE => self.describe(body, out),
            tag::CLOSE => self.close(body),
            _ => Rewritten::AsItIs,
        }
    }

    /// A Query: it ends the unnamed statement, and may take all others.
    pub(crate) fn query(&mut self, message: &[u8]) -> Option<Deallocate> {
        self.names.drop_unnamed();
        let sql = &message[HEADER_LEN..];
        if !statement::deallocates(sql) {
            return None;
        }
        if self.owed.is_at_ease()
            && let Some(name) = deallocated_name(sql)
            && self.names.deallocate(&name)
        {
            return Some(Deallocate);
        }
        self.distrust();
        None
    }

    fn distrust(&mut self) {
        self.names.distrust();
        self.prepared.distrust();
    }

    pub(crate) fn parse(&mut self, body: &[u8], out: &mut impl FnMut(&[u8])) -> Rewritten {
        let Some((name, rest)) = split_name(body).filter(|(_, rest)| statement::is_parse_body(rest)) else {
            return Rewritten::Fault(RequestFault::Broken("Parse"));
        };
        let len = HEADER_LEN + body.len();
        if name.is_empty() {
            return self.parse_unnamed(rest, len);
        }
        if name.len() > NAMES_LEN_MAX {
            return Rewritten::Fault(RequestFault::StatementNameTooLong);
        }
        if self.names.is_unsettled(name, self.owed.group()) {
            return Rewritten::Hold;
        }
        if self.names.is_taken(name) {
            return self.parse_again(name, len, out);
        }
        if self.names.bytes() + body.len() > self.settings.client_len_max {
            return Rewritten::Fault(RequestFault::StatementsTooLarge);
        }
        let statement = statement::intern(rest, self.dialect);
        let step = Step { renames: true, ..Step::client(Kind::Parse) };
        match self.prepared.look(&statement, self.owed.group()) {
            Known::Unsettled => return Rewritten::Hold,
            Known::Ready if self.owed.is_status_sure() => {
                self.owed.request(Request::Step(Step { asker: Asker::Nobody, ..step }));
            }
            // In a failed transaction the server refuses to prepare anything.
            Known::Ready | Known::Doubtful | Known::Absent => self.prepare(&statement, step, out),
        }
        self.parses.client += 1;
        self.names.insert(name, statement, self.owed.group());
        Rewritten::Replaced(len)
    }

    /// The client has a statement of this name: the server shall say so.
    fn parse_again(&mut self, name: &[u8], len: usize, out: &mut impl FnMut(&[u8])) -> Rewritten {
        match self.target(name, out) {
            Ok(Target::Shared(statement)) => {
                self.taken = Some(name.into());
                self.owed.request(Request::Step(Step { asker: Asker::Refused, ..Step::client(Kind::Parse) }));
                out(statement.parse());
                Rewritten::Replaced(len)
            }
            Ok(Target::Hold) => Rewritten::Hold,
            Ok(Target::Own) => Rewritten::AsItIs,
            Err(fault) => Rewritten::Fault(fault),
        }
    }

    fn parse_unnamed(&mut self, body: &[u8], len: usize) -> Rewritten {
        if self.prepared.len() > 0
            && !self.owed.is_doubtful()
            && self.owed.is_status_sure()
            && let Some(statement) = statement::find(body, self.dialect)
            && self.prepared.look(&statement, self.owed.group()) == Known::Ready
        {
            let step = Step { asker: Asker::Nobody, renames: true, ..Step::client(Kind::Parse) };
            self.owed.request(Request::Step(step));
            self.names.set_unnamed(Unnamed::Shared(statement), self.owed.group());
            return Rewritten::Replaced(len);
        }
        if statement::deallocates(body) {
            self.distrust();
        }
        // In a pipeline, what was before is kept as well until it is answered.
        let is_kept = self.names.bytes() + body.len() <= self.settings.client_len_max;
        self.set_unnamed(if is_kept { Unnamed::Raw(body.to_vec()) } else { Unnamed::Long });
        Rewritten::AsItIs
    }

    /// Too long to be kept.
    fn long_unnamed(&mut self) -> Rewritten {
        self.set_unnamed(Unnamed::Long);
        Rewritten::AsItIs
    }

    fn set_unnamed(&mut self, unnamed: Unnamed) {
        self.owed.request(Request::Step(Step { renames: true, ..Step::client(Kind::ParseUnnamed) }));
        self.names.set_unnamed(unnamed, self.owed.group());
    }

    fn bind(&mut self, head: Header, body: &[u8], out: &mut impl FnMut(&[u8])) -> Rewritten {
        let names = split_name(body).and_then(|(portal, rest)| {
            let (statement, _) = split_name(rest)?;
            Some(BindNames { portal, statement })
        });
        let Some(BindNames { portal, statement: name }) = names else {
            return if HEADER_LEN + body.len() == head.len {
                Rewritten::Fault(RequestFault::Broken("Bind"))
            } else {
                too_long_or_more(body.len())
            };
        };
        self.parses.binds += u64::from(!name.is_empty());
        let statement = match self.target(name, out) {
            Err(fault) => return Rewritten::Fault(fault),
            Ok(Target::Hold) => return Rewritten::Hold,
            Ok(Target::Own) => {
                self.owed.request(Request::Step(Step::client(Kind::Bind)));
                return Rewritten::AsItIs;
            }
            Ok(Target::Shared(statement)) => statement,
        };
        let Some(header) = header(tag::BIND, head.len - name.len() + statement.name().len() - 1) else {
            return Rewritten::Fault(RequestFault::Broken("Bind"));
        };
        gather(&[&header, portal, b"\0", statement.name()], out);
        if statement.deallocates {
            self.distrust();
        }
        self.owed.request(Request::Step(Step { statement: statement.id, ..Step::client(Kind::Bind) }));
        Rewritten::Replaced(HEADER_LEN + portal.len() + 1 + name.len() + 1)
    }

    fn describe(&mut self, body: &[u8], out: &mut impl FnMut(&[u8])) -> Rewritten {
        let (what, name) = match object(body) {
            Some(object) => object,
            None => return Rewritten::Fault(RequestFault::Broken("Describe")),
        };
        let target = if what == b'S' { self.target(name, out) } else { Ok(Target::Own) };
        match target {
            Err(fault) => Rewritten::Fault(fault),
            Ok(Target::Hold) => Rewritten::Hold,
            Ok(Target::Own) => {
                self.owed.request(Request::Step(Step::client(Kind::Describe)));
                Rewritten::AsItIs
            }
            Ok(Target::Shared(statement)) => {
                let server_name = statement.name();
                if let Some(header) = header(tag::DESCRIBE, HEADER_LEN + 1 + server_name.len()) {
                    gather(&[&header, b"S", server_name], out);
                }
                self.owed.request(Request::Step(Step { statement: statement.id, ..Step::client(Kind::Describe) }));
                Rewritten::Replaced(HEADER_LEN + body.len())
            }
        }
    }

    /// The statement stays on the server, where others use it too.
    fn close(&mut self, body: &[u8]) -> Rewritten {
        let Some((what, name)) = object(body) else {
            return Rewritten::Fault(RequestFault::Broken("Close"));
        };
        let is_named = what == b'S' && !name.is_empty();
        if is_named && self.names.is_unsettled(name, self.owed.group()) {
            return Rewritten::Hold;
        }
        if is_named && (self.names.get(name).is_some() || !self.prepared.is_pinned()) {
            let renames = self.names.remove(name, self.owed.group());
            self.owed.request(Request::Step(Step { asker: Asker::Nobody, renames, ..Step::client(Kind::Close) }));
            return Rewritten::Replaced(HEADER_LEN + body.len());
        }
        let renames = what == b'S' && name.is_empty();
        if renames {
            self.names.set_unnamed(Unnamed::None, self.owed.group());
        }
        self.owed.request(Request::Step(Step { renames, ..Step::client(Kind::Close) }));
        Rewritten::AsItIs
    }

    /// What `name` means on this server, which has it after this.
    fn target(&mut self, name: &[u8], out: &mut impl FnMut(&[u8])) -> Result<Target, RequestFault> {
        if self.names.is_unsettled(name, self.owed.group()) {
            return Ok(Target::Hold);
        }
        let statement = match name {
            b"" => self.names.shared_unnamed(self.dialect),
            name => self.names.get(name).cloned(),
        };
        let Some(mut statement) = statement else {
            self.hide_strangers(name, out)?;
            return Ok(Target::Own);
        };
        let mut known = self.prepared.look(&statement, self.owed.group());
        // The server would give it the meaning that it has under these settings.
        let is_anew = matches!(known, Known::Doubtful | Known::Absent) && !statement.is_retired();
        if is_anew && statement.dialect != self.dialect {
            statement = statement::intern(statement.body(), self.dialect);
            self.names.replace(name, Arc::clone(&statement));
            known = self.prepared.look(&statement, self.owed.group());
        }
        match known {
            Known::Ready => {}
            Known::Unsettled => return Ok(Target::Hold),
            // Prepared anew, it would give the client rows that it does not expect.
            Known::Doubtful | Known::Absent if statement.is_retired() => {
                out(NOT_SUPPORTED);
                let step = Step { asker: Asker::RefusedAsStale, statement: statement.id, ..Step::client(Kind::Parse) };
                self.owed.request(Request::Step(step));
            }
            Known::Doubtful | Known::Absent => {
                self.prepare(&statement, Step { asker: Asker::Pooler, ..Step::client(Kind::Parse) }, out);
            }
        }
        Ok(Target::Shared(statement))
    }

    /// `name` means nothing that the pooler knows of. What the server has under it is somebody
    /// else's, unless the client has put it there itself.
    fn hide_strangers(&mut self, name: &[u8], out: &mut impl FnMut(&[u8])) -> Result<(), RequestFault> {
        let is_own = if name.is_empty() { self.names.is_unnamed_here() } else { self.prepared.is_pinned() };
        if is_own && !statement::is_ours(name) {
            return Ok(());
        }
        if name.len() > CLOSE_NAME_LEN_MAX {
            return Err(RequestFault::StatementNameTooLong);
        }
        // If it is one of the pooler's, it is prepared anew when somebody needs it.
        if statement::is_ours(name) {
            self.prepared.distrust();
        }
        let is_unnamed = name.is_empty();
        if is_unnamed {
            // Not if it is skipped: then the stranger's is still there.
            self.names.set_unnamed(Unnamed::None, self.owed.group());
        }
        self.close_on_server(&[name, b"\0"].concat(), Step { renames: is_unnamed, ..Step::client(Kind::Close) }, out);
        Ok(())
    }

    /// Has the server prepare `statement`, whose Parse is counted as `step`.
    fn prepare(&mut self, statement: &Arc<Statement>, step: Step, out: &mut impl FnMut(&[u8])) {
        let group = self.owed.group();
        if self.prepared.begin_close(statement.id, group).is_some() {
            self.close_on_server(statement.name(), close_of(statement), out);
        }
        out(statement.parse());
        self.owed.request(Request::Step(Step { statement: statement.id, ..step }));
        self.prepared.begin(statement, group);
        self.parses.server += 1;
        while let Some(evicted) = self.prepared.evict(self.settings.per_server, group) {
            self.close_on_server(evicted.name(), close_of(&evicted), out);
        }
    }

    /// `name` with its NUL.
    fn close_on_server(&mut self, name: &[u8], step: Step, out: &mut impl FnMut(&[u8])) {
        if let Some(header) = header(tag::CLOSE, HEADER_LEN + 1 + name.len()) {
            gather(&[&header, b"S", name], out);
        }
        self.owed.request(Request::Step(Step { asker: Asker::Pooler, ..step }));
    }
}

fn close_of(statement: &Statement) -> Step {
    Step { statement: statement.id, ..Step::client(Kind::Close) }
}

/// The Query stands for the DEALLOCATE of a name that only the pooler knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deallocate;

fn too_long_or_more(here: usize) -> Rewritten {
    if here > NAMES_LEN_MAX { Rewritten::Fault(RequestFault::StatementNameTooLong) } else { Rewritten::NeedMore }
}

/// Describe and Close: `S` (statement) or `P` (portal), and a name.
fn object(body: &[u8]) -> Option<(u8, &[u8])> {
    let (what, rest) = body.split_first()?;
    let (name, rest) = split_name(rest)?;
    (matches!(what, b'S' | b'P') && rest.is_empty()).then_some((*what, name))
}

/// The header of a message that is `len` bytes long, header included; `None`: too long.
fn header(tag: u8, len: usize) -> Option<[u8; HEADER_LEN]> {
    let [a, b, c, d] = i32::try_from(len - 1).ok()?.to_be_bytes();
    Some([tag, a, b, c, d])
}

/// Hands `parts` out as one, if they are short.
fn gather(parts: &[&[u8]], out: &mut impl FnMut(&[u8])) {
    let mut whole = [0; 128];
    let mut len = 0;
    if parts.iter().map(|part| part.len()).sum::<usize>() > whole.len() {
        return parts.iter().for_each(|part| out(part));
    }
    for part in parts {
        whole[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    out(&whole[..len]);
}

/// The name in `DEALLOCATE [PREPARE] name`, if that is all of the text (up to its NUL).
fn deallocated_name(sql: &[u8]) -> Option<Vec<u8>> {
    let sql = std::str::from_utf8(sql).ok()?.trim_end_matches('\0').trim().trim_end_matches(';').trim_end();
    let (verb, mut rest) = sql.split_at_checked("deallocate".len())?;
    if !verb.eq_ignore_ascii_case("deallocate") || !rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '"') {
        return None;
    }
    rest = rest.trim_start();
    if let Some((word, name)) = rest.split_once(|c: char| c.is_ascii_whitespace())
        && word.eq_ignore_ascii_case("prepare")
    {
        rest = name.trim_start();
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let name = quoted.strip_suffix('"')?.replace("\"\"", "\u{0}");
        return (!name.contains('"')).then(|| name.replace('\u{0}', "\"").into_bytes());
    }
    let is_name = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$');
    (is_name && !rest.eq_ignore_ascii_case("all")).then(|| rest.to_ascii_lowercase().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipeline_of_unnamed_texts_keeps_no_more_than_a_client_may_have() {
        let (mut owed, mut names, mut prepared) = (Outstanding::new(), Names::default(), Prepared::default());
        let mut tracking = Tracking {
            owed: &mut owed,
            names: &mut names,
            prepared: &mut prepared,
            settings: TrackingSettings { per_server: 1, client_len_max: 10_000 },
            dialect: Dialect { pool: 1, settings: 1 },
            parses: Parses::default(),
            taken: None,
        };
        for i in 0..100 {
            let body = format!("\0select {i} -- {}\0\0\0", "x".repeat(1000));
            assert_eq!(tracking.parse(body.as_bytes(), &mut |_| {}), Rewritten::AsItIs);
        }
        // Each change takes a little besides its text.
        assert!(tracking.names.bytes() < 30_000, "{}", tracking.names.bytes());
    }

    #[test]
    fn only_a_plain_deallocate_names_a_statement() {
        for (sql, name) in [
            ("DEALLOCATE a1\0", Some("a1")),
            (" deallocate prepare _pg3_0 ; \0", Some("_pg3_0")),
            ("deallocate \"Mixed \"\"x\"", Some("Mixed \"x")),
            ("deallocate\"x\"", Some("x")),
            ("DEALLOCATE Folded", Some("folded")),
            ("deallocate all", None),
            ("deallocate a; select 1", None),
            ("deallocate \"a\"; deallocate \"b\"", None),
            ("deallocate 'a'", None),
            ("deallocatex", None),
            ("discard all", None),
            ("deallocate", None),
            ("", None),
        ] {
            assert_eq!(deallocated_name(sql.as_bytes()), name.map(|n| n.as_bytes().to_vec()), "{sql}");
        }
    }
}
