//! The tables of a database, what is known of their state, and which of them a user's words mean.

use std::collections::HashSet;

use super::exit::Failure;
use super::report::with_size;
use super::rows::row;
use super::server::Server;
use super::sql::qualified;

row! {
    /// A table, a materialized view, a partitioned table or a foreign table; never a temporary one, which is somebody else's.
    Relation {
        oid: u32,
        schema: String,
        name: String,
        /// As pg_class has it: r, m, p, f.
        kind: String,
        /// Of the system's own schemas.
        is_system: bool,
        /// Whether we may VACUUM and ANALYZE it.
        is_permitted: bool,
        /// With its indexes and TOAST; 0 for one without storage.
        total_bytes: i64,
        /// Rows as the statistics have them.
        live: i64,
        dead: i64,
        toast_live: i64,
        toast_dead: i64,
        /// Since the last ANALYZE.
        changed: i64,
        is_analyzed: bool,
        /// How often it was vacuumed or analyzed by hand, as far as the statistics know.
        looked_after: i64,
        /// Transactions since it was frozen, of it or its TOAST table, whichever is older.
        xid_age: i64,
        /// How near an autovacuum against wraparound is, by transactions or multixacts: from 100 on it is due.
        freeze_pct: f64,
        /// The partitioned tables that it is part of.
        ancestors: Vec<u32>,
    }
}

impl Relation {
    /// As SQL and people write it where they must quote it.
    pub(crate) fn sql(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// Quoted only where it has to be.
    pub(crate) fn shown(&self) -> String {
        format!("{}.{}", plain(&self.schema), plain(&self.name))
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }

    /// Dead rows in percent of all, of it or its TOAST table if that has more.
    pub(crate) fn dead_pct(&self) -> f64 {
        percent(self.dead, self.live).max(percent(self.toast_dead, self.toast_live))
    }

    pub(crate) fn is_part_of(&self, oids: &HashSet<u32>) -> bool {
        self.ancestors.iter().any(|oid| oids.contains(oid))
    }
}

pub(crate) fn percent(dead: i64, live: i64) -> f64 {
    if dead + live > 0 { 100.0 * dead as f64 / (dead + live) as f64 } else { 0.0 }
}

/// Without quotes if it is clear without them.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins && name.chars().all(is_plain) { name.to_owned() } else { super::sql::ident(name) }
}

/// All of the database, or the one of `oid`.
pub(crate) async fn relations(server: &Server, oid: Option<u32>) -> Result<Vec<Relation>, Failure> {
    let sql = with_size(RELATIONS).replace("{permitted}", permitted(server));
    server.rows(&sql, &[&oid]).await
}

fn permitted(server: &Server) -> &'static str {
    match server.version.major() {
        ..17 => "pg_has_role(c.relowner, 'USAGE')",
        _ => "coalesce(has_table_privilege(c.oid, 'MAINTAIN'), false)",
    }
}

/// A partitioned table has no rows and no age of its own.
const RELATIONS: &str = "
    select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
           n.nspname in ('pg_catalog', 'information_schema') as is_system,
           {permitted} or (db.is_own and not c.relisshared) as is_permitted,
           size.bytes::int8 as total_bytes,
           coalesce(pg_stat_get_live_tuples(c.oid), 0) as live, coalesce(pg_stat_get_dead_tuples(c.oid), 0) as dead,
           coalesce(pg_stat_get_live_tuples(t.oid), 0) as toast_live,
           coalesce(pg_stat_get_dead_tuples(t.oid), 0) as toast_dead,
           coalesce(pg_stat_get_mod_since_analyze(c.oid), 0) as changed,
           coalesce(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) is not null
               as is_analyzed,
           coalesce(pg_stat_get_vacuum_count(c.oid) + pg_stat_get_analyze_count(c.oid), 0) as looked_after,
           greatest(age.xids, 0)::int8 as xid_age,
           coalesce(100 * greatest(age.xids / least(current_setting('autovacuum_freeze_max_age')::float8, own.xids),
               age.multixacts / least(current_setting('autovacuum_multixact_freeze_max_age')::float8, own.multixacts)
               ), 0)::float8 as freeze_pct,
           case when c.relispartition then array(
               select a.relid::oid from pg_partition_ancestors(c.oid) a where a.relid <> c.oid) else '{}' end as ancestors
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
         left join pg_class t on t.oid = c.reltoastrelid
         {free}
         cross join (select pg_has_role(datdba, 'USAGE') as is_own from pg_database where datname = current_database()) db
         cross join lateral (select {size} as bytes) size
         cross join lateral (
             select greatest(case when c.relfrozenxid <> 0::text::xid then age(c.relfrozenxid) end, age(t.relfrozenxid)) as xids,
                    greatest(case when c.relminmxid <> 0::text::xid then mxid_age(c.relminmxid) end,
                             mxid_age(t.relminmxid)) as multixacts) age
         cross join lateral (
             select max(option_value::float8) filter (where option_name = 'autovacuum_freeze_max_age') as xids,
                    max(option_value::float8) filter (where option_name = 'autovacuum_multixact_freeze_max_age') as multixacts
             from pg_options_to_table(c.reloptions)
             where option_name like '%freeze_max_age') own
    where c.relkind in ('r', 'm', 'p', 'f') and c.relpersistence <> 't' and n.nspname not like 'pg\\_toast%'
      and size.bytes is not null and ($1::oid is null or c.oid = $1)
    order by n.nspname, c.relname";

