//! What one process tells the next, byte for byte.
//!
//! A record is its fields in their order: numbers big-endian, lengths in 4 bytes in front of what has one, a byte
//! in front of what may be absent or is one of several. Whoever changes a record changes [`super::FORMAT`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use pgweir_config::Secret;
use pgweir_proto::cancel::{CancelKey, SecretKey};

use crate::control::Shutdown;
use crate::net::tls::{TlsKeys, TlsSecret, TlsState};
use crate::registry::{Address, Ends};

/// Something that a record may hold.
pub(crate) trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);

    /// Takes it off the front of `from`; `None` if that does not begin with one.
    fn take(from: &mut &[u8]) -> Option<Self>;

    /// The only thing in `bytes`.
    fn read(mut bytes: &[u8]) -> Option<Self> {
        Self::take(&mut bytes).filter(|_| bytes.is_empty())
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl Field for $kind {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                let (value, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(<$kind>::from_be_bytes(*value))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, u128);

impl Field for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut &[u8]) -> Option<()> {
        Some(())
    }
}

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(from: &mut &[u8]) -> Option<bool> {
        match u8::take(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut &[u8]) -> Option<Option<T>> {
        if bool::take(from)? { T::take(from).map(Some) } else { Some(None) }
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<(A, B)> {
        Some((A::take(from)?, B::take(from)?))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut &[u8]) -> Option<Vec<T>> {
        let n = u32::take(from)?;
        (0..n).map(|_| T::take(from)).collect()
    }
}

/// Any bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    /// What clients ask may have secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Field for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u32).put(out);
        out.extend_from_slice(&self.0);
    }

    fn take(from: &mut &[u8]) -> Option<Bytes> {
        let len = u32::take(from)? as usize;
        let (bytes, rest) = from.split_at_checked(len)?;
        *from = rest;
        Some(Bytes(bytes.to_vec()))
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<String> {
        String::from_utf8(Bytes::take(from)?.0).ok()
    }
}

impl Field for Arc<str> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Arc<str>> {
        String::take(from).map(Arc::from)
    }
}

impl Field for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<SocketAddr> {
        String::take(from)?.parse().ok()
    }
}

impl Field for CancelKey {
    fn put(&self, out: &mut Vec<u8>) {
        self.pid.put(out);
        Bytes(self.secret.as_bytes().to_vec()).put(out);
    }

    fn take(from: &mut &[u8]) -> Option<CancelKey> {
        Some(CancelKey { pid: u32::take(from)?, secret: SecretKey::new(&Bytes::take(from)?.0)? })
    }
}

impl Field for Secret {
    fn put(&self, out: &mut Vec<u8>) {
        self.expose().to_owned().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Secret> {
        String::take(from).map(Secret::new)
    }
}

/// The keys of a SCRAM login.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys(pub(crate) [u8; 64]);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Field for Keys {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn take(from: &mut &[u8]) -> Option<Keys> {
        let (keys, rest) = from.split_first_chunk()?;
        *from = rest;
        Some(Keys(*keys))
    }
}

impl Field for TlsSecret {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.expose().len() as u8);
        out.extend_from_slice(self.expose());
    }

    fn take(from: &mut &[u8]) -> Option<TlsSecret> {
        let len = u8::take(from)?;
        let (bytes, rest) = from.split_at_checked(usize::from(len))?;
        *from = rest;
        TlsSecret::new(&[bytes])
    }
}

impl Field for TlsState {
    fn put(&self, out: &mut Vec<u8>) {
        let TlsState { description, partial, out: first, keys } = self;
        let TlsKeys { suite, sent, sent_blocks, received } = keys;
        description.put(out);
        for bytes in [partial, first] {
            (bytes.len() as u32).put(out);
            out.extend_from_slice(bytes);
        }
        suite.put(out);
        sent.0.put(out);
        received.0.put(out);
        sent_blocks.put(out);
        // A buffer that grows leaves a copy behind.
        out.reserve(2 + sent.1.expose().len() + received.1.expose().len());
        sent.1.put(out);
        received.1.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<TlsState> {
        let description = Field::take(from)?;
        let (partial, out) = (Bytes::take(from)?.0, Bytes::take(from)?.0);
        let suite = u16::take(from)?;
        let (sent, received, sent_blocks) = (u64::take(from)?, u64::take(from)?, u64::take(from)?);
        let (sent, received) = ((sent, TlsSecret::take(from)?), (received, TlsSecret::take(from)?));
        Some(TlsState { description, partial, out, keys: TlsKeys { suite, sent, sent_blocks, received } })
    }
}

/// One of several, each with fields of its own.
macro_rules! choice {
    ($name:ident { $($number:literal: $variant:ident($($field:ident),*)),* $(,)? }) => {
        impl Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant { $($field),* } => {
                        out.push($number);
                        $($field.put(out);)*
                    })*
                }
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                match u8::take(from)? {
                    $($number => Some($name::$variant { $($field: Field::take(from)?),* }),)*
                    _ => None,
                }
            }
        }
    };
}

