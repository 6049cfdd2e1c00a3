//! What users call tables and indexes, found in the catalogue.

use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::qualified;

row! {
    /// A table or an index.
    Relation {
        oid: u32,
        schema: String,
        name: String,
        /// `pg_class.relkind` as a letter.
        kind: String,
        /// Whether the user's search_path leads to it.
        visible: bool,
    }
}

impl Relation {
    pub(super) fn qualified(&self) -> String {
        qualified(&self.schema, &self.name)
    }
}

/// What a name is to be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Index,
}

impl Kind {
    fn letters(self) -> &'static [&'static str] {
        match self {
            Kind::Table => &["r", "p", "m", "t"],
            Kind::Index => &["i", "I"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Table => "table",
            Kind::Index => "index",
        }
    }
}

/// Finds all that are named, or says which is not there. A name is as it stands in the catalogue, `My Table` or
/// `My Schema.My Table`, or as SQL has it, `"My Table"`. Without a schema the user's search_path decides among several.
pub(super) async fn find(
    job: &Job,
    server: &Server,
    limits: Limits,
    kind: Kind,
    names: &[String],
) -> Result<Vec<Relation>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let user = job.connect_as_user(&server.here(), limits).await?;
    let mut found = Vec::new();
    for name in names {
        found.push(one(&user, kind, name).await?);
    }
    Ok(found)
}

async fn one(user: &Server, kind: Kind, name: &str) -> Result<Relation, Failure> {
    let (schema, bare) = sql_name(name).unwrap_or_default();
    let letters = kind.letters();
    let mut found: Vec<Relation> = user.rows(FIND, &[&letters, &name, &schema, &bare]).await?;
    if found.len() > 1 && found.iter().any(|relation| relation.visible) {
        found.retain(|relation| relation.visible);
    }
    let kind = kind.name();
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(Relation::qualified).collect();
        return Err(
            Failure::usage(format!("{name} may be any of {}", names.join(", "))).hint("name it with its schema")
        );
    }
    let missing = || Failure::failed(format!("there is no {kind} {name} in {}", user.conninfo.dbname));
    found.pop().ok_or_else(missing)
}

/// Reads a name as SQL does: `a.b`, `"A"."b ""c"""`, unquoted letters in lower case. None: it is none.
fn sql_name(text: &str) -> Option<(Option<String>, String)> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '.' => parts.push(String::new()),
            '"' => loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_none() => break,
                    quoted => parts.last_mut()?.push(quoted),
                }
            },
            bare => parts.last_mut()?.push(bare.to_ascii_lowercase()),
        }
    }
    let name = parts.pop().filter(|name| !name.is_empty())?;
    match (parts.pop(), parts.is_empty()) {
        (schema, true) => Some((schema, name)),
        (_, false) => None,
    }
}

/// The catalogue's spelling goes before SQL's.
const FIND: &str = "
    with named as (
        select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
               pg_catalog.pg_table_is_visible(c.oid) as visible,
               c.relname = $2 or n.nspname || '.' || c.relname = $2 as is_verbatim
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind = any ($1::text[]::\"char\"[]) and not pg_catalog.pg_is_other_temp_schema(n.oid)
          and (c.relname = $2 or n.nspname || '.' || c.relname = $2
               or c.relname = $4 and ($3::text is null or n.nspname = $3)))
    select * from named where is_verbatim or not exists (select from named where is_verbatim) order by schema, name";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_sql_has_them() {
        for (text, schema, name) in [
            ("t", None, "t"),
            ("T", None, "t"),
            ("public.T", Some("public"), "t"),
            ("\"My T\"", None, "My T"),
            ("\"S.x\".\"a\"\"b\"", Some("S.x"), "a\"b"),
            ("ünï", None, "ünï"),
        ] {
            assert_eq!(sql_name(text), Some((schema.map(str::to_owned), name.to_owned())), "{text}");
        }
        for text in ["", "\"open", "a.b.c", "a."] {
            assert_eq!(sql_name(text), None, "{text}");
        }
    }
}
