//! A client's first packets, before anybody knows who it is: requests for encryption, a
//! cancel request, or the startup packet.
//!
//! Nothing is read past the packet that ends this phase, and nothing is kept but that packet,
//! which has at most 10,004 bytes.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use pgweir_config::{Config, Settings};
use pgweir_proto::cancel::CancelKey;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::frontend;
use pgweir_proto::options::parse_options;
use pgweir_proto::startup::{ProtocolVersion, StartupError, StartupPacket, StartupRequest, packet_len, parse_startup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::pools::Walsender;
use crate::server::parameters::{Parameters, Tracked};

/// What there is for a client that asks for encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    Unavailable,
    Offered {
        /// Nobody logs in without.
        is_required: bool,
    },
    /// It is used already.
    Tls,
}

/// What a client has come for.
#[derive(Debug)]
pub(crate) enum Hello {
    /// TLS, which it has been granted: the handshake comes next, then another hello.
    Tls {
        /// What was read of it, with no request before: TLS from the first byte on.
        early: Vec<u8>,
    },
    Cancel(CancelKey),
    Startup(Startup),
}

/// Who wants to log in, where, and with which parameters.
#[derive(Debug)]
pub(crate) struct Startup {
    /// Never empty.
    pub(crate) user: String,
    /// The user's name if the client named none.
    pub(crate) database: String,
    /// The tracked ones, as the client spells them. `application_name_add_host` is not
    /// looked at here.
    pub(crate) parameters: Parameters,
    /// What the session speaks; decides the length of its cancel key.
    pub(crate) protocol: ProtocolVersion,
    /// `None`: the client wants an ordinary session.
    pub(crate) walsender: Option<Walsender>,
}

/// Why there is nobody to log in.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The caller tells it to the client.
    Client(ClientError),
    /// The client has gone.
    Eof,
    /// It gets no answer, for this reason.
    Gone(&'static str),
}

impl From<StartupError> for HandshakeError {
    fn from(error: StartupError) -> HandshakeError {
        match ClientError::from_startup(error) {
            Some(error) => HandshakeError::Client(error),
            None => HandshakeError::Gone("bad cancel request"),
        }
    }
}

impl From<ClientError> for HandshakeError {
    fn from(error: ClientError) -> HandshakeError {
        HandshakeError::Client(error)
    }
}

/// What the operator can do about an error, for the log.
pub(crate) fn operator_hint(error: &ClientError) -> Option<String> {
    match error {
        ClientError::UnsupportedParameter(name) | ClientError::UnsupportedParameterInOptions(name) => Some(format!(
            "add {name} to ignore_startup_parameters to accept and drop it, \
             or to track_extra_parameters if the server reports it"
        )),
        _ => None,
    }
}

/// Reads until the client has said what it wants. There is no time limit in here.
pub(crate) async fn read_hello<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    config: &Config,
    tracked: &Tracked,
    encryption: Encryption,
) -> Result<Hello, HandshakeError> {
    let mut packet = Vec::new();
    // Inside TLS there is nothing more to be had.
    let mut declined = match encryption {
        Encryption::Tls => vec![StartupRequest::Ssl, StartupRequest::GssEnc],
        _ => Vec::new(),
    };
    let is_offered = matches!(encryption, Encryption::Offered { .. });
    loop {
        match read_packet(stream, &mut packet, is_offered && declined.is_empty()).await? {
            First::Packet => {}
            First::TlsRecord => return Ok(Hello::Tls { early: packet }),
        }
        match parse_startup(&packet)? {
            StartupRequest::Cancel(key) => return Ok(Hello::Cancel(key)),
            StartupRequest::Startup(_) if encryption == (Encryption::Offered { is_required: true }) => {
                return Err(ClientError::SslRequired.into());
            }
            StartupRequest::Startup(startup) => {
                let replication = startup.replication()?;
                let parameters = parameters(&startup, &config.settings, tracked, replication.is_some())?;
                negotiate(stream, &startup).await?;
                return Ok(Hello::Startup(Startup {
                    user: startup.user().to_owned(),
                    database: startup.database().to_owned(),
                    parameters,
                    protocol: startup.protocol,
                    walsender: replication
                        .map(|kind| Walsender { kind, options: startup.get("options").map(str::to_owned) }),
                }));
            }
            asked if declined.contains(&asked) => {
                let hex = packet.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(ClientError::BadPacketHeader(hex).into());
            }
            StartupRequest::Ssl if is_offered => {
                answer(stream, &StartupRequest::Ssl, b"S").await?;
                return Ok(Hello::Tls { early: Vec::new() });
            }
            asked => {
                answer(stream, &asked, b"N").await?;
                declined.push(asked);
            }
        }
    }
}