/// Those that the names mean, each once, in the order of `all`. An error names what is not there, or there several times.
pub(crate) fn named<'a>(all: &'a [Relation], names: &[String]) -> Result<Vec<&'a Relation>, Failure> {
    let mut found = HashSet::new();
    for name in names {
        found.extend(one_name(all, name)?.iter().map(|relation| relation.oid));
    }
    Ok(all.iter().filter(|relation| found.contains(&relation.oid)).collect())
}

/// The partitions of what is partitioned, at the bottom, and all else as it is.
pub(crate) fn leaves<'a>(all: &'a [Relation], chosen: &[&'a Relation]) -> Vec<&'a Relation> {
    let oids: HashSet<u32> = chosen.iter().map(|relation| relation.oid).collect();
    let is_wanted = |relation: &&Relation| oids.contains(&relation.oid) || relation.is_part_of(&oids);
    all.iter().filter(is_wanted).filter(|relation| !relation.is_partitioned()).collect()
}

fn one_name<'a>(all: &'a [Relation], text: &str) -> Result<Vec<&'a Relation>, Failure> {
    let pattern = Pattern::parse(text)?;
    // A name with dots that nobody has quoted.
    let whole = Pattern { schema: None, name: Part { text: text.to_owned(), is_quoted: true } };
    let found = pattern.find(all).or_else(|| whole.find(all)).unwrap_or_default();
    match found.as_slice() {
        [] => Err(Failure::usage(format!("there is no table {text}"))
            .hint("write it as NAME, SCHEMA.NAME or '\"Odd.Name\"'; * and ? stand for other characters")),
        [_, _, ..] if !pattern.is_glob() => {
            let names: Vec<String> = found.iter().map(|relation| relation.shown()).collect();
            Err(Failure::usage(format!("there are several tables {text}: {}", names.join(", ")))
                .hint("name the schema, too"))
        }
        _ => Ok(found),
    }
}

/// A part of a name: quoted it means itself, otherwise it may have `*` and `?` in it, and stands for the name in small letters if
/// there is none that is the same.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    text: String,
    is_quoted: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    /// None: any but the system's, which count only if there is no other.
    schema: Option<Part>,
    name: Part,
}

impl Part {
    fn is_glob(&self) -> bool {
        !self.is_quoted && self.text.contains(['*', '?'])
    }

    fn fits(&self, name: &str, folds: bool) -> bool {
        let text = if folds && !self.is_quoted { self.text.to_lowercase() } else { self.text.clone() };
        if !self.is_glob() {
            return text == name;
        }
        let (pattern, name): (Vec<char>, Vec<char>) = (text.chars().collect(), name.chars().collect());
        glob(&pattern, &name)
    }
}

/// Without recursion: a star is given one character more when what follows does not fit.
fn glob(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, Failure> {
        let bad = || Failure::usage(format!("{text} is no name of a table")).hint("quotes are doubled inside quotes");
        let (first, rest) = part(text).ok_or_else(bad)?;
        let Some(rest) = rest else { return Ok(Pattern { schema: None, name: first }) };
        // Whatever else has dots in it belongs to the name.
        let name = match part(rest) {
            Some((name, None)) => name,
            _ if rest.starts_with('"') || rest.is_empty() => return Err(bad()),
            _ => Part { text: rest.to_owned(), is_quoted: false },
        };
        Ok(Pattern { schema: Some(first), name })
    }

    fn is_glob(&self) -> bool {
        self.name.is_glob() || self.schema.as_ref().is_some_and(Part::is_glob)
    }

    /// None: there is none.
    fn find<'a>(&self, all: &'a [Relation]) -> Option<Vec<&'a Relation>> {
        let kinds: &[bool] = match &self.schema {
            None if self.is_glob() => &[false],
            Some(schema) if schema.is_glob() => &[false],
            _ => &[false, true],
        };
        let found = |is_system: bool, folds: bool| {
            let fits = |relation: &&Relation| {
                relation.is_system == is_system
                    && self.name.fits(&relation.name, folds)
                    && self.schema.as_ref().is_none_or(|schema| schema.fits(&relation.schema, folds))
            };
            all.iter().filter(fits).collect::<Vec<_>>()
        };
        let tries = kinds.iter().flat_map(|is_system| [(*is_system, false), (*is_system, true)]);
        tries.map(|(is_system, folds)| found(is_system, folds)).find(|found| !found.is_empty())
    }
}

