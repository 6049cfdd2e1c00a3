//! What logins cost: not more than they must, and of refusals as much for every name.

use super::*;

/// Iterations for one login.
async fn spent(method: AuthType, config: &Config, context: &AuthContext, user: &str, password: &str) -> u64 {
    let before = context.computing.iterations();
    let client = |stream| answer(stream, user, password);
    let (outcome, _) = log_in(method, user, config, context, client).await;
    assert_eq!(outcome.is_ok(), password == "secret", "{method} {user}: {outcome:?}");
    context.computing.iterations() - before
}

/// Users with these secrets, all of the password `secret`.
fn config_of(users: &[&str]) -> Config {
    let mut config = config();
    let mut kept = Userlist::default();
    for user in users {
        kept.insert(*user, config.userlist.get(user).unwrap().clone());
    }
    config.userlist = Arc::new(kept);
    config
}

#[tokio::test]
async fn a_login_costs_a_computation_once() {
    for (method, user, first) in [
        (AuthType::Plain, "plain", 0),
        (AuthType::Plain, "md5", 0),
        (AuthType::Plain, "scram", 64),
        (AuthType::Md5, "scram", 0),
        (AuthType::ScramSha256, "plain", 64),
        (AuthType::ScramSha256, "scram", 0),
    ] {
        let (config, context) = (config(), AuthContext::new(Handle::current()));
        assert_eq!(spent(method, &config, &context, user, "secret").await, first, "{method} {user}");
        for _ in 0..3 {
            assert_eq!(spent(method, &config, &context, user, "secret").await, 0, "{method} {user}");
        }
        context.forget();
        assert_eq!(spent(method, &config, &context, user, "secret").await, first, "{method} {user}");
    }
}

#[tokio::test]
async fn a_refusal_costs_the_same_whoever_it_is() {
    let all = ["plain", "md5", "scram", "empty", "nobody"];
    for (method, users, cost) in [
        (AuthType::Plain, &all[..], 64),
        (AuthType::Md5, &all[..], 64),
        (AuthType::ScramSha256, &all[..], 64),
        // Where nobody has a password, nobody has to wait for a verifier.
        (AuthType::ScramSha256, &["scram", "nobody"][..], 0),
        (AuthType::Plain, &["scram", "nobody"][..], 64),
    ] {
        let known: Vec<&str> = users.iter().copied().filter(|user| *user != "nobody").collect();
        let (config, context) = (config_of(&known), AuthContext::new(Handle::current()));
        // The first time, again, and after a login that has worked.
        for round in 0..3 {
            for user in users {
                // md5 is as cheap for all; a user with a SCRAM secret is asked for SCRAM.
                let cost = if method == AuthType::Md5 && *user != "scram" { 0 } else { cost };
                let wrong = spent(method, &config, &context, user, "wrong").await;
                assert_eq!(wrong, cost, "{method} {user}, round {round}");
            }
            if method == AuthType::ScramSha256 && round == 1 {
                spent(method, &config, &context, "scram", "secret").await;
            }
        }
    }
}

/// What is sent before anything is proven is sent before anything is computed.
#[tokio::test]
async fn a_challenge_costs_nothing() {
    let (config, context) = (config(), AuthContext::new(Handle::current()));
    for user in ["plain", "md5", "scram", "empty", "nobody"] {
        let client = |mut stream: DuplexStream| async move {
            receive(&mut stream).await.unwrap();
            send(&mut stream, |out| sasl_initial_response(out, SCRAM_SHA_256, b"n,,n=,r=abc")).await;
            receive(&mut stream).await.expect("a challenge")
        };
        let (outcome, _) = log_in(AuthType::ScramSha256, user, &config, &context, client).await;
        assert!(matches!(outcome, Err(AuthError::Eof)), "{outcome:?}");
        assert_eq!(context.computing.iterations(), 0, "{user}");
    }
}

#[tokio::test]
async fn unknown_users_have_as_many_iterations_as_known_ones() {
    let mut config = config_of(&["scram"]);
    config.settings.set("scram_iterations", "5000").unwrap();
    let context = AuthContext::new(Handle::current());
    for user in ["scram", "nobody"] {
        let client = |stream| answer(stream, user, "wrong");
        let (_, asked) = log_in(AuthType::ScramSha256, user, &config, &context, client).await;
        assert!(asked[1].ends_with(",i=64"), "{asked:?}");
    }
    assert_eq!(spent(AuthType::Plain, &config, &context, "nobody", "wrong").await, 64);
}

#[tokio::test]
async fn many_logins_at_once_cost_one_computation() {
    let (config, context) = (config(), AuthContext::new(Handle::current()));
    let login = async || spent(AuthType::ScramSha256, &config, &context, "plain", "secret").await;
    tokio::join!(login(), login(), login(), login());
    assert_eq!(context.computing.iterations(), 64);
}

#[tokio::test]
async fn a_verifier_that_costs_hours_is_not_computed() {
    let mut config = config();
    let stored = Verifier::from_password(b"secret", &SALT, iterations(1)).to_stored().replace("$1:", "$4000000000:");
    let mut users = Userlist::default();
    users.insert("costly", UserSecret::parse(&stored));
    config.userlist = Arc::new(users);
    let client = |stream| answer(stream, "costly", "secret");
    let (outcome, _) = log_in(AuthType::Plain, "costly", &config, &AuthContext::new(Handle::current()), client).await;
    let reason = Reason::Scram(ScramError::IterationCount);
    assert_eq!(refusal(outcome), (ClientError::PasswordFailed, Some(reason)));
}

#[tokio::test]
async fn a_password_is_hashed_once_until_it_changes() {
    let (mut config, context) = (config(), AuthContext::new(Handle::current()));
    let is_in = async |config: &Config, password: &'static str| {
        let client = |stream| answer(stream, "plain", password);
        log_in(AuthType::ScramSha256, "plain", config, &context, client).await.0.is_ok()
    };
    assert!(is_in(&config, "secret").await);
    let mut users = Userlist::default();
    users.insert("plain", UserSecret::parse("changed"));
    config.userlist = Arc::new(users);
    assert!(!is_in(&config, "secret").await);
    let spent = context.computing.iterations();
    assert!(is_in(&config, "changed").await);
    assert_eq!(context.computing.iterations(), spent);
    config.settings.set("scram_iterations", "65").unwrap();
    assert!(is_in(&config, "changed").await);
    assert_eq!(context.computing.iterations(), spent + 65, "the verifier was of other iterations");
}
