//! A client's connection: made, and logged in.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgweir_proto::auth::{Authentication, SCRAM_SHA_256, sasl_initial_response, sasl_response};
use pgweir_proto::backend;
use pgweir_proto::frame::{HEADER_LEN, Header};
use pgweir_proto::scram::{Challenge, ChannelBinding, NONCE_LEN, ScramClient, ScramKeys};
use pgweir_proto::startup::{ProtocolVersion, SSL_REQUEST, startup_message};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

/// Clients with one address: fewer than there are ports for connections that go out.
const CLIENTS_PER_ADDRESS: usize = 20_000;

/// A pooler that has not answered for so long does not answer.
const REPLY_MAX: Duration = Duration::from_secs(30);

/// Where clients log in, and as whom.
pub(crate) struct Target {
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
    /// `None`: in clear text.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// What the password comes to: a client's own share of a SCRAM login, 4096 iterations of a hash, is many
    /// times the pooler's, so it is paid once, as a client may.
    keys: Mutex<HashMap<Salted, ScramKeys>>,
}

/// Salt and iterations.
type Salted = (Vec<u8>, NonZeroU32);

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Default for Target {
    fn default() -> Target {
        let bench = || "bench".to_owned();
        let keys = Mutex::default();
        Target { port: 6432, user: bench(), password: bench(), database: bench(), tls: None, keys }
    }
}

impl Target {
    /// The connection of client number `client`, up to ReadyForQuery.
    pub(crate) fn log_in(&self, client: usize) -> io::Result<Stream> {
        let mut stream = self.connect(client)?;
        let mut out = Vec::new();
        startup_message(&mut out, ProtocolVersion::V3_0, &[("user", &self.user), ("database", &self.database)]);
        stream.write_all(&out)?;
        let mut scram = Some(ScramClient::new(nonce()?, ChannelBinding::Unavailable));
        let mut last = None;
        let mut input = Vec::new();
        loop {
            let (tag, body) = next(&mut stream, &mut input)?;
            out.clear();
            match tag {
                backend::READY_FOR_QUERY => return Ok(stream),
                backend::ERROR_RESPONSE => return Err(refused(&body)),
                backend::AUTHENTICATION => match Authentication::parse(&body).map_err(invalid)? {
                    Authentication::Ok => {}
                    Authentication::Sasl(_) => {
                        let first = scram.as_ref().ok_or_else(|| invalid("SASL twice"))?.client_first();
                        sasl_initial_response(&mut out, SCRAM_SHA_256, first.as_bytes());
                    }
                    Authentication::SaslContinue(text) => {
                        let scram = scram.take().ok_or_else(|| invalid("SASLContinue twice"))?;
                        let challenge = scram.server_first(text).map_err(invalid)?;
                        let keys = self.keys_for(&challenge);
                        let (client_final, response) = challenge.respond(&keys);
                        sasl_response(&mut out, response.as_bytes());
                        last = Some(client_final);
                    }
                    Authentication::SaslFinal(text) => {
                        let client_final = last.take().ok_or_else(|| invalid("SASLFinal without a proof"))?;
                        client_final.server_final(text).map_err(invalid)?;
                    }
                    other => return Err(invalid(format!("{other:?}: only trust and SCRAM are known here"))),
                },
                _ => {}
            }
            if !out.is_empty() {
                stream.write_all(&out)?;
            }
        }
    }

    fn connect(&self, client: usize) -> io::Result<Stream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if client >= CLIENTS_PER_ADDRESS {
            let own = Ipv4Addr::LOCALHOST.to_bits() + (client / CLIENTS_PER_ADDRESS) as u32;
            socket.bind(&SocketAddrV4::new(own.into(), 0).into())?;
        }
        socket.connect(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port).into())?;
        let mut socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_MAX))?;
        let Some(config) = &self.tls else { return Ok(Stream::Plain(socket)) };
        socket.write_all(&SSL_REQUEST)?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        if &answer != b"S" {
            return Err(invalid("no TLS there"));
        }
        let name = ServerName::try_from("localhost").map_err(invalid)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(invalid)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(tls, socket))))
    }

    fn keys_for(&self, challenge: &Challenge) -> ScramKeys {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || ScramKeys::from_password(self.password.as_bytes(), challenge.salt(), challenge.iterations());
        keys.entry((challenge.salt().to_vec(), challenge.iterations())).or_insert_with(make).clone()
    }
}

fn nonce() -> io::Result<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| invalid("no random bytes"))?;
    Ok(nonce)
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(what)
}

/// What an ErrorResponse says.
pub(crate) fn refused(body: &[u8]) -> io::Error {
    invalid(String::from_utf8_lossy(body).replace('\0', " "))
}

/// The next message; `input` holds what was read.
fn next(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<(u8, Vec<u8>)> {
    loop {
        if let Some(header) = Header::read(input).map_err(invalid)?
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

impl Stream {
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buf),
            Stream::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(buf),
            Stream::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}