choice!(Ends { 0: Tcp(peer, local), 1: Unix(port, peer_pid) });

impl Field for Address {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Address::Tcp(address) => (0u8, *address).put(out),
            Address::Unix(path) => (1u8, Arc::clone(path)).put(out),
        }
    }

    fn take(from: &mut &[u8]) -> Option<Address> {
        match u8::take(from)? {
            0 => SocketAddr::take(from).map(Address::Tcp),
            1 => Field::take(from).map(Address::Unix),
            _ => None,
        }
    }
}

/// What a pool logs in to its servers with, as clients have shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PoolSecret {
    None {},
    Plain { secret: Secret },
    Md5 { secret: Secret },
    Scram { keys: Keys },
}

choice!(PoolSecret { 0: None(), 1: Plain(secret), 2: Md5(secret), 3: Scram(keys) });

/// A client's unnamed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnnamedRecord {
    None {},
    Raw { body: Bytes },
    Long {},
    Shared { id: u64 },
}

choice!(UnnamedRecord { 0: None(), 1: Raw(body), 2: Long(), 3: Shared(id) });

/// What the new process asks of the old one, about the clients that are left there. Without a database: about all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Cancel {
        key: CancelKey,
    },
    /// Answered when no server is in use any more.
    Pause {
        database: Option<Arc<str>>,
    },
    Resume {
        database: Option<Arc<str>>,
    },
    Kill {
        database: Option<Arc<str>>,
    },
    Reconnect {
        database: Option<Arc<str>>,
    },
}

choice!(Ask { 0: Cancel(key), 1: Pause(database), 2: Resume(database), 3: Kill(database), 4: Reconnect(database) });

choice!(Shutdown { 0: Immediate(), 1: WaitForServers(), 2: WaitForClients() });

macro_rules! records {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $name { $($(#[$field_doc])* pub(crate) $field: $kind,)* }

        impl Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some($name { $($field: Field::take(from)?,)* })
            }
        }
    )*};
}

/// Names and values.
pub(crate) type Pairs = Vec<(String, String)>;

