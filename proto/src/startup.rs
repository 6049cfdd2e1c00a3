//! What a client sends before the first tagged message, and what we send to a server there.
//!
//! Every packet here: `u32` length counting itself, `u32` code, then
//! - SSLRequest, GSSENCRequest: nothing;
//! - CancelRequest: `u32` process id and the secret (see [`crate::cancel`]);
//! - StartupMessage (the code is the protocol version, major and minor 16 bits each):
//!   name and value pairs, each NUL-terminated, and a final NUL.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use pgwire::messages::startup::NegotiateProtocolVersion;

use crate::cancel::{CANCEL_REQUEST_CODE, CancelKey};
use crate::read::{self, Reader};
use crate::replication::Replication;
use crate::{encode, options};

/// PostgreSQL's limit on what follows the length (MAX_STARTUP_PACKET_LENGTH).
const BODY_LEN_MAX: usize = 10_000;
/// The length itself.
const LENGTH_LEN: usize = 4;
/// Length and code.
const PACKET_LEN_MIN: usize = 8;

/// SSLRequest's place of the protocol version: 1234.5679.
const SSL_REQUEST_CODE: u32 = 80_877_103;
/// GSSENCRequest's place of the protocol version: 1234.5680.
const GSSENC_REQUEST_CODE: u32 = 80_877_104;
/// The major version.
const VERSION_3: u32 = 3 << 16;
/// Names with this prefix are protocol extensions, not settings.
const EXTENSION_PREFIX: &[u8] = b"_pq_.";

/// SSLRequest, as sent to a server.
pub const SSL_REQUEST: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x2f";

/// The protocol versions spoken. They differ in the length of cancel keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// Cancel secrets of 4 bytes.
    V3_0,
    /// Cancel secrets of 4 to 256 bytes (PostgreSQL 18).
    V3_2,
}

impl ProtocolVersion {
    pub const LATEST: ProtocolVersion = ProtocolVersion::V3_2;

    /// Major and minor, 16 bits each.
    pub fn number(self) -> u32 {
        match self {
            ProtocolVersion::V3_0 => VERSION_3,
            ProtocolVersion::V3_2 => VERSION_3 | 2,
        }
    }

    /// Whether this is what a NegotiateProtocolVersion with this number offers. Servers have sent
    /// the minor number only, or both in one.
    fn is_offered_as(self, number: u32) -> bool {
        number == self.number() || number == self.number() & 0xffff
    }

    /// The newest version not above the one asked for. 3.1 never existed.
    fn for_minor(minor: u32) -> ProtocolVersion {
        if minor >= 2 { ProtocolVersion::V3_2 } else { ProtocolVersion::V3_0 }
    }
}

/// Why a packet was refused. Its words are [`crate::client_error`]'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupError {
    /// No PostgreSQL client sends this. Holds the first bytes, at most 8, in hexadecimal.
    BadPacketHeader(String),
    /// A CancelRequest whose secret is not 4 to 256 bytes long. It gets no answer.
    BadCancelRequest,
    OldProtocol,
    BadLayout,
    NoUser,
    /// Neither a boolean nor `database`. Holds the value.
    BadReplication(String),
}

/// The first thing a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupRequest {
    /// Answered with one byte, `S` or `N`.
    Ssl,
    /// Answered with one byte, `G` or `N`.
    GssEnc,
    Cancel(CancelKey),
    Startup(StartupPacket),
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupPacket {
    /// What the session will speak.
    pub protocol: ProtocolVersion,
    /// In the order sent, duplicates included, without `_pq_.` extensions. Bytes that are
    /// not UTF-8 stand as `\xHH`.
    pub params: Vec<(String, String)>,
    /// Minor version that the client asked for.
    requested_minor: u32,
    /// Protocol extensions asked for. We have none.
    extensions: Vec<String>,
}

/// Length of the whole packet, from its first 4 bytes: 8 to 10,004.
pub fn packet_len(header: &[u8; LENGTH_LEN]) -> Result<usize, StartupError> {
    let len = u32::from_be_bytes(*header) as usize;
    if (PACKET_LEN_MIN..=LENGTH_LEN + BODY_LEN_MAX).contains(&len) { Ok(len) } else { Err(bad_header(header)) }
}

