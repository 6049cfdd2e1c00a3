//! SCRAM in both roles: what is refused and in which words, and logins that are bound to their TLS.

use std::num::NonZeroU32;
use std::process::{Command, Output};

use pgweir_proto::scram::Verifier;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::support::bouncer::{Setup, assert_error};
use crate::support::fake_server::Peer;
use crate::support::messages::PgError;
use crate::support::postgres::PASSWORD;
use crate::support::tls::{Middle, Through, Tunnel, certificate, key};
use crate::support::*;

const SALT: &[u8] = b"a salt of 16 B..";

fn verifier() -> Verifier {
    Verifier::from_password(PASSWORD.as_bytes(), SALT, NonZeroU32::new(4096).expect("not 0"))
}

/// `clear` is known by the password, `stored` by a verifier.
fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| {
        let setup = setup.set("auth_type", "scram-sha-256").secret("admin", PASSWORD);
        change(setup.secret("clear", PASSWORD).secret("stored", &verifier().to_stored()).app("user=app"))
    })
}

/// The admin needs a password as well.
fn reload(bouncer: &mut Bouncer, change: impl FnOnce(Setup) -> Setup) {
    bouncer.rewrite(change);
    bouncer.try_client("admin", "pgbouncer", PASSWORD).expect("log in to the console").run("RELOAD");
}

/// The first two messages of a login as `user`, and what came in answer to the second.
fn begun(bouncer: &Bouncer, user: &str, first: &str) -> (Wire, String) {
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", "app")]));
    assert_eq!(client.expect("R")[0].u32(0), 10);
    client.send(&msg::sasl_initial("SCRAM-SHA-256", first.as_bytes()));
    let challenge = client.expect("R").remove(0);
    assert_eq!(challenge.u32(0), 11);
    (client, String::from_utf8_lossy(&challenge.body[4..]).into_owned())
}

/// A login as `user` with what `scram` makes of the challenge.
fn answered(bouncer: &Bouncer, user: &str, change: impl Fn(String) -> String) -> Result<(), PgError> {
    let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
    let (mut client, challenge) = begun(bouncer, user, &String::from_utf8_lossy(scram.message()));
    scram.update(challenge.as_bytes()).expect("a challenge");
    let response = change(String::from_utf8_lossy(scram.message()).into_owned());
    client.send(&msg::sasl_response(response.as_bytes()));
    match client.read().expect("an answer") {
        answer if answer.tag == b'E' => {
            client.expect_closed();
            Err(answer.error())
        }
        answer => {
            scram.finish(&answer.body[4..]).expect("the server's signature");
            client.authenticate(user, PASSWORD)
        }
    }
}

/// Everything that is not the right answer is refused in one and the same way; the log tells why.
#[test]
fn what_is_no_proof_is_refused() {
    let bouncer = start(|setup| setup);
    let recorded = std::cell::RefCell::new(String::new());
    for user in ["clear", "stored"] {
        let noted = |response: String| {
            recorded.replace(response.clone());
            response
        };
        answered(&bouncer, user, noted).expect("the right answer");
        let recorded = recorded.borrow();
        let bad: [(&str, &dyn Fn(String) -> String); 10] = [
            ("nonce mismatch", &|_| recorded.clone()),
            ("nonce mismatch", &|right| right.replacen("r=", "r=x", 1)),
            ("nonce mismatch", &|right| right.replacen(",p=", "x,p=", 1)),
            ("channel binding check failed", &|right| right.replacen("c=biws", "c=eSws", 1)),
            ("channel binding check failed", &|right| right.replacen("c=biws", "c=bixhPWV2ZSw=", 1)),
            ("malformed SCRAM message (proof)", &|right| right[..right.len() - 4].to_owned()),
            ("malformed SCRAM message (proof)", &|right| right.replacen(",p=", ",p=AAAA", 1)),
            ("password authentication failed", &|right| right.replacen(",p=", ",x=y,p=", 1)),
            ("malformed SCRAM message", &|_| "\0\u{1b}[2Jgarbage".to_owned()),
            ("SCRAM message too long", &|right| right + &"x".repeat(5000)),
        ];
        for (why, change) in bad {
            let lines = |bouncer: &Bouncer| bouncer.log().matches(why).count();
            let before = lines(&bouncer);
            let error = answered(&bouncer, user, change).expect_err("refused");
            assert_error(&error, "SASL authentication failed", "28P01");
            if !*bouncer::IS_PGBOUNCER {
                wait_until(why, PATIENCE, || lines(&bouncer) > before);
            }
        }
        answered(&bouncer, user, |right| right).expect("the right answer, again");
    }
}

