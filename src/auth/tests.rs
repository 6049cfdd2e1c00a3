mod bound;
mod work;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use pgweir_config::Userlist;
use pgweir_proto::auth::{
    AUTH_TOKEN_LEN_MAX, Authentication, SCRAM_SHA_256, password_message, sasl_initial_response, sasl_response,
};
use pgweir_proto::frame;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Handle;

const SALT: [u8; 16] = [7; 16];

fn iterations(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

/// Users named after how their password, `secret`, is stored.
fn config() -> Config {
    let verifier = Verifier::from_password(b"secret", &SALT, iterations(64)).to_stored();
    let md5 = Md5Secret::from_password("md5", b"secret").to_stored();
    let mut config = Config::default();
    config.settings.set("scram_iterations", "64").unwrap();
    let mut users = Userlist::default();
    for (user, stored) in [("empty", ""), ("md5", &md5), ("plain", "secret"), ("scram", &verifier)] {
        users.insert(user, UserSecret::parse(stored));
    }
    config.userlist = Arc::new(users);
    config
}

type Outcome = Result<Granted, AuthError>;

/// Plays `client` against a login, which must come to an end. The client sees the end of the
/// connection when the login is over.
async fn log_in<F: Future>(
    method: AuthType,
    user: &str,
    config: &Config,
    context: &AuthContext,
    client: impl FnOnce(DuplexStream) -> F,
) -> (Outcome, F::Output) {
    log_in_from(&Origin::default(), method, user, config, context, client).await
}

async fn log_in_from<F: Future>(
    origin: &Origin,
    method: AuthType,
    user: &str,
    config: &Config,
    context: &AuthContext,
    client: impl FnOnce(DuplexStream) -> F,
) -> (Outcome, F::Output) {
    let (near, mut far) = duplex(64 * 1024);
    let mut chosen = config.clone();
    chosen.settings.auth_type = method;
    let server = async move {
        let outcome = authenticate(&mut far, &Method::of(&chosen)?, origin, user, config, context).await;
        if let Ok(granted) = &outcome {
            let _ = far.write_all(&granted.unsent).await;
        }
        outcome
    };
    let both = async { tokio::join!(server, client(near)) };
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("the login hangs")
}

/// One message; `None` at the end.
async fn receive(stream: &mut DuplexStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; frame::HEADER_LEN];
    stream.read_exact(&mut head).await.ok()?;
    let header = frame::Header::read(&head).unwrap().unwrap();
    let mut body = vec![0; header.len - frame::HEADER_LEN];
    stream.read_exact(&mut body).await.unwrap();
    Some((header.tag, body))
}

async fn send(stream: &mut DuplexStream, write: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    write(&mut out);
    // The login may be over.
    let _ = stream.write_all(&out).await;
}