/// Reads a whole packet, its length included.
pub fn parse_startup(packet: &[u8]) -> Result<StartupRequest, StartupError> {
    let mut reader = Reader::new(packet);
    let (Some(length), Some(code)) = (reader.array(), reader.u32()) else {
        return Err(bad_header(packet));
    };
    if packet_len(&length)? != packet.len() {
        return Err(bad_header(packet));
    }
    match code {
        SSL_REQUEST_CODE if reader.is_empty() => Ok(StartupRequest::Ssl),
        GSSENC_REQUEST_CODE if reader.is_empty() => Ok(StartupRequest::GssEnc),
        CANCEL_REQUEST_CODE => match CancelKey::parse(reader.rest()) {
            Some(key) => Ok(StartupRequest::Cancel(key)),
            None => Err(StartupError::BadCancelRequest),
        },
        _ => match (code >> 16, code & 0xffff) {
            (3, minor) => parse_params(reader, minor).map(StartupRequest::Startup),
            (2, _) => Err(StartupError::OldProtocol),
            _ => Err(bad_header(packet)),
        },
    }
}

fn parse_params(mut reader: Reader<'_>, minor: u32) -> Result<StartupPacket, StartupError> {
    let mut packet = StartupPacket {
        protocol: ProtocolVersion::for_minor(minor),
        params: Vec::new(),
        requested_minor: minor,
        extensions: Vec::new(),
    };
    loop {
        let name = reader.cstr().ok_or(StartupError::BadLayout)?;
        if name.is_empty() {
            break;
        }
        let value = reader.cstr().ok_or(StartupError::BadLayout)?;
        if name.starts_with(EXTENSION_PREFIX) {
            packet.extensions.push(read::text(name));
        } else {
            packet.params.push((read::text(name), read::text(value)));
        }
    }
    if !reader.is_empty() {
        return Err(StartupError::BadLayout);
    }
    if packet.user().is_empty() {
        return Err(StartupError::NoUser);
    }
    Ok(packet)
}

fn bad_header(packet: &[u8]) -> StartupError {
    let hex = packet.iter().take(8).map(|byte| format!("{byte:02x}"));
    StartupError::BadPacketHeader(hex.collect())
}

impl StartupPacket {
    /// The value given last for `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut params = self.params.iter().rev();
        params.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Never empty.
    pub fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// The user's name if none was given.
    pub fn database(&self) -> &str {
        self.get("database").filter(|name| !name.is_empty()).unwrap_or(self.user())
    }

    /// `None` unless a walsender is asked for.
    pub fn replication(&self) -> Result<Option<Replication>, StartupError> {
        self.get("replication").map_or(Ok(None), Replication::parse)
    }

    /// The settings in `options`, in order.
    pub fn options(&self) -> Result<Vec<(String, String)>, options::OptionsError> {
        let mut all = Vec::new();
        for (_, value) in self.params.iter().filter(|(name, _)| name == "options") {
            all.extend(options::parse_options(value)?);
        }
        Ok(all)
    }

    /// Appends NegotiateProtocolVersion where the client asked for a version or an extension
    /// that we do not have; otherwise nothing. It goes in front of all authentication.
    ///
    /// As PostgreSQL 18 does, that leaves a client of 3.1, which never existed, in its belief.
    ///
    /// Body: `u32` version offered, major and minor; `u32` count; names of the extensions
    /// not recognized, NUL-terminated.
    pub fn negotiate_protocol_version(&self, out: &mut Vec<u8>) {
        let asked = VERSION_3 | self.requested_minor;
        let offered = asked.min(ProtocolVersion::LATEST.number());
        if asked == offered && self.extensions.is_empty() {
            return;
        }
        let extensions = self.extensions.clone();
        encode::message(out, &NegotiateProtocolVersion::new(offered as i32, extensions));
    }
}

/// A server's answer to a StartupMessage of a version that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// This is what the session speaks.
    Accepted(ProtocolVersion),
    /// Major and minor of a version that there is not, or that is newer than the one asked for.
    Unknown { major: u32, minor: u32 },
}

impl Negotiation {
    /// Reads the body of the NegotiateProtocolVersion that answers `asked` without extensions.
    /// `None` if that is not its layout, or it tells of extensions.
    pub fn parse(body: &[u8], asked: ProtocolVersion) -> Option<Negotiation> {
        let mut reader = Reader::new(body);
        let (number, extensions) = (reader.u32()?, reader.u32()?);
        if extensions > 0 || !reader.is_empty() {
            return None;
        }
        let mut known = [ProtocolVersion::V3_0, ProtocolVersion::V3_2].into_iter().filter(|version| *version <= asked);
        Some(match known.find(|version| version.is_offered_as(number)) {
            Some(version) => Negotiation::Accepted(version),
            None => Negotiation::Unknown { major: number >> 16, minor: number & 0xffff },
        })
    }
}

