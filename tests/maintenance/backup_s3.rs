//! `backup` into S3, on a server that speaks it.

use std::fs;

use serde_json::Value;

use crate::backup::pg_dump_that;
use crate::program::{Program, dsn, pgweir};
use crate::s3::{Bucket, Fault, Proxy};
use crate::support::process::{scratch_dir, signal};
use crate::support::*;

/// A database that takes three parts to upload.
fn large() -> String {
    let database = Postgres::shared().create_database();
    let mut direct = Postgres::shared().direct(&database);
    direct.run("create table t as select i, repeat(md5(i::text), 32) as text from generate_series(1, 36000) i");
    database
}

fn with_keys(program: Program) -> Program {
    program.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "a secret key")
}

fn at(bucket: &Bucket, line: &str) -> Program {
    with_keys(pgweir(line))
        .arg("--s3-endpoint")
        .arg(bucket.endpoint())
        .arg("--to")
        .arg(format!("s3://{}/of/app", bucket.name))
}

fn run(bucket: &Bucket, database: &str, line: &str) -> Program {
    let to = at(bucket, &format!("backup run {line}"));
    to.arg("--dsn").arg(dsn(Postgres::shared(), "postgres", database))
}

#[track_caller]
fn json(program: Program) -> Value {
    let ran = program.arg("--output").arg("json").run().ok();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn a_backup_in_s3() {
    let (bucket, database) = (Bucket::create("whole"), large());
    let made = json(run(&bucket, &database, "--compress 0 --storage-class STANDARD_IA --sse s3"));
    let id = made["id"].as_str().expect("an id");
    let mut objects = bucket.objects();
    objects.sort();
    assert_eq!(objects, [format!("of/app/{id}/data.dump"), format!("of/app/{id}/manifest.json")]);
    let (_, head, _) = bucket.ask("HEAD", &objects[0]);
    for header in ["x-amz-storage-class: standard_ia", "x-amz-server-side-encryption: aes256"] {
        assert!(head.contains(header), "{header} in {head}");
    }
    // In parts, of which the storage makes a checksum of its own.
    assert!(head.contains("-3\""), "three parts in {head}");
    assert!(head.contains(&format!("content-length: {}", made["bytes"])), "{head}");
    let (_, head, _) = bucket.ask("HEAD", &objects[1]);
    assert!(!head.contains("standard_ia") && head.contains("x-amz-server-side-encryption: aes256"), "{head}");
    assert_eq!(bucket.uploads(), Vec::<String>::new());
    assert_eq!(at(&bucket, "backup list").rows()[0], made);

    // What is there is what a local backup of the same has.
    let manifest: Value = serde_json::from_str(&bucket.ask("GET", &objects[1]).2).expect("JSON");
    assert_eq!(manifest["rows"][0]["rows"], 36000);
    assert_eq!(manifest["files"][0]["sha256"], made["sha256"]);

    // The manifest stays encrypted when it changes.
    assert_eq!(json(at(&bucket, "backup hold latest"))["held"], true);
    let (_, head, _) = bucket.ask("HEAD", &objects[1]);
    assert!(head.contains("x-amz-server-side-encryption: aes256"), "{head}");
    assert_eq!(at(&bucket, "backup list").rows()[0]["held"], true);

    let plain =
        run(&bucket, &database, "--schema-only --format plain --globals --sse kms --kms-key alias/key --path-style");
    let second = json(plain.arg("--s3-region").arg("us-east-1"));
    let key = |name: &str| format!("of/app/{}/{name}", second["id"].as_str().expect("an id"));
    let (_, head, body) = bucket.ask("GET", &key("data.sql"));
    assert!(head.contains("x-amz-server-side-encryption: aws:kms") && head.contains("alias/key"), "{head}");
    assert!(body.contains("CREATE TABLE public.t"), "{body}");
    assert!(bucket.ask("GET", &key("globals.sql")).2.contains("CREATE ROLE app"));

    json(at(&bucket, "backup unhold").arg(id));
    let pruned = at(&bucket, "backup prune --keep-days 0 --keep-last 0 --yes").rows();
    assert_eq!((&pruned[0]["action"], &pruned[1]["action"]), (&Value::from("keep"), &Value::from("removed")));
    assert!(bucket.objects().iter().all(|object| !object.contains(id)), "{:?}", bucket.objects());
    let check = with_keys(pgweir("check backups")).arg("--s3-endpoint").arg(bucket.endpoint());
    let check = check.arg("--backups").arg(format!("s3://{}/of/app", bucket.name));
    check.on(Postgres::shared(), "postgres", &database).run().ok();
}

#[test]
fn what_s3_does_not_take_leaves_nothing() {
    let cases = [
        (Fault::Refuse, 2, "Access Denied (AccessDenied)"),
        (Fault::Unavailable, 2, "Reduce your request rate (SlowDown)"),
        (Fault::Cut, 3, "could not write s3://"),
    ];
    std::thread::scope(|scope| {
        for (fault, code, message) in cases {
            scope.spawn(move || {
                let bucket = Bucket::create(&format!("{fault:?}").to_lowercase());
                let proxy = Proxy::start(fault);
                let program =
                    with_keys(pgweir("backup run --compress 0 --s3-timeout 5s --s3-endpoint")).arg(proxy.endpoint());
                let program = program.arg("--to").arg(format!("s3://{}/p", bucket.name));
                let ran = program.on(Postgres::shared(), "postgres", &large()).run().fails(code, message);
                assert!(proxy.has_met() && !ran.stderr.contains("a secret key"), "{}", ran.stderr);
                assert_eq!((bucket.objects(), bucket.uploads()), (Vec::new(), Vec::new()), "{fault:?}");
            });
        }
    });
}

#[test]
fn what_times_out_is_known_and_pruned() {
    let bucket = Bucket::create("hang");
    let proxy = Proxy::start(Fault::Hang);
    let program = with_keys(pgweir("backup run --compress 0 --s3-timeout 1s --s3-endpoint")).arg(proxy.endpoint());
    let program = program.arg("--to").arg(format!("s3://{}/of/app", bucket.name));
    let ran = program.arg("--dsn").arg(dsn(Postgres::shared(), "postgres", &large())).run();
    let ran = ran.fails(3, "nothing came for 1s");
    assert!(ran.stderr.contains("could not remove the unfinished backup"), "{}", ran.stderr);
    assert_eq!(bucket.uploads().len(), 1);
    let listed = at(&bucket, "backup list --output json").run().ok();
    assert_eq!(listed.stdout, "[]\n");
    assert!(listed.stderr.contains("is no backup: it has not ended"), "{}", listed.stderr);
    assert_eq!(at(&bucket, "backup prune --keep-last 1 --yes").rows()[0]["action"], "keep");
    assert_eq!(at(&bucket, "backup prune --keep-last 1 --leftovers-after 0 --yes").rows()[0]["action"], "removed");
    assert_eq!((bucket.objects(), bucket.uploads()), (Vec::new(), Vec::new()));
}

#[test]
fn an_interrupt_aborts_the_upload() {
    let (bucket, database) = (Bucket::create("interrupted"), Postgres::shared().create_database());
    Postgres::shared().direct(&database).run("create table t as select generate_series(1, 300000) as i");
    let bin = pg_dump_that(Postgres::shared(), "HALF; exec sleep 600").display().to_string();
    let child = run(&bucket, &database, "--compress 0").arg("--pg-bin").arg(bin).spawn();
    wait_until("the upload has begun", PATIENCE, || !bucket.uploads().is_empty());
    signal(child.id(), "INT");
    let out = child.wait_with_output().expect("wait for it");
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!((bucket.objects(), bucket.uploads()), (Vec::new(), Vec::new()));
}

#[test]
fn who_asks_and_whom() {
    let bucket = Bucket::create("who");
    let place = format!("s3://{}/x", bucket.name);
    let home = scratch_dir("home");
    fs::create_dir(home.join(".aws")).expect("create a directory");
    fs::write(home.join(".aws/credentials"), "[other]\naws_access_key_id = i\naws_secret_access_key = hush\n")
        .expect("write");
    fs::write(home.join(".aws/config"), format!("[profile other]\nendpoint_url = {}\n", bucket.endpoint()))
        .expect("write");
    let list = |name: &str, value: &str| {
        let program = pgweir("backup list --to").arg(&place).env("HOME", home.display().to_string());
        program.env("AWS_PROFILE", "other").env(name, value)
    };
    list("AWS_REGION", "eu-west-1").run().ok();
    list("AWS_PROFILE", "nobody").run().fails(4, "there is no such profile");
    fs::write(home.join(".aws/config"), "[profile other]\nrole_arn = x\n").expect("write");
    fs::write(home.join(".aws/credentials"), "").expect("write");
    list("AWS_REGION", "eu-west-1").run().fails(4, "role_arn, which is not supported");
    with_keys(list("AWS_ENDPOINT_URL_S3", &bucket.endpoint())).run().ok();

    with_keys(pgweir("backup list --to s3://nobody-s --s3-endpoint"))
        .arg(bucket.endpoint())
        .run()
        .fails(2, "NoSuchBucket");
    let nowhere = with_keys(pgweir("backup list --to s3://b --s3-timeout 200ms --s3-endpoint http://127.0.0.1:1"));
    nowhere.run().fails(3, "Connection refused");
    with_keys(pgweir("backup list --to s3://b --s3-endpoint nonsense")).run().fails(4, "no http:// or https:// URL");
    with_keys(pgweir("backup list --to s3://")).run().fails(4, "the bucket's name is missing");
    let directory = run(&bucket, "postgres", "--format directory");
    directory.run().fails(4, "--format directory cannot be streamed into S3");
}
