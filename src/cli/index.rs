//! `pgweir index`

use clap::Subcommand;

use crate::maintenance::exit::Exit;
use crate::maintenance::index;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;

/// Indexes: which are unused, duplicate, missing, bloated or invalid; rebuild, create and drop them while the tables are in use
#[derive(Subcommand)]
pub(super) enum Index {
    /// All indexes, or those that a flag asks for, with the statement to act on each; the largest first
    #[command(after_help = "\
Examples:
  pgweir index list --dsn \"host=db dbname=app user=monitor\" --unused
  pgweir index list --dsn postgres://monitor@db/app --bloat --min-size 100MB --output json
  pgweir index list --config pgbouncer.ini --database app --duplicate --schema public")]
    List(index::ListOptions),
    /// Rebuild indexes by REINDEX CONCURRENTLY, one after the other: tables stay in use, and what is interrupted can be resumed.
    /// Exclusion constraints cannot be rebuilt so and are skipped. Needs to own the tables, or MAINTAIN on them
    #[command(mut_arg("statement_timeout", |arg| arg.default_value("0")))]
    #[command(after_help = "\
Examples:
  pgweir index rebuild orders_created_at_idx --dsn \"host=db dbname=app user=admin\" --yes
  pgweir index rebuild --table public.orders --min-bloat-pct 30 --dsn postgres://admin@db/app --dry-run
  pgweir index rebuild --all --resume --config pgbouncer.ini --database app --yes
  pgweir index rebuild items_embedding_idx --set lists=200 --maintenance-work-mem 2GB --dsn postgres://admin@db/app")]
    Rebuild(index::RebuildOptions),
    /// Create an index concurrently, unless one like it is there; on a partitioned table partition by partition. What cannot be
    /// completed does not stay
    #[command(mut_arg("statement_timeout", |arg| arg.default_value("0")))]
    #[command(after_help = "\
Examples:
  pgweir index create orders --columns 'customer_id, created_at desc' --dsn \"host=db dbname=app user=admin\" --yes
  pgweir index create users --columns 'lower(email)' --unique --where 'deleted_at is null' --name users_email_key \\
      --dsn postgres://admin@db/app
  pgweir index create items --using hnsw --columns 'embedding vector_cosine_ops' --with m=24 --dsn postgres://admin@db/app")]
    Create(index::CreateOptions),
    /// Drop indexes concurrently; what upholds a constraint, a foreign key or a replica identity is refused. Prints the definition
    /// to make it again by
    #[command(mut_arg("statement_timeout", |arg| arg.default_value("0")))]
    #[command(after_help = "\
Examples:
  pgweir index drop orders_old_idx --dsn \"host=db dbname=app user=admin\" --dry-run
  pgweir index drop 'My Schema.My Index' --dsn postgres://admin@db/app --yes")]
    Drop(index::DropOptions),
}

impl Index {
    pub(super) fn run(self) -> Exit {
        match self {
            Index::List(o) => {
                run("index list", o.reading.show, Changing::default(), async |job| index::list(job, &o).await)
            }
            Index::Create(o) => {
                run("index create", o.reading.show, o.changing, async |job| index::create(job, &o).await)
            }
            Index::Drop(o) => {
                run("index drop", o.reading.show, o.changing, async |job| index::drop_indexes(job, &o).await)
            }
            Index::Rebuild(o) => {
                run("index rebuild", o.reading.show, o.changing, async |job| index::rebuild(job, &o).await)
            }
        }
    }
}
