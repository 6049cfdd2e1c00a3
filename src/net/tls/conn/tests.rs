use std::path::PathBuf;
use std::process::Command;

use pgweir_config::{Config, Settings};

use super::*;
use crate::net::tls::TlsSetup;
use crate::net::tls::keys::TlsSecret;

fn setup(changes: &[(&str, &str)]) -> TlsSetup {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("pgweir-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"])
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("crt"))
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut settings = Settings::default();
    for (key, value) in [
        ("client_tls_sslmode", "require"),
        ("client_tls_key_file", path("key").to_str().unwrap()),
        ("client_tls_cert_file", path("crt").to_str().unwrap()),
        ("server_tls_sslmode", "verify-full"),
        ("server_tls_ca_file", path("crt").to_str().unwrap()),
    ] {
        settings.set(key, value).unwrap();
    }
    for (key, value) in changes {
        settings.set(key, value).unwrap();
    }
    let config = Config { settings, ..Config::default() };
    let setup = TlsSetup::new(&config, None, |warning| panic!("{warning}")).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    setup
}

/// A client and its server, shaken hands.
fn pair() -> [Tls; 2] {
    pair_by(&setup(&[]))
}

/// Of this version and with this cipher.
fn pair_of(protocols: &str, cipher: &str) -> [Tls; 2] {
    let setting = if protocols == "tlsv1.3" { "client_tls13_ciphers" } else { "client_tls_ciphers" };
    let [client, server] = pair_by(&setup(&[("client_tls_protocols", protocols), (setting, cipher)]));
    assert!(client.description().contains(cipher), "{}", client.description());
    [client, server]
}

fn pair_by(setup: &TlsSetup) -> [Tls; 2] {
    let mut client = setup.dialer.begin("x").unwrap().unwrap();
    let mut server = setup.acceptor.as_ref().unwrap().begin(&[]).unwrap();
    let mut phases = [Phase::Handshake; 2];
    for _ in 0..4 {
        let input = std::mem::take(server.out());
        phases[0] = client.advance(&input).unwrap();
        let input = std::mem::take(client.out());
        phases[1] = server.advance(&input).unwrap();
    }
    assert_eq!(phases, [Phase::Traffic; 2]);
    let [client, server] = [client, server].map(|tls| tls.settle().unwrap());
    assert!(client.has_alpn() && server.has_alpn());
    assert_eq!(client.description(), server.description());
    assert_eq!((client.out.len(), server.out.len()), (0, 0));
    [client, server]
}

/// All text in `records`, which come in pieces, to a reader with so much room.
fn opened(tls: &mut Tls, records: &[u8], piece: usize, room: usize) -> Vec<u8> {
    let (mut text, mut room) = (Vec::new(), vec![0; room]);
    for piece in records.chunks(piece) {
        let mut input = [tls.kept(), piece].concat();
        let mut n = tls.open(&mut input, &mut room).unwrap();
        while n > 0 {
            text.extend_from_slice(&room[..n]);
            n = tls.take_plain(&mut room);
        }
    }
    text
}

fn sealed(tls: &mut Tls, text: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    tls.seal(text, &mut records).unwrap();
    records
}

#[test]
fn text_passes_whole_whatever_the_pieces() {
    let [mut client, mut server] = pair();
    let text: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
    for (piece, room) in [(1, 7), (5000, 1), (100_000, 64 * 1024), (17, 100)] {
        let records = sealed(&mut server, &text);
        // Four records for what is longer than three.
        assert_eq!(records.len(), text.len() + 4 * 22);
        assert!(opened(&mut client, &records, piece, room) == text, "{piece} {room}");
        assert!(!client.has_unread());
        let records = sealed(&mut client, b"back");
        assert_eq!(opened(&mut server, &records, piece, room), b"back");
    }
}

