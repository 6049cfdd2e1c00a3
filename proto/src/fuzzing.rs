//! What must hold for any bytes: the bodies of the fuzz targets in `fuzz/`, a function per
//! decoder. Each panics when it does not hold. The seeds are run through them by
//! `cargo test`, too.

use std::num::NonZeroU32;
// Addresses as values.
use core::net::SocketAddr;

use crate::auth::{self, Authentication, SaslInitialResponse};
use crate::backend::{self, TransactionStatus};
use crate::cancel::CancelKey;
use crate::error_response::{ErrorFields, ErrorResponse, Severity};
use crate::frame::{self, HEADER_LEN, Header};
use crate::md5::Md5Secret;
use crate::options::parse_options;
use crate::proxy::{self, Parsed, ProxyError, ProxySource, parse_proxy_header};
use crate::scram::{ChannelBinding, ITERATIONS_MAX, NONCE_LEN, ScramClient, ScramKeys, ScramServer, Verifier};
use crate::secret::StoredSecret;
use crate::sqlstate::SqlState;
use crate::startup::{self, Negotiation, ProtocolVersion, SSL_REQUEST, StartupError, StartupPacket, StartupRequest};
use crate::{console, frontend};

/// The longest startup packet.
const STARTUP_LEN_MAX: usize = 10_004;

/// The password of the SCRAM exchanges.
const PASSWORD: &[u8] = b"pencil";

/// What a nonce is made of; the seeds know it.
const NONCE: [u8; NONCE_LEN] = [7; NONCE_LEN];

/// The one message in `out`: its tag and its body.
#[track_caller]
fn only_message(out: &[u8]) -> (u8, &[u8]) {
    let head = Header::read(out).expect("a length that can be").expect("a header");
    assert_eq!(head.len, out.len(), "one message and nothing else");
    (head.tag, &out[HEADER_LEN..])
}

pub fn startup(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        let len = startup::packet_len(header);
        assert!(len.is_err() || len.is_ok_and(|len| (8..=STARTUP_LEN_MAX).contains(&len)));
    }
    match startup::parse_startup(data) {
        Ok(StartupRequest::Ssl) => assert_eq!(data, SSL_REQUEST),
        Ok(StartupRequest::GssEnc) => assert_eq!(data.len(), 8),
        Ok(StartupRequest::Cancel(key)) => {
            let mut out = Vec::new();
            key.cancel_request(&mut out);
            assert_eq!(out, data);
        }
        Ok(StartupRequest::Startup(packet)) => startup_packet(data, &packet),
        Err(StartupError::BadPacketHeader(hex)) => assert!(hex.len() <= 16),
        Err(_) => {}
    }
}

fn startup_packet(data: &[u8], packet: &StartupPacket) {
    assert!(data.len() <= STARTUP_LEN_MAX);
    assert!(!packet.user().is_empty() && !packet.database().is_empty());
    let params: Vec<(&str, &str)> = packet.params.iter().map(|(name, value)| (&**name, &**value)).collect();
    let len: usize = params.iter().map(|(name, value)| name.len() + value.len()).sum();
    // A byte that is not UTF-8 takes four.
    assert!(len <= 4 * data.len());
    let mut out = Vec::new();
    packet.negotiate_protocol_version(&mut out);
    if !out.is_empty() {
        assert_eq!(only_message(&out).0, backend::NEGOTIATE_PROTOCOL_VERSION);
    }
    out.clear();
    startup::startup_message(&mut out, packet.protocol, &params);
    match startup::parse_startup(&out) {
        Ok(StartupRequest::Startup(again)) => assert_eq!(again.params, packet.params),
        other => assert!(out.len() > STARTUP_LEN_MAX, "what we send is not understood: {other:?}"),
    }
    if let Ok(settings) = packet.options() {
        assert!(settings.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= len);
    }
}

/// What a connection begins with that comes through a balancer.
pub fn proxy_header(data: &[u8]) {
    let (len, parsed) = read_proxy_header(data, usize::MAX);
    assert!(len <= data.len() && len <= proxy::HEADER_LEN_MAX);
    // Segments may be cut anywhere. Only an error may be seen before the rest has come.
    let (len_by_bytes, by_bytes) = read_proxy_header(data, 1);
    match parsed {
        Ok(_) => assert_eq!((len_by_bytes, by_bytes), (len, parsed)),
        Err(_) => assert!(by_bytes.is_err() && len_by_bytes <= len),
    }
    if let Ok(Parsed::Whole(ProxySource::Client(address))) = parsed {
        let line = match address {
            SocketAddr::V4(a) => format!("PROXY TCP4 {} 0.0.0.0 {} 0\r\n", a.ip(), a.port()),
            SocketAddr::V6(a) => format!("PROXY TCP6 {} :: {} 0\r\n", a.ip(), a.port()),
        };
        assert_eq!(read_proxy_header(line.as_bytes(), usize::MAX), (line.len(), parsed));
    }
}

