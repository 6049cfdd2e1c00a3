use std::num::NonZeroU32;

use super::*;
use crate::garbage;

const RFC_CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const RFC_SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const RFC_SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const RFC_CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const RFC_SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn iterations(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

fn rfc_verifier() -> Verifier {
    let salt = message::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    Verifier::from_password(b"pencil", &salt, iterations(ITERATIONS_DEFAULT))
}

/// Of the password "secret", cheap to make.
fn verifier() -> Verifier {
    Verifier::from_password(b"secret", b"salt", NonZeroU32::MIN)
}

fn server_of(verifier: &Verifier, nonce: u8, binding: ChannelBinding) -> ScramServer {
    ScramServer::new(verifier.salt(), verifier.iterations(), [nonce; NONCE_LEN], binding)
}

fn server() -> ScramServer {
    server_of(&verifier(), 1, ChannelBinding::Unavailable)
}

fn end_point(hash: &[u8]) -> ChannelBinding {
    ChannelBinding::EndPoint(hash.to_vec())
}

/// The server role after the client's first message, and its answer.
fn challenged(client_first: &str) -> (ServerFinal, String) {
    server().client_first(client_first.as_bytes()).unwrap()
}

fn refusal<T>(result: Result<T, ScramError>) -> ScramError {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    }
}

/// Both roles against each other, with the client's password.
fn log_in(verifier: Verifier, password: &[u8]) -> Result<ScramKeys, ScramError> {
    bind(verifier, password, ChannelBinding::Unavailable, ChannelBinding::Unavailable)
}

/// The same with what the client and the server know of their connection.
fn bind(
    verifier: Verifier,
    password: &[u8],
    clients: ChannelBinding,
    servers: ChannelBinding,
) -> Result<ScramKeys, ScramError> {
    let client = ScramClient::new([2; NONCE_LEN], clients);
    let server = server_of(&verifier, 1, servers);
    let (server, server_first) = server.client_first(client.client_first().as_bytes())?;
    let challenge = client.server_first(server_first.as_bytes())?;
    let keys = ScramKeys::from_password(password, challenge.salt(), challenge.iterations());
    let (client, client_final) = challenge.respond(&keys);
    let (keys, server_final) = server.client_final(&verifier, client_final.as_bytes())?;
    client.server_final(server_final.as_bytes())?;
    Ok(keys)
}

