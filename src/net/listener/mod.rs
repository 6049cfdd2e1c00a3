//! The sockets that clients connect to.

mod failure;
mod inherited;
mod tcp;
mod unix;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::{fmt, io};

use pgweir_config::Settings;

pub(crate) use inherited::Inherited;
pub(crate) use tcp::set_defer_accept;
pub(crate) use unix::{UnixName, UnixSocket};

use crate::log::log_at;

#[derive(Debug)]
pub(crate) enum ListenError {
    /// An entry of `listen_addr` is neither an address nor a name that resolves.
    Resolve { address: String, port: u16, error: io::Error },
    /// None of `listen_addr` could be listened on; the log says why for each.
    NoAddress(String),
    /// A socket of the process before, which the settings do not name, overlaps with this address.
    InTheWay(SocketAddr),
    /// Neither `listen_addr` nor `unix_socket_dir` is set.
    Nowhere,
    /// Another process answers on our Unix socket.
    UnixInUse(String),
    /// A PostgreSQL server's lock file lies beside our Unix socket.
    UnixLocked(u16),
    /// Something other than a socket has the name of our Unix socket.
    NotASocket(PathBuf),
    /// The system refused, for the reason in the log.
    Unix,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::Resolve { address, port, error } => {
                write!(f, "getaddrinfo('{address}', '{port}') = {error}")
            }
            ListenError::NoAddress(list) => {
                write!(f, "failed to listen on any address in listen_addr list: {list}")
            }
            ListenError::InTheWay(address) => write!(
                f,
                "cannot listen on {address} while the running process listens on a part of it: keep its listen_addr, or restart without -R"
            ),
            ListenError::Nowhere => f.write_str("nowhere to listen on"),
            ListenError::UnixInUse(name) => {
                write!(f, "unix socket is in use, cannot continue: another process listens on {name}")
            }
            ListenError::UnixLocked(port) => write!(f, "unix port {port} is in use"),
            ListenError::NotASocket(path) => {
                write!(f, "'{}' is in the way of the unix socket and is not a socket itself", path.display())
            }
            ListenError::Unix => f.write_str("failed to create unix socket"),
        }
    }
}

impl std::error::Error for ListenError {}

/// All sockets to accept clients from. None blocks.
pub(crate) struct Listeners {
    pub(crate) tcp: Vec<TcpListener>,
    /// Those at `proxy_protocol_port`.
    pub(crate) proxied: Vec<TcpListener>,
    /// One as `unix_socket_dir` says, or as many as a service manager has passed.
    pub(crate) unix: Vec<UnixSocket>,
    /// They are the service manager's.
    pub(crate) are_activated: bool,
}

impl Listeners {
    /// Binds what the settings say. As in PgBouncer, one address out of several may fail, the Unix socket may not.
    pub(crate) fn bind(settings: &Settings) -> Result<Listeners, ListenError> {
        Listeners::bind_others(settings, Vec::new())
    }

    /// The same where the sockets of the process before are there already. Those that the settings do not name are closed.
    pub(crate) fn bind_others(settings: &Settings, mut inherited: Vec<Inherited>) -> Result<Listeners, ListenError> {
        let unix = UnixName::of(settings);
        let unix_here = unix.as_ref().and_then(|name| inherited::take_unix(&mut inherited, name));
        if let (Some(name), None) = (&unix, &unix_here) {
            name.check_free()?;
        }
        let tcp = bind_all(settings, settings.listen_port, false, &mut inherited)?;
        let proxied = match u16::try_from(settings.proxy_protocol_port) {
            Ok(port @ 1..) => bind_all(settings, port, true, &mut inherited)?,
            _ => Vec::new(),
        };
        let unix = match (unix_here, unix) {
            (Some(here), _) => Some(here),
            (None, name) => name.map(|name| name.bind(settings)).transpose()?,
        };
        if tcp.is_empty() && unix.is_none() {
            return Err(ListenError::Nowhere);
        }
        Ok(Listeners { tcp, proxied, unix: unix.into_iter().collect(), are_activated: false })
    }

    /// All TCP listeners, each with whether its connections begin with a PROXY header.
    pub(crate) fn of_tcp(&self) -> impl Iterator<Item = (&TcpListener, bool)> {
        let direct = self.tcp.iter().map(|listener| (listener, false));
        direct.chain(self.proxied.iter().map(|listener| (listener, true)))
    }

    /// The sockets that a service manager has passed, and no others, as in PgBouncer.
    pub(crate) fn activated(settings: &Settings, passed: Vec<Inherited>) -> Listeners {
        let ignored = |name: &str| log_at!(Warning, "sockets passed from service manager, {name} ignored");
        if !settings.listen_addr.is_empty() {
            ignored("listen_addr");
        }
        if settings.unix_socket_dir != Settings::default().unix_socket_dir && UnixName::of(settings).is_some() {
            ignored("unix_socket_dir");
        }
        if settings.proxy_protocol_port != 0 {
            ignored("proxy_protocol_port");
        }
        let mut listeners = Listeners { tcp: Vec::new(), proxied: Vec::new(), unix: Vec::new(), are_activated: true };
        for socket in passed {
            log_at!(Log, "socket passed from service manager: {socket}");
            match socket {
                Inherited::Tcp { listener, .. } => {
                    set_defer_accept(&listener, settings.tcp_defer_accept);
                    listeners.tcp.push(listener);
                }
                Inherited::Unix(listener) => listeners.unix.push(UnixSocket::of_another(listener, None)),
            }
        }
        listeners
    }
}

