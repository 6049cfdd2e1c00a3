//! `index create` and `index drop`

use serde_json::Value;

use super::{index, invalid, run, texts};
use crate::program::Ran;
use crate::servers::every_version;
use crate::support::*;

fn one(ran: Ran) -> Value {
    serde_json::from_str::<Vec<Value>>(&ran.ok().stdout).expect("a list").remove(0)
}

#[test]
fn made_once_and_dropped() {
    for (version, pg) in every_version() {
        let database = pg.create_database();
        let mut wire = pg.direct(&database);
        wire.run(
            "create schema \"S 1\"; create table \"S 1\".\"My T\" (gone int, a int, b text, \"C d\" int);
             alter table \"S 1\".\"My T\" drop column gone;
             insert into \"S 1\".\"My T\" select g, 'B' || g, g % 10 from generate_series(1, 5000) g",
        );
        let wanted =
            ["S 1.My T", "--columns", "a, lower(b) desc nulls last", "--include", "\"C d\"", "--where", "a > 5"];
        let dry = run(pg, &database, "create --dry-run", &wanted).ok();
        let sql = "CREATE INDEX CONCURRENTLY \"My T_a_lower_C d_idx\" ON \"S 1\".\"My T\" (a, lower(b) desc nulls last) \
                   INCLUDE (\"C d\") WHERE (a > 5);\n";
        assert_eq!(dry.stdout, sql, "{version}");
        assert!(
            texts(&mut wire, "select 1 from pg_class where relname like '%idx' and relnamespace > 16383").is_empty()
        );
        let row = one(run(pg, &database, "create --yes --output json", &wanted));
        assert_eq!(
            (&row["name"], &row["valid"]),
            (&"\"S 1\".\"My T_a_lower_C d_idx\"".into(), &true.into()),
            "{version}"
        );
        let ran = run(pg, &database, "create --yes", &wanted).fails(5, "there is such an index already");
        assert!(ran.stderr.contains("Hint: CREATE INDEX \"My T_a_lower_C d_idx\""), "{}", ran.stderr);
        let covered = run(pg, &database, "create --dry-run --columns a", &["S 1.My T", "--where", "a > 5"]).ok();
        assert!(covered.stderr.contains("begins with the same columns and may do as well"), "{}", covered.stderr);

        let name = "S 1.My T_a_lower_C d_idx";
        let dry = run(pg, &database, "drop --dry-run", &[name]).ok();
        let definition = row["definition"].as_str().expect("a text");
        let wanted =
            format!("-- to make it again: {definition};\nDROP INDEX CONCURRENTLY \"S 1\".\"My T_a_lower_C d_idx\";\n");
        assert_eq!(dry.stdout, wanted, "{version}");
        run(pg, &database, "drop", &[name]).fails(5, "not confirmed: drop");
        let dropped = one(run(pg, &database, "drop --yes --output json", &[name]));
        assert_eq!(dropped["definition"], definition, "{version}");
        // The definition does make it again.
        wire.run(definition);
        run(pg, &database, "create --yes --name made --columns a", &["S 1.My T"]).ok();
        run(pg, &database, "create --yes --name made --columns b", &["S 1.My T"]).fails(5, "is there already");
        run(pg, &database, "create --yes --columns nothing", &["S 1.My T"]).fails(4, "does not exist");
        run(pg, &database, "create --yes --columns", &["a); drop table \"S 1\".\"My T\"; --", "S 1.My T"])
            .fails(4, "multiple commands");
        run(pg, &database, "create --yes --columns a", &["S 1.My T", "--where", "a > 5; select 1"])
            .fails(4, "syntax error");
        run(pg, &database, "create --columns b", &["S 1.My T"]).fails(5, "not confirmed: create the index");
        // No two b are the same but for two.
        wire.run("insert into \"S 1\".\"My T\" values (1, 'B1', 1)");
        let violated = run(pg, &database, "create --unique --name u --yes --columns b", &["S 1.My T"]);
        violated.fails(2, "Key (b)=(B1) is duplicated");
        assert!(invalid(&mut wire).is_empty(), "{version}");
        let flags =
            "create --unique --with fillfactor=70 --tablespace pg_default --yes --output json --using btree --columns";
        let row = one(run(pg, &database, flags, &["a, b", "S 1.My T", "--where", "a > 1"]));
        assert!(
            row["definition"].as_str().is_some_and(|sql| sql.contains("UNIQUE") && sql.contains("fillfactor='70'"))
        );
    }
}

