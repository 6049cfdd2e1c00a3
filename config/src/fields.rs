//! The fields of a line of an HBA or ident file: words and quoted texts, separated by white space or commas.

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Without quotes: may be a keyword.
    Word(String),
    /// In quotes, which are taken off: just that text.
    Quoted(String),
}

impl Field {
    pub(crate) fn is(&self, keyword: &str) -> bool {
        matches!(self, Field::Word(word) if word == keyword)
    }

    pub(crate) fn into_text(self) -> String {
        match self {
            Field::Word(text) | Field::Quoted(text) => text,
        }
    }
}

/// What is left of a line.
pub(crate) struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    pub(crate) fn new(line: &'a str) -> Fields<'a> {
        Fields(line)
    }

    /// What is left as it is written, comments included.
    pub(crate) fn rest(&self) -> &'a str {
        self.0.trim()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    }

    /// Nothing is left but a comment.
    pub(crate) fn is_end(&mut self) -> bool {
        self.skip_space();
        self.0.is_empty() || self.0.starts_with('#')
    }

    /// Takes a comma, if one is next.
    pub(crate) fn eat_comma(&mut self) -> bool {
        self.skip_space();
        self.0.strip_prefix(',').map(|rest| self.0 = rest).is_some()
    }

    /// The next field, or what is wrong with it. `missing` names it for the case that there is none.
    pub(crate) fn expect(&mut self, missing: &str) -> Result<Field, String> {
        if self.is_end() || self.0.starts_with(',') {
            return Err(format!("{missing} expected"));
        }
        let field = match self.0.strip_prefix('"') {
            Some(quoted) => self.quoted(quoted)?,
            None => self.word(),
        };
        let is_text = |text: &str| !text.contains(char::REPLACEMENT_CHARACTER);
        match &field {
            Field::Word(text) | Field::Quoted(text) if is_text(text) => Ok(field),
            _ => Err("not in UTF-8".to_owned()),
        }
    }

    fn word(&mut self) -> Field {
        let ends = |c: char| c.is_ascii_whitespace() || matches!(c, '\u{b}' | ',' | '#' | '"');
        let (word, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest;
        Field::Word(word.to_owned())
    }

    /// Within quotes, two quotes stand for one.
    fn quoted(&mut self, text: &'a str) -> Result<Field, String> {
        match crate::units::unquote(text, '"') {
            Some((text, rest)) => {
                self.0 = rest;
                Ok(Field::Quoted(text))
            }
            None => Err("a quote is not closed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &str) -> Result<Vec<Field>, String> {
        let (mut fields, mut all) = (Fields::new(line), Vec::new());
        while !fields.is_end() {
            if !fields.eat_comma() {
                all.push(fields.expect("field")?);
            }
        }
        Ok(all)
    }

    #[test]
    fn words_and_quoted_texts() {
        let word = |text: &str| Field::Word(text.to_owned());
        let quoted = |text: &str| Field::Quoted(text.to_owned());
        assert_eq!(fields(" \u{b} \t # all").unwrap(), []);
        assert_eq!(fields("a\tb , \"c , d\"#e").unwrap(), [word("a"), word("b"), quoted("c , d")]);
        assert_eq!(fields("\"q1\"\"q2\"\"\" x").unwrap(), [quoted("q1\"q2\""), word("x")]);
        assert_eq!(fields("a\"b\"").unwrap(), [word("a"), quoted("b")]);
        assert_eq!(fields("\"\"").unwrap(), [quoted("")]);
        assert_eq!(fields("a \"b").unwrap_err(), "a quote is not closed");
        assert_eq!(fields("\u{fffd}").unwrap_err(), "not in UTF-8");
        assert!(word("all").is("all") && !quoted("all").is("all"));
    }
}