/// Listens at `port` on all addresses, by sockets that are there already where there are such.
fn bind_all(
    settings: &Settings,
    port: u16,
    is_proxied: bool,
    inherited: &mut Vec<Inherited>,
) -> Result<Vec<TcpListener>, ListenError> {
    let kind = if is_proxied { " (PROXY protocol)" } else { "" };
    let mut listeners = Vec::new();
    for address in tcp::addresses(settings, port)? {
        if let Some(listener) = inherited::take_tcp(inherited, address, is_proxied) {
            set_defer_accept(&listener, settings.tcp_defer_accept);
            log_at!(Log, "listening on {address}{kind}, as the process before");
            listeners.push(listener);
            continue;
        }
        match tcp::bind(address, settings) {
            Ok(listener) => {
                log_at!(Log, "listening on {address}{kind}");
                listeners.push(listener);
            }
            Err(failure) if failure.is_in_use() && inherited::is_in_the_way(inherited, address) => {
                return Err(ListenError::InTheWay(address));
            }
            Err(failure) => log_at!(Warning, "cannot listen on {address}{kind}: {failure}"),
        }
    }
    if listeners.is_empty() && !settings.listen_addr.is_empty() {
        return Err(ListenError::NoAddress(settings.listen_addr.text().to_owned()));
    }
    Ok(listeners)
}