/// The first part, and what follows the dot behind it; None: it is none.
fn part(text: &str) -> Option<(Part, Option<&str>)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (name, rest) = text.split_once('.').map_or((text, None), |(name, rest)| (name, Some(rest)));
        return (!name.is_empty()).then(|| (Part { text: name.to_owned(), is_quoted: false }, rest));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            let rest = &quoted[at + 1..];
            let rest = if rest.is_empty() { None } else { Some(rest.strip_prefix('.')?) };
            return Some((Part { text: name, is_quoted: true }, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(oid: u32, schema: &str, name: &str, kind: &str, ancestors: &[u32]) -> Relation {
        Relation {
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
            is_system: schema == "pg_catalog",
            is_permitted: true,
            total_bytes: 0,
            live: 0,
            dead: 0,
            toast_live: 0,
            toast_dead: 0,
            changed: 0,
            is_analyzed: false,
            looked_after: 0,
            xid_age: 0,
            freeze_pct: 0.0,
            ancestors: ancestors.to_vec(),
        }
    }

    #[test]
    fn names_as_people_write_them() {
        let all = [
            relation(1, "public", "orders", "r", &[]),
            relation(2, "public", "Orders", "r", &[]),
            relation(3, "public", "od\"d. name", "r", &[]),
            relation(4, "Sales", "übersicht", "r", &[]),
            relation(5, "archive", "items", "r", &[]),
            relation(6, "public", "items", "r", &[]),
            relation(7, "pg_catalog", "pg_class", "r", &[]),
            relation(8, "public", "pg_class", "r", &[]),
            relation(9, "pg_catalog", "pg_type", "r", &[]),
            relation(10, "public", "*", "r", &[]),
            relation(11, "public", "v1.2", "r", &[]),
        ];
        let found = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            named(&all, &names)
                .map(|found| found.iter().map(|relation| relation.oid).collect::<Vec<_>>())
                .map_err(|failure| failure.message)
        };
        for (names, oids) in [
            (&["orders"][..], &[1][..]),
            (&["Orders"], &[2]),
            (&["ORDERS"], &[1]),
            (&["PUBLIC.orders"], &[1]),
            (&["\"od\"\"d. name\""], &[3]),
            (&["public.\"od\"\"d. name\"", "orders"], &[1, 3]),
            (&["Sales.übersicht"], &[4]),
            (&["Sales.*"], &[4]),
            (&["archive.items"], &[5]),
            (&["*.items"], &[5, 6]),
            (&["pg_class"], &[8]),
            (&["pg_catalog.pg_class"], &[7]),
            (&["pg_catalog.*"], &[7, 9]),
            (&["pg_type"], &[9]),
            (&["or?er*"], &[1]),
            (&["public.\"*\""], &[10]),
            (&["v1.2"], &[11]),
            (&["public.v1.2"], &[11]),
        ] {
            assert_eq!(found(names).as_deref(), Ok(oids), "{names:?}");
        }
        assert_eq!(found(&["items"]), Err("there are several tables items: archive.items, public.items".to_owned()));
        for name in ["nothing", "sales.*", "\"ORDERS\"", "pg_t*", "x.orders", "*.pg_type"] {
            assert_eq!(found(&[name]), Err(format!("there is no table {name}")));
        }
        for name in ["", ".orders", "public.", "\"orders", "\"a\"b", "public.\"a"] {
            assert_eq!(found(&[name]), Err(format!("{name} is no name of a table")));
        }
        assert_eq!(all[3].shown(), "\"Sales\".\"übersicht\"");
    }

    #[test]
    fn partitions_stand_for_what_is_partitioned() {
        let all = [
            relation(1, "s", "top", "p", &[]),
            relation(2, "s", "middle", "p", &[1]),
            relation(3, "s", "low", "r", &[2, 1]),
            relation(4, "s", "side", "r", &[1]),
            relation(5, "s", "other", "r", &[]),
        ];
        let oids = |chosen: &[&Relation]| leaves(&all, chosen).iter().map(|relation| relation.oid).collect::<Vec<_>>();
        assert_eq!(oids(&[&all[0]]), [3, 4]);
        assert_eq!(oids(&[&all[1], &all[4]]), [3, 5]);
    }

    #[test]
    fn stars() {
        let glob = |pattern: &str, name: &str| {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            glob(&chars(pattern), &chars(name))
        };
        assert!(glob("*", "") && glob("a*b*c", "a1b2b3c") && glob("?ä", "xä") && glob("**", "x"));
        assert!(!glob("a*b", "abc") && !glob("?", "") && !glob("a", "ab"));
    }
}
