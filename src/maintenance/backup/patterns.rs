//! pg_dump's patterns of tables, as psql reads them: `public.*`, `"Odd Name"`, `log_2?`.

use crate::maintenance::sql::literal;

/// A pattern as regular expressions of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// None: whatever is found without naming a schema.
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl Pattern {
    /// Letters outside of double quotes are lower case, `*` stands for anything and `?` for one character; a dot ends a schema's
    /// name.
    pub(super) fn parse(text: &str) -> Pattern {
        let mut parts = vec![String::new()];
        let mut is_quoted = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let piece = match c {
                '"' if is_quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    "\"".to_owned()
                }
                '"' => {
                    is_quoted = !is_quoted;
                    continue;
                }
                '.' if !is_quoted => {
                    parts.push(String::new());
                    continue;
                }
                '*' if !is_quoted => ".*".to_owned(),
                '?' if !is_quoted => ".".to_owned(),
                '$' => "\\$".to_owned(),
                c if is_quoted && "|*+?()[]{}.^\\".contains(c) => format!("\\{c}"),
                c if is_quoted => c.to_string(),
                c => c.to_lowercase().collect(),
            };
            if let Some(part) = parts.last_mut() {
                part.push_str(&piece);
            }
        }
        let whole = |part: String| format!("^({part})$");
        let name = whole(parts.pop().unwrap_or_default());
        // The database's name may stand in front of the schema's.
        Pattern { schema: parts.pop().map(whole), name }
    }

    /// A condition on `pg_class` c and `pg_namespace` n.
    pub(super) fn condition(&self) -> String {
        let schema = match &self.schema {
            Some(schema) => format!("n.nspname ~ {} collate \"default\"", literal(schema)),
            None => "c.oid = any($1)".to_owned(),
        };
        format!("({schema} and c.relname ~ {} collate \"default\")", literal(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_psql_reads_them() {
        for (text, schema, name) in [
            ("Users", None, "^(users)$"),
            ("\"Users\"", None, "^(Users)$"),
            ("App.log_?*", Some("^(app)$"), "^(log_..*)$"),
            ("\"a.b\".\"c\"\"d*\"", Some("^(a\\.b)$"), "^(c\"d\\*)$"),
            ("db.s.t", Some("^(s)$"), "^(t)$"),
            ("pay$[12]", None, "^(pay\\$[12])$"),
        ] {
            let wanted = Pattern { schema: schema.map(str::to_owned), name: name.to_owned() };
            assert_eq!(Pattern::parse(text), wanted, "{text}");
        }
    }
}