#[test]
fn rfc_7677_server_role() {
    let verifier = rfc_verifier();
    let nonce = RFC_SERVER_NONCE.to_owned();
    let server = ScramServer::with_nonce(verifier.salt(), verifier.iterations(), nonce, ChannelBinding::Unavailable);
    let (server, server_first) = server.client_first(RFC_CLIENT_FIRST.as_bytes()).unwrap();
    assert_eq!(server_first, RFC_SERVER_FIRST);
    let (keys, server_final) = server.client_final(&verifier, RFC_CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(server_final, RFC_SERVER_FINAL);
    let salt = rfc_verifier().salt;
    assert_eq!(keys, ScramKeys::from_password(b"pencil", &salt, iterations(4096)));
}

/// The RFC's client-first has a user's name, which ours leaves out, so the exchange is given.
#[test]
fn rfc_7677_client_role() {
    let keys = ScramKeys::from_password(b"pencil", &rfc_verifier().salt, iterations(4096));
    let nonce = RFC_SERVER_FIRST["r=".len()..].split(',').next().unwrap().to_owned();
    let challenge = Challenge::for_test(nonce, format!("{},{RFC_SERVER_FIRST}", &RFC_CLIENT_FIRST["n,,".len()..]));
    let (client, client_final) = challenge.respond(&keys);
    assert_eq!(client_final, RFC_CLIENT_FINAL);
    assert_eq!(client.server_final(RFC_SERVER_FINAL.as_bytes()), Ok(()));
}

#[test]
fn round_trips() {
    for password in [&b"secret"[..], b"", "gr\u{fc}n \u{2168}\u{ad}".as_bytes(), b"gr\xfcn"] {
        let verifier = Verifier::from_password(password, &[7; SALT_LEN], iterations(2));
        let keys = log_in(verifier.clone(), password).unwrap();
        assert_eq!(keys, ScramKeys::from_password(password, &[7; SALT_LEN], iterations(2)));
        assert_eq!(refusal(log_in(verifier, b"another")), ScramError::WrongProof);
    }
    // Two spellings of one password.
    let verifier = Verifier::from_password("\u{2168}".as_bytes(), b"salt", iterations(2));
    assert!(log_in(verifier, b"IX").is_ok());
}

#[test]
fn a_clients_keys_log_in_to_the_server() {
    let verifier = Verifier::from_password(b"secret", b"salt", iterations(2));
    let keys = log_in(verifier.clone(), b"secret").unwrap();
    let client = ScramClient::new([9; NONCE_LEN], ChannelBinding::Unavailable);
    let server = server_of(&verifier, 8, ChannelBinding::Unavailable);
    let (server, server_first) = server.client_first(client.client_first().as_bytes()).unwrap();
    let (client, client_final) = client.server_first(server_first.as_bytes()).unwrap().respond(&keys);
    let (again, server_final) = server.client_final(&verifier, client_final.as_bytes()).unwrap();
    assert_eq!(client.server_final(server_final.as_bytes()), Ok(()));
    assert_eq!(again, keys);
}

#[test]
fn the_channel_is_bound_where_both_see_one_certificate() {
    use ChannelBinding::{Unavailable, Unused};
    let outcome = |clients, servers| bind(verifier(), b"secret", clients, servers).map(drop);
    // What is not offered cannot be chosen; a client that cannot is let in without.
    for (clients, servers) in [
        (end_point(b"hash"), end_point(b"hash")),
        (Unavailable, Unavailable),
        (Unused, Unavailable),
        (Unavailable, Unused),
    ] {
        assert_eq!(outcome(clients, servers), Ok(()));
    }
    // Somebody between has a certificate of his own.
    assert_eq!(outcome(end_point(b"other"), end_point(b"hash")), Err(ScramError::ChannelBindingMismatch));
    assert_eq!(outcome(end_point(b""), end_point(b"hash")), Err(ScramError::ChannelBindingMismatch));
    // Or takes away our offer.
    assert_eq!(outcome(Unused, Unused), Err(ScramError::ChannelBindingDowngrade));
    // Or changes the mechanism on its way, in either direction.
    for clients in [Unavailable, Unused] {
        assert_eq!(outcome(clients, end_point(b"hash")), Err(ScramError::ChannelBindingMissing));
    }
    for servers in [Unavailable, Unused] {
        assert_eq!(outcome(end_point(b"hash"), servers), Err(ScramError::ChannelBindingRequired));
    }
    let other_type = |flag: &str| {
        let server = server_of(&verifier(), 1, end_point(b"hash"));
        refusal(server.client_first(format!("{flag},,n=,r=abc").as_bytes()))
    };
    for flag in ["p=tls-unique", "p=tls-server-end-points", "p=tls-server-end-poin", "p="] {
        assert_eq!(other_type(flag), ScramError::ChannelBindingType);
    }
    assert!(matches!(other_type("p"), ScramError::Malformed(_)));
}

#[test]
fn a_mock_looks_real_and_refuses_everything() {
    let secret = SaltSecret::new([3; 32]);
    let mock = || secret.mock_verifier("nobody", iterations(2));
    assert_eq!(refusal(log_in(mock(), b"secret")), ScramError::WrongProof);
    assert_eq!(refusal(log_in(mock(), b"")), ScramError::WrongProof);
    let first = |verifier: Verifier| {
        let server = server_of(&verifier, 1, ChannelBinding::Unavailable);
        server.client_first(b"n,,n=,r=abc").unwrap().1
    };
    let salt = secret.salt("nobody");
    let real = Verifier::from_password(b"secret", &salt, iterations(2));
    assert_eq!(first(mock()), first(real));
}

#[test]
fn server_reads_client_first() {
    let ours = message::encode(&[1; NONCE_LEN]);
    for accepted in ["n,,n=,r=abc", "y,,n=*,r=abc", "n,,n=a=2Cb,r=abc,x=1,y="] {
        let (_, server_first) = challenged(accepted);
        assert_eq!(server_first, format!("r=abc{ours},s=c2FsdA==,i=1"));
    }
    let long = |len| format!("n,,n=,r={}", "x".repeat(len));
    assert!(server().client_first(long(1024).as_bytes()).is_ok());
    let malformed = [
        "",
        "n",
        "n,",
        "n,,",
        "x,,n=,r=a",
        "nn,,n=,r=a",
        "n,b=c,n=,r=a",
        "n,,r=a",
        "n,,n=",
        "n,,n=,",
        "n,,n=,r=",
        "n,,n=,r=a b",
        "n,,n=,r=grün",
        "n,,n=,r=a,",
        "n,,n=,r=a,x",
        "n,,n=,r=a,1=2",
    ];
    for client_first in malformed {
        let error = refusal(server().client_first(client_first.as_bytes()));
        assert!(matches!(error, ScramError::Malformed(_)), "{client_first}: {error}");
    }
    let refused = [
        ("p=tls-server-end-point,,n=,r=a".to_owned(), ScramError::ChannelBindingRequired),
        ("n,a=eve,n=,r=a".to_owned(), ScramError::AuthorizationIdentity),
        ("n,,m=x,n=,r=a".to_owned(), ScramError::MandatoryExtension),
        (long(1025), ScramError::TooLong),
        (long(1_000_000), ScramError::TooLong),
    ];
    for (client_first, error) in refused {
        assert_eq!(refusal(server().client_first(client_first.as_bytes())), error);
    }
    assert!(server().client_first(b"n,,n=\xff,r=a").is_err());
}

/// A correct client-final for `challenged(client_first)` with `binding`.
fn client_final(client_first: &str, binding: &str) -> String {
    let (_, server_first) = challenged(client_first);
    let nonce = server_first["r=".len()..].split(',').next().unwrap();
    let keys = ScramKeys::from_password(b"secret", b"salt", NonZeroU32::MIN);
    let without_proof = format!("c={binding},r={nonce}");
    let signed = format!("{},{server_first},{without_proof}", &client_first[3..]);
    let signature = keys::sign(&keys.stored_key(), &[signed.as_bytes()]);
    let proof = message::encode(&keys::xor(&keys.client_key, &signature));
    format!("{without_proof},p={proof}")
}

#[test]
fn server_checks_client_final() {
    let finish = |client_first: &str, client_final: &str| {
        challenged(client_first).0.client_final(&verifier(), client_final.as_bytes())
    };
    let (n, y) = ("n,,n=,r=abc", "y,,n=,r=abc");
    let good = client_final(n, "biws");
    assert!(finish(n, &good).is_ok());
    assert!(finish(y, &client_final(y, "eSws")).is_ok());
    // A header that is not the one sent means that someone between has changed it.
    assert_eq!(refusal(finish(y, &good)), ScramError::ChannelBindingMismatch);
    let swapped = client_final(n, "eSws");
    assert_eq!(refusal(finish(n, &swapped)), ScramError::ChannelBindingMismatch);

    let bad_nonces = [good.replace("r=abc", "r=abd"), good.replace("r=abc", "r=abc1")];
    for bad in bad_nonces {
        assert_eq!(refusal(finish(n, &bad)), ScramError::NonceMismatch);
    }
    let (head, _) = good.split_once(",p=").unwrap();
    let other_proof = format!("{head},p={}", message::encode(&[0; 32]));
    assert_eq!(refusal(finish(n, &other_proof)), ScramError::WrongProof);
    // The proof covers everything before it.
    let extended = good.replace(",p=", ",x=1,p=");
    assert_eq!(refusal(finish(n, &extended)), ScramError::WrongProof);

    for len in 0..good.len() {
        let error = refusal(finish(n, &good[..len]));
        assert!(!matches!(error, ScramError::WrongProof), "{}: {error}", &good[..len]);
    }
    let short_proof = format!("{head},p={}", message::encode(&[0; 31]));
    for bad in [short_proof, format!("{good},x=1"), good.replace("c=", "m="), "ü".repeat(99)] {
        assert!(finish(n, &bad).is_err(), "{bad}");
    }
    assert_eq!(refusal(finish(n, &"x".repeat(5000))), ScramError::TooLong);
}

#[test]
fn a_recorded_login_is_of_no_use() {
    let recorded = client_final("n,,n=,r=abc", "biws");
    let server = server_of(&verifier(), 99, ChannelBinding::Unavailable);
    let (server, _) = server.client_first(b"n,,n=,r=abc").unwrap();
    assert_eq!(refusal(server.client_final(&verifier(), recorded.as_bytes())), ScramError::NonceMismatch);
}

#[test]
fn client_checks_server_first() {
    let start = |message: &str| {
        ScramClient::with_nonce("abc".to_owned(), ChannelBinding::Unavailable).server_first(message.as_bytes())
    };
    let challenge = start("r=abcdef,s=c2FsdA==,i=10000000,x=1").unwrap();
    assert_eq!((challenge.salt(), challenge.iterations().get()), (&b"salt"[..], ITERATIONS_MAX));
    let refused = [
        ("r=abc,s=c2FsdA==,i=1".to_owned(), ScramError::NonceMismatch),
        ("r=abddef,s=c2FsdA==,i=1".to_owned(), ScramError::NonceMismatch),
        ("r=abcdef,s=c2FsdA==,i=0".to_owned(), ScramError::IterationCount),
        ("r=abcdef,s=c2FsdA==,i=10000001".to_owned(), ScramError::IterationCount),
        ("r=abcdef,s=c2FsdA==,i=99999999999999".to_owned(), ScramError::IterationCount),
        ("m=x,r=abcdef,s=c2FsdA==,i=1".to_owned(), ScramError::MandatoryExtension),
        (format!("r=abc{},s=c2FsdA==,i=1", "x".repeat(1022)), ScramError::TooLong),
        (format!("r=abcdef,s={},i=1", "A".repeat(8000)), ScramError::TooLong),
    ];
    for (server_first, error) in refused {
        assert_eq!(refusal(start(&server_first)), error);
    }
    let malformed = [
        "",
        "r=abcdef",
        "r=abcdef,s=c2FsdA==",
        "r=abcdef,s=c2FsdA==,i=",
        "r=abcdef,s=c2FsdA==,i=-1",
        "r=abcdef,s=c2FsdA==,i=+1",
        "r=abcdef,s=!,i=1",
        "s=c2FsdA==,i=1",
        "r=abcdef,i=1,s=c2FsdA==",
        "r=abcdéf,s=c2FsdA==,i=1",
        "r=abcdef,s=c2FsdA==,i=1,",
        "e=other-error",
    ];
    for server_first in malformed {
        let error = refusal(start(server_first));
        assert!(matches!(error, ScramError::Malformed(_)), "{server_first}: {error}");
    }
}

#[test]
fn client_checks_server_final() {
    let finish = |message: &str| {
        let client = ScramClient::with_nonce("abc".to_owned(), ChannelBinding::Unavailable);
        let challenge = client.server_first(b"r=abcdef,s=c2FsdA==,i=1").unwrap();
        let keys = ScramKeys::from_password(b"secret", b"salt", NonZeroU32::MIN);
        challenge.respond(&keys).0.server_final(message.as_bytes())
    };
    let wrong = format!("v={}", message::encode(&[0; 32]));
    assert_eq!(finish(&wrong), Err(ScramError::WrongServerSignature));
    let told = ScramError::ServerError("invalid-proof".to_owned());
    assert_eq!(finish("e=invalid-proof"), Err(told));
    let hidden = ScramError::ServerError("\\u{1b}[2J".to_owned());
    assert_eq!(finish("e=\u{1b}[2J"), Err(hidden));
    let short = format!("v={}", message::encode(&[0; 31]));
    for bad in ["", "v", "v=", "v=!", "r=abc", short.as_str()] {
        assert!(matches!(finish(bad), Err(ScramError::Malformed(_))), "{bad}");
    }
    assert_eq!(finish(&format!("v={}", "A".repeat(5000))), Err(ScramError::TooLong));
}

#[test]
fn survives_garbage() {
    let client_first = "n,,n=,r=abc";
    let good = client_final(client_first, "biws");
    let keys = ScramKeys::from_password(b"secret", b"salt", NonZeroU32::MIN);
    let valid: [&[u8]; 4] =
        [client_first.as_bytes(), b"r=abcdef,s=c2FsdA==,i=1", good.as_bytes(), RFC_SERVER_FINAL.as_bytes()];
    garbage::throw(&valid, |bytes| {
        let _ = server().client_first(bytes);
        let _ = server_of(&verifier(), 1, end_point(b"hash")).client_first(bytes);
        let (finishing, _) = server().client_first(client_first.as_bytes()).unwrap();
        let accepted = finishing.client_final(&verifier(), bytes).is_ok();
        assert!(!accepted || bytes == good.as_bytes());

        let client = || ScramClient::with_nonce("abc".to_owned(), ChannelBinding::Unavailable);
        let _ = client().server_first(bytes);
        let challenge = client().server_first(b"r=abcdef,s=c2FsdA==,i=1").unwrap();
        assert!(challenge.respond(&keys).0.server_final(bytes).is_err());
    });
}