#[test]
fn new_keys_are_answered_in_front_of_the_next_text() {
    let [mut client, mut server] = pair();
    update_keys(&mut client);
    let records = sealed(&mut client, b"with new keys");
    assert_eq!(opened(&mut server, &records, 3, 100), b"with new keys");
    // Nobody has anything to read of that.
    assert!(!server.has_unread());
    let mut answer = b"before ".to_vec();
    server.seal(b"as well", &mut answer).unwrap();
    assert!(answer.starts_with(b"before ") && answer.len() > 7 + 7 + 22);
    assert_eq!(opened(&mut client, &answer[7..], 100, 100), b"as well");
}

#[test]
fn the_end_comes_behind_the_text() {
    let [mut client, mut server] = pair();
    let mut records = sealed(&mut server, b"bye");
    server.seal_end(&mut records).unwrap();
    assert_eq!(opened(&mut client, &records, 1000, 2), b"bye");
    assert!(client.is_ended() && !client.has_unread());
    assert!(server.seal(b"more", &mut Vec::new()).is_err());
}

#[test]
fn what_was_changed_on_the_way_is_no_text() {
    let [mut client, mut server] = pair();
    let mut records = sealed(&mut server, b"text");
    *records.last_mut().unwrap() ^= 1;
    assert!(client.open(&mut records, &mut [0; 100]).is_err());
    // And after that nothing is.
    assert!(client.open(&mut sealed(&mut server, b"text"), &mut [0; 100]).is_err());
    assert_eq!(format!("{server:?}"), "Tls { is_ended: false, .. }");
}

