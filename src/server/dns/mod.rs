//! Asking DNS servers ourselves: where `resolv_conf` names them, and for the serials of zones, which the system's own
//! resolver does not tell.

mod message;
mod resolv_conf;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::auth::random_bytes;
use message::{Answer, Fault, Question};
use resolv_conf::{ResolvConf, in_hosts_file};

const SYSTEM_CONF: &str = "/etc/resolv.conf";
const HOSTS_FILE: &str = "/etc/hosts";

/// Longest answer by datagram; we do not ask for longer ones.
const DATAGRAM_MAX: usize = 512;

/// Asks the servers of a file, which is read again for each name.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    conf: PathBuf,
}

impl Resolver {
    /// `None`: the system's file.
    pub(super) fn new(conf: Option<&Path>) -> Resolver {
        Resolver { conf: conf.unwrap_or(Path::new(SYSTEM_CONF)).to_owned() }
    }

    /// Empty: the name is known to have none.
    pub(super) async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let (conf, hosts) = self.read().await?;
        let local = in_hosts_file(&hosts, name);
        if !local.is_empty() {
            return Ok(local);
        }
        let mut failed = None;
        for candidate in conf.candidates(name) {
            let (v4, v6) = tokio::join!(ask(&conf, &candidate, Question::V4), ask(&conf, &candidate, Question::V6));
            let found = [v4, v6].into_iter().filter_map(|answer| answer.map_err(|e| failed = Some(e)).ok());
            let addresses: Vec<IpAddr> = found.flat_map(|answer| answer.addresses).collect();
            if !addresses.is_empty() {
                return Ok(addresses);
            }
        }
        failed.map_or(Ok(Vec::new()), Err)
    }

    /// The serial of `zone`, or of the one that it is in.
    pub(super) async fn serial(&self, zone: &str) -> io::Result<u32> {
        let (conf, _) = self.read().await?;
        let answer = ask(&conf, zone, Question::Soa).await?;
        answer.serial.ok_or_else(|| io::Error::other("the answer has no serial"))
    }

    /// The configuration and the text of the file of hosts.
    async fn read(&self) -> io::Result<(ResolvConf, String)> {
        let path = self.conf.clone();
        let read = move || {
            let told = |e| io::Error::other(format!("cannot read {}: {e}", path.display()));
            let conf = std::fs::read_to_string(&path).map_err(told)?;
            // A system need not have the other.
            Ok((ResolvConf::parse(&conf), std::fs::read_to_string(HOSTS_FILE).unwrap_or_default()))
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(e.into()))
    }
}

/// The first server that answers is believed.
async fn ask(conf: &ResolvConf, name: &str, question: Question) -> io::Result<Answer> {
    let mut failed = io::Error::other("no server was asked");
    for server in (0..conf.attempts).flat_map(|_| &conf.servers) {
        let id = u16::from_ne_bytes(random_bytes());
        let query = message::encode(id, name, question).ok_or_else(|| io::Error::other("no name of a host"))?;
        match tokio::time::timeout(conf.timeout, ask_server(*server, &query)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => failed = io::Error::new(e.kind(), format!("{server}: {e}")),
            Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, format!("{server} does not answer")),
        }
    }
    Err(failed)
}

async fn ask_server(server: SocketAddr, query: &[u8]) -> io::Result<Answer> {
    // A port of its own for each question: who wants to answer in the server's place has to guess it.
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        match message::parse(query, &buffer[..len]) {
            Err(Fault::NotOurs) => {}
            Err(Fault::Truncated) => return ask_by_stream(server, query).await,
            parsed => return parsed.map_err(told),
        }
    }
}

/// Messages have their length before them.
async fn ask_by_stream(server: SocketAddr, query: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let mut message = (query.len() as u16).to_be_bytes().to_vec();
    message.extend(query);
    stream.write_all(&message).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    message::parse(query, &answer).map_err(told)
}

fn told(fault: Fault) -> io::Error {
    io::Error::other(match fault {
        Fault::NotOurs => "answers another question".to_owned(),
        Fault::Malformed => "a malformed answer".to_owned(),
        Fault::Truncated => "a truncated answer".to_owned(),
        Fault::Refused(code) => format!("the server answers with error {code}"),
    })
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(data: &[u8]) {
    message::fuzz(data);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::message::tests::{answer, soa};
    use super::*;

    const A: u16 = 1;
    const SOA: u16 = 6;

    /// The name that is asked for, and the type.
    fn asked(query: &[u8]) -> (String, u16) {
        let (name, rest) = query[12..].split_at(query.len() - 12 - 5);
        (String::from_utf8_lossy(&name[1..]).replace(|c: char| c.is_control(), "."), u16::from(rest[2]))
    }

    /// A server that answers datagrams by `reply`, and the file that names it; streams come to the listener.
    async fn serve(name: &str, reply: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> (Resolver, TcpListener) {
        let (listener, address, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            if let Ok(socket) = UdpSocket::bind(address).await {
                break (listener, address, socket);
            }
        };
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                // Somebody else's answer before ours.
                socket.send_to(b"nonsense", from).await.unwrap();
                socket.send_to(&reply(&buffer[..len]), from).await.unwrap();
            }
        });
        let path = std::env::temp_dir().join(format!("pgweir-resolv-{name}-{}", std::process::id()));
        std::fs::write(&path, format!("nameserver {address}\nsearch example\noptions timeout:1 attempts:1\n")).unwrap();
        (Resolver::new(Some(&path)), listener)
    }

    #[tokio::test]
    async fn names_are_completed_and_looked_up() {
        let (resolver, _) = serve("names", |query| match asked(query) {
            (name, A) if name == "db.example" => answer(query, 0, &[(A, &[10, 0, 0, 1])], 0),
            (name, SOA) if name == "example" => answer(query, 0, &[(SOA, &soa(7))], 0),
            (name, _) if name.starts_with("ill") => answer(query, 2, &[], 0),
            _ => answer(query, 3, &[], 0),
        })
        .await;
        assert_eq!(resolver.addresses("db").await.unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(resolver.addresses("other").await.unwrap().is_empty());
        assert!(resolver.addresses("ill").await.unwrap_err().to_string().contains("error 2"));
        assert!(resolver.addresses("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(resolver.serial("example").await.unwrap(), 7);
        assert!(resolver.serial("org").await.is_err());
        let nowhere = Resolver::new(Some(Path::new("/nonexistent/resolv.conf")));
        assert!(nowhere.addresses("db").await.unwrap_err().to_string().contains("/nonexistent/resolv.conf"));
        std::fs::remove_file(&resolver.conf).unwrap();
    }

    #[tokio::test]
    async fn a_long_answer_comes_by_a_stream() {
        let (resolver, listener) = serve("stream", |query| {
            let mut truncated = answer(query, 0, &[], 0);
            truncated[2] |= 2;
            truncated
        })
        .await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let record: (u16, &[u8]) = (A, &[10, 0, 0, 1]);
                let many = if asked(&query).1 == A { vec![record; 100] } else { Vec::new() };
                let reply = answer(&query, 0, &many, 0);
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        assert_eq!(resolver.addresses("db.example").await.unwrap().len(), 100);
        std::fs::remove_file(&resolver.conf).unwrap();
    }
}
