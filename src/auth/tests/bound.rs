//! SCRAM-SHA-256-PLUS, against a client as drivers are written and against what nobody sends.

use pgweir_proto::auth::SCRAM_SHA_256_PLUS;

use super::*;

const HASH: &[u8] = &[9; 32];

fn over_tls() -> Origin {
    Origin { end_point: Some(HASH.to_vec()), ..Origin::default() }
}

/// A client that knows this hash of the certificate, and where it logs in.
async fn with_hash(hash: &'static [u8], user: &str, password: &str) -> Outcome {
    let client = |mut stream: DuplexStream| async move {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::tls_server_end_point(hash.to_vec()));
        let (_, body) = receive(&mut stream).await.unwrap();
        let offered = Authentication::Sasl(vec![SCRAM_SHA_256_PLUS, SCRAM_SHA_256]);
        assert_eq!(Authentication::parse(&body).unwrap(), offered);
        send(&mut stream, |out| sasl_initial_response(out, SCRAM_SHA_256_PLUS, scram.message())).await;
        let (_, body) = receive(&mut stream).await.unwrap();
        let Authentication::SaslContinue(data) = Authentication::parse(&body).unwrap() else { panic!("{body:?}") };
        scram.update(data).unwrap();
        send(&mut stream, |out| sasl_response(out, scram.message())).await;
        if let Some((_, body)) = receive(&mut stream).await {
            let Authentication::SaslFinal(data) = Authentication::parse(&body).unwrap() else { panic!("{body:?}") };
            scram.finish(data).unwrap();
        }
    };
    log_in_from(&over_tls(), AuthType::ScramSha256, user, &config(), &AuthContext::new(Handle::current()), client)
        .await
        .0
}

#[tokio::test]
async fn a_login_over_tls_can_be_bound_to_it() {
    for user in ["plain", "scram"] {
        let granted = with_hash(HASH, user, "secret").await.unwrap();
        // The keys are the password's, whatever they were proven by.
        let keys = ScramKeys::from_password(b"secret", &SALT, iterations(64));
        assert_eq!(granted.scram_keys, (user == "scram").then_some(keys));
    }
    for (hash, password, reason) in [
        (&[8; 32][..], "secret", Reason::Scram(ScramError::ChannelBindingMismatch)),
        (b"", "secret", Reason::Scram(ScramError::ChannelBindingMismatch)),
        (HASH, "wrong", Reason::Scram(ScramError::WrongProof)),
    ] {
        let refused = refusal(with_hash(hash, "scram", password).await);
        assert_eq!(refused, (ClientError::SaslFailed, Some(reason)));
    }
    let refused = refusal(with_hash(HASH, "nobody", "secret").await);
    assert_eq!(refused, (ClientError::SaslFailed, Some(Reason::UnknownUser)));
}

/// Mechanism and header of a first message, over TLS or not, and what is made of it.
#[tokio::test]
async fn mechanism_and_flag_must_agree() {
    let asked = async |origin: &Origin, mechanism: &'static str, flag: &'static str| {
        let client = |mut stream: DuplexStream| async move {
            receive(&mut stream).await.unwrap();
            let first = format!("{flag},,n=,r=abc");
            send(&mut stream, |out| sasl_initial_response(out, mechanism, first.as_bytes())).await;
            receive(&mut stream).await
        };
        let context = AuthContext::new(Handle::current());
        let (outcome, answer) = log_in_from(origin, AuthType::ScramSha256, "scram", &config(), &context, client).await;
        match answer {
            Some(_) => None,
            None => Some(refusal(outcome)),
        }
    };
    let failed = |error| Some((ClientError::SaslFailed, Some(Reason::Scram(error))));
    let foreign = || Some((ClientError::InvalidSaslMechanism, None));
    let (bound, plus) = ("p=tls-server-end-point", SCRAM_SHA_256_PLUS);
    let (tls, plain) = (over_tls(), Origin::default());
    assert_eq!(asked(&tls, plus, bound).await, None);
    assert_eq!(asked(&tls, plus, "n").await, failed(ScramError::ChannelBindingMissing));
    assert_eq!(asked(&tls, plus, "y").await, failed(ScramError::ChannelBindingMissing));
    assert_eq!(asked(&tls, plus, "p=tls-unique").await, failed(ScramError::ChannelBindingType));
    assert_eq!(asked(&tls, SCRAM_SHA_256, "n").await, None);
    assert_eq!(asked(&tls, SCRAM_SHA_256, "y").await, failed(ScramError::ChannelBindingDowngrade));
    assert_eq!(asked(&tls, SCRAM_SHA_256, bound).await, failed(ScramError::ChannelBindingRequired));
    assert_eq!(asked(&plain, SCRAM_SHA_256, "n").await, None);
    assert_eq!(asked(&plain, SCRAM_SHA_256, "y").await, None);
    assert_eq!(asked(&plain, SCRAM_SHA_256, bound).await, failed(ScramError::ChannelBindingRequired));
    for flag in ["n", "y", bound] {
        assert_eq!(asked(&plain, plus, flag).await, foreign());
        assert_eq!(asked(&tls, "SCRAM-SHA-1", flag).await, foreign());
    }
}
