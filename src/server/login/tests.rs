use std::num::NonZeroU32;

use pgweir_proto::auth::SaslInitialResponse;
use pgweir_proto::console;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::frame;
use pgweir_proto::frontend;
use pgweir_proto::scram::{ChannelBinding, ScramServer, Verifier};
use pgweir_proto::sqlstate::SqlState;
use tokio::io::DuplexStream;

use super::fake::{Fake, REPORTED, greeting, key, negotiation, refusal};
use super::*;

const PASSWORD: &str = "pässword";

fn plain() -> ServerSecret {
    ServerSecret::Plain(Secret::new(PASSWORD))
}

fn md5() -> ServerSecret {
    ServerSecret::Md5(Secret::new(Md5Secret::from_password("bob", PASSWORD.as_bytes()).to_stored()))
}

fn verifier(password: &str) -> Verifier {
    Verifier::from_password(password.as_bytes(), &[7; 16], NonZeroU32::new(4096).unwrap())
}

fn scram_keys(password: &str) -> ServerSecret {
    ServerSecret::Scram(ScramKeys::from_password(password.as_bytes(), &[7; 16], NonZeroU32::new(4096).unwrap()))
}

/// Logs in to a server that does as `serve` says. Every byte arrives alone.
async fn login<F: Future<Output = ()>>(
    secret: ServerSecret,
    serve: impl FnOnce(Fake<DuplexStream>) -> F,
) -> Result<Greeting, LoginError> {
    login_over(tokio::io::duplex(1), secret, serve).await
}

async fn login_over<F: Future<Output = ()>>(
    streams: (DuplexStream, DuplexStream),
    secret: ServerSecret,
    serve: impl FnOnce(Fake<DuplexStream>) -> F,
) -> Result<Greeting, LoginError> {
    login_in(ProtocolVersion::V3_0, streams, secret, None, serve).await
}

async fn login_in<F: Future<Output = ()>>(
    protocol: ProtocolVersion,
    (ours, theirs): (DuplexStream, DuplexStream),
    secret: ServerSecret,
    end_point: Option<Vec<u8>>,
    serve: impl FnOnce(Fake<DuplexStream>) -> F,
) -> Result<Greeting, LoginError> {
    let ours = async move {
        let user = Arc::from("bob");
        let startup = [("TimeZone".to_owned(), "UTC".to_owned())];
        let credentials = Credentials { user: &user, dbname: "db", secret: &secret, startup: &startup };
        let login = Login {
            wire: &mut Wire::new(ours),
            credentials,
            protocol,
            keys: &KeyCache::default(),
            end_point,
            subject: crate::log::Subject::server(1, "d", "u", &"test"),
            notices: Vec::new(),
        };
        login.run().await
    };
    tokio::join!(ours, serve(Fake(theirs))).0
}

/// Logs in to a server that answers the startup packet with what `write` writes and closes.
async fn answered(write: impl FnOnce(&mut Vec<u8>)) -> Result<Greeting, LoginError> {
    login(plain(), async |mut server| {
        server.startup().await;
        server.send(write).await;
    })
    .await
}

/// The same for a login that asks for protocol 3.2.
async fn answered_in_3_2(write: impl FnOnce(&mut Vec<u8>)) -> Result<Greeting, LoginError> {
    login_in(ProtocolVersion::V3_2, tokio::io::duplex(1), plain(), None, async |mut server| {
        assert_eq!(server.startup().await.protocol, ProtocolVersion::V3_2);
        server.send(write).await;
    })
    .await
}

