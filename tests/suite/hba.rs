//! `auth_type=hba`: rules by database, user and address, and system users mapped to database users.

use std::fs;

use crate::support::bouncer::{Setup, assert_error};
use crate::support::postgres::PASSWORD;
use crate::support::process::open_to_all;
use crate::support::*;

/// A file beside the configuration, readable for the account of the pooler.
pub(crate) fn write(name: &str, text: &str) -> String {
    let path = process::scratch_dir("rules").join(name);
    fs::write(&path, text).expect("write rules");
    open_to_all(&path, 0o644);
    path.to_str().expect("a readable path").to_owned()
}

/// The console's own user stays able to get in.
fn rules(text: &str) -> impl FnOnce(Setup) -> Setup {
    let file = write("hba", &format!("host pgbouncer admin all trust\n{text}"));
    move |setup| setup.set("auth_type", "hba").set("auth_hba_file", file)
}

fn start(text: &str) -> Bouncer {
    let rules = rules(text);
    Bouncer::start(Postgres::shared(), |setup| rules(setup).secret("app", PASSWORD).secret("other", PASSWORD))
}

fn over_unix(bouncer: &Bouncer, user: &str, password: &str) -> Result<(), PgError> {
    Wire::unix(bouncer.socket_path()).login(user, "app", password, &[])
}

/// The authentication request that `user` is met with.
fn asked_for(mut client: Wire, user: &str, database: &str) -> u32 {
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", database)]));
    client.expect("R")[0].u32(0)
}

#[test]
fn the_first_line_that_matches_chooses_the_method() {
    let bouncer = start(
        "local all     all              md5
         host  all     other            127.0.0.0/8            password
         host  all     third            10.0.0.0/8             trust
         host  all     third            127.0.0.1/32           reject
         host  nowhere all              127.0.0.1/32           trust
         host  all     app              127.0.0.0 255.0.0.0    scram-sha-256",
    );
    assert_eq!(asked_for(Wire::tcp(bouncer.port), "app", "app"), 10);
    assert_eq!(asked_for(Wire::tcp(bouncer.port), "other", "app"), 3);
    assert_eq!(asked_for(Wire::unix(bouncer.socket_path()), "app", "app"), 5);
    assert!(bouncer.try_client("app", "app", PASSWORD).is_ok());
    assert!(bouncer.try_client("other", "app", PASSWORD).is_ok());
    over_unix(&bouncer, "app", PASSWORD).expect("log in");
    assert_error(&bouncer.refusal("app", "app", "wrong"), "SASL authentication failed", "28P01");
    assert_error(&bouncer.refusal("third", "app", ""), "login rejected", "28000");
    assert_error(&bouncer.refusal("replicator", "app", ""), "no authentication method is found", "28000");
    bouncer.wait_log("closing because: no authentication method is found (age=");
}

/// Who runs the tests, and so is at the other end of their Unix sockets.
fn system_user() -> String {
    let out = std::process::Command::new("id").arg("-un").output().expect("run id");
    String::from_utf8(out.stdout).expect("a name").trim().to_owned()
}

#[test]
fn peer_lets_the_system_user_in_as_itself() {
    let (me, rules) = (system_user(), rules("local all all peer\nhost all all all peer\n"));
    let bouncer = Bouncer::start(Postgres::shared(), |setup| rules(setup).secret(&me, "").app("user=app"));
    over_unix(&bouncer, &me, "").expect("log in");
    let error = over_unix(&bouncer, "app", PASSWORD).expect_err("another user");
    assert_error(&error, "unix socket login rejected", "28000");
    // Over TCP nobody knows who it is.
    assert_error(&bouncer.refusal(&me, "app", ""), "unix socket login rejected", "28000");
}

