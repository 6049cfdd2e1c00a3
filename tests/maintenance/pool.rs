//! `pool advise`

use serde_json::Value;

use crate::program::{find, monitored, pgweir};
use crate::servers::every_version;
use crate::support::*;

#[test]
fn what_the_server_can_take() {
    for (version, pg) in every_version() {
        let (monitor, database) = monitored(pg);
        let rows = pgweir("pool advise --instances 2 --others 17").on(pg, monitor, &database).rows();
        // 400 - 3 - 17 = 380; / 2 / 1.5 = 126 = 100 + 25, and one is left.
        let advised = |setting: &str| find(&rows, "setting", setting)["advised"].clone();
        assert_eq!((advised("default_pool_size"), advised("reserve_pool_size")), (100.into(), 25.into()), "{version}");
        assert_eq!(advised("max_db_connections"), 125);
        let reason = find(&rows, "setting", "default_pool_size")["reason"].as_str().expect("a reason");
        assert!(reason.contains("400 max_connections - 3 reserved - 17 of others = 380"), "{reason}");
        assert!(find(&rows, "setting", "default_pool_size")["now"].is_null());
    }
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let small =
        pgweir("pool advise --cores 4 --disks 0 --pools 2 --clients 100 --safety 1").on(pg, monitor, &database).rows();
    assert_eq!(find(&small, "setting", "default_pool_size")["advised"], 4);
    assert_eq!(find(&small, "setting", "max_client_conn")["advised"], 300);
    pgweir("pool advise --others 400").on(pg, monitor, &database).run().fails(2, "no connections left to share out");
}

#[test]
fn what_the_pooler_uses() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 7));
    let mut busy: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    busy.iter_mut().for_each(|client| client.run("begin"));
    let file = bouncer.dir.join("pooler.ini").display().to_string();
    let on =
        |line: &str| pgweir(line).arg("--config").arg(&file).arg("--database").arg("app").arg("--dsn").arg("user=app");
    let rows = on("pool advise --measure 1s").rows();
    let size = find(&rows, "setting", "default_pool_size");
    // Three are wanted, and a quarter more.
    assert_eq!((&size["advised"], &size["now"]), (&4.into(), &Value::from("7")));
    assert!(size["reason"].as_str().expect("a reason").contains("wants 3 in 99 of 100 moments"), "{size}");
    assert_eq!(find(&rows, "setting", "max_client_conn")["advised"], 9);
    let rows = on("pool advise --measure 0").rows();
    assert!(find(&rows, "setting", "default_pool_size")["advised"].as_i64().expect("a number") > 100, "{rows:#?}");
}