/// Reads as much as is asked for, `at_once` bytes at the most.
fn read_proxy_header(data: &[u8], at_once: usize) -> (usize, Result<Parsed, ProxyError>) {
    let mut len = 0;
    loop {
        let parsed = parse_proxy_header(&data[..len]);
        match parsed {
            Ok(Parsed::NeedMore(more)) if len < data.len() => {
                assert!(more > 0);
                len += more.min(at_once).min(data.len() - len);
            }
            _ => return (len, parsed),
        }
    }
}

pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(settings) = parse_options(text) else { return };
    let quote = |text: &str| text.chars().flat_map(|c| ['\\', c]).collect::<String>();
    let setting = |(name, value): &(String, String)| format!("-c {}={}", quote(name), quote(value));
    let again = settings.iter().map(setting).collect::<Vec<_>>().join("\n");
    assert_eq!(parse_options(&again), Ok(settings), "{again:?}");
}

/// A stream of messages of either side.
pub fn frame(data: &[u8]) {
    let mut at = 0;
    loop {
        let rest = &data[at..];
        let head = match Header::read(rest) {
            Ok(Some(head)) => head,
            Ok(None) => return assert!(rest.len() < HEADER_LEN),
            Err(bad) => {
                assert_eq!(bad.header, rest[..HEADER_LEN]);
                assert_eq!(bad.to_string().len(), 2 * HEADER_LEN);
                return;
            }
        };
        assert!((HEADER_LEN..=1 << 31).contains(&head.len));
        let Some(message) = rest.get(..head.len) else { return };
        let mut out = Vec::new();
        frame::message(&mut out, head.tag, &message[HEADER_LEN..]);
        assert_eq!(out, message);
        body(message);
        at += head.len;
    }
}

/// Whatever a message is, every view takes it or leaves it; what is taken is built the same.
fn body(message: &[u8]) {
    let (tag, body) = only_message(message);
    let mut out = Vec::new();
    if let Some(status) = TransactionStatus::read(body) {
        console::ready_for_query(&mut out, status);
        assert_eq!(only_message(&out), (backend::READY_FOR_QUERY, body));
    }
    out.clear();
    if let Some((name, value)) = backend::parameter_status(body) {
        console::parameter_status(&mut out, name, value);
        assert_eq!(only_message(&out), (backend::PARAMETER_STATUS, body));
    }
    out.clear();
    if let (frontend::QUERY, Some(Ok(sql))) = (tag, body.split_last().map(|(_, sql)| std::str::from_utf8(sql))) {
        frontend::query(&mut out, sql);
        let (_, again) = only_message(&out);
        assert_eq!(again.split_last(), Some((&0, sql.split('\0').next().unwrap_or_default().as_bytes())));
    }
    for asked in [ProtocolVersion::V3_0, ProtocolVersion::V3_2] {
        if let Some(Negotiation::Accepted(version)) = Negotiation::parse(body, asked) {
            assert!(version <= asked);
        }
    }
    cancel_key(body);
    error_response(body);
    auth(body);
}

pub fn cancel_key(data: &[u8]) {
    let Some(key) = CancelKey::parse(data) else {
        return assert!(!(8..=260).contains(&data.len()));
    };
    let mut out = Vec::new();
    key.backend_key_data(&mut out);
    assert_eq!(only_message(&out), (backend::BACKEND_KEY_DATA, data));
    out.clear();
    key.cancel_request(&mut out);
    assert_eq!(startup::parse_startup(&out), Ok(StartupRequest::Cancel(key)));
}

pub fn error_response(data: &[u8]) {
    let fields = ErrorFields::parse(data);
    // A byte that is not UTF-8 takes three.
    assert!(fields.message.len() + fields.severity.len() <= 3 * data.len());
    let sqlstate = fields.sqlstate.unwrap_or(SqlState::PROTOCOL_VIOLATION);
    let own = ErrorResponse {
        detail: Some(&fields.severity),
        hint: Some(&fields.message),
        ..ErrorResponse::new(Severity::Error, sqlstate, &fields.message)
    };
    for build in [ErrorResponse::error, ErrorResponse::notice] {
        let mut out = Vec::new();
        build(&own, &mut out);
        let again = ErrorFields::parse(only_message(&out).1);
        assert_eq!((again.sqlstate, &again.message), (Some(sqlstate), &fields.message));
        assert!(!again.is_fatal());
    }
}

