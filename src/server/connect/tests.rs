use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgweir_config::{HostAddr, LoadBalanceHosts, Settings};
use pgweir_proto::backend::TransactionStatus;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::sqlstate::SqlState;
use pgweir_proto::{auth, console, frame, frontend};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::*;
use crate::pool::Quota;
use crate::server::login::fake::{Fake, REPORTED, key, negotiation, refusal};
use crate::server::query::QueryError;

struct Setup {
    connector: Connector,
    registry: Arc<Registry>,
    quota: Arc<Quota>,
}

impl Setup {
    fn new() -> Setup {
        let registry = Arc::new(Registry::default());
        let tracked = Arc::new(Tracked::new([]));
        let connector = Connector::new(Arc::clone(&registry), tracked, &Settings::default());
        Setup { connector, registry, quota: Arc::default() }
    }

    async fn connect(&self, target: &Target) -> Result<Connected, ConnectError> {
        let permits = [(); 2].map(|()| self.quota.try_take(0).unwrap());
        self.connector.connect(target, permits).await
    }
}

fn target(hosts: &[&str], port: u16) -> Target {
    Target {
        database: "pool".into(),
        dbname: "db".to_owned(),
        user: "bob".into(),
        secret: ServerSecret::None,
        hosts: hosts.iter().map(|host| HostAddr::parse(host)).collect(),
        port,
        load_balance: LoadBalanceHosts::RoundRobin,
        startup: Vec::new(),
        connect_query: None,
        tcp: TcpOptions::for_servers(&Settings::default()),
        tls: TlsSetup::none(),
        replication: None,
        epoch: Epoch::begin(&Arc::default()),
        timeout: Duration::from_secs(20),
        protocol: ProtocolVersion::V3_0,
    }
}

#[test]
fn one_that_became_obsolete_before_it_was_listed_is_shown_so() {
    let (setup, pool) = (Setup::new(), Arc::default());
    for is_over in [false, true] {
        let target = Target { epoch: Epoch::begin(&pool), ..target(&[], 1) };
        pool.fetch_add(u32::from(is_over), Ordering::SeqCst);
        let attempt = Attempt::new(&setup.connector, &target);
        assert_eq!(attempt.listed.dial.is_close_needed(), is_over);
    }
}

