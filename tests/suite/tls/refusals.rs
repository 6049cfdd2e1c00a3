//! Handshakes that come to nothing, and what is sent where it does not belong.

use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::*;
use crate::support::fake_server::error_response;
use crate::support::tls::config;

fn granted(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set the timeout");
    stream.write_all(&msg::packet(msg::SSL_REQUEST, &[])).expect("send");
    let mut answer = [0];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"S");
    stream
}

fn connection(through: &Through) -> ClientConnection {
    ClientConnection::new(Arc::new(config(through)), ServerName::try_from("localhost").expect("a name")).expect("TLS")
}

/// All that a connection has to say now.
fn flight(tls: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out).expect("write to memory");
    }
    out
}

/// Reads on until the connection has something to say or is done with the handshake.
fn listen(tls: &mut ClientConnection, stream: &mut TcpStream) {
    while tls.is_handshaking() && !tls.wants_write() {
        assert!(tls.read_tls(stream).expect("read") > 0, "closed in the handshake");
        tls.process_new_packets().expect("a handshake");
    }
}

/// What still comes before the end.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // It may be reset, as more was sent than is read.
    if let Err(e) = stream.read_to_end(&mut rest) {
        assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "it is not closed");
    }
    rest
}

#[track_caller]
fn assert_well(bouncer: &Bouncer) {
    assert_eq!(printed(&psql(bouncer, "sslmode=require", "select 'well'")), "well");
    assert!(!bouncer.log().contains("panicked"));
}

#[test]
fn handshakes_may_end_at_any_byte() {
    let bouncer = start("require");
    for is_tls12 in [false, true] {
        let through = Through { is_tls12, ..Through::default() };
        // The first flight.
        let hello = flight(&mut connection(&through));
        for len in 0..hello.len() {
            let mut stream = granted(bouncer.port);
            stream.write_all(&hello[..len]).expect("send");
            stream.shutdown(std::net::Shutdown::Write).expect("say no more");
            // An alert, if anything.
            assert!(matches!(rest(&mut stream).first(), None | Some(0x15)), "{len} bytes of a hello");
        }
        // The last one.
        let mut len = 0;
        loop {
            let (mut tls, mut stream) = (connection(&through), granted(bouncer.port));
            stream.write_all(&flight(&mut tls)).expect("send");
            listen(&mut tls, &mut stream);
            let last = flight(&mut tls);
            if len == last.len() {
                break;
            }
            stream.write_all(&last[..len]).expect("send");
            stream.shutdown(std::net::Shutdown::Write).expect("say no more");
            rest(&mut stream);
            len += 1;
        }
        assert!(len > 50);
    }
    assert!(!bouncer.log().contains("login attempt"));
    assert_well(&bouncer);
}

/// A handshake that is done, with nothing sent since.
fn shaken(port: u16, through: &Through) -> (ClientConnection, TcpStream) {
    let (mut tls, mut stream) = (connection(through), granted(port));
    while tls.is_handshaking() {
        stream.write_all(&flight(&mut tls)).expect("send");
        listen(&mut tls, &mut stream);
    }
    stream.write_all(&flight(&mut tls)).expect("send");
    (tls, stream)
}

#[test]
fn nothing_goes_in_clear_behind_the_handshake() {
    let bouncer = start("require");
    let startup = msg::startup(196_608, &[("user", "app"), ("database", "app")]);
    for is_tls12 in [false, true] {
        let through = Through { is_tls12, ..Through::default() };
        let (_tls, mut stream) = shaken(bouncer.port, &through);
        stream.write_all(&startup).expect("send");
        rest(&mut stream);
        // The same in the form of a record.
        let (_tls, mut stream) = shaken(bouncer.port, &through);
        let record = [&[0x17, 3, 3, 0, startup.len() as u8], &startup[..]].concat();
        stream.write_all(&record).expect("send");
        rest(&mut stream);
        // And in the middle of a session.
        let (mut tls, mut stream) = shaken(bouncer.port, &through);
        tls.writer().write_all(&startup).expect("write to memory");
        stream.write_all(&flight(&mut tls)).expect("send");
        bouncer.wait_log("login attempt: db=app user=app");
        stream.write_all(&msg::query("create table injected (i int)")).expect("send");
        rest(&mut stream);
    }
    let mut client = bouncer_client(&bouncer);
    assert_eq!(client.one("select count(*) from pg_class where relname = 'injected'"), "0");
    assert_well(&bouncer);
}