/// How the first bytes of a TLS record look that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What `packet` is.
enum First {
    Packet,
    /// The beginning of one.
    TlsRecord,
}

/// Reads one packet, its length included, and not a byte more.
async fn read_packet<S: AsyncRead + Unpin>(
    stream: &mut S,
    packet: &mut Vec<u8>,
    may_be_tls: bool,
) -> Result<First, HandshakeError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|_| HandshakeError::Eof)?;
    if may_be_tls && length[0] == TLS_HANDSHAKE {
        packet.extend_from_slice(&length);
        return Ok(First::TlsRecord);
    }
    if length[0] == frontend::PASSWORD {
        return Err(ClientError::PasswordBeforeStartup.into());
    }
    packet.clear();
    packet.extend_from_slice(&length);
    packet.resize(packet_len(&length)?, 0);
    stream.read_exact(&mut packet[length.len()..]).await.map_err(|_| HandshakeError::Eof)?;
    Ok(First::Packet)
}

/// Answers a request for encryption. A client waits for that; one that has sent more
/// already is trying to have it taken for the inside of the encrypted connection.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &StartupRequest,
    answer: &[u8],
) -> Result<(), HandshakeError> {
    let mut byte = [0];
    let mut more = ReadBuf::new(&mut byte);
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut more))).await;
    match polled {
        Poll::Pending => {}
        Poll::Ready(Ok(())) if !more.filled().is_empty() => {
            return Err(HandshakeError::Client(match request {
                StartupRequest::Ssl => ClientError::UnencryptedDataAfterSslRequest,
                _ => ClientError::UnencryptedDataAfterGssRequest,
            }));
        }
        Poll::Ready(_) => return Err(HandshakeError::Eof),
    }
    send(stream, answer).await
}

async fn negotiate<S: AsyncWrite + Unpin>(stream: &mut S, startup: &StartupPacket) -> Result<(), HandshakeError> {
    let mut out = Vec::new();
    startup.negotiate_protocol_version(&mut out);
    send(stream, &out).await
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), HandshakeError> {
    stream.write_all(bytes).await.map_err(|_| HandshakeError::Eof)?;
    stream.flush().await.map_err(|_| HandshakeError::Eof)
}

