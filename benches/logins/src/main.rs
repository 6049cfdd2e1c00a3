//! Logs in again and again, by SCRAM-SHA-256, and measures nothing but that.
//!
//! A client's own share of a login, 4096 iterations of a hash, is many times the pooler's, so that
//! pgbench with `-C` measures itself. This one makes its keys once, as a client may. Run by
//! `side_by_side.py --logins`, or by hand:
//!
//!   cargo run --release -p pgweir-logins -- --port 6432 --user bench --password bench [--clients 16] [--seconds 5] [--tls]
//!
//! Prints logins per second, and the median and the 99th percentile of how long one took in ms.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pgweir_proto::auth::{Authentication, SCRAM_SHA_256, sasl_initial_response, sasl_response};
use pgweir_proto::backend;
use pgweir_proto::frame::{HEADER_LEN, Header};
use pgweir_proto::frontend::TERMINATE_MESSAGE;
use pgweir_proto::scram::{Challenge, ChannelBinding, NONCE_LEN, ScramClient, ScramKeys};
use pgweir_proto::startup::{ProtocolVersion, SSL_REQUEST, startup_message};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

struct Args {
    port: u16,
    user: String,
    password: String,
    clients: usize,
    seconds: u64,
    tls: Option<Arc<ClientConfig>>,
}

fn main() {
    let args = Arc::new(arguments());
    let keys = Arc::new(Mutex::new(HashMap::new()));
    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds);
    let clients: Vec<_> = (0..args.clients)
        .map(|_| {
            let (args, keys) = (Arc::clone(&args), Arc::clone(&keys));
            thread::spawn(move || run(&args, &keys, end))
        })
        .collect();
    let mut took: Vec<Duration> =
        clients.into_iter().flat_map(|client| client.join().expect("a client").expect("a login")).collect();
    took.sort();
    let elapsed_s = start.elapsed().as_secs_f64();
    let at = |part: f64| took.get((took.len() as f64 * part) as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3);
    println!("{:.0} {:.3} {:.3}", took.len() as f64 / elapsed_s, at(0.5), at(0.99));
}

fn arguments() -> Args {
    let mut args =
        Args { port: 6432, user: "bench".into(), password: "bench".into(), clients: 16, seconds: 5, tls: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--port" => args.port = value().parse().expect("a port"),
            "--user" => args.user = value(),
            "--password" => args.password = value(),
            "--clients" => args.clients = value().parse().expect("a number"),
            "--seconds" => args.seconds = value().parse().expect("a number"),
            "--tls" => args.tls = Some(Arc::new(tls_config())),
            other => panic!("{other} is no option"),
        }
    }
    args
}

/// Without resumption, as libpq.
fn tls_config() -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").dangerous();
    let mut config = builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// As with `sslmode=require`.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// By salt and iterations.
type Keys = Mutex<HashMap<(Vec<u8>, NonZeroU32), ScramKeys>>;

/// One client: how long each of its logins took.
fn run(args: &Args, keys: &Keys, end: Instant) -> io::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, args.port))?;
        socket.set_nodelay(true)?;
        match &args.tls {
            None => log_in(socket, args, keys, start, &mut took)?,
            Some(config) => {
                socket.write_all(&SSL_REQUEST)?;
                let mut answer = [0];
                socket.read_exact(&mut answer)?;
                assert_eq!(&answer, b"S", "no TLS there");
                let name = ServerName::try_from("localhost").expect("a name");
                let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                log_in(StreamOwned::new(tls, socket), args, keys, start, &mut took)?;
            }
        }
    }
    Ok(took)
}

/// From the startup packet to ReadyForQuery, and goodbye.
fn log_in(
    mut stream: impl Read + Write,
    args: &Args,
    keys: &Keys,
    start: Instant,
    took: &mut Vec<Duration>,
) -> io::Result<()> {
    let mut out = Vec::new();
    startup_message(&mut out, ProtocolVersion::V3_0, &[("user", &args.user), ("database", "bench")]);
    stream.write_all(&out)?;
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).expect("random bytes");
    let mut client = Some(ScramClient::new(nonce, ChannelBinding::Unavailable));
    let mut last = None;
    let mut input = Vec::new();
    loop {
        let (tag, body) = next(&mut stream, &mut input)?;
        out.clear();
        match tag {
            backend::READY_FOR_QUERY => break,
            backend::ERROR_RESPONSE => panic!("{}", String::from_utf8_lossy(&body)),
            backend::AUTHENTICATION => match Authentication::parse(&body).expect("a request") {
                Authentication::Ok => {}
                Authentication::Sasl(_) => {
                    let first = client.as_ref().expect("once").client_first();
                    sasl_initial_response(&mut out, SCRAM_SHA_256, first.as_bytes());
                }
                Authentication::SaslContinue(text) => {
                    let challenge = client.take().expect("once").server_first(text).expect("a challenge");
                    let keys = cached(keys, &args.password, &challenge);
                    let (next, response) = challenge.respond(&keys);
                    sasl_response(&mut out, response.as_bytes());
                    last = Some(next);
                }
                Authentication::SaslFinal(text) => {
                    last.take().expect("a proof").server_final(text).expect("the signature");
                }
                other => panic!("{other:?}: the pooler must ask for SCRAM"),
            },
            _ => {}
        }
        if !out.is_empty() {
            stream.write_all(&out)?;
        }
    }
    took.push(start.elapsed());
    stream.write_all(&TERMINATE_MESSAGE)
}

fn cached(keys: &Keys, password: &str, challenge: &Challenge) -> ScramKeys {
    let mut keys = keys.lock().expect("the keys");
    let under = (challenge.salt().to_vec(), challenge.iterations());
    let make = || ScramKeys::from_password(password.as_bytes(), challenge.salt(), challenge.iterations());
    keys.entry(under).or_insert_with(make).clone()
}

/// The next message; `input` holds what was read.
fn next(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<(u8, Vec<u8>)> {
    loop {
        if let Ok(Some(header)) = Header::read(input)
            && input.len() >= header.len
        {
            let message: Vec<u8> = input.drain(..header.len).collect();
            return Ok((header.tag, message[HEADER_LEN..].to_vec()));
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => input.extend_from_slice(&chunk[..n]),
        }
    }
}