#[test]
fn nulls_can_count_as_the_same() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    pg.direct(&database).run("create table t (a int); insert into t values (null), (null)");
    run(pg, &database, "create t --unique --yes --columns a", &[]).ok();
    run(pg, &database, "create t --unique --nulls-not-distinct --yes --columns a", &[]).fails(2, "is duplicated");
    run(pg, &database, "create t --nulls-not-distinct --yes --columns a", &[]).fails(4, "--unique");
}

#[test]
fn partition_by_partition() {
    for (version, pg) in every_version() {
        let database = pg.create_database();
        let mut wire = pg.direct(&database);
        wire.run(
            "create table p (i int, t text) partition by range (i);
             create table p1 partition of p for values from (0) to (10);
             create table \"P 2\" partition of p for values from (10) to (20) partition by range (i);
             create table p2a partition of \"P 2\" for values from (10) to (15);
             create table p2b partition of \"P 2\" for values from (15) to (20);
             insert into p select g, 'x' || g from generate_series(0, 19) g; create index mine on p2b (t)",
        );
        let dry = run(pg, &database, "create p --columns t --dry-run", &[]).ok();
        assert_eq!(dry.stdout.matches("CREATE INDEX CONCURRENTLY").count(), 2, "{version}: {}", dry.stdout);
        let row = one(run(pg, &database, "create p --columns t --yes --output json", &[]));
        assert_eq!((&row["name"], &row["valid"]), (&"public.p_t_idx".into(), &true.into()), "{version}");
        // What was there has become a part.
        let parts = "select c.relname from pg_partition_tree('p_t_idx') join pg_class c on c.oid = relid where isleaf order by 1";
        assert_eq!(texts(&mut wire, parts), ["mine", "p1_p_t_idx", "p2a_p_t_idx"], "{version}");
        assert!(invalid(&mut wire).is_empty());
        run(pg, &database, "create p --columns t --yes", &[]).fails(5, "there is such an index already");
        run(pg, &database, "drop mine --yes", &[]).fails(5, "is a part of the partitioned index");
        let ran = run(pg, &database, "drop p_t_idx --yes", &[]).ok();
        assert!(ran.stderr.contains("are locked for a moment"), "{}", ran.stderr);
        // As after a kill: a part is attached, another not valid, the whole not complete.
        wire.run(
            "create index p_t_idx on only p (t); create index p1_t on p1 (t); alter index p_t_idx attach partition p1_t;
             create index p2a_p_t_idx on p2a (t); update pg_index set indisvalid = false where indexrelid = 'p2a_p_t_idx'::regclass",
        );
        let row = one(run(pg, &database, "create p --columns t --yes --output json", &[]));
        assert_eq!((&row["name"], &row["valid"]), (&"public.p_t_idx".into(), &true.into()), "{version}");
        assert_eq!(texts(&mut wire, parts), ["p1_t", "p2a_p_t_idx", "p2b_p_t_idx"], "{version}");
        run(pg, &database, "drop p_t_idx --yes", &[]).ok();
        // One partition's rows are not unique: nothing stays.
        wire.run("insert into p values (16, 'y'), (16, 'y')");
        run(pg, &database, "create p --unique --yes --columns", &["i, t"]).fails(2, "is duplicated");
        let left = "select relname from pg_class where relkind in ('i', 'I') and relnamespace = 'public'::regnamespace";
        assert!(texts(&mut wire, left).is_empty(), "{version}");
    }
}

#[test]
fn what_is_needed_is_not_dropped() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut wire = pg.direct(&database);
    wire.run(
        "create table parent (i int primary key, j int not null); create unique index for_key on parent (j);
         create unique index identity on parent (i, j); alter table parent replica identity using index identity;
         create table child (i int references parent, j int constraint to_j references parent (j));
         create index child_j on child (j, i); create unique index child_u on child (i)",
    );
    for (name, message) in [
        ("parent_pkey", "upholds the constraint parent_pkey"),
        ("for_key", "foreign keys refer to"),
        ("identity", "is the replica identity"),
        ("pg_class_oid_index", "is the system's"),
    ] {
        let ran = run(pg, &database, &format!("drop {name} --yes"), &[]).fails(5, message);
        assert!(name.starts_with("pg_") || ran.stderr.contains("Hint: "), "{}", ran.stderr);
    }
    let ran = run(pg, &database, "drop child_j child_u --yes", &[]).ok();
    let wanted = "public.child_j is the last index on the columns of foreign key to_j";
    assert!(ran.stderr.contains(wanted) && ran.stderr.contains("child_u keeps its columns unique"), "{}", ran.stderr);
    run(pg, &database, "drop child_j --yes", &[]).fails(2, "there is no index child_j");
    assert_eq!(index(pg, &database, "list --table child", &[]).rows().len(), 0);
}
