//! Whether there is room for VACUUM FULL, which writes a table and its indexes anew before the old ones go.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::statvfs::statvfs;
use pgweir_config::HostAddr;

use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::relations::Relation;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::Size;

row! {
    /// What the copy of one table takes in a tablespace.
    Need {
        oid: u32,
        tablespace: String,
        bytes: i64,
    }
}

row! {
    Place {
        path: String,
        /// Of its last change, in seconds since 1970, as the server sees it.
        changed_at: i64,
    }
}

/// Refuses if there is too little room, or if nobody knows and it is not forced. `told` is what the user says is free.
pub(super) async fn check(
    job: &Job,
    server: &Server,
    tables: &[Relation],
    at_once: usize,
    told: Option<Size>,
    is_forced: bool,
) -> Result<(), Failure> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let needs: Vec<Need> = server.rows(NEEDS, &[&oids]).await?;
    let mut by_space: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for need in needs {
        by_space.entry(need.tablespace).or_default().push(need.bytes);
    }
    // Tablespaces may share a disk, of which there is one when the user tells how much is free.
    let mut disks: BTreeMap<Option<u64>, (Vec<String>, u64, u64)> = BTreeMap::new();
    for (space, bytes) in &by_space {
        let wanted = largest(bytes.clone(), at_once);
        let (disk, free) = match told {
            Some(Size(free)) => (None, free),
            None => match free_bytes(server, space).await? {
                Some((disk, free)) => (Some(disk), free),
                None => {
                    unknown(job, space, wanted, is_forced)?;
                    continue;
                }
            },
        };
        let entry = disks.entry(disk).or_insert_with(|| (Vec::new(), 0, free));
        entry.0.push(space.clone());
        entry.1 += wanted;
    }
    for (spaces, wanted, free) in disks.into_values() {
        let spaces = spaces.join(", ");
        let (wanted, free) = (Size(wanted), Size(free));
        if wanted > free {
            return Err(Failure::refused(format!("{spaces}: VACUUM FULL may need {wanted}, and {free} are free"))
                .hint("fewer tables, fewer --jobs, or --free-space BYTES if there is more than that"));
        }
        job.say(format!("{spaces}: up to {wanted} needed, and as much WAL; {free} free"));
    }
    Ok(())
}

/// So many are under way at a time at the worst.
fn largest(mut bytes: Vec<i64>, at_once: usize) -> u64 {
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    bytes.into_iter().take(at_once).map(|bytes| u64::try_from(bytes).unwrap_or(0)).sum()
}

fn unknown(job: &Job, space: &str, wanted: u64, is_forced: bool) -> Result<(), Failure> {
    let text = format!("nobody knows how much is free in {space}; up to {} are needed, and as much WAL", Size(wanted));
    if is_forced {
        job.warn(text);
        return Ok(());
    }
    Err(Failure::refused(text).hint(
        "say so by --free-space BYTES, or go on without by --force; it is looked up where the server is on this \
         machine and the user may read pg_stat_file and data_directory",
    ))
}

/// The disk and the bytes free on it, if the server is on this machine beyond doubt: its directory is here, and has
/// changed at the very second at which the server says it has.
async fn free_bytes(server: &Server, tablespace: &str) -> Result<Option<(u64, u64)>, Failure> {
    let is_near = match &server.address.host {
        HostAddr::Unix(_) => true,
        HostAddr::Tcp(_) => server.address.hostaddr.is_some_and(|ip| ip.is_loopback()),
    };
    if !is_near {
        return Ok(None);
    }
    let place: Place = match server.one(PLACE, &[&tablespace]).await {
        Ok(place) => place,
        // It may not know where its data is.
        Err(failure) if failure.sqlstate.is_some() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let here = fs::metadata(&place.path).ok().filter(|here| here.mtime() == place.changed_at);
    let free = statvfs(place.path.as_str()).ok();
    Ok(here.zip(free).map(|(here, free)| (here.dev(), free.blocks_available() * free.fragment_size())))
}

const PLACE: &str = "
    select path, extract(epoch from (pg_stat_file(path)).modification)::int8 as changed_at
    from (select coalesce(nullif(pg_tablespace_location(oid), ''), current_setting('data_directory')) as path
          from pg_tablespace where spcname = $1) p";

/// Table, TOAST and their indexes as they are now, which is the most that they can be. To ask for the size of what is locked
/// exclusively would wait: there the last known one counts.
const NEEDS: &str = "
    with wanted as (
             select c.oid as root, c.oid from pg_class c where c.oid = any ($1)
             union all
             select c.oid, c.reltoastrelid from pg_class c where c.oid = any ($1) and c.reltoastrelid <> 0),
         parts as (
             select root, oid from wanted
             union all
             select w.root, i.indexrelid from wanted w join pg_index i on i.indrelid = w.oid),
         locked as materialized (
             select relation as oid from pg_locks
             where locktype = 'relation' and mode = 'AccessExclusiveLock'
               and database = (select oid from pg_database where datname = current_database()))
    select p.root as oid, s.spcname::text as tablespace,
           sum(case when l.oid is null then pg_relation_size(c.oid)
                    else c.relpages * current_setting('block_size')::int8 end)::int8 as bytes
    from parts p join pg_class c on c.oid = p.oid
         join pg_database d on d.datname = current_database()
         join pg_tablespace s on s.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace)
         left join (select distinct oid from locked) l on l.oid = c.oid
    group by 1, 2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_count() {
        assert_eq!(largest(vec![1, 5, 3], 2), 8);
        assert_eq!(largest(vec![1], 4), 1);
        assert_eq!(largest(Vec::new(), 1), 0);
    }
}