async fn listen(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accept(listener: &TcpListener) -> Fake<TcpStream> {
    Fake(listener.accept().await.unwrap().0)
}

fn directory() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("pgweir-connect-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn a_connection_is_registered_detached_and_counted() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // Not every machine has IPv6.
        let Ok(listener) = TcpListener::bind(address).await else {
            assert_ne!(address, "127.0.0.1:0");
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        let setup = Setup::new();
        let host = listener.local_addr().unwrap().ip().to_string();
        let target = target(&[&host], port);
        let serve = async {
            let mut server = accept(&listener).await;
            assert_eq!(server.trust().await.database(), "db");
            server
        };
        let (connected, _server) = tokio::join!(setup.connect(&target), serve);
        let Connected { server, welcome } = connected.unwrap();
        assert_eq!(welcome.parameters, REPORTED.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(server.parameters.get(2).unwrap().as_ref(), "Europe/Berlin");
        assert!(matches!(server.socket, Socket::Detached(_)) && server.outstanding.is_idle());
        let info = setup.registry.server(server.info.id).unwrap();
        assert_eq!((&*info.user, &*info.database, &info.cancel_key), ("bob", "pool", &key(b"abcd")));
        assert_eq!(info.address, Address::Tcp(listener.local_addr().unwrap()));
        assert_eq!(setup.quota.used(), 2);
        drop(server);
        assert!(setup.registry.server(info.id).is_none());
        assert_eq!(setup.quota.used(), 0);
    }
}

#[tokio::test]
async fn unix_sockets_by_directory_and_abstract() {
    let directory = directory();
    let name = format!("@pgweir-test-{}", std::process::id());
    for host in [directory.to_str().unwrap(), &name] {
        let path = format!("{host}/.s.PGSQL.777");
        let bound = path.strip_prefix('@').map_or_else(|| path.clone(), |name| format!("\0{name}"));
        let listener = UnixListener::bind(bound).unwrap();
        let setup = Setup::new();
        let target = target(&[host], 777);
        let serve = async {
            let mut server = Fake(listener.accept().await.unwrap().0);
            server.trust().await;
            server
        };
        let (connected, _server) = tokio::join!(setup.connect(&target), serve);
        let info = Arc::clone(&connected.unwrap().server.info);
        assert_eq!(info.address, Address::Unix(path.into()));
        assert_eq!(info.ends, Ends::Unix { port: 777, peer_pid: Some(std::process::id()) });
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_plainly() {
    let setup = Setup::new();
    let (listener, port) = listen("127.0.0.1:0").await;
    drop(listener);
    let refused = setup.connect(&target(&["127.0.0.1"], port)).await.unwrap_err();
    assert_eq!(refused.to_client(), ("connect failed".to_owned(), None));
    assert!(refused.to_string().starts_with(&format!("connect failed: 127.0.0.1:{port}: Connection refused")));
    assert!(refused.what_to_do().contains("listen_addresses"));
    let missing = setup.connect(&target(&["/nonexistent"], 5432)).await.unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/.s.PGSQL.5432"), "{missing}");
    assert!(missing.what_to_do().contains("unix_socket_directories"));
    let long = format!("/{}", "x".repeat(200));
    let long = setup.connect(&target(&[&long], 5432)).await.unwrap_err();
    assert!(long.what_to_do().contains("host"), "{long}");
    let unknown = setup.connect(&target(&["no such host.invalid"], 5432)).await.unwrap_err();
    assert_eq!(unknown.to_client(), ("server DNS lookup failed".to_owned(), None));
    let none = setup.connect(&target(&[], 5432)).await.unwrap_err();
    assert!(matches!(none, ConnectError::NoHost));
    assert_eq!((setup.quota.used(), setup.registry.servers().len()), (0, 0));
}

#[tokio::test]
async fn a_refused_login_passes_on_the_servers_words() {
    let (listener, port) = listen("127.0.0.1:0").await;
    let setup = Setup::new();
    // The second host is not tried: it is the login that is wrong.
    let target = target(&["127.0.0.1", "127.0.0.2"], port);
    let serve = async {
        let mut server = accept(&listener).await;
        server.startup().await;
        server.send(|out| refusal(out, b"28P01", "password authentication failed for user \"bob\"")).await;
        server.end().await;
    };
    let error = tokio::join!(setup.connect(&target), serve).0.unwrap_err();
    let message = "password authentication failed for user \"bob\"".to_owned();
    assert_eq!(error.to_client(), (message, Some(SqlState::INVALID_PASSWORD)));
    assert!(error.to_string().starts_with("server login failed: FATAL password authentication failed"));
    assert!(error.what_to_do().contains("auth_file"));
}

#[tokio::test]
async fn a_method_we_do_not_have_is_told_apart() {
    let (listener, port) = listen("127.0.0.1:0").await;
    let setup = Setup::new();
    let target = target(&["127.0.0.1"], port);
    let serve = async {
        let mut server = accept(&listener).await;
        server.startup().await;
        server.send(auth::authentication_cleartext_password).await;
        server.end().await;
    };
    let error = tokio::join!(setup.connect(&target), serve).0.unwrap_err();
    assert_eq!(error.to_client(), ("server login failed: wrong password type".to_owned(), None));
    assert!(error.to_string().contains("none is known"));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let (listener, port) = listen("127.0.0.1:0").await;
    let setup = Setup::new();
    let target = Target { timeout: Duration::from_millis(300), ..target(&["127.0.0.1"], port) };
    let serve = async {
        let mut server = accept(&listener).await;
        server.startup().await;
        server.end().await;
    };
    let error = tokio::join!(setup.connect(&target), serve).0.unwrap_err();
    assert_eq!(error.to_client(), ("connect timeout".to_owned(), None));
    assert_eq!(error.to_string(), format!("connect timeout: logging in at 127.0.0.1:{port}"));
    assert_eq!(setup.quota.used(), 0);
}

#[tokio::test]
async fn hosts_take_turns_and_stand_in_for_each_other() {
    let (first, port) = listen("127.0.0.1:0").await;
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let setup = Setup::new();
    let mut target = target(&["127.0.0.1", "127.0.0.2"], port);
    let peer = async |target: &Target| match setup.connect(target).await.unwrap().server.info.address {
        Address::Tcp(peer) => peer.ip().to_string(),
        Address::Unix(_) => unreachable!(),
    };
    let serve = |listener: TcpListener| {
        tokio::spawn(async move {
            loop {
                accept(&listener).await.trust().await;
            }
        })
    };
    let (one, _two) = (serve(first), serve(second));
    assert_eq!(
        [peer(&target).await, peer(&target).await, peer(&target).await],
        ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    );
    target.load_balance = LoadBalanceHosts::Disable;
    // The turn stands at the second host, and stays there.
    assert_eq!([peer(&target).await, peer(&target).await], ["127.0.0.2", "127.0.0.2"]);
    one.abort();
    assert!(one.await.is_err());
    target.load_balance = LoadBalanceHosts::RoundRobin;
    assert_eq!([peer(&target).await, peer(&target).await], ["127.0.0.2", "127.0.0.2"]);
}

#[tokio::test]
async fn a_host_that_is_starting_is_passed_over() {
    let (first, port) = listen("127.0.0.1:0").await;
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let setup = Setup::new();
    let target = target(&["127.0.0.1", "127.0.0.2"], port);
    let starting = async {
        let mut server = accept(&first).await;
        server.startup().await;
        server.send(|out| refusal(out, b"57P03", "the database system is starting up")).await;
    };
    let serving = async {
        let mut server = accept(&second).await;
        server.trust().await;
        server
    };
    let (connected, (), _server) = tokio::join!(setup.connect(&target), starting, serving);
    assert_eq!(connected.unwrap().server.info.address, Address::Tcp(second.local_addr().unwrap()));
}

/// What a server says that is asked for protocol 3.2.
type Answer = fn(&mut Vec<u8>);

/// Serves logins until none comes any more: those in 3.0 are let in, others get `answer`, and
/// then the end unless `hangs`. Notes what was asked for.
async fn serve_old(listener: &TcpListener, asked: &Mutex<Vec<ProtocolVersion>>, answer: Answer, hangs: bool) {
    let mut held = Vec::new();
    loop {
        let mut server = accept(listener).await;
        let protocol = server.startup().await.protocol;
        asked.lock().unwrap().push(protocol);
        match protocol {
            ProtocolVersion::V3_0 => server.welcome().await,
            ProtocolVersion::V3_2 => server.send(answer).await,
        }
        if hangs || protocol == ProtocolVersion::V3_0 {
            held.push(server);
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_bear_a_newer_protocol_is_asked_for_the_oldest_and_remembered() {
    let answers: [Answer; 9] = [
        |_| (),
        |out| refusal(out, b"0A000", "unsupported frontend protocol 3.2: server supports 3.0 to 3.0"),
        |out| refusal(out, b"08P01", "bad packet header"),
        |out| out.extend(b"EFATAL:  unsupported frontend protocol\n\0"),
        |out| frame::message(out, b'E', b"SFATAL\0Mno\0\0"),
        |out| negotiation(out, 0x0003_0001),
        |out| frame::message(out, b'v', b"\0\x03"),
        |out| out.extend(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        |out| {
            auth::authentication_ok(out);
            frame::message(out, b'K', &[1; 261]);
        },
    ];
    use ProtocolVersion::{V3_0, V3_2};
    for (number, answer) in answers.into_iter().enumerate() {
        // The first says nothing at all, and once it does not even close.
        for hangs in [false, number == 0] {
            let (listener, port) = listen("127.0.0.1:0").await;
            let (setup, asked) = (Setup::new(), Mutex::default());
            let timeout = Duration::from_secs(if hangs { 2 } else { 20 });
            let target = Target { protocol: V3_2, timeout, ..target(&["127.0.0.1"], port) };
            let twice = async {
                for _ in 0..2 {
                    let connected = setup.connect(&target).await.unwrap_or_else(|e| panic!("answer {number}: {e}"));
                    assert_eq!(connected.server.info.cancel_key, key(b"abcd"));
                }
            };
            tokio::select! {
                () = twice => {}
                () = serve_old(&listener, &asked, answer, hangs) => {}
            }
            assert_eq!(*asked.lock().unwrap(), [V3_2, V3_0, V3_0], "answer {number}");
            assert_eq!(setup.quota.used(), 0);
        }
    }
}

#[tokio::test]
async fn a_login_that_fails_for_another_reason_is_not_tried_in_an_older_protocol() {
    use ProtocolVersion::V3_2;
    let answers: [Answer; 4] = [
        |out| refusal(out, b"28P01", "password authentication failed for user \"bob\""),
        |out| refusal(out, b"3D000", "database \"db\" does not exist"),
        |out| refusal(out, b"53300", "sorry, too many clients already"),
        auth::authentication_cleartext_password,
    ];
    for answer in answers {
        let (listener, port) = listen("127.0.0.1:0").await;
        let (setup, asked) = (Setup::new(), Mutex::default());
        let target = Target { protocol: V3_2, ..target(&["127.0.0.1"], port) };
        tokio::select! {
            done = setup.connect(&target) => assert!(matches!(done, Err(ConnectError::Login(_)))),
            () = serve_old(&listener, &asked, answer, false) => {}
        }
        assert_eq!(*asked.lock().unwrap(), [V3_2]);
    }
}

/// Nothing is learned of a server that lets nobody in: it is asked for what is wanted each time.
#[tokio::test]
async fn a_server_that_fails_in_either_protocol_is_not_remembered() {
    let (listener, port) = listen("127.0.0.1:0").await;
    let setup = Setup::new();
    let target = Target { protocol: ProtocolVersion::V3_2, ..target(&["127.0.0.1"], port) };
    let serve = async {
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(accept(&listener).await.startup().await.protocol);
        }
        asked
    };
    let twice = async { [setup.connect(&target).await.is_err(), setup.connect(&target).await.is_err()] };
    use ProtocolVersion::{V3_0, V3_2};
    assert_eq!(tokio::join!(twice, serve), ([true; 2], vec![V3_2, V3_0, V3_2, V3_0]));
}

#[tokio::test]
async fn a_long_key_is_kept_whole() {
    let (listener, port) = listen("127.0.0.1:0").await;
    let setup = Setup::new();
    let target = Target { protocol: ProtocolVersion::V3_2, ..target(&["127.0.0.1"], port) };
    let serve = async {
        let mut server = accept(&listener).await;
        assert_eq!(server.startup().await.protocol, ProtocolVersion::V3_2);
        server
            .send(|out| {
                auth::authentication_ok(out);
                key(&[7; 256]).backend_key_data(out);
                console::ready_for_query(out, TransactionStatus::Idle);
            })
            .await;
        server
    };
    let (connected, _server) = tokio::join!(setup.connect(&target), serve);
    assert_eq!(connected.unwrap().server.info.cancel_key, key(&[7; 256]));
}

fn complete(out: &mut Vec<u8>, status: TransactionStatus) {
    console::command_complete(out, "SET");
    console::ready_for_query(out, status);
}

#[tokio::test]
async fn connect_query_is_part_of_the_making() {
    type Write = fn(&mut Vec<u8>);
    let refused: Write = |out| {
        ErrorResponse::new(Severity::Error, SqlState::INSUFFICIENT_PRIVILEGE, "permission denied").error(out);
        console::ready_for_query(out, TransactionStatus::Idle);
    };
    let set: Write = |out| {
        console::parameter_status(out, "TimeZone", "UTC");
        complete(out, TransactionStatus::Idle);
    };
    let begin: Write = |out| complete(out, TransactionStatus::InBlock);
    for (answer, works) in [(set, true), (refused, true), (begin, false)] {
        let (listener, port) = listen("127.0.0.1:0").await;
        let setup = Setup::new();
        let target = Target { connect_query: Some("set timezone = utc".to_owned()), ..target(&["127.0.0.1"], port) };
        let serve = async {
            let mut server = accept(&listener).await;
            server.trust().await;
            assert_eq!(server.receive().await, (frontend::QUERY, b"set timezone = utc\0".to_vec()));
            server.send(answer).await;
            if !works {
                server.end().await;
            }
            server
        };
        let (connected, _server) = tokio::join!(setup.connect(&target), serve);
        assert_eq!(setup.registry.servers().len(), usize::from(works));
        match connected {
            Ok(Connected { server, welcome }) => {
                assert!(works && server.outstanding.is_idle());
                if std::ptr::fn_addr_eq(answer, set) {
                    assert_eq!(server.parameters.get(2).unwrap().as_ref(), "UTC");
                    assert_eq!(welcome.parameters[1], ("TimeZone".to_owned(), "UTC".to_owned()));
                }
            }
            Err(ConnectError::Query(QueryError::TransactionOpen)) => assert!(!works),
            Err(error) => panic!("{error}"),
        }
    }
}