#[test]
fn peer_with_a_map_lets_in_whom_the_map_allows() {
    let me = system_user();
    let ident = write("ident", &format!("some {me} app\nsome {me} stranger\nall {me} all\nother nobody all\n"));
    let rules =
        rules("local app app,stranger,other peer map=some\nlocal app third peer map=all\nlocal all all peer map=other");
    let bouncer = Bouncer::start(Postgres::shared(), |setup| rules(setup).set("auth_ident_file", ident));
    for user in ["app", "third"] {
        over_unix(&bouncer, user, "").unwrap_or_else(|e| panic!("{user}: {e}"));
    }
    for user in ["other", "stranger", "replicator"] {
        let error = over_unix(&bouncer, user, "").expect_err(user);
        assert_error(&error, "unix socket login rejected", "28000");
    }
    bouncer.wait_log("ident map some cannot be matched");
    bouncer.wait_log("ident map other cannot be matched");
}

#[test]
fn trust_by_a_line_is_for_known_users_only() {
    let bouncer = start("host all all all trust");
    assert!(bouncer.try_client("third", "app", "").is_ok());
    assert_error(&bouncer.refusal("stranger", "app", ""), "\"trust\" authentication failed", "28000");
}

#[test]
fn replication_needs_a_line_of_its_own() {
    let bouncer = start("host all app all trust\nhost replication third all reject");
    let startup = |user, kind| {
        let mut client = Wire::tcp(bouncer.port);
        client.login(user, "app", "", &[("replication", kind)]).expect_err("no such line")
    };
    assert_error(&startup("app", "true"), "no authentication method is found", "28000");
    assert_error(&startup("third", "true"), "login rejected", "28000");
    assert_error(&startup("third", "database"), "no authentication method is found", "28000");
}

#[test]
fn rules_are_read_again_at_reload() {
    let mut bouncer = start("host all app all trust");
    assert!(bouncer.try_client("app", "app", "").is_ok());
    bouncer.reload(rules("host all app all reject"));
    assert_error(&bouncer.refusal("app", "app", ""), "login rejected", "28000");
}

/// A connection that was made before is no way around them.
#[test]
fn a_login_goes_by_the_rules_of_its_time() {
    let mut bouncer = start("host all app all trust");
    let mut early = Wire::tcp(bouncer.port);
    // The pooler has seen it.
    early.send(&msg::packet(msg::SSL_REQUEST, &[]));
    assert_eq!(early.read_byte(), Ok(b'N'));
    bouncer.reload(rules("host all app all reject"));
    let error = early.login("app", "app", "", &[]).expect_err("too late");
    assert_error(&error, "login rejected", "28000");
}

#[test]
fn names_in_a_file_of_their_own() {
    let names = write("names", "app, other\n");
    let bouncer = start(&format!("host @{names},nowhere @{names} all trust"));
    assert!(bouncer.try_client("other", "app", "").is_ok());
    assert_error(&bouncer.refusal("third", "app", ""), "no authentication method is found", "28000");
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer leaves out the line, and lets in whom it should have kept out.
    #[test]
    fn a_line_that_cannot_be_read_fails_the_reload() {
        let mut bouncer = start("host all app all trust");
        bouncer.rewrite(rules("host all app al reject\nhost all app all trust"));
        let error = bouncer.admin().fails("RELOAD");
        assert!(error.message.contains("RELOAD failed"), "{error}");
        bouncer.wait_log("hba:2: \"al\" is no address");
        assert!(bouncer.try_client("app", "app", "").is_ok());
    }

    #[test]
    fn methods_that_are_not_there_are_refused_when_they_are_read() {
        let mut bouncer = start("host all app all trust");
        for (method, told) in
            [("ident", "unsupported method \"ident\""), ("pam", "the method pam only works as auth_type")]
        {
            bouncer.rewrite(rules(&format!("host all app all {method}")));
            bouncer.admin().fails("RELOAD");
            bouncer.wait_log(told);
        }
    }

    #[test]
    fn set_reads_the_rules() {
        let file = write("hba", "host pgbouncer admin all trust\nhost all app all reject");
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("auth_hba_file", file));
        assert!(bouncer.try_client("app", "app", "").is_ok());
        bouncer.admin().run("SET auth_type='hba'");
        assert_error(&bouncer.refusal("app", "app", ""), "login rejected", "28000");
        bouncer.admin().fails("SET auth_hba_file='/nowhere'");
        assert_error(&bouncer.refusal("app", "app", ""), "login rejected", "28000");
    }
}