/// Each version with each cipher that fits our certificate: those with RSA in their names differ in the handshake only.
const KINDS: [(&str, &str); 6] = [
    ("tlsv1.3", "TLS_AES_256_GCM_SHA384"),
    ("tlsv1.3", "TLS_AES_128_GCM_SHA256"),
    ("tlsv1.3", "TLS_CHACHA20_POLY1305_SHA256"),
    ("tlsv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("tlsv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("tlsv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
];

/// As another process has it.
fn carried(tls: &mut Tls) -> Tls {
    let state = tls.hand_out().unwrap();
    assert!(tls.hand_out().is_none());
    let now = Tls::adopt(state).unwrap();
    assert_eq!(now.description(), tls.description());
    now
}

fn update_keys(client: &mut Tls) {
    let Side::Client(connection) = &mut client.side else { panic!("a client") };
    let Ok(ConnectionState::WriteTraffic(traffic)) = connection.process_tls_records(&mut []).state else {
        panic!("the handshake is over")
    };
    traffic.refresh_traffic_keys().unwrap();
}

#[test]
fn a_connection_goes_on_in_another_process() {
    let text: Vec<u8> = (0..40_000u32).map(|i| i as u8).collect();
    for (protocols, cipher) in KINDS {
        let [mut client, mut server] = pair_of(protocols, cipher);
        for _ in 0..3 {
            assert!(opened(&mut server, &sealed(&mut client, &text), 9_999, 5_000) == text, "{cipher}");
            assert!(opened(&mut client, &sealed(&mut server, &text), 9_999, 5_000) == text, "{cipher}");
            // Half a record goes along.
            let record = sealed(&mut client, b"in halves");
            assert_eq!(opened(&mut server, &record[..11], 100, 100), b"");
            server = carried(&mut server);
            assert_eq!(opened(&mut server, &record[11..], 100, 100), b"in halves");
            if protocols == "tlsv1.3" {
                update_keys(&mut client);
                assert_eq!(opened(&mut server, &sealed(&mut client, b"new keys"), 100, 100), b"new keys");
                // The answer goes along.
                server = carried(&mut server);
            }
        }
        assert!(opened(&mut client, &sealed(&mut server, &text), 9_999, 5_000) == text, "{cipher}");
        let state = server.hand_out().unwrap();
        let [mut says, mut hears] = [state.clone(), state].map(|state| Tls::adopt(state).unwrap());
        let mut end = sealed(&mut says, b"bye");
        says.seal_end(&mut end).unwrap();
        assert_eq!(opened(&mut client, &end, 100, 100), b"bye");
        assert!(client.is_ended());
        let mut end = Vec::new();
        client.seal_end(&mut end).unwrap();
        assert_eq!(opened(&mut hears, &end, 100, 100), b"");
        assert!(hears.is_ended() && !hears.is_portable());
    }
}

#[test]
fn the_keys_are_used_in_one_process_only() {
    let [mut client, mut server] = pair();
    let mut other = carried(&mut server);
    assert!(server.seal(b"x", &mut Vec::new()).is_err());
    assert_eq!(opened(&mut client, &sealed(&mut other, b"other"), 100, 100), b"other");

    let [mut client, mut server] = pair();
    drop(server.hand_out());
    server.take_back();
    assert_eq!(opened(&mut client, &sealed(&mut server, b"same"), 100, 100), b"same");
    assert!(server.hand_out().is_some());
}

#[test]
fn used_up_keys_end_a_connection_of_tls12_as_if_all_was_said() {
    let [mut client, mut server] = pair_of("tlsv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256");
    let mut state = server.hand_out().unwrap();
    // More than this many short records may be sent.
    state.keys.sent_blocks = 1 << 25;
    let mut server = Tls::adopt(state).unwrap();
    assert_eq!(opened(&mut client, &sealed(&mut server, b"short"), 100, 100), b"short");
    let mut state = server.hand_out().unwrap();
    state.keys.sent_blocks = (1 << 24) * 1026 - 10;
    let (mut server, mut records) = (Tls::adopt(state).unwrap(), Vec::new());
    assert!(matches!(server.seal(b"x", &mut records), Err(TlsError::UsedUp)));
    assert_eq!(opened(&mut client, &records, 100, 100), b"");
    assert!(client.is_ended() && server.end(b"more").is_empty());
}

#[test]
fn the_last_words_of_a_connection_are_said_once() {
    let [mut client, mut server] = pair();
    assert_eq!(opened(&mut client, &server.end(b"bye"), 100, 100), b"bye");
    assert!(client.is_ended() && server.end(b"bye").is_empty());
    // After an error it is an alert, in front of which nothing else is lost.
    let [mut client, mut server] = pair();
    update_keys(&mut client);
    opened(&mut server, &sealed(&mut client, b"x"), 100, 100);
    assert!(server.open(&mut [0x17, 3, 3, 0, 20].repeat(5), &mut [0; 100]).is_err());
    let mut records = server.end(b"bye");
    let error = client.open(&mut records, &mut [0; 100]).unwrap_err().to_string();
    assert!(error.contains("BadRecordMac"), "{error}");
    // Where another process has the keys, nothing is said.
    let [_, mut server] = pair();
    drop(server.hand_out());
    assert!(server.open(&mut [0x17, 3, 3, 0, 20].repeat(5), &mut [0; 100]).is_err() && server.end(b"bye").is_empty());
}

#[test]
fn what_makes_no_sense_is_not_adopted() {
    let [_, mut server] = pair();
    let state = server.hand_out().unwrap();
    for change in [
        |state: &mut TlsState| state.keys.suite = 0x0035,
        |state: &mut TlsState| state.keys.sent.1 = TlsSecret::new(&[&[1; 32]]).unwrap(),
        |state: &mut TlsState| state.keys.received.1 = TlsSecret::new(&[]).unwrap(),
    ] {
        let mut changed = state.clone();
        change(&mut changed);
        assert!(Tls::adopt(changed).is_none());
    }
    // Keys that are used up send nothing more.
    let mut used_up = state.clone();
    used_up.keys.sent.0 = u64::MAX;
    assert!(Tls::adopt(used_up).unwrap().seal(b"x", &mut Vec::new()).is_err());
    assert!(TlsSecret::new(&[&[0; 49]]).is_none());
}
