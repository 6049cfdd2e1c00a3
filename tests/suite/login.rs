//! Who is let in, how they prove it, and what they are told.

use crate::support::bouncer::{Setup, assert_error};
use crate::support::postgres::PASSWORD;
use crate::support::*;

const WRONG: &str = "wrong horse";

fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), change)
}

/// The secret of `role` as the server stores it.
fn stored_secret(role: &str) -> String {
    let sql = format!("select rolpassword from pg_authid where rolname = '{role}'");
    Postgres::shared().sql(&sql)[0][0].clone().expect("a secret")
}

#[test]
fn login_notify_message_is_a_notice_at_the_login() {
    let bouncer = start(|setup| setup.set("login_notify_message", "maintenance at noon"));
    for (user, database) in [("app", "app"), ("admin", "pgbouncer")] {
        let client = bouncer.client_of(user, database);
        let notices: Vec<&str> = client.notices.iter().map(|notice| notice.message.as_str()).collect();
        assert_eq!(notices, ["maintenance at noon"], "{database}");
    }
    bouncer.admin().run("SET login_notify_message = ''");
    assert!(bouncer.client().notices.is_empty());
}

fn assert_gets_in(bouncer: &Bouncer, user: &str, password: &str) {
    match bouncer.try_client(user, "app", password) {
        Ok(mut client) => assert_eq!(client.one("select 'in'"), "in"),
        Err(e) => panic!("{user} is turned away: {e}"),
    }
}

/// The authentication request `user` is met with.
fn asked_for(bouncer: &Bouncer, user: &str) -> u32 {
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", "app")]));
    client.expect("R")[0].u32(0)
}

#[test]
fn trust_lets_known_users_in_without_a_password() {
    let bouncer = start(|setup| setup);
    assert_gets_in(&bouncer, "app", "");
    let error = bouncer.refusal("stranger", "app", "");
    assert_error(&error, "\"trust\" authentication failed", "28000");
}

#[test]
fn any_lets_everybody_in_as_the_database_s_user() {
    let bouncer = start(|setup| setup.set("auth_type", "any").app("user=third"));
    let mut client = bouncer.client_of("stranger", "app");
    assert_eq!(client.one("select current_user"), "third");
}

#[test]
fn plain_compares_the_password() {
    let bouncer = start(|setup| setup.set("auth_type", "plain").secret("app", PASSWORD));
    assert_eq!(asked_for(&bouncer, "app"), 3);
    assert_gets_in(&bouncer, "app", PASSWORD);
    for user in ["app", "stranger"] {
        let error = bouncer.refusal(user, "app", WRONG);
        assert_error(&error, "password authentication failed", "28P01");
    }
}

#[test]
fn md5_works_with_plain_and_hashed_secrets() {
    let hashed = stored_secret("hashed");
    assert!(hashed.starts_with("md5"));
    let bouncer = start(|setup| setup.set("auth_type", "md5").secret("app", PASSWORD).secret("hashed", &hashed));
    for user in ["app", "hashed"] {
        assert_eq!(asked_for(&bouncer, user), 5, "{user}");
        assert_gets_in(&bouncer, user, PASSWORD);
        let error = bouncer.refusal(user, "app", WRONG);
        assert_error(&error, "password authentication failed", "28P01");
    }
}

#[test]
fn md5_asks_an_unknown_user_as_if_it_were_known() {
    let bouncer = start(|setup| setup.set("auth_type", "md5").secret("app", PASSWORD));
    assert_eq!(asked_for(&bouncer, "stranger"), 5);
    let error = bouncer.refusal("stranger", "app", WRONG);
    assert_error(&error, "password authentication failed", "28P01");
}

#[test]
fn md5_uses_scram_for_a_user_with_a_scram_secret() {
    let bouncer = start(|setup| setup.set("auth_type", "md5").secret("salted", &stored_secret("salted")));
    assert_eq!(asked_for(&bouncer, "salted"), 10);
    assert_gets_in(&bouncer, "salted", PASSWORD);
}

#[test]
fn scram_works_with_a_plain_secret() {
    let bouncer = start(|setup| setup.set("auth_type", "scram-sha-256").secret("app", PASSWORD));
    assert_eq!(asked_for(&bouncer, "app"), 10);
    assert_gets_in(&bouncer, "app", PASSWORD);
    let error = bouncer.refusal("app", "app", WRONG);
    assert_error(&error, "SASL authentication failed", "28P01");
}

#[test]
fn scram_asks_an_unknown_user_as_if_it_were_known() {
    let bouncer = start(|setup| setup.set("auth_type", "scram-sha-256").secret("app", PASSWORD));
    assert_eq!(asked_for(&bouncer, "stranger"), 10);
    let error = bouncer.refusal("stranger", "app", WRONG);
    assert_error(&error, "SASL authentication failed", "28P01");
}

#[test]
fn scram_refuses_a_user_with_an_md5_secret() {
    let bouncer = start(|setup| setup.set("auth_type", "scram-sha-256").secret("hashed", &stored_secret("hashed")));
    let error = bouncer.refusal("hashed", "app", PASSWORD);
    assert_error(&error, "SASL authentication failed", "28P01");
}

#[test]
fn scram_keys_of_the_login_open_the_server() {
    // The pooler knows the verifier only, not the password, and the server wants SCRAM.
    let bouncer = start(|setup| setup.set("auth_type", "scram-sha-256").secret("salted", &stored_secret("salted")));
    assert_gets_in(&bouncer, "salted", PASSWORD);
    assert_gets_in(&bouncer, "salted", PASSWORD);
    let error = bouncer.refusal("salted", "app", WRONG);
    assert_error(&error, "SASL authentication failed", "28P01");
}