/// What the pooler says in its records before it closes the connection: text, and how TLS ends.
fn last_words(tls: &mut ClientConnection, stream: &mut TcpStream) -> (Vec<u8>, Result<bool, rustls::Error>) {
    let records = rest(stream);
    let (mut records, mut text) = (&records[..], Vec::new());
    while !records.is_empty() {
        tls.read_tls(&mut records).expect("read from memory");
        let state = match tls.process_new_packets() {
            Ok(state) => state,
            Err(e) => return (text, Err(e)),
        };
        let _ = tls.reader().read_to_end(&mut text);
        if state.peer_has_closed() {
            return (text, Ok(true));
        }
    }
    (text, Ok(false))
}

/// Sends `bad` before a login or behind it, and says which alert comes.
fn alert_for(bouncer: &Bouncer, is_tls12: bool, is_in: bool, bad: &[u8]) -> Result<bool, rustls::Error> {
    let (mut tls, mut stream) = shaken(bouncer.port, &Through { is_tls12, ..Through::default() });
    if is_in {
        let startup = msg::startup(196_608, &[("user", "app"), ("database", "app")]);
        tls.writer().write_all(&startup).expect("write to memory");
        stream.write_all(&flight(&mut tls)).expect("send");
        let mut text = Vec::new();
        while !text.ends_with(b"Z\0\0\0\x05I") {
            assert!(tls.read_tls(&mut stream).expect("read") > 0, "closed in the login");
            tls.process_new_packets().expect("records");
            let _ = tls.reader().read_to_end(&mut text);
        }
    }
    stream.write_all(bad).expect("send");
    last_words(&mut tls, &mut stream).1
}

#[test]
fn an_alert_says_what_is_wrong() {
    use rustls::AlertDescription::{BadRecordMac, RecordOverflow, UnexpectedMessage};
    let bouncer = start("require");
    let junk = [&[0x17, 3, 3, 0, 40][..], &[1; 40]].concat();
    for is_in in [false, true] {
        for is_tls12 in [false, true] {
            let told = |bad: &[u8]| alert_for(&bouncer, is_tls12, is_in, bad);
            assert_eq!(told(&junk), Err(rustls::Error::AlertReceived(BadRecordMac)));
            if is_in {
                // What comes with the handshake's last message is still rustls', which calls this something else.
                assert_eq!(told(&[0x17, 3, 3, 0x49, 0]), Err(rustls::Error::AlertReceived(RecordOverflow)));
            }
        }
        // In clear, which it may be before the handshake's end only.
        let told = alert_for(&bouncer, false, is_in, &[0x14, 3, 3, 0, 1, 1]);
        assert_eq!(told, Err(rustls::Error::AlertReceived(UnexpectedMessage)));
    }
    assert_well(&bouncer);
}

/// A client of a pooler that wants TLS.
fn bouncer_client(bouncer: &Bouncer) -> Wire {
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    let mut client = Wire::tcp(tunnel.port);
    client.login("app", "app", "", &[]).expect("log in");
    client
}

