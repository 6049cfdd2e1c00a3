//! An index on a partitioned table: PostgreSQL cannot make it concurrently. So an empty one is made for the whole, one
//! concurrently on each partition, and these are attached. Once all are, the whole is valid.

use super::{CreateOptions, Plan, build, free_name};
use crate::maintenance::exit::Failure;
use crate::maintenance::index::build::Builder;
use crate::maintenance::index::definition::{Definition, definitions};
use crate::maintenance::index::leftovers::{Remains, drop_concurrently, remove_later};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::{ident, qualified};

row! {
    /// A table of the tree, parents before children.
    Part {
        oid: u32,
        /// None: the topmost.
        parent: Option<u32>,
        schema: String,
        name: String,
        kind: String,
    }
}

/// What is needed for each part.
struct Tree<'a> {
    job: &'a Job,
    server: &'a Server,
    builder: &'a Builder<'a>,
    options: &'a CreateOptions,
    plan: &'a Plan,
    /// The indexes of partitioned tables, quoted and with their schema.
    wholes: Vec<(u32, String)>,
}

pub(super) async fn create(
    job: &Job,
    server: &Server,
    builder: &Builder<'_>,
    options: &CreateOptions,
    plan: &Plan,
) -> Result<bool, Failure> {
    let parts: Vec<Part> = server.rows(PARTS, &[&plan.table.oid]).await?;
    if let Some(foreign) = parts.iter().find(|part| part.kind == "f") {
        let name = qualified(&foreign.schema, &foreign.name);
        return Err(Failure::refused(format!("the partition {name} is a foreign table, which has no indexes here")));
    }
    let whole = qualified(&plan.table.schema, &plan.name);
    let mut tree = Tree { job, server, builder, options, plan, wholes: Vec::new() };
    let undo = remove_later(job, server, builder.pid(), Remains::Partitioned(whole));
    let made = tree.create(&parts).await;
    match &made {
        Ok(()) => undo.dismiss(),
        Err(_) if job.interrupt.is_requested() => drop(undo),
        Err(_) => {
            if let Err(left) = undo.now().await {
                job.warn(left.to_string());
            }
        }
    }
    made.map(|()| !job.is_dry_run())
}

impl Tree<'_> {
    async fn create(&mut self, parts: &[Part]) -> Result<(), Failure> {
        let leaves = parts.iter().filter(|part| part.kind != "p").count();
        let mut place = 0;
        for part in parts {
            self.job.interrupt.check()?;
            let known = definitions(self.server, Some(&[part.oid])).await?;
            let own = self.own(&known);
            let is_done = own.is_some_and(|index| index.attached);
            let parent = part.parent.and_then(|oid| self.wholes.iter().find(|(of, _)| *of == oid)).cloned();
            let index = if part.kind == "p" {
                self.whole(part, own).await?
            } else {
                place += 1;
                if is_done {
                    continue;
                }
                self.leaf(part, own, &format!("{place}/{leaves}")).await?
            };
            let Some((_, parent)) = parent.filter(|_| !is_done) else { continue };
            let is_leaf = part.kind != "p";
            let undo =
                is_leaf.then(|| remove_later(self.job, self.server, self.builder.pid(), Remains::Part(index.clone())));
            let sql = format!("ALTER INDEX {parent} ATTACH PARTITION {index}");
            let attached = self.builder.run_briefly(&index, &sql).await;
            match (undo, &attached) {
                (Some(undo), Ok(_)) => undo.dismiss(),
                (Some(undo), Err(_)) if !self.job.interrupt.is_requested() => undo.now().await?,
                _ => {}
            }
            attached?;
        }
        Ok(())
    }

    /// Of a part's indexes the one that is wanted.
    fn own<'b>(&self, known: &'b [Definition]) -> Option<&'b Definition> {
        let sketch = self.plan.sketch.as_ref()?;
        known.iter().find(|index| index.is_like(sketch))
    }

    /// The index of a partitioned table, which has no rows of its own: nothing is built.
    async fn whole(&mut self, part: &Part, own: Option<&Definition>) -> Result<String, Failure> {
        let index = match own {
            Some(index) => index.name.clone(),
            None => {
                let name = self.name(part).await?;
                let table = qualified(&part.schema, &part.name);
                let sql = self.options.sql("", &ident(&name), &format!("ONLY {table}"));
                let index = qualified(&part.schema, &name);
                self.builder.run(&index, &sql).await?;
                index
            }
        };
        self.wholes.push((part.oid, index.clone()));
        Ok(index)
    }

    async fn leaf(&self, part: &Part, own: Option<&Definition>, place: &str) -> Result<String, Failure> {
        if let Some(index) = own.filter(|index| index.valid) {
            return Ok(index.name.clone());
        }
        if let Some(broken) = own {
            drop_concurrently(self.job, self.server, &broken.name).await?;
        }
        let name = self.name(part).await?;
        let index = qualified(&part.schema, &name);
        let sql = self.options.sql("CONCURRENTLY ", &ident(&name), &qualified(&part.schema, &part.name));
        let label = format!("{place} {index}");
        build(self.job, self.server, self.builder, &label, &sql, Remains::Index(index.clone())).await?;
        Ok(index)
    }

    async fn name(&self, part: &Part) -> Result<String, Failure> {
        if part.parent.is_none() {
            return Ok(self.plan.name.clone());
        }
        // A name has 63 bytes at the most, in whole letters.
        let name = format!("{}_{}", part.name, self.plan.name);
        let end = name.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= 59).last();
        free_name(self.server, &part.schema, &name[..end.unwrap_or(0)]).await
    }
}

const PARTS: &str = "
    select c.oid, case when p.level > 0 then p.parentrelid::oid end as parent, n.nspname::text as schema, c.relname::text as name,
           c.relkind::text as kind
    from pg_partition_tree($1::oid::regclass) p join pg_class c on c.oid = p.relid join pg_namespace n on n.oid = c.relnamespace
    order by p.level, n.nspname, c.relname";
