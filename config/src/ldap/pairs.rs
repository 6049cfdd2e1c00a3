//! `name=value name="value" ...`, separated by white space or commas.

use super::PASSWORD;
use crate::units::unquote;

/// All that is written, in its order.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(pairs);
        }
        // A stray word behind the password is most likely a part of it, so it must not be quoted.
        let is_behind_password = pairs.last().is_some_and(|(name, _)| name == PASSWORD);
        let behind = if is_behind_password { " behind the password; one with spaces needs quotes" } else { "" };
        let (name, value) = name(rest).ok_or_else(|| format!("name=value expected{behind}"))?;
        if is_behind_password && !name.starts_with("ldap") {
            return Err(format!("unknown LDAP option{behind}"));
        }
        let (value, after) = self::value(value).ok_or_else(|| format!("the quote of {name} is not closed"))?;
        if value.is_empty() {
            return Err(format!("{name} has no value"));
        }
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(format!("{name} is not in UTF-8"));
        }
        pairs.push((name, value));
        rest = after;
    }
}

/// The name, and what is behind its `=`.
fn name(text: &str) -> Option<(String, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => {
            let (name, rest) = unquote(quoted, '"')?;
            Some((name, rest.strip_prefix('=')?))
        }
        None => {
            let (name, rest) = text.split_once('=')?;
            (!name.contains(|c: char| c.is_ascii_whitespace() || c == ',' || c == '"')).then(|| (name.to_owned(), rest))
        }
    }
}

/// The value, and what is behind it.
fn value(text: &str) -> Option<(String, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted, '"'),
        None => {
            let end = text.find(|c: char| c.is_ascii_whitespace() || c == ',').unwrap_or(text.len());
            Some((text[..end].to_owned(), &text[end..]))
        }
    }
}