fn backlog(settings: &Settings) -> i32 {
    settings.listen_backlog.try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpStream};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    use super::*;

    /// A directory of its own for each test, gone with it.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("pgweir-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }

        fn settings(&self, listen_addr: &str, port: u16) -> Settings {
            Settings {
                listen_addr: pgweir_config::List::parse(listen_addr),
                listen_port: port,
                unix_socket_dir: Some(self.0.to_str().unwrap().to_owned()),
                ..Settings::default()
            }
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().port()
    }

    fn socket_path(dir: &Dir, port: u16) -> PathBuf {
        dir.0.join(format!(".s.PGSQL.{port}"))
    }

    fn error(settings: &Settings) -> String {
        match Listeners::bind(settings) {
            Ok(_) => panic!("could be listened on"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn listens_on_every_address_and_on_the_unix_socket() {
        let (dir, port) = (Dir::new("all"), free_port());
        let mut settings = dir.settings("127.0.0.1, localhost,127.0.0.2", port);
        settings.unix_socket_mode = 0o640;
        let listeners = Listeners::bind(&settings).unwrap();
        for host in ["127.0.0.1", "127.0.0.2"] {
            assert!(TcpStream::connect((host, port)).is_ok(), "{host}");
        }
        let v4 = listeners.tcp.iter().filter(|l| l.local_addr().unwrap().is_ipv4()).count();
        assert_eq!(v4, 2, "localhost is 127.0.0.1 again");
        let path = socket_path(&dir, port);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(UnixStream::connect(&path).is_ok());
        drop(listeners);
        assert!(!path.exists());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn sockets_do_not_block() {
        let (dir, port) = (Dir::new("nonblocking"), free_port());
        let listeners = Listeners::bind(&dir.settings("127.0.0.1", port)).unwrap();
        let tcp = listeners.tcp[0].accept().unwrap_err();
        let unix = listeners.unix[0].listener.accept().unwrap_err();
        assert_eq!([tcp.kind(), unix.kind()], [io::ErrorKind::WouldBlock; 2]);
    }

    #[test]
    fn a_star_is_ipv4_and_ipv6_each_on_its_own() {
        let (dir, port) = (Dir::new("star"), free_port());
        let listeners = Listeners::bind(&dir.settings("*", port)).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        if TcpListener::bind("[::1]:0").is_ok() {
            assert_eq!(listeners.tcp.len(), 2);
            assert!(TcpStream::connect(("::1", port)).is_ok());
        }
    }

    #[test]
    fn one_address_may_fail_but_not_all() {
        let (dir, port) = (Dir::new("taken"), free_port());
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let listeners = Listeners::bind(&dir.settings("127.0.0.1,127.0.0.2", port)).unwrap();
        let bound = listeners.tcp[0].local_addr().unwrap();
        assert_eq!((listeners.tcp.len(), bound.to_string()), (1, format!("127.0.0.2:{port}")));
        drop(listeners);
        let message = error(&dir.settings("127.0.0.1", port));
        assert_eq!(message, "failed to listen on any address in listen_addr list: 127.0.0.1");
        drop(taken);
        let message = error(&dir.settings("no-such-host.invalid", port));
        assert!(message.starts_with("getaddrinfo('no-such-host.invalid', '"), "{message}");
        let nowhere = Settings { unix_socket_dir: None, ..dir.settings("", port) };
        assert_eq!(error(&nowhere), "nowhere to listen on");
    }

    #[test]
    fn so_reuseport_lets_two_share_a_port() {
        let (dir, port) = (Dir::new("reuseport"), free_port());
        let settings = Settings { so_reuseport: true, unix_socket_dir: None, ..dir.settings("127.0.0.1", port) };
        let first = Listeners::bind(&settings).unwrap();
        let second = Listeners::bind(&settings).unwrap();
        assert_eq!((first.tcp.len(), second.tcp.len()), (1, 1));
        let alone = Settings { so_reuseport: false, ..settings };
        assert!(Listeners::bind(&alone).is_err());
    }

    #[test]
    fn a_dead_process_socket_is_replaced_and_a_live_one_is_not() {
        let (dir, port) = (Dir::new("stale"), free_port());
        let settings = dir.settings("", port);
        let path = socket_path(&dir, port);
        // Closing leaves the file behind, as a process that is killed does.
        drop(UnixListener::bind(&path).unwrap());
        let listeners = Listeners::bind(&settings).unwrap();
        assert!(error(&settings).starts_with("unix socket is in use, cannot continue"));
        assert!(UnixStream::connect(&path).is_ok(), "it has been left alone");
        drop(listeners);
        fs::write(&path, "mine").unwrap();
        assert!(error(&settings).ends_with("is not a socket itself"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        fs::write(dir.0.join(format!(".s.PGSQL.{port}.lock")), "1").unwrap();
        assert_eq!(error(&settings), format!("unix port {port} is in use"));
    }

    #[test]
    fn a_full_queue_is_a_live_process() {
        let (dir, port) = (Dir::new("queue"), free_port());
        let settings = Settings { listen_backlog: 0, ..dir.settings("", port) };
        let listeners = Listeners::bind(&settings).unwrap();
        let _waiting = UnixStream::connect(socket_path(&dir, port)).unwrap();
        assert!(error(&settings).starts_with("unix socket is in use"));
        drop(listeners);
    }

    #[test]
    fn only_our_own_socket_file_is_removed() {
        let (dir, port) = (Dir::new("own"), free_port());
        let path = socket_path(&dir, port);
        let listeners = Listeners::bind(&dir.settings("", port)).unwrap();
        fs::rename(&path, dir.0.join("old")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(listeners);
        assert!(path.exists());
    }

    #[test]
    fn abstract_sockets_have_no_file() {
        let (dir, port) = (Dir::new("abstract"), free_port());
        let name = format!("@{}", dir.0.display());
        let settings = Settings { unix_socket_dir: Some(name), ..dir.settings("", port) };
        let listeners = Listeners::bind(&settings).unwrap();
        let name = format!("{}/.s.PGSQL.{port}", dir.0.display());
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        assert!(UnixStream::connect_addr(&address).is_ok());
        assert!(fs::read_dir(&dir.0).unwrap().next().is_none());
        assert!(error(&settings).starts_with("unix socket is in use"));
        drop(listeners);
        assert!(Listeners::bind(&settings).is_ok());
    }

    #[test]
    fn the_group_is_given_by_name_or_number() {
        let (dir, port) = (Dir::new("group"), free_port());
        let own = nix::unistd::getegid();
        let name = nix::unistd::Group::from_gid(own).unwrap().unwrap().name;
        for group in [name, own.to_string()] {
            let settings = Settings { unix_socket_group: Some(group), ..dir.settings("", port) };
            let _listeners = Listeners::bind(&settings).unwrap();
            assert_eq!(fs::metadata(socket_path(&dir, port)).unwrap().gid(), own.as_raw());
        }
        let group = Some("no-such-group".to_owned());
        let settings = Settings { unix_socket_group: group, ..dir.settings("", port) };
        assert_eq!(error(&settings), "failed to create unix socket");
        assert!(!socket_path(&dir, port).exists());
    }

    #[test]
    fn a_path_too_long_is_an_error() {
        let dir = Dir::new("long");
        let long = format!("{}/{}", dir.0.display(), "x".repeat(100));
        let settings = Settings { unix_socket_dir: Some(long.clone()), ..dir.settings("", 6432) };
        assert_eq!(error(&settings), "failed to create unix socket");
        assert!(!Path::new(&long).exists());
    }

    #[test]
    fn a_silent_connection_is_only_accepted_without_defer() {
        let (dir, port) = (Dir::new("defer"), free_port());
        let settings = Settings { tcp_defer_accept: false, unix_socket_dir: None, ..dir.settings("127.0.0.1", port) };
        let listeners = Listeners::bind(&settings).unwrap();
        let listener = &listeners.tcp[0];
        listener.set_nonblocking(false).unwrap();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // Blocks for good, should it not be accepted.
        let (mut accepted, _) = listener.accept().unwrap();
        drop(client);
        assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
        listener.set_nonblocking(true).unwrap();
        set_defer_accept(listener, true);
        let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