/// A wrong password, users that are not there, and one whose password is not in force any more.
#[test]
fn one_refusal_for_everybody() {
    let pg = Postgres::shared();
    pg.sql("drop role if exists expired");
    pg.sql(&format!("create role expired login password '{PASSWORD}' valid until '2020-01-01'"));
    let bouncer = start(|setup| {
        let query = "select rolname, case when rolvaliduntil < now() then null else rolpassword end from pg_authid where rolname = $1 and rolcanlogin";
        setup.app(&format!("auth_user=postgres auth_query='{query}'")).secret("postgres", "").secret("app", "")
    });
    let refusal = |user, password| bouncer.refusal(user, "app", password);
    let known = refusal("salted", "wrong horse");
    assert_eq!(known.message, "password authentication failed");
    if *bouncer::IS_PGBOUNCER {
        return;
    }
    assert_eq!(known.code, "28P01");
    for (user, password, why) in [
        ("stored", "wrong horse", "password authentication failed"),
        ("clear", "wrong horse", "password authentication failed"),
        ("stranger", PASSWORD, "no such user"),
        ("expired", PASSWORD, "the user's password is empty"),
        ("app", "", "the user's password is empty"),
        ("hashed", PASSWORD, "user has MD5 secret"),
    ] {
        assert_eq!(refusal(user, password), known, "{user}");
        wait_until(why, PATIENCE, || {
            bouncer.log().lines().any(|line| line.contains(&format!("app/{user}@")) && line.contains(why))
        });
    }
    pg.sql("alter role expired valid until 'infinity'");
    assert!(bouncer.try_client("expired", "app", PASSWORD).is_ok());
}

#[test]
fn challenges_do_not_tell_who_exists() {
    let bouncer = start(|setup| setup);
    let asked = |user: &str| {
        let (_, challenge) = begun(&bouncer, user, "n,,n=,r=abc");
        challenge.split_once(",s=").expect("a salt").1.to_owned()
    };
    for user in ["clear", "stored", "stranger", "admin", "app"] {
        let (salt, iterations) =
            asked(user).split_once(",i=").map(|(s, i)| (s.to_owned(), i.to_owned())).expect("both");
        assert_eq!((salt.len(), iterations.as_str()), (24, "4096"), "{user}");
        assert_eq!(asked(user), format!("{salt},i={iterations}"), "{user}");
    }
    assert_ne!(asked("stranger"), asked("stranger2"));
}

mod beyond_pgbouncer {
    use super::*;

    /// Before a pooler with TLS.
    fn start_with_tls(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        start(|setup| change(with_certificate(setup.set("client_tls_sslmode", "allow"), "site")))
    }

    fn with_certificate(setup: Setup, name: &str) -> Setup {
        setup.set("client_tls_key_file", key(name)).set("client_tls_cert_file", certificate(name))
    }

    /// libpq's own channel binding, which is OpenSSL's.
    fn psql(port: u16, user: &str, conninfo: &str) -> Output {
        Command::new(postgres::program("psql"))
            .args(["-XAtq", "-c", "select 'in'"])
            .arg(format!("host=localhost port={port} user={user} dbname=app connect_timeout=20 {conninfo}"))
            .env("PGPASSWORD", PASSWORD)
            .output()
            .expect("run psql")
    }

