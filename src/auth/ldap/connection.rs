//! A connection to a directory.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use pgweir_config::{LdapOptions, LdapSearch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::message::{self, Outcome, Response, SUCCESS};
use super::{ConnectError, LdapError, ber};
use crate::net::stream::Stream;
use crate::net::tls::DirectoryTls;

/// Longest answer that is read. Honest ones hold the name of one entry.
const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// More entries than we ask for; who sends them all the same is not listened to.
const ENTRIES_MAX: usize = 3;

pub(super) struct Connection {
    stream: Stream,
    /// Of the request made last.
    id: i32,
}

impl Connection {
    /// Connects, with TLS where that is asked for.
    pub(super) async fn open(
        server: &str,
        options: &LdapOptions,
        tls: Option<&DirectoryTls>,
        resolving: &Arc<Semaphore>,
    ) -> Result<Connection, ConnectError> {
        if options.is_ldaps && options.is_start_tls {
            return Err(ConnectError::TlsTwice);
        }
        let addresses = resolve(server, options.port, resolving).await?;
        let socket = TcpStream::connect(&addresses[..]).await.map_err(ConnectError::Io)?;
        socket.set_nodelay(true).map_err(ConnectError::Io)?;
        let mut connection = Connection { stream: Stream::tcp(socket), id: 0 };
        if options.is_start_tls {
            let outcome = connection.start_tls().await.map_err(ConnectError::Ldap)?;
            if outcome.code != SUCCESS {
                return Err(ConnectError::NoStartTls(outcome));
            }
        }
        if options.is_tls() {
            let tls = tls.ok_or(ConnectError::NoSetup)?.begin(server).map_err(ConnectError::Tls)?;
            // This is not the data path already.
            connection.stream.start_tls(tls, None).await.map_err(ConnectError::Handshake)?;
        }
        Ok(connection)
    }

    async fn start_tls(&mut self) -> Result<Outcome, LdapError> {
        self.send(message::start_tls).await?;
        match self.receive().await? {
            Response::Extended(outcome) => Ok(outcome),
            _ => Err(LdapError::Malformed),
        }
    }

    /// Logs in to the directory.
    pub(super) async fn bind(&mut self, dn: &[u8], password: &[u8]) -> Result<Outcome, LdapError> {
        self.send(|out| message::bind(out, dn, password)).await?;
        match self.receive().await? {
            Response::Bind(outcome) => Ok(outcome),
            _ => Err(LdapError::Malformed),
        }
    }

    /// The names of the entries found, two at the most.
    pub(super) async fn search(
        &mut self,
        search: &LdapSearch,
        user: &str,
        limit_s: i32,
    ) -> Result<(Vec<Vec<u8>>, Outcome), LdapError> {
        self.send(|out| message::search(out, search, user, limit_s)).await?;
        let mut entries = Vec::new();
        loop {
            match self.receive().await? {
                Response::Entry(_) if entries.len() == ENTRIES_MAX => return Err(LdapError::NotUnique),
                Response::Entry(dn) => entries.push(dn),
                Response::Reference => {}
                Response::SearchDone(outcome) => return Ok((entries, outcome)),
                Response::Bind(_) | Response::Extended(_) => return Err(LdapError::Malformed),
            }
        }
    }

    /// Says good-bye, which nobody needs to hear.
    pub(super) async fn close(mut self) {
        let _ = self.send(message::unbind).await;
    }

    async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.id += 1;
        self.stream.write_all(&message::request(self.id, write)).await?;
        self.stream.flush().await
    }

    /// The next answer to the request made last. Not a byte more is read: what follows may be TLS.
    async fn receive(&mut self) -> Result<Response, LdapError> {
        let content = self.receive_content().await?;
        let (id, response) = message::response(&content).map_err(|ber::Malformed| LdapError::Malformed)?;
        match response {
            // Nobody has asked for it.
            Response::Extended(outcome) if id == 0 => Err(LdapError::Disconnected(outcome)),
            response if id == self.id => Ok(response),
            _ => Err(LdapError::Malformed),
        }
    }

    async fn receive_content(&mut self) -> Result<Vec<u8>, LdapError> {
        if self.stream.read_u8().await? != ber::SEQUENCE {
            return Err(LdapError::Malformed);
        }
        let mut length = Vec::new();
        let len = loop {
            length.push(self.stream.read_u8().await?);
            match ber::length(&length) {
                None => {}
                Some(Ok((len, _))) if len <= MESSAGE_LEN_MAX => break len,
                Some(_) => return Err(LdapError::Malformed),
            }
        };
        let mut content = vec![0; len];
        self.stream.read_exact(&mut content).await?;
        Ok(content)
    }
}

/// The system is asked on a thread of its own; the place of one that hangs stays taken.
async fn resolve(server: &str, port: u16, resolving: &Arc<Semaphore>) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = server.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let place = Arc::clone(resolving).acquire_owned().await.map_err(|_| ConnectError::NoAddress)?;
    let server = server.to_owned();
    let job = move || {
        let addresses = (&*server, port).to_socket_addrs().map(Vec::from_iter);
        drop(place);
        addresses
    };
    let addresses = spawn_blocking(job).await.map_err(|_| ConnectError::NoAddress)?.map_err(ConnectError::Io)?;
    if addresses.is_empty() { Err(ConnectError::NoAddress) } else { Ok(addresses) }
}