#[test]
fn records_are_no_longer_than_allowed() {
    let bouncer = start("require");
    let long = [&[0x16, 3, 3, 0x49, 0], &[1; 0x4900][..]].concat();
    let mut stream = granted(bouncer.port);
    // It may be gone before all is sent.
    let _ = stream.write_all(&long);
    rest(&mut stream);
    for is_tls12 in [false, true] {
        let (_tls, mut stream) = shaken(bouncer.port, &Through { is_tls12, ..Through::default() });
        let _ = stream.write_all(&[&[0x17], &long[1..]].concat());
        rest(&mut stream);
    }
    // A message of a handshake that would never end.
    let mut stream = granted(bouncer.port);
    let endless = [&[0x16, 3, 3, 0x40, 0, 1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4][..]].concat();
    for _ in 0..2000 {
        if stream.write_all(&endless).is_err() {
            break;
        }
    }
    rest(&mut stream);
    assert_well(&bouncer);
    assert!(bouncer.memory_kib("VmRSS") < 200 * 1024);
}

/// What OpenSSL's client says, given `input`.
fn s_client(bouncer: &Bouncer, args: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-starttls", "postgres", "-connect", &format!("127.0.0.1:{}", bouncer.port)])
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("run openssl");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("write to it");
    let out = child.wait_with_output().expect("wait for openssl");
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

#[test]
fn old_versions_are_refused() {
    let bouncer = start("require");
    for version in ["-tls1", "-tls1_1"] {
        let told = s_client(&bouncer, &[version, "-cipher", "ALL@SECLEVEL=0"], "");
        assert!(told.contains("SSL alert number"), "{told}");
    }
    if !*bouncer::IS_PGBOUNCER {
        wait_until("the log says so", PATIENCE, || bouncer.logged("TLS handshake error: unsupported protocol") == 2);
    }
    assert_well(&bouncer);
}

#[test]
fn nobody_renegotiates() {
    let bouncer = start("require");
    let told = s_client(&bouncer, &["-tls1_2"], "R\n");
    assert!(told.contains("RENEGOTIATING") && told.contains("no renegotiation"), "{told}");
    assert_well(&bouncer);
}

/// What the log says of a server that answers a request for TLS like this.
#[track_caller]
fn assert_told(answer: impl Fn(&mut fake_server::Peer) + Send + Sync + 'static, told: &str) {
    let server = FakeServer::start(move |_, mut peer| {
        if peer.read_ssl_request() {
            answer(&mut peer);
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| {
        setup.set("server_tls_sslmode", "require").set("server_connect_timeout", 2)
    });
    let _client = bouncer.newcomer();
    bouncer.wait_log(told);
}

#[test]
fn servers_that_answer_with_something_else() {
    assert_told(|peer| peer.send(b"X"), "bad sslreq answer");
    assert_told(|peer| peer.send(b"SR\0\0\0\x08\0\0\0\0"), "received unencrypted data after SSL response");
    for answer in [&b"\x15\x03\x03\x00\x02\x02\x28"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0; 100]] {
        let answered = |peer: &mut fake_server::Peer| {
            peer.send(b"S");
            peer.read_some();
            peer.send(answer);
            peer.hold();
        };
        assert_told(answered, "TLS handshake error");
    }
    // Neither of these goes on.
    let silent = |peer: &mut fake_server::Peer| {
        peer.send(b"S");
        peer.hold();
    };
    assert_told(silent, "connect timeout");
    let closing = |peer: &mut fake_server::Peer| {
        peer.send(b"S");
        peer.read_some();
        peer.close();
    };
    assert_told(closing, "TLS handshake error");
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn servers_that_answer_with_an_error() {
        let fields = ["SFATAL", "C53300", "Msorry, too many\nclients already"];
        let framed = move |peer: &mut fake_server::Peer| peer.send(&error_response(&fields));
        let unframed = |peer: &mut fake_server::Peer| peer.send(b"Ecould not fork new process for connection\n\0");
        let start = "bad sslreq answer: an error message, unauthenticated:";
        assert_told(framed, &format!("{start} FATAL sorry, too many clients already (SQLSTATE 53300)"));
        assert_told(unframed, &format!("{start} could not fork new process for connection"));
    }
}