    #[track_caller]
    fn gets_in(out: &Output) {
        assert_eq!(String::from_utf8_lossy(&out.stdout), "in\n", "{}", String::from_utf8_lossy(&out.stderr));
    }

    #[track_caller]
    fn is_told(out: &Output, why: &str) {
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && told.contains(why), "{told}");
    }

    const BOUND: &str = "sslmode=require channel_binding=require";

    #[test]
    fn libpq_binds_its_login_to_tls() {
        let bouncer = start_with_tls(|setup| {
            let query = "select usename, passwd from pg_shadow where usename = $1";
            setup.app(&format!("auth_user=postgres auth_query='{query}'")).secret("postgres", "")
        });
        for user in ["clear", "stored", "salted"] {
            gets_in(&psql(bouncer.port, user, BOUND));
            gets_in(&psql(bouncer.port, user, &format!("{BOUND} ssl_max_protocol_version=TLSv1.2")));
            gets_in(&psql(bouncer.port, user, "sslmode=require channel_binding=disable"));
            gets_in(&psql(bouncer.port, user, "sslmode=disable"));
            is_told(&psql(bouncer.port, user, "sslmode=disable channel_binding=require"), "channel binding required");
            is_told(&psql(bouncer.port, user, &format!("{BOUND} password=wrong")), "authentication failed");
        }
        is_told(&psql(bouncer.port, "stranger", BOUND), "authentication failed");
    }

    /// Whose certificate the client does not verify.
    #[test]
    fn whoever_is_between_client_and_us_gets_nowhere() {
        let bouncer = start_with_tls(|setup| setup);
        for (strips, why) in [(false, "channel binding check failed"), (true, "thinks the server does not")] {
            let middle = Middle::start(bouncer.port, "stranger", strips);
            for user in ["clear", "stored"] {
                is_told(&psql(middle.port, user, "sslmode=require"), "SASL authentication failed");
            }
            bouncer.wait_log(why);
            // Only who does without is let through.
            gets_in(&psql(middle.port, "stored", "sslmode=require channel_binding=disable"));
        }
    }

    /// The hash of a certificate that was signed with SHA-256.
    fn hash(name: &str) -> Vec<u8> {
        let der = CertificateDer::from_pem_file(certificate(name)).expect("a certificate");
        digest(&SHA256, &der).as_ref().to_vec()
    }

    #[test]
    fn a_login_is_bound_to_the_certificate_that_was_shown() {
        let mut bouncer = start_with_tls(|setup| setup);
        let tunnel = Tunnel::start(bouncer.port, Through::default());
        let mut client = Wire::tcp(tunnel.port);
        client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "stored"), ("database", "app")]));
        let offered = client.expect("R").remove(0);
        assert_eq!(&offered.body[4..], b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        reload(&mut bouncer, |setup| with_certificate(setup, "elsewhere"));
        gets_in(&psql(bouncer.port, "stored", BOUND));
        let binding = ChannelBinding::tls_server_end_point(hash("site"));
        let mut scram = ScramSha256::new(PASSWORD.as_bytes(), binding);
        client.send(&msg::sasl_initial("SCRAM-SHA-256-PLUS", scram.message()));
        scram.update(&client.expect("R")[0].body[4..]).expect("a challenge");
        client.send(&msg::sasl_response(scram.message()));
        scram.finish(&client.expect("R")[0].body[4..]).expect("the server's signature");
        client.authenticate("stored", PASSWORD).expect("the rest of the login");
    }

    #[test]
    fn a_changed_password_counts_at_once() {
        let mut bouncer = start(|setup| setup);
        for user in ["clear", "stored"] {
            assert!(bouncer.try_client(user, "app", PASSWORD).is_ok());
        }
        reload(&mut bouncer, |setup| setup.secret("clear", "new one").secret("stored", "new one"));
        for user in ["clear", "stored"] {
            assert_error(&bouncer.refusal(user, "app", PASSWORD), "SASL authentication failed", "28P01");
            assert!(bouncer.try_client(user, "app", "new one").is_ok());
        }
    }

    /// Logs in to `port` with TLS, with the password or with the keys of the client's own login.
    fn towards(pg: &Postgres, port: u16, with_keys: bool) -> Bouncer {
        let stored = pg.sql("select rolpassword from pg_authid where rolname = 'salted'");
        let stored = stored[0][0].clone().expect("a secret");
        let entry = format!("host=localhost port={port} dbname=postgres");
        Bouncer::start(pg, |setup| {
            let setup = setup.set("server_tls_sslmode", "require").database("app", entry);
            match with_keys {
                true => setup.set("auth_type", "scram-sha-256").secret("salted", &stored),
                false => setup.secret("salted", PASSWORD),
            }
        })
    }

    /// A server behind somebody else's certificate is not reached, and so the channel was bound;
    /// where the offer is taken away, the server knows that we could have.
    #[test]
    fn logins_to_servers_are_bound_to_tls() {
        let pg = Postgres::with_tls("site");
        for with_keys in [false, true] {
            let bouncer = towards(&pg, pg.port, with_keys);
            let mut client = bouncer.try_client("salted", "app", PASSWORD).expect("log in");
            assert_eq!(client.one("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
            for (strips, why) in
                [(false, "SCRAM channel binding check failed"), (true, "SCRAM channel binding negotiation error")]
            {
                let middle = Middle::start(pg.port, "stranger", strips);
                let bouncer = towards(&pg, middle.port, with_keys);
                let error = bouncer.refusal("salted", "app", PASSWORD);
                assert!(error.message.contains(why), "{error}");
                bouncer.wait_log(why);
            }
        }
        // Both read the certificate anew.
        pg.set_tls("elsewhere");
        let bouncer = towards(&pg, pg.port, false);
        assert!(bouncer.try_client("salted", "app", PASSWORD).is_ok());
    }

    /// A server that asks for SCRAM and answers our first message with `challenge`, made from our
    /// nonce, and our proof with `last`.
    fn before_liar(challenge: fn(&str) -> String, last: &'static [u8]) -> Bouncer {
        let server = FakeServer::start(move |_, mut peer: Peer| {
            if !peer.read_startup() {
                return;
            }
            peer.send(&msg::message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
            let Some((b'p', body)) = peer.read_message() else { return };
            let text = String::from_utf8_lossy(&body);
            let nonce = text.split_once("r=").expect("a nonce").1;
            peer.send(&msg::message(b'R', &[&[0, 0, 0, 11], challenge(nonce).as_bytes()].concat()));
            if peer.read_message().is_some() {
                peer.send(last);
                peer.welcome();
                peer.hold();
            }
        });
        Bouncer::start_before(server.port, |setup| setup.secret("app", PASSWORD))
    }

    /// The server's first message, by the client's nonce; what it sends last; what is logged.
    type Lie = (fn(&str) -> String, &'static [u8], &'static str);

    #[test]
    fn a_server_that_lies_is_not_believed() {
        let wrong = b"R\0\0\0\x36\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let right = |nonce: &str| format!("r={nonce}x,s=c2FsdA==,i=4096");
        let cases: [Lie; 6] = [
            (right, wrong, "invalid SCRAM server signature"),
            // It lets us in without having proven anything.
            (right, b"", "unknown pkt from server: 'R'"),
            (right, b"R\0\0\0\x17\0\0\0\x0ce=invalid-proof", "error received from server in SCRAM exchange"),
            (|nonce| format!("r={nonce}x,s=c2FsdA==,i=4000000000"), wrong, "SCRAM iteration count out of range"),
            (|nonce| format!("r={nonce},s=c2FsdA==,i=4096"), wrong, "nonce mismatch"),
            (|_| "garbage".to_owned(), wrong, "malformed SCRAM message"),
        ];
        for (challenge, last, why) in cases {
            let bouncer = before_liar(challenge, last);
            let error = bouncer.refusal("app", "app", "");
            assert_eq!(error.code, "08006", "{error}");
            bouncer.wait_log(why);
        }
    }
}
