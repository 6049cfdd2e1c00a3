//! Which tables' rows are restored: of all tables the definitions are, because others may need them.

use std::str::FromStr;

use crate::maintenance::backup::manifest::TableRows;
use crate::maintenance::exit::Failure;

/// `--table`: a name, with its schema in front or without, in which `*` stands for anything; quotes around a part make a dot or
/// star in it stand for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    /// None: any schema.
    schema: Option<Part>,
    name: Part,
}

/// `--schema`: the same of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    text: String,
    is_quoted: bool,
}

impl FromStr for Part {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Part, Self::Err> {
        let unquoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let part = match unquoted {
            Some(inside) => Part { text: inside.replace("\"\"", "\""), is_quoted: true },
            None => Part { text: text.to_owned(), is_quoted: false },
        };
        if part.text.is_empty() { Err("expected a name") } else { Ok(part) }
    }
}

impl FromStr for TableName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TableName, Self::Err> {
        let mut is_quoted = false;
        let dot = text.char_indices().find(|(_, c)| {
            is_quoted ^= *c == '"';
            *c == '.' && !is_quoted
        });
        match dot {
            Some((at, _)) => Ok(TableName { schema: Some(text[..at].parse()?), name: text[at + 1..].parse()? }),
            None => Ok(TableName { schema: None, name: text.parse()? }),
        }
    }
}

impl Part {
    fn matches(&self, name: &str) -> bool {
        if self.is_quoted { self.text == name } else { glob(&self.text, name) }
    }
}

/// Whether `*` in the pattern can stand for what is there.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(begin) else { return false };
    text.char_indices().map(|(at, _)| &text[at..]).chain([""]).any(|text| glob(rest, text))
}

/// What is wanted; all if nothing is named.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) tables: Vec<TableName>,
    pub(crate) schemas: Vec<Part>,
}

/// What is left out whenever not all rows are there: it would not hold, or would be empty.
const NEED_EVERYTHING: [&str; 6] =
    ["FK CONSTRAINT ", "MATERIALIZED VIEW DATA ", "BLOB ", "BLOBS ", "BLOB METADATA ", "SUBSCRIPTION "];

impl Selection {
    pub(crate) fn is_all(&self) -> bool {
        self.tables.is_empty() && self.schemas.is_empty()
    }

    pub(crate) fn has(&self, schema: &str, name: &str) -> bool {
        let is_of =
            |table: &TableName| table.schema.as_ref().is_none_or(|own| own.matches(schema)) && table.name.matches(name);
        self.is_all() || self.tables.iter().any(is_of) || self.schemas.iter().any(|own| own.matches(schema))
    }

    /// The lines of pg_restore's list that are to be restored, and how many tables' rows are among them.
    pub(crate) fn filter(&self, list: &str, known: &[TableRows]) -> Result<(String, usize), Failure> {
        let (mut kept, mut tables) = (String::new(), 0);
        for line in list.lines() {
            let Some(entry) = entry(line) else { continue };
            if let Some(names) = entry.strip_prefix("TABLE DATA ") {
                let (schema, name) = names_of(names, known);
                if !self.has(schema, name) {
                    continue;
                }
                tables += 1;
            } else if NEED_EVERYTHING.iter().any(|kind| entry.starts_with(kind)) {
                continue;
            }
            kept += line;
            kept.push('\n');
        }
        if tables == 0 {
            return Err(Failure::usage("the backup has no rows of such tables")
                .hint("names are as they are: Orders is not orders"));
        }
        Ok((kept, tables))
    }
}

/// `215; 1259 16386 TABLE public foo owner` without its numbers; None: a comment.
fn entry(line: &str) -> Option<&str> {
    let (number, rest) = line.split_once("; ")?;
    number.parse::<u64>().ok()?;
    let (_, rest) = rest.split_once(' ')?;
    rest.split_once(' ').map(|(_, entry)| entry)
}

/// Schema and table of `public foo owner`, in which names may have spaces: by the tables that are known, or else as if there were
/// none in schema and owner.
fn names_of<'a>(names: &'a str, known: &'a [TableRows]) -> (&'a str, &'a str) {
    let is_at_the_front = |table: &&TableRows| {
        let rest = names.strip_prefix(table.schema.as_str()).and_then(|rest| rest.strip_prefix(' '));
        rest.and_then(|rest| rest.strip_prefix(table.name.as_str())).is_some_and(|rest| rest.starts_with(' '))
    };
    match known.iter().filter(is_at_the_front).max_by_key(|table| table.schema.len() + table.name.len()) {
        Some(table) => (&table.schema, &table.name),
        None => {
            let (schema, rest) = names.split_once(' ').unwrap_or((names, ""));
            (schema, rest.rsplit_once(' ').map_or(rest, |(name, _)| name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(tables: &[&str], schemas: &[&str]) -> Selection {
        Selection {
            tables: tables.iter().map(|text| text.parse().unwrap()).collect(),
            schemas: schemas.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn names_with_and_without_schemas() {
        for (tables, schemas, has) in [
            (&[][..], &[][..], true),
            (&["orders"], &[], true),
            (&["Orders"], &[], false),
            (&["sales.orders"], &[], true),
            (&["public.orders"], &[], false),
            (&["s*.ord*s"], &[], true),
            (&["\"s*\".orders"], &[], false),
            (&[], &["sales"], true),
            (&["other"], &["sal"], false),
            (&["other"], &["sal*"], true),
        ] {
            assert_eq!(selection(tables, schemas).has("sales", "orders"), has, "{tables:?} {schemas:?}");
        }
        assert!(selection(&["\"a.b\".\"c \"\"d\""], &[]).has("a.b", "c \"d"));
        assert!("".parse::<TableName>().is_err() && "a.".parse::<TableName>().is_err());
    }

    #[test]
    fn rows_of_what_is_wanted_and_definitions_of_all() {
        let list = "; comment\n;\n10; 1259 16386 TABLE public t app\n11; 1259 16387 TABLE my own the t app\n\
                    20; 0 16386 TABLE DATA public t app\n21; 0 16387 TABLE DATA my own the t app\n\
                    22; 0 0 SEQUENCE SET public t_id_seq app\n30; 2606 1 FK CONSTRAINT public t fk app\n";
        let known = [TableRows { schema: "my own".to_owned(), name: "the t".to_owned(), rows: 1 }];
        let (kept, tables) = selection(&["\"my own\".the t"], &[]).filter(list, &known).unwrap();
        let numbers: Vec<&str> = kept.lines().filter_map(|line| line.split(';').next()).collect();
        assert_eq!((numbers, tables), (vec!["10", "11", "21", "22"], 1));
        assert!(selection(&["x"], &[]).filter(list, &known).is_err());
    }
}