#[test]
fn scram_with_a_foreign_mechanism_or_nonsense_is_refused() {
    let bouncer = start(|setup| {
        let setup = setup.set("auth_type", "scram-sha-256").secret("app", PASSWORD);
        setup.set("client_login_timeout", 2)
    });
    let nonce = "a".repeat(20_000);
    for answer in [
        msg::sasl_initial("SCRAM-SHA-1", b"n,,n=,r=abc"),
        msg::sasl_initial("SCRAM-SHA-256", b"nonsense"),
        msg::sasl_initial("SCRAM-SHA-256", b""),
        msg::sasl_initial("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abc"),
        msg::sasl_initial("SCRAM-SHA-256", format!("n,,n=,r={nonce}").as_bytes()),
        msg::message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
        msg::message(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=abc"),
        msg::message(b'p', b""),
    ] {
        let mut client = Wire::tcp(bouncer.port);
        client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
        client.expect("R");
        client.send(&answer);
        // A nonce may be as long as it likes; without a proof it leads nowhere.
        if let Ok(message) = client.read()
            && message.tag == b'R'
        {
            client.send(&msg::sasl_response(b"c=biws,r=other,p=AAAA"));
        }
        assert!(!client.drain().contains('Z'), "got in");
    }
    assert_gets_in(&bouncer, "app", PASSWORD);
}

#[test]
fn query_before_the_password_is_refused() {
    let bouncer = start(|setup| setup.set("auth_type", "plain").secret("app", PASSWORD));
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    client.expect("R");
    client.send(&msg::query("select 1"));
    assert!(!client.drain().contains('Z'), "got in");
}

#[test]
fn server_login_with_the_password_of_the_database_entry() {
    for user in ["clear", "hashed", "salted"] {
        let bouncer = start(|setup| setup.app(&format!("user={user} password='{PASSWORD}'")));
        assert_eq!(bouncer.client().one("select current_user"), user);
    }
}

#[test]
fn server_login_with_the_password_of_the_auth_file() {
    let bouncer = start(|setup| {
        let setup = setup.secret("clear", PASSWORD).secret("salted", PASSWORD);
        setup.secret("hashed", &stored_secret("hashed"))
    });
    for user in ["clear", "hashed", "salted"] {
        assert_eq!(bouncer.client_of(user, "app").one("select current_user"), user);
    }
}

#[test]
fn server_login_with_a_wrong_password_tells_the_client_why() {
    for user in ["clear", "hashed", "salted"] {
        let bouncer = start(|setup| setup.app(&format!("user={user} password='{WRONG}'")));
        let error = bouncer.refusal("app", "app", "");
        assert!(error.message.contains("password authentication failed for user"), "{error}");
    }
}

#[test]
fn unknown_database_is_named() {
    let bouncer = start(|setup| setup);
    assert_error(&bouncer.refusal("app", "nowhere", ""), "no such database: nowhere", "3D000");
}

#[test]
fn database_defaults_to_the_user_s_name() {
    let bouncer = start(|setup| setup);
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app")]));
    client.authenticate("app", "").expect("log in");
    assert_eq!(client.one("select current_database()"), bouncer.server_database);
}

#[test]
fn welcome_parameters_are_the_server_s() {
    let bouncer = start(|setup| setup);
    let through = bouncer.client();
    let mut direct = Wire::tcp(Postgres::shared().port);
    direct.login("app", &bouncer.server_database, "", &[]).expect("log in");
    assert_eq!(through.params, direct.params);
    // Also when nobody had to wait for a server.
    assert_eq!(bouncer.client().params, direct.params);
}

#[test]
fn welcome_parameters_reflect_the_client_s_own() {
    let bouncer = start(|setup| setup);
    for own in [("timezone", "Asia/Tokyo"), ("datestyle", "SQL, DMY"), ("application_name", "x")] {
        let mut client = Wire::tcp(bouncer.port);
        client.login("app", "app", "", &[own]).expect("log in");
        let reported = client.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(own.0));
        assert_eq!(reported.expect("reported").1, own.1);
    }
}

#[test]
fn every_client_has_a_cancel_key_of_its_own() {
    let bouncer = start(|setup| setup);
    let mut keys: Vec<Vec<u8>> = (0..50).map(|_| bouncer.client().key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 50);
    assert!(keys.iter().all(|key| key.len() == 8));
}

#[test]
fn client_login_timeout_ends_a_login_that_stalls() {
    let bouncer = start(|setup| setup.set("client_login_timeout", 1).set("auth_type", "plain").secret("app", PASSWORD));
    let mut silent = Wire::tcp(bouncer.port);
    let mut halfway = Wire::tcp(bouncer.port);
    halfway.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    halfway.expect("R");
    let mut dribbling = Wire::tcp(bouncer.port);
    dribbling.send(&[0, 0, 0, 40]);
    for client in [&mut halfway, &mut dribbling, &mut silent] {
        assert_error(&client.expect_fatal(), "client_login_timeout", "08P01");
    }
    assert_gets_in(&bouncer, "app", PASSWORD);
}

#[test]
fn client_login_timeout_is_not_for_those_who_are_in() {
    let bouncer = start(|setup| setup.set("client_login_timeout", 1));
    let mut client = bouncer.client();
    client.expect_silence(millis(2500));
    client.run("select 1");
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer tells files apart by the second in which they were written.
    #[test]
    fn auth_file_is_read_again_on_sighup() {
        let mut bouncer = start(|setup| setup.set("auth_type", "plain").secret("app", "old one"));
        assert_gets_in(&bouncer, "app", "old one");
        bouncer.rewrite(|setup| setup.secret("app", "new one"));
        bouncer.signal("HUP");
        wait_until("the new password", PATIENCE, || bouncer.try_client("app", "app", "new one").is_ok());
        bouncer.refusal("app", "app", "old one");
    }
}