fn auth_error(done: Result<Greeting, LoginError>) -> AuthError {
    match done {
        Err(LoginError::Auth(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn text(done: Result<Greeting, LoginError>) -> String {
    done.unwrap_err().to_string()
}

#[tokio::test]
async fn trust_reports_parameters_and_key() {
    let greeting = login(ServerSecret::None, async |mut server| {
        let startup = server.trust().await;
        assert_eq!((startup.user(), startup.database(), startup.get("TimeZone")), ("bob", "db", Some("UTC")));
        assert_eq!(startup.protocol, ProtocolVersion::V3_0);
    })
    .await
    .unwrap();
    let reported = REPORTED.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(greeting.welcome.parameters, reported);
    assert_eq!(greeting.cancel_key, Some(key(b"abcd")));
}

#[tokio::test]
async fn keys_may_be_long_or_missing_but_not_malformed() {
    for secret in [&b"abcd"[..], &[1; 32], &[2; 256]] {
        let greeting = answered(|out| {
            auth::authentication_ok(out);
            key(secret).backend_key_data(out);
            console::ready_for_query(out, TransactionStatus::Idle);
        });
        assert_eq!(greeting.await.unwrap().cancel_key, Some(key(secret)));
    }
    let greeting = answered(|out| {
        auth::authentication_ok(out);
        console::ready_for_query(out, TransactionStatus::Idle);
    });
    assert_eq!(greeting.await.unwrap().cancel_key, None);
    for len in [0, 7, 261] {
        let refused = answered(|out| {
            auth::authentication_ok(out);
            frame::message(out, backend::BACKEND_KEY_DATA, &vec![0; len]);
        });
        assert!(matches!(refused.await, Err(LoginError::Unexpected(b'K'))));
    }
}

#[tokio::test]
async fn cleartext_password() {
    let serve = async |mut server: Fake<DuplexStream>| {
        server.startup().await;
        server.send(auth::authentication_cleartext_password).await;
        let (tag, body) = server.receive().await;
        assert_eq!((tag, auth::parse_password(&body)), (frontend::PASSWORD, Ok(PASSWORD.as_bytes())));
        server.welcome().await;
    };
    assert!(login(plain(), serve).await.is_ok());
}

#[tokio::test]
async fn md5_from_password_and_from_hash() {
    for secret in [plain(), md5()] {
        let greeting = login(secret, async |mut server| {
            server.startup().await;
            server.send(|out| auth::authentication_md5_password(out, [1, 2, 3, 4])).await;
            let (_, body) = server.receive().await;
            let expected = Md5Secret::from_password("bob", PASSWORD.as_bytes());
            assert!(expected.verify([1, 2, 3, 4], auth::parse_password(&body).unwrap()));
            server.welcome().await;
        });
        assert!(greeting.await.is_ok());
    }
}

/// Asks for SCRAM as a server with `verifier` does; `finish` gives its last word from the signature.
async fn serve_scram(
    server: Fake<DuplexStream>,
    verifier: Verifier,
    finish: impl FnOnce(&mut Vec<u8>, Result<String, ScramError>),
) {
    // We can see no TLS, whatever the server sees.
    let offered = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
    serve_bound(server, verifier, &offered, SCRAM_SHA_256, ChannelBinding::Unavailable, finish).await;
}

/// The same with what it offers, which of it is to be chosen, and what it knows of the connection.
async fn serve_bound(
    mut server: Fake<DuplexStream>,
    verifier: Verifier,
    offered: &[&str],
    chosen: &str,
    binding: ChannelBinding,
    finish: impl FnOnce(&mut Vec<u8>, Result<String, ScramError>),
) {
    server.startup().await;
    server.send(|out| auth::authentication_sasl(out, offered)).await;
    let (_, body) = server.receive().await;
    let first = SaslInitialResponse::parse(&body).unwrap();
    assert_eq!(first.mechanism, chosen);
    let state = ScramServer::new(verifier.salt(), verifier.iterations(), [9; 18], binding);
    let (state, server_first) = state.client_first(first.data.unwrap()).unwrap();
    server.send(|out| auth::authentication_sasl_continue(out, server_first.as_bytes())).await;
    let (_, body) = server.receive().await;
    server.send(|out| finish(out, state.client_final(&verifier, &body).map(|(_, signature)| signature))).await;
}

fn accept(out: &mut Vec<u8>, signature: Result<String, ScramError>) {
    auth::authentication_sasl_final(out, signature.unwrap().as_bytes());
    auth::authentication_ok(out);
    greeting(out);
}

#[tokio::test]
async fn scram_from_password_and_from_keys() {
    for secret in [plain(), scram_keys(PASSWORD)] {
        login(secret, |server| serve_scram(server, verifier(PASSWORD), accept)).await.unwrap();
    }
}

#[tokio::test]
async fn the_login_is_bound_where_the_server_can() {
    let both = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
    let log_in = async |secret, end_point: Option<&[u8]>, offered: &[&str], chosen, binding, finish| {
        let serve = |server| serve_bound(server, verifier(PASSWORD), offered, chosen, binding, finish);
        let streams = tokio::io::duplex(1);
        login_in(ProtocolVersion::V3_0, streams, secret, end_point.map(<[u8]>::to_vec), serve).await
    };
    type Finish = fn(&mut Vec<u8>, Result<String, ScramError>);
    let bound = || ChannelBinding::EndPoint(b"hash".to_vec());
    for secret in [plain(), scram_keys(PASSWORD)] {
        let done = log_in(secret.clone(), Some(b"hash"), &both, SCRAM_SHA_256_PLUS, bound(), accept as Finish);
        done.await.unwrap();
        let only = [SCRAM_SHA_256_PLUS];
        let done = log_in(secret.clone(), Some(b"hash"), &only, SCRAM_SHA_256_PLUS, bound(), accept as Finish);
        done.await.unwrap();
        // A server that cannot is told that we could.
        let unbound = ChannelBinding::Unavailable;
        let done = log_in(secret, Some(b"hash"), &[SCRAM_SHA_256], SCRAM_SHA_256, unbound, accept as Finish);
        done.await.unwrap();
    }
    // The server has another certificate than the one that we have seen.
    let refuse: Finish = |out, signature| {
        assert_eq!(signature, Err(ScramError::ChannelBindingMismatch));
        refusal(out, b"28000", "SCRAM channel binding check failed");
    };
    let done = log_in(plain(), Some(b"other"), &both, SCRAM_SHA_256_PLUS, bound(), refuse).await;
    assert!(matches!(done, Err(LoginError::Server(_))), "{done:?}");
    let nothing_left = answered(|out| auth::authentication_sasl(out, &[SCRAM_SHA_256_PLUS]));
    assert_eq!(auth_error(nothing_left.await), AuthError::UnsupportedMechanisms);
}

/// Whoever takes the offer away from between finds that the server knows.
#[tokio::test]
async fn an_offer_that_was_taken_away_is_seen_by_the_server() {
    let serve = async |mut server: Fake<DuplexStream>| {
        server.startup().await;
        server.send(|out| auth::authentication_sasl(out, &[SCRAM_SHA_256])).await;
        let (_, body) = server.receive().await;
        let first = SaslInitialResponse::parse(&body).unwrap();
        let state = ScramServer::new(b"salt", NonZeroU32::MIN, [9; 18], ChannelBinding::Unused);
        let refused = state.client_first(first.data.unwrap()).map(drop);
        assert_eq!(refused, Err(ScramError::ChannelBindingDowngrade));
        server.send(|out| refusal(out, b"28000", "SCRAM channel binding negotiation error")).await;
    };
    let done = login_in(ProtocolVersion::V3_0, tokio::io::duplex(1), plain(), Some(b"hash".to_vec()), serve).await;
    let text = text(done);
    assert_eq!(text, "server login failed: FATAL SCRAM channel binding negotiation error (SQLSTATE 28000)");
}

#[tokio::test]
async fn a_server_that_asks_for_hours_of_computation_is_refused() {
    for iterations in ["10000001", "4294967295", "99999999999999999999", "0", "-1", ""] {
        let done = login(plain(), async |mut server| {
            server.startup().await;
            server.send(|out| auth::authentication_sasl(out, &[SCRAM_SHA_256])).await;
            let (_, body) = server.receive().await;
            let first = SaslInitialResponse::parse(&body).unwrap();
            let nonce = std::str::from_utf8(first.data.unwrap()).unwrap().split_once("r=").unwrap().1;
            let server_first = format!("r={nonce}x,s=c2FsdA==,i={iterations}");
            server.send(|out| auth::authentication_sasl_continue(out, server_first.as_bytes())).await;
            server.end().await;
        });
        let error = auth_error(done.await);
        let malformed = AuthError::Scram(ScramError::Malformed("iteration count"));
        assert!(error == AuthError::Scram(ScramError::IterationCount) || error == malformed, "{error:?}");
    }
}

#[tokio::test]
async fn scram_keys_of_another_password_are_refused_by_the_server() {
    let refuse = |out: &mut Vec<u8>, signature: Result<String, ScramError>| {
        assert_eq!(signature, Err(ScramError::WrongProof));
        refusal(out, b"28P01", "password authentication failed for user \"bob\"");
    };
    let done = login(scram_keys("other"), |server| serve_scram(server, verifier(PASSWORD), refuse)).await;
    assert_eq!(
        text(done),
        "server login failed: FATAL password authentication failed for user \"bob\" (SQLSTATE 28P01)"
    );
}

#[tokio::test]
async fn a_server_that_does_not_know_the_user_is_not_believed() {
    let lie = |out: &mut Vec<u8>, _: Result<String, ScramError>| {
        auth::authentication_sasl_final(out, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        auth::authentication_ok(out);
        greeting(out);
    };
    let done = login(plain(), |server| serve_scram(server, verifier(PASSWORD), lie)).await;
    assert_eq!(auth_error(done), AuthError::Scram(ScramError::WrongServerSignature));
    // Nor one that leaves its proof out.
    let skip = |out: &mut Vec<u8>, _: Result<String, ScramError>| {
        auth::authentication_ok(out);
        greeting(out);
    };
    let done = login(plain(), |server| serve_scram(server, verifier(PASSWORD), skip)).await;
    assert!(matches!(done, Err(LoginError::Unexpected(b'R'))));
}

#[tokio::test]
async fn methods_that_the_secret_does_not_answer() {
    type Ask = fn(&mut Vec<u8>);
    let cleartext: Ask = auth::authentication_cleartext_password;
    let md5_password: Ask = |out| auth::authentication_md5_password(out, [1; 4]);
    let sasl: Ask = |out| auth::authentication_sasl(out, &[SCRAM_SHA_256]);
    let wrong = |method| AuthError::WrongSecret { method };
    let cases = [
        (ServerSecret::None, cleartext, AuthError::NoSecret),
        (ServerSecret::None, md5_password, AuthError::NoSecret),
        (ServerSecret::None, sasl, AuthError::NoSecret),
        (md5(), cleartext, wrong("cleartext")),
        (md5(), sasl, wrong("SCRAM")),
        (scram_keys(PASSWORD), cleartext, wrong("cleartext")),
        (scram_keys(PASSWORD), md5_password, wrong("MD5")),
    ];
    for (secret, ask, expected) in cases {
        let done = login(secret, async |mut server| {
            server.startup().await;
            server.send(ask).await;
            server.end().await;
        });
        assert_eq!(auth_error(done.await), expected);
    }
}

#[tokio::test]
async fn unknown_methods_are_named() {
    let gss = answered(|out| frame::message(out, backend::AUTHENTICATION, &[0, 0, 0, 7]));
    assert_eq!(text(gss.await), "server login failed: unknown/unsupported auth method: 7 (GSSAPI)");
    let sasl = answered(|out| auth::authentication_sasl(out, &["OAUTHBEARER"]));
    assert_eq!(auth_error(sasl.await), AuthError::UnsupportedMechanisms);
}

#[tokio::test]
async fn the_servers_own_words_are_kept() {
    let refused = answered(|out| refusal(out, b"3D000", "database \"db\" does not exist")).await;
    let Err(LoginError::Server(error)) = refused else { panic!("{refused:?}") };
    assert_eq!((error.sqlstate, error.severity.as_str()), (Some(SqlState::INVALID_CATALOG_NAME), "FATAL"));
    assert_eq!(error.message, "database \"db\" does not exist");
    // After the authentication, as for a server that is full.
    let refused = answered(|out| {
        auth::authentication_ok(out);
        refusal(out, b"53300", "sorry, too many clients already");
    });
    assert_eq!(text(refused.await), "server login failed: FATAL sorry, too many clients already (SQLSTATE 53300)");
    // Without a code (CVE-2026-6666), or without anything.
    let refused = answered(|out| frame::message(out, backend::ERROR_RESPONSE, b"SFATAL\0Mno\0\0"));
    assert_eq!(text(refused.await), "server login failed: FATAL no");
    let refused = answered(|out| frame::message(out, backend::ERROR_RESPONSE, b""));
    assert!(matches!(refused.await, Err(LoginError::Server(_))));
    // The postmaster's own, which has no frame.
    let refused = answered(|out| out.extend(b"Ecould not fork new process for connection: Cannot allocate memory\n\0"));
    assert_eq!(
        text(refused.await),
        "server login failed: FATAL could not fork new process for connection: Cannot allocate memory"
    );
}

#[tokio::test]
async fn what_is_no_postgresql_is_refused() {
    let closed = answered(|_| ()).await;
    assert!(matches!(closed, Err(LoginError::Wire(WireError::Closed))));
    let http = answered(|out| out.extend(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    assert!(matches!(http, Err(LoginError::Wire(WireError::TooLong))), "{http:?}");
    let binary = answered(|out| out.extend(b"E\xff\xff\xff\xff\x01\x02\x03")).await;
    assert!(matches!(binary, Err(LoginError::Wire(WireError::BadHeader(_)))), "{binary:?}");
    let long = answered(|out| frame::message(out, backend::PARAMETER_STATUS, &vec![b'x'; 64 * 1024])).await;
    assert!(matches!(long, Err(LoginError::Wire(WireError::TooLong))));
    let endless = login_over(tokio::io::duplex(64 * 1024), ServerSecret::None, async |mut server| {
        server.startup().await;
        server.send(auth::authentication_ok).await;
        let report = |out: &mut Vec<u8>| console::parameter_status(out, "TimeZone", "Europe/Berlin");
        server.send(|out| (0..50_000).for_each(|_| report(out))).await;
    });
    assert!(matches!(endless.await, Err(LoginError::Wire(WireError::TooLong))));
}

#[tokio::test]
async fn messages_out_of_place_are_refused() {
    type Write = fn(&mut Vec<u8>);
    let cases: [(Write, u8); 7] = [
        (greeting, b'S'),
        (|out| auth::authentication_sasl_continue(out, b"r=x"), b'R'),
        (|out| frame::message(out, b'R', b"\0\0"), b'R'),
        (|out| frame::message(out, b'S', b"TimeZone"), b'S'),
        (
            |out| {
                auth::authentication_ok(out);
                frame::message(out, b'Z', b"?");
            },
            b'Z',
        ),
        (
            |out| {
                auth::authentication_ok(out);
                frame::message(out, b'D', b"\0\0");
            },
            b'D',
        ),
        (
            |out| {
                auth::authentication_ok(out);
                auth::authentication_ok(out);
            },
            b'R',
        ),
    ];
    for (write, expected) in cases {
        let done = answered(write).await;
        assert!(matches!(done, Err(LoginError::Unexpected(tag)) if tag == expected), "{done:?}");
    }
    let in_transaction = answered(|out| {
        auth::authentication_ok(out);
        console::ready_for_query(out, TransactionStatus::InBlock);
    });
    assert!(matches!(in_transaction.await, Err(LoginError::NotIdle)));
}

#[tokio::test]
async fn notices_and_a_negotiation_do_not_disturb() {
    let greeted = answered(|out| {
        negotiation(out, 0x0003_0000);
        ErrorResponse::new(Severity::Warning, SqlState::INVALID_PASSWORD, "soon").notice(out);
        auth::authentication_ok(out);
        ErrorResponse::new(Severity::Warning, SqlState::INVALID_PASSWORD, "collation").notice(out);
        greeting(out);
    });
    assert_eq!(greeted.await.unwrap().welcome.parameters.len(), REPORTED.len());
    let newer = answered(|out| negotiation(out, 0x0004_0001)).await;
    assert!(matches!(newer, Err(LoginError::Version { major: 4, minor: 1 })));
}

#[tokio::test]
async fn keys_are_as_long_as_the_server_makes_them_whatever_it_negotiates() {
    for offer in [None, Some(0x0003_0000), Some(0), Some(0x0003_0002), Some(2)] {
        for secret in [&b"abcd"[..], &[1; 32], &[2; 256]] {
            let greeting = answered_in_3_2(|out| {
                offer.into_iter().for_each(|number| negotiation(out, number));
                auth::authentication_ok(out);
                key(secret).backend_key_data(out);
                console::ready_for_query(out, TransactionStatus::Idle);
            });
            assert_eq!(greeting.await.unwrap().cancel_key, Some(key(secret)));
        }
    }
    for len in [0, 3, 4, 7, 261, 60_000] {
        let refused = answered_in_3_2(|out| {
            auth::authentication_ok(out);
            frame::message(out, backend::BACKEND_KEY_DATA, &vec![0; len]);
        });
        assert!(matches!(refused.await, Err(LoginError::Unexpected(b'K'))), "{len}");
    }
}

#[tokio::test]
async fn a_negotiation_that_makes_no_sense_is_refused() {
    for number in [0x0003_0001, 0x0003_0003, 0x0002_0000, 0x0004_0000, u32::MAX] {
        let done = answered_in_3_2(|out| negotiation(out, number)).await;
        let (major, minor) = (number >> 16, number & 0xffff);
        assert_eq!(
            text(done),
            format!("the server wants protocol {major}.{minor}, which we do not have or did not ask for")
        );
    }
    // What was not asked for is not downgraded to, either.
    let newer = answered(|out| negotiation(out, 0x0003_0002)).await;
    assert!(matches!(newer, Err(LoginError::Version { major: 3, minor: 2 })));
    let bodies = [&b""[..], b"\0\x03\0", b"\0\x03\0\0", b"\0\x03\0\0\0\0\0\0\0", b"\0\x03\0\0\0\0\0\x01_pq_.x\0"];
    for body in bodies.into_iter().chain([&b"\0\x03\0\0\xff\xff\xff\xff"[..], &[0; 60_000]]) {
        let done = answered_in_3_2(|out| frame::message(out, backend::NEGOTIATE_PROTOCOL_VERSION, body)).await;
        assert!(matches!(done, Err(LoginError::Unexpected(b'v'))), "{done:?}");
    }
    // A second one, and one that comes late.
    let twice = answered_in_3_2(|out| (0..2).for_each(|_| negotiation(out, 0x0003_0000))).await;
    assert!(matches!(twice, Err(LoginError::Unexpected(b'v'))));
    let late = answered_in_3_2(|out| {
        auth::authentication_ok(out);
        negotiation(out, 0x0003_0000);
    });
    assert!(matches!(late.await, Err(LoginError::Unexpected(b'v'))));
    // Cut off within.
    let cut = answered_in_3_2(|out| out.extend(b"v\0\0\0\x0c\0\x03\0\0")).await;
    assert!(matches!(cut, Err(LoginError::Wire(WireError::Closed))));
}

/// What follows ReadyForQuery in the same read belongs to the login, not to the first client.
#[tokio::test]
async fn reports_behind_the_end_are_taken() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let mut server = Fake(theirs);
    let serve = async {
        server.startup().await;
        server
            .send(|out| {
                auth::authentication_ok(out);
                greeting(out);
                console::parameter_status(out, "TimeZone", "UTC");
            })
            .await;
    };
    let user = Arc::from("bob");
    let credentials = Credentials { user: &user, dbname: "db", secret: &ServerSecret::None, startup: &[] };
    let mut wire = Wire::new(ours);
    let login = Login {
        wire: &mut wire,
        credentials,
        protocol: ProtocolVersion::V3_0,
        keys: &KeyCache::default(),
        end_point: None,
        subject: crate::log::Subject::server(1, "d", "u", &"test"),
        notices: Vec::new(),
    };
    let welcome = tokio::join!(login.run(), serve).0.unwrap().welcome;
    assert!(wire.is_empty());
    let zones: Vec<_> = welcome.parameters.iter().filter(|(name, _)| name == "TimeZone").collect();
    assert_eq!(zones, [&("TimeZone".to_owned(), "UTC".to_owned())]);
}

#[test]
fn secrets_stay_out_of_debug_output() {
    for secret in [plain(), md5(), scram_keys(PASSWORD)] {
        let shown = format!("{secret:?}");
        assert!(shown.contains("***") || shown.contains(".."), "{shown}");
    }
}