records! {
    /// The process as a whole.
    struct Hello {
        pid: u32,
        /// Numbers of its statements are below this, or will be not far above.
        last_statement: u64,
        /// The parameters that it tracks, in their order: what its statements' settings are made of.
        tracked: Vec<String>,
        /// Its listening sockets are a service manager's.
        are_activated: bool,
    }

    /// What its console has made of it; only once that takes no more commands.
    struct StateRecord {
        /// PAUSE without a database.
        is_paused: bool,
        databases: Vec<DatabaseRecord>,
    }

    struct DatabaseRecord {
        name: String,
        is_paused: bool,
        /// By a KILL without a database.
        is_killed: bool,
        is_disabled: bool,
    }

    struct PoolRecord {
        /// What other records call it by.
        number: u64,
        database: Arc<str>,
        user: Arc<str>,
        /// What its servers are connected to and how; those for anything else are of no use.
        connection: String,
        secret: PoolSecret,
        /// What servers report at login; `None`: none has yet.
        welcome: Option<Pairs>,
    }

    struct StatementRecord {
        id: u64,
        pool: u64,
        settings: u128,
        is_retired: bool,
        body: Bytes,
    }

    /// A client; its socket comes with it, and its server's, if it has one.
    struct ClientRecord {
        pool: u64,
        user: Arc<str>,
        ends: Ends,
        cancel_key: CancelKey,
        connect_us: u64,
        request_us: u64,
        xact_us: u64,
        /// Since when it waits for a server; 0: it does not.
        wait_us: u64,
        parameters: Pairs,
        /// What it asked for at its login.
        asked: Pairs,
        was_reset: bool,
        names: Vec<(Bytes, u64)>,
        unnamed: UnnamedRecord,
        is_unnamed_here: bool,
        /// What it was warned about, a bit each.
        told: u8,
        has_reused_name: bool,
        was_notified: bool,
        is_idle_in_transaction: bool,
        /// What it has sent and no server was given.
        partial: Bytes,
        server: Option<ServerRecord>,
        /// `None`: what it sends is plain. At the end, for the sake of the keys in it.
        tls: Option<TlsState>,
    }

    /// A server; its socket comes with it.
    struct ServerRecord {
        pool: u64,
        ends: Ends,
        address: Address,
        host: Option<Arc<str>>,
        cancel_key: CancelKey,
        connect_us: u64,
        request_us: u64,
        parameters: Pairs,
        /// Least recently used first; false: it may be gone, or outdated.
        statements: Vec<(u64, bool)>,
        sql_level: u32,
        /// As in ReadyForQuery.
        status: u8,
        is_doubtful: bool,
        /// A client has had it, and may have left anything behind in its session.
        was_lent: bool,
        /// No client's request was sent to it yet.
        is_fresh: bool,
        is_close_needed: bool,
        notices: Bytes,
    }

    struct AskRecord {
        /// What the answer refers to.
        number: u64,
        ask: Ask,
    }

    struct AnswerRecord {
        number: u64,
        /// False: what it is about is not there.
        is_done: bool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerRecord {
        ServerRecord {
            pool: 3,
            ends: Ends::Tcp { peer: "[::1]:5".parse().unwrap(), local: "1.2.3.4:6".parse().unwrap() },
            address: Address::Unix("@/run/x".into()),
            host: Some("db".into()),
            cancel_key: CancelKey { pid: 7, secret: SecretKey::new(&[9; 32]).unwrap() },
            connect_us: 1,
            request_us: 2,
            parameters: vec![("TimeZone".into(), "UTC".into())],
            statements: vec![(1 << 40, true), (2, false)],
            sql_level: 4,
            status: b'T',
            is_doubtful: false,
            was_lent: true,
            is_fresh: false,
            is_close_needed: true,
            notices: Bytes(vec![0, 255]),
        }
    }

    fn client() -> ClientRecord {
        ClientRecord {
            pool: 3,
            user: "bob".into(),
            ends: Ends::Unix { port: 6432, peer_pid: Some(8) },
            cancel_key: CancelKey { pid: 1, secret: SecretKey::new(&[2; 4]).unwrap() },
            connect_us: 10,
            request_us: 11,
            xact_us: 12,
            wait_us: 13,
            parameters: vec![],
            asked: vec![("application_name".into(), "é".into())],
            was_reset: true,
            names: vec![(Bytes(b"\xff".to_vec()), 14)],
            unnamed: UnnamedRecord::Shared { id: 15 },
            is_unnamed_here: true,
            told: 3,
            has_reused_name: false,
            was_notified: true,
            is_idle_in_transaction: true,
            partial: Bytes(b"Q\0".to_vec()),
            server: Some(server()),
            tls: Some(TlsState {
                description: "TLSv1.3/x".into(),
                partial: vec![23, 3],
                out: vec![],
                keys: TlsKeys {
                    suite: 0x1302,
                    sent: (1, TlsSecret::new(&[&[123; 48]]).unwrap()),
                    sent_blocks: 2,
                    received: (1 << 40, TlsSecret::new(&[&[124; 28]]).unwrap()),
                },
            }),
        }
    }

    #[test]
    fn records_come_back_as_they_went() {
        let mut bytes = Vec::new();
        client().put(&mut bytes);
        assert_eq!(ClientRecord::read(&bytes), Some(client()));
        for secret in [
            PoolSecret::None {},
            PoolSecret::Plain { secret: Secret::new("x") },
            PoolSecret::Md5 { secret: Secret::new("md5") },
            PoolSecret::Scram { keys: Keys([7; 64]) },
        ] {
            let mut bytes = Vec::new();
            secret.put(&mut bytes);
            assert_eq!(PoolSecret::read(&bytes), Some(secret));
        }
    }

    #[test]
    fn what_is_cut_or_longer_is_none() {
        let mut bytes = Vec::new();
        client().put(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(ClientRecord::read(&bytes[..cut]), None, "{cut}");
        }
        bytes.push(0);
        assert_eq!(ClientRecord::read(&bytes), None);
    }

    #[test]
    fn secrets_do_not_show() {
        let keys = PoolSecret::Scram { keys: Keys([123; 64]) };
        let text = format!("{keys:?} {:?} {:?}", PoolSecret::Plain { secret: Secret::new("hunter2") }, client());
        assert!(!["123", "124", "hunter2"].iter().any(|secret| text.contains(secret)), "{text}");
    }
}