/// A client with a password, as drivers are written. Tells what it was asked for; each salt
/// is part of that.
async fn answer(mut stream: DuplexStream, user: &str, password: &str) -> Vec<String> {
    let mut asked = Vec::new();
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unrequested());
    while let Some((tag, body)) = receive(&mut stream).await {
        assert_eq!(tag, b'R');
        match Authentication::parse(&body).unwrap() {
            Authentication::CleartextPassword => {
                asked.push("plain".to_owned());
                send(&mut stream, |out| password_message(out, password)).await;
            }
            Authentication::Md5Password(salt) => {
                asked.extend(["md5".to_owned(), format!("{salt:?}")]);
                let hash = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                send(&mut stream, |out| password_message(out, &hash)).await;
            }
            Authentication::Sasl(mechanisms) => {
                assert_eq!(mechanisms, [SCRAM_SHA_256]);
                asked.push("scram".to_owned());
                let data = scram.message();
                send(&mut stream, |out| sasl_initial_response(out, SCRAM_SHA_256, data)).await;
            }
            Authentication::SaslContinue(data) => {
                let text = std::str::from_utf8(data).unwrap();
                asked.push(text.split_once(",s=").unwrap().1.to_owned());
                scram.update(data).unwrap();
                let data = scram.message();
                send(&mut stream, |out| sasl_response(out, data)).await;
            }
            Authentication::SaslFinal(data) => {
                scram.finish(data).unwrap();
                asked.push("proven".to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    asked
}

/// A login with the right or a wrong password, in a process of its own.
async fn with_password(method: AuthType, user: &str, password: &str) -> (Outcome, Vec<String>) {
    let client = |stream| answer(stream, user, password);
    log_in(method, user, &config(), &AuthContext::new(Handle::current()), client).await
}

fn refusal(outcome: Outcome) -> (ClientError, Option<Reason>) {
    match outcome {
        Err(AuthError::Refused { error, reason }) => (error, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_right_password_is_enough_in_every_form() {
    let cases = [
        (AuthType::Plain, "plain", "plain"),
        (AuthType::Plain, "md5", "plain"),
        (AuthType::Plain, "scram", "plain"),
        (AuthType::Md5, "plain", "md5"),
        (AuthType::Md5, "md5", "md5"),
        (AuthType::Md5, "scram", "scram"),
        (AuthType::ScramSha256, "plain", "scram"),
        (AuthType::ScramSha256, "scram", "scram"),
    ];
    for (method, user, asked_for) in cases {
        let (outcome, asked) = with_password(method, user, "secret").await;
        let granted = outcome.unwrap_or_else(|error| panic!("{method} {user}: {error:?}"));
        assert_eq!(asked[0], asked_for, "{method} {user}");
        assert_eq!(asked.contains(&"proven".to_owned()), asked_for == "scram");
        let password = granted.plain.as_ref().map(Secret::expose);
        assert_eq!(password, (method == AuthType::Plain).then_some("secret"));
        let keys = ScramKeys::from_password(b"secret", &SALT, iterations(64));
        let is_passed_on = asked_for == "scram" && user == "scram";
        assert_eq!(granted.scram_keys, is_passed_on.then_some(keys), "{method} {user}");
    }
}

#[tokio::test]
async fn everything_else_is_refused_with_one_text() {
    use Reason::{Md5Secret, NoPassword, UnknownUser, WrongPassword};
    let wrong_proof = Reason::Scram(ScramError::WrongProof);
    let cases = [
        (AuthType::Plain, "plain", "Secret", WrongPassword),
        (AuthType::Plain, "md5", "Secret", WrongPassword),
        (AuthType::Plain, "scram", "Secret", WrongPassword),
        (AuthType::Plain, "empty", "secret", NoPassword),
        (AuthType::Plain, "nobody", "secret", UnknownUser),
        (AuthType::Md5, "plain", "Secret", WrongPassword),
        (AuthType::Md5, "md5", "Secret", WrongPassword),
        (AuthType::Md5, "scram", "Secret", wrong_proof.clone()),
        (AuthType::Md5, "empty", "", NoPassword),
        (AuthType::Md5, "nobody", "secret", UnknownUser),
        (AuthType::ScramSha256, "plain", "Secret", wrong_proof.clone()),
        (AuthType::ScramSha256, "scram", "Secret", wrong_proof),
        (AuthType::ScramSha256, "md5", "secret", Md5Secret),
        (AuthType::ScramSha256, "empty", "", NoPassword),
        (AuthType::ScramSha256, "nobody", "secret", UnknownUser),
    ];
    for (method, user, password, expected) in cases {
        let (outcome, asked) = with_password(method, user, password).await;
        let text = match asked[0].as_str() {
            "scram" => ClientError::SaslFailed,
            _ => ClientError::PasswordFailed,
        };
        assert_eq!(refusal(outcome), (text, Some(expected)), "{method} {user}");
        assert!(!asked.contains(&"proven".to_owned()));
    }
}

#[tokio::test]
async fn unknown_users_are_asked_like_known_ones() {
    let (config, context) = (config(), AuthContext::new(Handle::current()));
    let asked = async |method, user: &'static str| {
        let client = |stream| answer(stream, user, "wrong");
        log_in(method, user, &config, &context, client).await.1
    };
    let twice = [asked(AuthType::ScramSha256, "nobody").await, asked(AuthType::ScramSha256, "nobody").await];
    assert_eq!((twice[0].len(), &twice[0]), (2, &twice[1]), "a salt is kept");
    assert_ne!(twice[0], asked(AuthType::ScramSha256, "other").await);
    assert!(twice[0][1].ends_with(",i=64"));
    // A password in clear text has no salt of its own either.
    assert_eq!(asked(AuthType::ScramSha256, "plain").await, asked(AuthType::ScramSha256, "plain").await);
    // md5 salts are new each time.
    let twice = [asked(AuthType::Md5, "nobody").await, asked(AuthType::Md5, "nobody").await];
    assert_eq!((twice[0].len(), &*twice[0][0]), (2, "md5"));
    assert_ne!(twice[0], twice[1]);
}

#[tokio::test]
async fn md5_asks_unknown_users_for_scram_where_all_others_use_it() {
    let mut config = config();
    let secret = config.userlist.get("scram").unwrap().clone();
    let mut users = Userlist::default();
    users.insert("scram", secret);
    config.userlist = Arc::new(users);
    let client = |stream| answer(stream, "nobody", "secret");
    let (outcome, asked) = log_in(AuthType::Md5, "nobody", &config, &AuthContext::new(Handle::current()), client).await;
    assert_eq!(asked[0], "scram");
    assert_eq!(refusal(outcome), (ClientError::SaslFailed, Some(Reason::UnknownUser)));
}

#[tokio::test]
async fn any_and_trust_ask_nothing() {
    for user in ["plain", "md5", "scram", "empty"] {
        let (outcome, asked) = with_password(AuthType::Trust, user, "x").await;
        assert!(outcome.is_ok() && asked.is_empty());
    }
    let (outcome, asked) = with_password(AuthType::Trust, "nobody", "x").await;
    assert_eq!(refusal(outcome), (ClientError::TrustFailed, Some(Reason::UnknownUser)));
    assert!(asked.is_empty());
    let (outcome, asked) = with_password(AuthType::Any, "nobody", "x").await;
    assert!(outcome.is_ok() && asked.is_empty());
}

#[tokio::test]
async fn methods_that_are_missing_let_nobody_in() {
    for method in [AuthType::Hba, AuthType::Ldap] {
        let (outcome, _) = with_password(method, "plain", "secret").await;
        let reason = Some(Reason::NoMethod(method));
        assert_eq!(refusal(outcome), (ClientError::LoginRejected, reason));
    }
    let (outcome, _) = with_password(AuthType::Cert, "plain", "secret").await;
    assert_eq!(refusal(outcome), (ClientError::CertificateFailed, Some(Reason::NoTls)));
}

#[test]
fn rules_choose_the_method() {
    let mut config = config();
    let choose = |config: &Config, user: &str| match Method::choose(config, &Origin::default(), false, "d", user) {
        Ok(method) => Ok(format!("{method:?}")),
        Err(AuthError::Refused { error, reason }) => Err((error, reason)),
        Err(other) => panic!("{other:?}"),
    };
    config.settings.set("auth_type", "plain").unwrap();
    assert_eq!(choose(&config, "u").as_deref(), Ok("Plain"));
    config.settings.set("auth_type", "hba").unwrap();
    assert_eq!(choose(&config, "u"), Err((ClientError::NoAuthenticationMethod, None)));
    let rules = "local all a trust\nlocal all b password\nlocal all c md5\nlocal all d scram-sha-256\nlocal all e peer\nlocal d f reject\nhost all all all trust";
    config.hba = Some(Arc::new(pgweir_config::fuzzing::rules(rules)));
    let methods = ["Trust", "Plain", "Md5", "ScramSha256", "Peer { map: None }"];
    for (user, method) in ["a", "b", "c", "d", "e"].into_iter().zip(methods) {
        assert_eq!(choose(&config, user).as_deref(), Ok(method));
    }
    assert_eq!(choose(&config, "f"), Err((ClientError::LoginRejected, Some(Reason::Rule { line: 6 }))));
    assert_eq!(choose(&config, "g"), Err((ClientError::NoAuthenticationMethod, None)));
}

/// A client that answers every request with `reply`, whatever it is.
async fn replying(mut stream: DuplexStream, replies: &[Vec<u8>]) {
    for reply in replies {
        if receive(&mut stream).await.is_none() {
            return;
        }
        let _ = stream.write_all(reply).await;
    }
    let _ = stream.shutdown().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"R\0\0\0\x08\0\0\0\0"));
}

async fn after(method: AuthType, user: &str, replies: &[&[u8]]) -> Outcome {
    let replies: Vec<Vec<u8>> = replies.iter().map(|reply| reply.to_vec()).collect();
    let client = |stream| async move { replying(stream, &replies).await };
    log_in(method, user, &config(), &AuthContext::new(Handle::current()), client).await.0
}

const PASSWORD_METHODS: [AuthType; 3] = [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256];

#[tokio::test]
async fn only_an_answer_is_an_answer() {
    let header = |hex: &str| ClientError::BadPacketHeader(hex.to_owned());
    for method in PASSWORD_METHODS {
        let error = async |reply| refusal(after(method, "plain", &[reply]).await).0;
        assert_eq!(error(b"Q\0\0\0\x05\0").await, ClientError::UnknownPacket);
        assert_eq!(error(b"\0\0\0\x09\0\x03\0\0\0").await, ClientError::StartupResent);
        assert_eq!(error(b"p\0\0\0\x03").await, header("7000000003"));
        assert_eq!(error(b"p\x7f\xff\xff\xff").await, header("707fffffff"));
        assert_eq!(error(b"p\xff\xff\xff\xff").await, header("70ffffffff"));
        for cut in [&b""[..], b"p\0\0", b"p\0\0\0\x08abc"] {
            let outcome = after(method, "plain", &[cut]).await;
            assert!(matches!(outcome, Err(AuthError::Eof)), "{outcome:?}");
        }
        let outcome = after(method, "plain", &[b"X\0\0\0\x04"]).await;
        assert!(matches!(outcome, Err(AuthError::Gone("client close request"))), "{outcome:?}");
    }
    for method in [AuthType::Plain, AuthType::Md5] {
        let error = async |reply| refusal(after(method, "plain", &[reply]).await).0;
        assert_eq!(error(b"p\0\0\0\x05\0").await, ClientError::EmptyPassword);
        for broken in [&b"p\0\0\0\x04"[..], b"p\0\0\0\x06ab", b"p\0\0\0\x07a\0b"] {
            assert_eq!(error(broken).await, ClientError::BrokenPacket("Password"));
        }
    }
}

#[tokio::test]
async fn passwords_have_a_longest_length() {
    let message = |len: usize| {
        let mut message = Vec::new();
        password_message(&mut message, &"p".repeat(len));
        message
    };
    let outcome = after(AuthType::Plain, "plain", &[&message(AUTH_TOKEN_LEN_MAX - 1)]).await;
    assert_eq!(refusal(outcome).0, ClientError::PasswordFailed);
    let outcome = after(AuthType::Plain, "plain", &[&message(AUTH_TOKEN_LEN_MAX)]).await;
    assert!(matches!(refusal(outcome).0, ClientError::BadPacketHeader(_)));
    let outcome = after(AuthType::Md5, "plain", &[&message(8 * 1024)]).await;
    assert!(matches!(refusal(outcome).0, ClientError::BadPacketHeader(_)));
}

#[tokio::test]
async fn scram_exchanges_end_at_the_first_fault() {
    let initial = |mechanism: &str, data: &[u8]| {
        let mut message = Vec::new();
        sasl_initial_response(&mut message, mechanism, data);
        message
    };
    let good = initial(SCRAM_SHA_256, b"n,,n=,r=abc");
    let outcome = after(AuthType::ScramSha256, "scram", &[&initial("PLAIN", b"x")]).await;
    assert_eq!(refusal(outcome), (ClientError::InvalidSaslMechanism, None));

    let fails = async |replies: &[&[u8]]| {
        let (error, reason) = refusal(after(AuthType::ScramSha256, "scram", replies).await);
        assert_eq!(error, ClientError::SaslFailed);
        reason.unwrap()
    };
    assert_eq!(fails(&[b"p\0\0\0\x08abc\0"]).await, Reason::Malformed);
    assert_eq!(fails(&[b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff"]).await, Reason::Malformed);
    let bound = initial(SCRAM_SHA_256, b"p=tls-unique,,n=,r=abc");
    assert_eq!(fails(&[&bound]).await, Reason::Scram(ScramError::ChannelBindingRequired));
    let long = initial(SCRAM_SHA_256, &[b"n,,n=,r=", &[b'a'; 2000][..]].concat());
    assert_eq!(fails(&[&long]).await, Reason::Scram(ScramError::TooLong));
    assert!(matches!(fails(&[&good, b"p\0\0\0\x05x"]).await, Reason::Scram(ScramError::Malformed(_))));
    let other_nonce = b"p\0\0\0\x13c=biws,r=x,p=AAA=";
    assert_eq!(fails(&[&good, &other_nonce[..]]).await, Reason::Scram(ScramError::NonceMismatch));
}

#[tokio::test]
async fn garbage_lets_nobody_in() {
    // xorshift: the same garbage in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (config, context) = (config(), AuthContext::new(Handle::current()));
    for round in 0..1500 {
        let replies: Vec<Vec<u8>> = (0..2)
            .map(|_| {
                let body: Vec<u8> = (0..random(60)).map(|_| b"p\0,=nr,\xff"[random(8)]).collect();
                let mut reply = Vec::new();
                match random(3) {
                    0 => sasl_initial_response(&mut reply, SCRAM_SHA_256, &body),
                    _ => frame::message(&mut reply, frontend_tag(random(8)), &body),
                }
                reply
            })
            .collect();
        let user = ["plain", "md5", "scram", "empty", "nobody"][random(5)];
        let client = |stream| async move { replying(stream, &replies).await };
        let (outcome, ()) = log_in(PASSWORD_METHODS[round % 3], user, &config, &context, client).await;
        assert!(outcome.is_err(), "{outcome:?}");
    }
}

/// The right one, mostly.
fn frontend_tag(chance: usize) -> u8 {
    if chance == 0 { b'Q' } else { b'p' }
}

#[tokio::test]
async fn nothing_shown_holds_a_secret() {
    for method in PASSWORD_METHODS {
        for password in ["secret", "wrong secret"] {
            let (outcome, _) = with_password(method, "plain", password).await;
            assert!(!format!("{outcome:?}").contains("secret"), "{outcome:?}");
        }
    }
}