/// Appends a StartupMessage for a server. pgwire's would sort the parameters.
pub fn startup_message(out: &mut Vec<u8>, version: ProtocolVersion, params: &[(&str, &str)]) {
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH_LEN]);
    out.extend_from_slice(&version.number().to_be_bytes());
    for text in params.iter().flat_map(|&(name, value)| [name, value]) {
        out.extend(text.bytes().filter(|&byte| byte != 0));
        out.push(0);
    }
    out.push(0);
    let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + LENGTH_LEN].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut packet = (8 + body.len() as u32).to_be_bytes().to_vec();
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    }

    fn parse_v3(minor: u32, body: &[u8]) -> Result<StartupPacket, StartupError> {
        match parse_startup(&packet(0x0003_0000 + minor, body))? {
            StartupRequest::Startup(startup) => Ok(startup),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_without_parameters() {
        assert_eq!(parse_startup(&SSL_REQUEST), Ok(StartupRequest::Ssl));
        let gss = packet(GSSENC_REQUEST_CODE, b"");
        assert_eq!(parse_startup(&gss), Ok(StartupRequest::GssEnc));
        let key = CancelKey::parse(b"\0\0\0\x09secret").unwrap();
        let mut cancel = Vec::new();
        key.cancel_request(&mut cancel);
        assert_eq!(parse_startup(&cancel), Ok(StartupRequest::Cancel(key)));
        let short = packet(CANCEL_REQUEST_CODE, b"\0\0\0\x09abc");
        assert_eq!(parse_startup(&short), Err(StartupError::BadCancelRequest));
    }

    #[test]
    fn parameters_keep_their_order_and_the_last_wins() {
        let startup = parse_v3(0, b"user\0u\0TimeZone\0UTC\0user\0v\0application_name\0gr\xfcn\0\0").unwrap();
        assert_eq!((startup.user(), startup.database()), ("v", "v"));
        assert_eq!(startup.params[1], ("TimeZone".to_owned(), "UTC".to_owned()));
        assert_eq!(startup.get("application_name"), Some("gr\\xfcn"));
        assert_eq!(startup.get("nothing"), None);
        assert_eq!(parse_v3(0, b"user\0u\0database\0d\0\0").unwrap().database(), "d");
        assert_eq!(parse_v3(0, b"user\0u\0database\0\0\0").unwrap().database(), "u");
    }

    #[test]
    fn options_come_from_every_options_parameter() {
        let startup = parse_v3(0, b"user\0u\0options\0-c a=b\0options\0--c=d\0\0").unwrap();
        let expected = [("a", "b"), ("c", "d")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(startup.options().unwrap(), expected);
    }

    #[test]
    fn refuses_bad_layouts() {
        for body in [&b""[..], b"user\0u\0", b"user\0u", b"user\0", b"user\0u\0\0\0", b"user\0\0u\0"] {
            assert_eq!(parse_v3(0, body), Err(StartupError::BadLayout), "{body:?}");
        }
        for body in [&b"\0"[..], b"database\0d\0\0", b"user\0\0\0"] {
            assert_eq!(parse_v3(0, body), Err(StartupError::NoUser), "{body:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_startup_packet() {
        assert_eq!(parse_startup(&packet(0x0002_0000, b"")), Err(StartupError::OldProtocol));
        let hex = |hex: &str| Err(StartupError::BadPacketHeader(hex.to_owned()));
        assert_eq!(parse_startup(&packet(0x0004_0000, b"x")), hex("0000000900040000"));
        assert_eq!(parse_startup(&packet(SSL_REQUEST_CODE, b"x")), hex("0000000904d2162f"));
        assert_eq!(parse_startup(b"\0\0\0\x09\0\x03\0\0"), hex("0000000900030000"));
        assert_eq!(parse_startup(b"\0\0"), hex("0000"));
        for (header, len) in [(*b"\0\0\0\x08", 8), (*b"\0\0\x27\x14", 10_004)] {
            assert_eq!(packet_len(&header), Ok(len));
        }
        for header in [*b"\0\0\0\x07", *b"\0\0\x27\x15", *b"GET ", *b"\x16\x03\x01\0", [0xff; 4]] {
            assert!(packet_len(&header).is_err());
        }
    }

    fn negotiation(minor: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        parse_v3(minor, body).unwrap().negotiate_protocol_version(&mut out);
        out
    }

    #[test]
    fn negotiates_only_when_it_must() {
        assert_eq!(negotiation(0, b"user\0u\0\0"), b"");
        assert_eq!(negotiation(2, b"user\0u\0\0"), b"");
        assert_eq!(negotiation(1, b"user\0u\0\0"), b"");
        assert_eq!(negotiation(1, b"user\0u\0_pq_.x\0on\0\0"), b"v\0\0\0\x13\0\x03\0\x01\0\0\0\x01_pq_.x\0");
        assert_eq!(negotiation(3, b"user\0u\0\0"), b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
        assert_eq!(negotiation(9999, b"user\0u\0\0"), b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
        assert_eq!(negotiation(0, b"user\0u\0_pq_.x\0on\0\0"), b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
        assert_eq!(parse_v3(9999, b"user\0u\0\0").unwrap().protocol, ProtocolVersion::V3_2);
        assert!(parse_v3(0, b"user\0u\0_pq_.x\0on\0\0").unwrap().get("_pq_.x").is_none());
    }

    #[test]
    fn a_server_offers_what_we_know_and_have_asked_for() {
        use ProtocolVersion::{V3_0, V3_2};
        let answer = |number: u32, asked| Negotiation::parse(&[number.to_be_bytes(), [0; 4]].concat(), asked);
        for (number, version) in [(0, V3_0), (0x0003_0000, V3_0), (2, V3_2), (0x0003_0002, V3_2)] {
            assert_eq!(answer(number, V3_2), Some(Negotiation::Accepted(version)));
        }
        assert_eq!(answer(0, V3_0), Some(Negotiation::Accepted(V3_0)));
        let unknown = |major, minor| Some(Negotiation::Unknown { major, minor });
        assert_eq!(answer(0x0003_0002, V3_0), unknown(3, 2));
        assert_eq!(answer(0x0003_0001, V3_2), unknown(3, 1));
        assert_eq!(answer(0x0003_0003, V3_2), unknown(3, 3));
        assert_eq!(answer(0x0002_0000, V3_2), unknown(2, 0));
        assert_eq!(answer(u32::MAX, V3_2), unknown(0xffff, 0xffff));
        let bodies = [&b""[..], b"\0\x03\0", b"\0\x03\0\0", b"\0\x03\0\0\0\0\0", b"\0\x03\0\0\0\0\0\0\0"];
        for body in bodies.into_iter().chain([&b"\0\x03\0\0\0\0\0\x01_pq_.x\0"[..], b"\0\x03\0\0\xff\xff\xff\xff"]) {
            assert_eq!(Negotiation::parse(body, V3_2), None, "{body:?}");
        }
    }

    #[test]
    fn our_own_message_parses() {
        let mut out = Vec::new();
        startup_message(&mut out, ProtocolVersion::V3_2, &[("user", "u"), ("database", "d\0d")]);
        let StartupRequest::Startup(startup) = parse_startup(&out).unwrap() else {
            panic!("{out:?}");
        };
        assert_eq!(startup.protocol, ProtocolVersion::V3_2);
        assert_eq!((startup.user(), startup.database()), ("u", "dd"));
    }

    #[test]
    fn survives_garbage() {
        let startup = packet(0x0003_0002, b"user\0u\0options\0-c a=b\\ c\0_pq_.x\0y\0\0");
        let cancel = packet(CANCEL_REQUEST_CODE, &[7; 36]);
        garbage::throw(&[&startup, &cancel, &SSL_REQUEST], |bytes| {
            // The length is made to fit half of the time, so that mutations reach the body.
            let mut fitted = bytes.to_vec();
            if let Some(length) = fitted.first_chunk_mut::<4>() {
                *length = (bytes.len() as u32).to_be_bytes();
            }
            for bytes in [bytes, &fitted] {
                if let Ok(StartupRequest::Startup(startup)) = parse_startup(bytes) {
                    assert!(!startup.user().is_empty() && !startup.database().is_empty());
                    let _ = startup.options();
                    startup.negotiate_protocol_version(&mut Vec::new());
                }
            }
        });
    }
}