/// The tracked parameters of a startup packet, in `options` or beside it; the last of a name
/// counts. `options` of a client of replication are its own server's business.
fn parameters(
    startup: &StartupPacket,
    settings: &Settings,
    tracked: &Tracked,
    is_replication: bool,
) -> Result<Parameters, ClientError> {
    let ignored = |name: &str| {
        let mut names = settings.ignore_startup_parameters.iter();
        names.any(|ignored| ignored.eq_ignore_ascii_case(name))
    };
    let mut parameters = Parameters::none(tracked);
    for (name, value) in &startup.params {
        match name.as_str() {
            "user" | "database" | "replication" => {}
            "options" if is_replication => {}
            "options" => {
                for (name, value) in parse_options(value)? {
                    match tracked.position(&name) {
                        Some(position) => parameters = parameters.with(position, &value),
                        None if ignored(&name) || ignored("options") => {}
                        None => return Err(ClientError::UnsupportedParameterInOptions(name)),
                    }
                }
            }
            _ => match tracked.position(name) {
                Some(position) => parameters = parameters.with(position, value),
                None if ignored(name) => {}
                None => return Err(ClientError::UnsupportedParameter(name.clone())),
            },
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use pgweir_proto::replication::Replication;
    use pgweir_proto::startup::SSL_REQUEST;
    use tokio::io::{DuplexStream, duplex};

    const GSSENC_REQUEST: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x30";

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut packet = (8 + body.len() as u32).to_be_bytes().to_vec();
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    }

    fn startup_packet(params: &[(&str, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for text in params.iter().flat_map(|&(name, value)| [name, value]) {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        packet(0x0003_0000, &body)
    }

    fn config(ignore: &str) -> Config {
        let mut config = Config::default();
        config.settings.set("ignore_startup_parameters", ignore).unwrap();
        config
    }

    fn tracked() -> Tracked {
        Tracked::new(["IntervalStyle"])
    }

    /// Plays `client` against a handshake, which must come to an end.
    async fn shake<F: Future>(
        config: &Config,
        client: impl FnOnce(DuplexStream) -> F,
    ) -> (Result<Hello, HandshakeError>, F::Output) {
        let (near, mut far) = duplex(64 * 1024);
        let tracked = tracked();
        let server = async move {
            let hello = read_hello(&mut far, config, &tracked, Encryption::Unavailable).await;
            // What is behind the last packet belongs to the next phase.
            if hello.is_ok() {
                let mut rest = Vec::new();
                far.read_to_end(&mut rest).await.unwrap();
                assert!(rest.is_empty() || rest == b"next", "{rest:?}");
            }
            hello
        };
        let both = async { tokio::join!(server, client(near)) };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("the handshake hangs")
    }

    /// A client that sends `bytes` at once and hears the answers to the end.
    async fn send_all(config: &Config, bytes: &[u8]) -> (Result<Hello, HandshakeError>, Vec<u8>) {
        shake(config, async |mut stream| {
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).await.unwrap();
            answers
        })
        .await
    }

    async fn accepted(config: &Config, params: &[(&str, &str)]) -> Startup {
        match send_all(config, &startup_packet(params)).await.0 {
            Ok(Hello::Startup(startup)) => startup,
            other => panic!("{params:?}: {other:?}"),
        }
    }

    async fn refused(config: &Config, bytes: &[u8]) -> ClientError {
        match send_all(config, bytes).await.0 {
            Err(HandshakeError::Client(error)) => error,
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    fn value<'a>(startup: &'a Startup, name: &str) -> Option<&'a str> {
        let position = tracked().position(name).unwrap();
        startup.parameters.get(position).map(|value| &**value)
    }

    #[tokio::test]
    async fn every_cut_of_a_whole_handshake_is_understood() {
        let last = startup_packet(&[("user", "u"), ("database", "d"), ("TimeZone", "UTC")]);
        let packets = [&GSSENC_REQUEST[..], &SSL_REQUEST, &last];
        let whole: usize = packets.iter().map(|packet| packet.len()).sum();
        for cut in 0..=whole {
            let client = async |mut stream: DuplexStream| {
                let mut sent = 0;
                for packet in packets {
                    let at = cut.saturating_sub(sent).min(packet.len());
                    stream.write_all(&packet[..at]).await.unwrap();
                    // Lets the other side read what is there so far.
                    tokio::task::yield_now().await;
                    stream.write_all(&packet[at..]).await.unwrap();
                    sent += packet.len();
                    if packet.len() == 8 {
                        assert_eq!(stream.read_u8().await.unwrap(), b'N');
                    }
                }
                stream.write_all(b"next").await.unwrap();
            };
            let (hello, ()) = shake(&config(""), client).await;
            let Ok(Hello::Startup(startup)) = hello else { panic!("{cut}: {hello:?}") };
            assert_eq!((&*startup.user, &*startup.database), ("u", "d"));
            assert_eq!(value(&startup, "timezone"), Some("UTC"));
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_early_is_gone() {
        let packet = startup_packet(&[("user", "u")]);
        for cut in 0..packet.len() {
            let (hello, answers) = send_all(&config(""), &packet[..cut]).await;
            assert!(matches!(hello, Err(HandshakeError::Eof)), "{hello:?}");
            assert!(answers.is_empty());
        }
        let (hello, _) = send_all(&config(""), &SSL_REQUEST).await;
        assert!(matches!(hello, Err(HandshakeError::Eof)), "{hello:?}");
    }

    #[tokio::test]
    async fn nothing_is_smuggled_behind_an_encryption_request() {
        let behind = |request: [u8; 8], what: &[u8]| [&request[..], what].concat();
        let rest = startup_packet(&[("user", "u")]);
        for rest in [&rest[..], b"\x16", &SSL_REQUEST] {
            let after_ssl = refused(&config(""), &behind(SSL_REQUEST, rest)).await;
            assert_eq!(after_ssl, ClientError::UnencryptedDataAfterSslRequest);
            let after_gss = refused(&config(""), &behind(GSSENC_REQUEST, rest)).await;
            assert_eq!(after_gss, ClientError::UnencryptedDataAfterGssRequest);
        }
    }

    #[tokio::test]
    async fn encryption_is_asked_for_once() {
        for request in [SSL_REQUEST, GSSENC_REQUEST] {
            let client = async |mut stream: DuplexStream| {
                stream.write_all(&request).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'N');
                stream.write_all(&request).await.unwrap();
                stream.read_u8().await
            };
            let (hello, more) = shake(&config(""), client).await;
            let hex: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
            let expected = ClientError::BadPacketHeader(hex);
            assert!(matches!(hello, Err(HandshakeError::Client(e)) if e == expected));
            assert!(more.is_err());
        }
    }

    #[tokio::test]
    async fn what_is_no_first_packet_is_refused() {
        let config = config("");
        let header = |hex: &str| ClientError::BadPacketHeader(hex.to_owned());
        assert_eq!(refused(&config, b"\0\0\x27\x15").await, header("00002715"));
        assert_eq!(refused(&config, b"\0\0\0\x07\0\0\0").await, header("00000007"));
        assert_eq!(refused(&config, b"GET / HTTP/1.1\r\n").await, header("47455420"));
        assert_eq!(refused(&config, b"\x16\x03\x01\x02\0").await, header("16030102"));
        assert_eq!(refused(&config, b"p\0\0\0\x05\0").await, ClientError::PasswordBeforeStartup);
        assert_eq!(refused(&config, &packet(0x0002_0000, b"")).await, ClientError::OldProtocol);
        assert_eq!(refused(&config, &packet(0x0003_0000, b"user\0u\0")).await, ClientError::BadStartupLayout);
        assert_eq!(refused(&config, &packet(0x0003_0000, b"\0")).await, ClientError::NoUser);
        let (hello, answers) = send_all(&config, &packet(80_877_102, b"\0\0\0\x01abc")).await;
        assert!(matches!(hello, Err(HandshakeError::Gone("bad cancel request"))), "{hello:?}");
        assert!(answers.is_empty());
    }

    #[tokio::test]
    async fn the_longest_packet_is_taken() {
        let name = "n".repeat(10_000 - 4 - b"user\0\0\0".len());
        assert_eq!(accepted(&config(""), &[("user", &name)]).await.user, name);
        let longer = startup_packet(&[("user", &format!("{name}n"))]);
        assert!(matches!(refused(&config(""), &longer).await, ClientError::BadPacketHeader(_)));
    }

    #[tokio::test]
    async fn cancel_keys_are_of_either_protocol() {
        for len in [4, 32, 256] {
            let mut body = 7u32.to_be_bytes().to_vec();
            body.resize(4 + len, 0xab);
            let (hello, answers) = send_all(&config(""), &packet(80_877_102, &body)).await;
            let Ok(Hello::Cancel(key)) = hello else { panic!("{hello:?}") };
            assert_eq!((key.pid, key.secret.as_bytes()), (7, &body[4..]));
            assert!(answers.is_empty());
        }
    }

    #[tokio::test]
    async fn versions_are_negotiated() {
        let hello = async |minor: u32, body: &[u8]| {
            let (hello, answers) = send_all(&config(""), &packet(0x0003_0000 + minor, body)).await;
            let Ok(Hello::Startup(startup)) = hello else { panic!("{hello:?}") };
            (startup.protocol, answers)
        };
        use ProtocolVersion::{V3_0, V3_2};
        assert_eq!(hello(0, b"user\0u\0\0").await, (V3_0, vec![]));
        assert_eq!(hello(2, b"user\0u\0\0").await, (V3_2, vec![]));
        let offer = b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0".to_vec();
        assert_eq!(hello(9999, b"user\0u\0\0").await, (V3_2, offer));
        let offer = b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0".to_vec();
        assert_eq!(hello(0, b"user\0u\0_pq_.x\0on\0\0").await, (V3_0, offer));
        // A refusal is the only answer.
        let bad = packet(0x0003_270f, b"user\0u\0work_mem\x001\0\0");
        assert_eq!(send_all(&config(""), &bad).await.1, b"");
    }

    #[tokio::test]
    async fn parameters_are_tracked_ignored_or_refused() {
        let params = [
            ("user", "u"),
            ("client_encoding", "utf8"),
            ("application_name", ""),
            ("DATESTYLE", "iso"),
            ("options", "-c intervalstyle=iso_8601 --TimeZone=Asia/\\ X"),
            ("client_encoding", "latin1"),
        ];
        let startup = accepted(&config(""), &params).await;
        assert_eq!(startup.database, "u");
        assert_eq!(value(&startup, "client_encoding"), Some("latin1"));
        assert_eq!(value(&startup, "application_name"), Some(""));
        assert_eq!(value(&startup, "DateStyle"), Some("iso"));
        assert_eq!(value(&startup, "IntervalStyle"), Some("iso_8601"));
        assert_eq!(value(&startup, "TimeZone"), Some("Asia/ X"));
        assert_eq!(value(&startup, "standard_conforming_strings"), None);

        let digits = [("user", "u"), ("extra_float_digits", "2")];
        let error = refused(&config("options"), &startup_packet(&digits)).await;
        assert_eq!(error, ClientError::UnsupportedParameter("extra_float_digits".to_owned()));
        assert!(operator_hint(&error).unwrap().contains("extra_float_digits"));
        accepted(&config("foo, Extra_Float_Digits"), &digits).await;
        assert_eq!(operator_hint(&ClientError::NoUser), None);
    }

    #[tokio::test]
    async fn options_are_held_to_the_same_rules() {
        let with = |options| [("user", "u"), ("options", options)];
        let unknown = with("-c geqo=off -c DateStyle=iso");
        let error = refused(&config(""), &startup_packet(&unknown)).await;
        assert_eq!(error, ClientError::UnsupportedParameterInOptions("geqo".to_owned()));
        assert!(operator_hint(&error).is_some());
        for ignore in ["geqo", "x,options"] {
            let startup = accepted(&config(ignore), &unknown).await;
            assert_eq!(value(&startup, "datestyle"), Some("iso"));
        }
        for bad in ["-d 5", "geqo=off", "-c geqo", "--geqo"] {
            let error = refused(&config("geqo,options"), &startup_packet(&with(bad))).await;
            assert_eq!(error, ClientError::UnsupportedOptions, "{bad}");
        }
        accepted(&config(""), &with("")).await;
    }

    #[tokio::test]
    async fn replication_takes_any_options_but_not_any_parameter() {
        let options = "-d 5 -c geqo=off";
        let asked = |replication| [("options", options), ("user", "u"), ("replication", replication)];
        let startup = accepted(&config(""), &asked("database")).await;
        let walsender = startup.walsender.expect("a walsender");
        assert_eq!((walsender.kind, walsender.options.as_deref()), (Replication::Logical, Some(options)));
        let off = refused(&config(""), &startup_packet(&asked("off"))).await;
        assert_eq!(off, ClientError::UnsupportedOptions);
        let bad = refused(&config("replication"), &startup_packet(&asked("maybe"))).await;
        assert_eq!(bad, ClientError::BadReplication("maybe".to_owned()));
        let unknown = startup_packet(&[("user", "u"), ("replication", "on"), ("work_mem", "1")]);
        assert_eq!(refused(&config(""), &unknown).await, ClientError::UnsupportedParameter("work_mem".to_owned()));
    }

    #[tokio::test]
    async fn garbage_ends_the_handshake() {
        let good = [
            startup_packet(&[("user", "u"), ("options", "-c TimeZone=UTC"), ("_pq_.x", "y")]),
            packet(80_877_102, &[7; 36]),
            SSL_REQUEST.to_vec(),
        ];
        // xorshift: the same garbage in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let (config, tracked) = (config(""), tracked());
        let mut refusals = 0;
        for round in 0..3000 {
            let mut bytes = good[round % good.len()].clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(1 + random(2 * bytes.len()));
            let (near, mut far) = duplex(64 * 1024);
            let client = async move {
                let mut near = near;
                near.write_all(&bytes).await.unwrap();
                near.shutdown().await.unwrap();
            };
            let (hello, ()) = tokio::join!(read_hello(&mut far, &config, &tracked, Encryption::Unavailable), client);
            refusals += usize::from(hello.is_err());
        }
        assert!((1..3000).contains(&refusals), "{refusals}");
    }
}
