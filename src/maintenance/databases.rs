//! Whole databases: what one is made with, making it, dropping it.

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::conninfo::Conninfo;
use super::exit::Failure;
use super::interrupt::Undo;
use super::job::Job;
use super::options::Limits;
use super::rows::FromRow;
use super::server::Server;
use super::sql::{ident, literal};

/// PostgreSQL's limit of a name.
pub(crate) const NAME_BYTES: usize = 63;

/// What a database is made with and cannot be given afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) encoding: String,
    /// `c` libc, `i` ICU, `b` builtin
    pub(crate) provider: String,
    pub(crate) collate: String,
    pub(crate) ctype: String,
    /// Of ICU and builtin; None: of libc there is none.
    pub(crate) locale: Option<String>,
    pub(crate) icu_rules: Option<String>,
}

impl FromRow for Facts {
    fn from_row(row: &Row) -> Result<Facts, tokio_postgres::Error> {
        Ok(Facts {
            encoding: row.try_get("encoding")?,
            provider: row.try_get("provider")?,
            collate: row.try_get("collate")?,
            ctype: row.try_get("ctype")?,
            locale: row.try_get("locale")?,
            icu_rules: row.try_get("icu_rules")?,
        })
    }
}

impl Facts {
    /// None: there is no such database.
    pub(crate) async fn of(server: &Server, database: &str) -> Result<Option<Facts>, Failure> {
        Ok(server.rows::<Facts>(FACTS, &[&database]).await?.pop())
    }

    fn options(&self, server: &Server) -> String {
        let mut sql = format!(" ENCODING {}", literal(&self.encoding));
        let locale = self.locale.as_deref().map(literal);
        // Version 14 has no other provider.
        if server.version.major() >= 15 {
            sql += match self.provider.as_str() {
                "i" => " LOCALE_PROVIDER icu ICU_LOCALE ",
                "b" => " LOCALE_PROVIDER builtin BUILTIN_LOCALE ",
                _ => " LOCALE_PROVIDER libc",
            };
            if self.provider != "c" {
                sql += &locale.unwrap_or_else(|| literal(&self.collate));
            }
        }
        self.icu_rules.iter().for_each(|rules| sql += &format!(" ICU_RULES {}", literal(rules)));
        sql + &format!(" LC_COLLATE {} LC_CTYPE {}", literal(&self.collate), literal(&self.ctype))
    }
}

/// The columns that versions have or have not are read by way of JSON.
const FACTS: &str = "
    select pg_encoding_to_char(d.encoding)::text as encoding, coalesce(j->>'datlocprovider', 'c') as provider,
           d.datcollate::text as collate, d.datctype::text as ctype,
           coalesce(j->>'datlocale', j->>'daticulocale') as locale, j->>'daticurules' as icu_rules
    from pg_database d, to_jsonb(d) j
    where d.datname = $1";

/// The tablespace of a database that there is.
pub(crate) async fn tablespace(server: &Server, database: &str) -> Result<String, Failure> {
    let sql =
        "select spcname::text from pg_tablespace t join pg_database d on d.dattablespace = t.oid where d.datname = $1";
    server.value(sql, &[&database]).await
}

pub(crate) async fn exists(server: &Server, database: &str) -> Result<bool, Failure> {
    server.value("select exists (select from pg_database where datname = $1)", &[&database]).await
}

/// Whether one who is logged in may make databases.
pub(crate) async fn may_create(server: &Server) -> Result<bool, Failure> {
    server.value("select rolcreatedb or rolsuper from pg_roles where rolname = current_user", &[]).await
}

/// Makes an empty database with the same `facts`, or the server's own; it is dropped at the command's end unless the Undo is
/// dismissed. Without `tablespace` it is in the server's default one. None: a dry run.
pub(crate) async fn create(
    job: &Job,
    server: &Server,
    name: &str,
    facts: Option<&Facts>,
    tablespace: Option<&str>,
) -> Result<Option<Undo>, Failure> {
    let options = facts.map(|facts| facts.options(server)).unwrap_or_default();
    let tablespace = tablespace.map(|tablespace| format!(" TABLESPACE {}", ident(tablespace))).unwrap_or_default();
    let undo = drop_later(job, server, name);
    let sql = format!("CREATE DATABASE {} TEMPLATE template0{options}{tablespace}", ident(name));
    match job.change(server, &sql).await {
        Ok(true) => Ok(Some(undo)),
        Ok(false) => {
            undo.dismiss();
            Ok(None)
        }
        Err(failure) => {
            // The server says no: one of that name would be somebody else's.
            if failure.sqlstate.is_some() {
                undo.dismiss();
            }
            Err(failure.while_at(format!("the database {name}")))
        }
    }
}

fn drop_later(job: &Job, server: &Server, name: &str) -> Undo {
    let (job_for_later, here, name) = (job.for_later(), server.here(), name.to_owned());
    job.cleanup.later(format!("drop the database {name}"), async move { drop(&job_for_later, &here, &name).await })
}

/// Drops it by a connection of its own, ending what sessions it has.
async fn drop(job: &Job, conninfo: &Conninfo, name: &str) -> Result<(), Failure> {
    let server = job.connect_to(conninfo, Limits::NONE).await?;
    job.change(&server, &drop_sql(name)).await.map(|_| ())
}

pub(crate) fn drop_sql(name: &str) -> String {
    format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(name))
}

/// `name` with `end` behind it, the name being cut where it gets too long.
pub(crate) fn name_with(name: &str, end: &str) -> String {
    let mut length = name.len().min(NAME_BYTES.saturating_sub(end.len()));
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{end}", &name[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_end() {
        assert_eq!(name_with("app", "_x"), "app_x");
        assert_eq!(name_with(&"a".repeat(63), "_replaced"), "a".repeat(54) + "_replaced");
        assert_eq!(name_with(&"ü".repeat(31), "_x"), "ü".repeat(30) + "_x");
    }
}