/// Messages of a login, of either side.
pub fn auth(data: &[u8]) {
    let mut out = Vec::new();
    if let Some(Ok(password)) = auth::parse_password(data).ok().map(std::str::from_utf8) {
        auth::password_message(&mut out, password);
        assert_eq!(only_message(&out), (frontend::PASSWORD, data));
    }
    out.clear();
    if let Ok(SaslInitialResponse { mechanism, data: Some(first) }) = SaslInitialResponse::parse(data) {
        auth::sasl_initial_response(&mut out, mechanism, first);
        assert_eq!(only_message(&out), (frontend::PASSWORD, data));
    }
    out.clear();
    match Authentication::parse(data) {
        Ok(Authentication::Ok) => auth::authentication_ok(&mut out),
        Ok(Authentication::CleartextPassword) => auth::authentication_cleartext_password(&mut out),
        Ok(Authentication::Md5Password(salt)) => auth::authentication_md5_password(&mut out, salt),
        Ok(Authentication::Sasl(mechanisms)) => auth::authentication_sasl(&mut out, &mechanisms),
        Ok(Authentication::SaslContinue(more)) => auth::authentication_sasl_continue(&mut out, more),
        Ok(Authentication::SaslFinal(last)) => auth::authentication_sasl_final(&mut out, last),
        Ok(Authentication::Other(_)) | Err(_) => return,
    }
    assert_eq!(only_message(&out), (backend::AUTHENTICATION, data));
}

/// The two messages that a SCRAM peer sends, on a line each.
fn exchange(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    (&data[..end], data.get(end + 1..).unwrap_or_default())
}

/// A server, which may be anybody.
pub fn scram_client(data: &[u8]) {
    let (first, last) = exchange(data);
    let Ok(challenge) = ScramClient::new(NONCE, ChannelBinding::Unavailable).server_first(first) else { return };
    assert!(challenge.salt().len() <= first.len());
    let iterations = challenge.iterations();
    assert!(iterations.get() <= ITERATIONS_MAX);
    // What costs more is the caller's business.
    let affordable = iterations.min(NonZeroU32::MIN.saturating_add(15));
    let keys = ScramKeys::from_password(PASSWORD, challenge.salt(), affordable);
    let (client, proof) = challenge.respond(&keys);
    assert!(proof.len() <= first.len() + 100);
    if client.server_final(last).is_ok() {
        assert!(last.starts_with(b"v="));
    }
}

/// A client, which may be anybody.
pub fn scram_server(data: &[u8]) {
    let (first, last) = exchange(data);
    let verifier = Verifier::from_password(PASSWORD, b"salt", NonZeroU32::MIN);
    // A client that binds the channel has said so.
    let binding = match first.starts_with(b"p=") {
        true => ChannelBinding::EndPoint(b"hash".to_vec()),
        false => ChannelBinding::Unavailable,
    };
    let server = ScramServer::new(verifier.salt(), verifier.iterations(), NONCE, binding);
    let Ok((server, server_first)) = server.client_first(first) else { return };
    assert!(server_first.starts_with("r=") && server_first.ends_with(",s=c2FsdA==,i=1"));
    assert!(server_first.len() <= first.len() + 100);
    // Nobody gets in who does not know the password.
    if let Ok((keys, signature)) = server.client_final(&verifier, last) {
        assert_eq!(keys, ScramKeys::from_password(PASSWORD, b"salt", NonZeroU32::MIN));
        assert!(signature.starts_with("v="));
    }
}

/// A stored secret, or a password of which one is made.
pub fn secret(data: &[u8]) {
    let verifier = Verifier::from_password(data, b"salt", NonZeroU32::MIN);
    assert_eq!(Verifier::parse(&verifier.to_stored()).as_ref(), Some(&verifier));
    assert!(verifier.verify_password(data));
    log_in(data, verifier);
    let md5 = Md5Secret::from_password("user", data);
    assert_eq!(Md5Secret::parse(&md5.to_stored()).as_ref(), Some(&md5));
    assert!(md5.verify_password("user", data));
    assert!(md5.verify(*b"salt", md5.response(*b"salt").as_bytes()));
    assert!(!md5.verify(*b"salt", data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    match StoredSecret::parse(text) {
        StoredSecret::Md5(md5) => assert_eq!(md5.to_stored(), text),
        StoredSecret::Scram(verifier) => {
            assert!(verifier.to_stored().len() <= text.len() + 8);
            assert_eq!(Verifier::parse(&verifier.to_stored()), Some(verifier));
        }
        StoredSecret::Plain(password) => assert_eq!(password, text),
    }
}

/// Our client and our server agree on a password, whatever it is.
fn log_in(password: &[u8], verifier: Verifier) {
    let client = ScramClient::new([1; NONCE_LEN], ChannelBinding::Unavailable);
    let first = client.client_first();
    let server = ScramServer::new(verifier.salt(), verifier.iterations(), [2; NONCE_LEN], ChannelBinding::Unavailable);
    let (server, server_first) = server.client_first(first.as_bytes()).expect("first");
    let challenge = client.server_first(server_first.as_bytes()).expect("a challenge");
    let keys = ScramKeys::from_password(password, challenge.salt(), challenge.iterations());
    let (client, proof) = challenge.respond(&keys);
    let (_, signature) = server.client_final(&verifier, proof.as_bytes()).expect("the proof");
    client.server_final(signature.as_bytes()).expect("the signature");
}
