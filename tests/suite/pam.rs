//! `auth_type=pam`. pam_wrapper has the pooler find its modules in a folder of the test's own, so that nobody needs the
//! rights to write to the system's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::bouncer::{Setup, assert_error};
use crate::support::postgres::PASSWORD;
use crate::support::process::{open_to_all, scratch_dir};
use crate::support::*;

const FAILED: &str = "PAM authentication failed";

/// Where the library of this name is. These tests do not pass without it.
fn library(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let all = folders.chain([PathBuf::from("/usr/lib64")]).map(|folder| folder.join(name));
    all.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is missing: install libpam-wrapper"))
}

/// A module that says yes to `user` with [`PASSWORD`].
fn knows(dir: &Path, user: &str) -> String {
    let passwords = dir.join("passwords");
    fs::write(&passwords, format!("{user}:{PASSWORD}:pgbouncer\n")).expect("write the passwords");
    open_to_all(&passwords, 0o644);
    format!("{} passdb={}", library("pam_wrapper/pam_matrix.so").display(), passwords.display())
}

/// A module that runs this script, which has the password in its input.
fn runs(dir: &Path, script: &str) -> String {
    let path = dir.join("script");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write the script");
    open_to_all(&path, 0o755);
    format!("pam_exec.so expose_authtok quiet {}", path.display())
}

/// A folder with the service `pgbouncer`.
fn service(auth: impl FnOnce(&Path) -> String, account: &str) -> PathBuf {
    let dir = scratch_dir("pam");
    let file = dir.join("pgbouncer");
    let text = format!("auth required {}\naccount required {account}\n", auth(&dir));
    fs::write(&file, text).expect("write the service");
    open_to_all(&file, 0o644);
    dir
}

fn with(service: &Path) -> impl FnOnce(Setup) -> Setup {
    let dir = service.display().to_string();
    move |setup| {
        setup
            .env("LD_PRELOAD", library("libpam_wrapper.so").display().to_string())
            .env("PAM_WRAPPER", "1")
            .env("PAM_WRAPPER_SERVICE_DIR", dir)
            .set("auth_type", "pam")
    }
}

fn start(service: &Path) -> Bouncer {
    let setup = with(service);
    Bouncer::start(Postgres::shared(), setup)
}

#[test]
fn the_modules_say_who_gets_in_and_the_server_gets_the_password() {
    let dir = service(|dir| knows(dir, "salted"), "pam_permit.so");
    let setup = with(&dir);
    // What the file says of the user does not count.
    let bouncer = Bouncer::start(Postgres::shared(), |it| setup(it).secret("salted", "of old"));
    let mut client = bouncer.try_client("salted", "app", PASSWORD).expect("log in");
    assert_eq!(client.one("select current_user"), "salted");
    for (user, password) in [("salted", "wrong"), ("salted", "of old"), ("nobody", PASSWORD)] {
        assert_error(&bouncer.refusal(user, "app", password), FAILED, "28000");
    }
    assert_error(&bouncer.refusal("salted", "app", ""), "empty password returned by client", "28P01");
    bouncer.wait_log("pam_authenticate() failed");
    assert!(!bouncer.log().contains(PASSWORD));
}

#[test]
fn an_account_that_may_not_be_used_does_not_get_in() {
    let dir = service(|dir| knows(dir, "app"), "pam_deny.so");
    let bouncer = start(&dir);
    assert_error(&bouncer.refusal("app", "app", PASSWORD), FAILED, "28000");
    bouncer.wait_log("pam_acct_mgmt() failed");
}

#[test]
fn modules_are_told_who_it_is_and_from_where() {
    let script = r#"[ "$PAM_USER $PAM_RHOST $PAM_SERVICE $(tr -d '\0')" = "app 127.0.0.1 pgbouncer correct horse" ]"#;
    let dir = service(|dir| runs(dir, script), "pam_permit.so");
    let bouncer = start(&dir);
    bouncer.try_client("app", "app", PASSWORD).expect("log in");
    assert_error(&bouncer.refusal("app", "app", "wrong"), FAILED, "28000");
    assert_error(&bouncer.refusal("other", "app", PASSWORD), FAILED, "28000");
}

#[test]
fn a_user_of_the_databases_own_cannot_be_looked_up_as_well() {
    let dir = service(|dir| knows(dir, "app"), "pam_permit.so");
    let setup = with(&dir);
    let bouncer = Bouncer::start(Postgres::shared(), |it| setup(it).app("auth_user=postgres"));
    assert_error(&bouncer.refusal("app", "app", PASSWORD), "bouncer config error", "F0000");
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn modules_that_hang_hold_up_nobody_who_is_in() {
        // It ends with the pooler.
        let script = "[ \"$PAM_USER\" = app ] || while kill -0 $PPID; do sleep 0.1; done";
        let dir = service(|dir| runs(dir, script), "pam_permit.so");
        let setup = with(&dir);
        let mut bouncer = Bouncer::start(Postgres::shared(), |it| setup(it).set("client_login_timeout", 2));
        let mut client = bouncer.try_client("app", "app", PASSWORD).expect("log in");
        let mut stuck: Vec<Wire> = (0..10)
            .map(|_| {
                let mut wire = Wire::tcp(bouncer.port);
                wire.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "other"), ("database", "app")]));
                wire.expect("R");
                wire.send(&msg::password(PASSWORD));
                wire
            })
            .collect();
        for _ in 0..20 {
            assert_eq!(client.one("select 1"), "1");
        }
        // There are more threads than hang.
        bouncer.try_client("app", "app", PASSWORD).expect("log in");
        for wire in &mut stuck {
            assert_error(&wire.expect_fatal(), "client_login_timeout", "08P01");
        }
        // Nor does the process wait for them.
        bouncer.signal("QUIT");
        assert!(bouncer.wait_exit().success());
    }
}
