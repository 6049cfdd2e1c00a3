//! A file of SQL, cut into statements as psql cuts it.

use std::fmt;

/// Of longer statements only so many words are looked at.
const WORDS_MAX: usize = 256;

/// A word outside of quotes, in capitals; of a quoted name just the quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// In how many parentheses.
    pub(super) depth: u32,
}

/// Line and column, both from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    pub(super) const START: Position = Position { line: 1, column: 1 };

    /// Where it is after `text`.
    pub(super) fn after(self, text: &str) -> Position {
        text.chars().fold(self, |at, c| match c {
            '\n' => Position { line: at.line + 1, column: 1 },
            _ => Position { column: at.column + 1, ..at },
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One statement without its semicolon, from its first word on.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) at: Position,
    pub(super) words: Vec<Word>,
}

impl Statement {
    /// The beginning, for messages.
    pub(super) fn summary(&self) -> String {
        const LONGEST: usize = 60;
        let line = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.chars().count() <= LONGEST { line } else { line.chars().take(LONGEST - 1).chain(['…']).collect() }
    }

    pub(super) fn begins(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(word, wanted)| word.text == *wanted)
    }

    /// Whether the word is there outside of parentheses.
    pub(super) fn has(&self, wanted: &str) -> bool {
        self.words.iter().any(|word| word.depth == 0 && word.text == wanted)
    }
}

/// What makes a file one that cannot be run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) at: Position,
    pub(super) message: String,
}

/// Cuts a file. `plain_escapes`: strings know backslashes although they have no E (standard_conforming_strings is off).
pub(super) fn split(text: &str, plain_escapes: bool) -> Result<Vec<Statement>, Unreadable> {
    let mut splitter = Splitter { text, at: 0, plain_escapes, start: None, depth: 0, blocks: 0, words: Vec::new() };
    let mut found = Vec::new();
    while splitter.at < text.len() {
        if splitter.step()? {
            found.extend(splitter.finish());
            splitter.at += 1;
        }
    }
    found.extend(splitter.finish());
    // Their places are counted once, in one pass.
    let (mut position, mut counted) = (Position::START, 0);
    let place = |(start, end, words): (usize, usize, Vec<Word>)| {
        position = position.after(&text[counted..start]);
        counted = start;
        Statement { text: text[start..end].trim_end().to_owned(), at: position, words }
    };
    Ok(found.into_iter().map(place).collect())
}

struct Splitter<'a> {
    text: &'a str,
    at: usize,
    plain_escapes: bool,
    /// Where the statement's first word is; None: it has not come yet.
    start: Option<usize>,
    /// Parentheses that are open.
    depth: u32,
    /// BEGIN ATOMIC and CASE that are open in the body of a function.
    blocks: u32,
    words: Vec<Word>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

impl<'a> Splitter<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail(&self, offset: usize, message: impl Into<String>) -> Unreadable {
        Unreadable { at: Position::START.after(&self.text[..offset]), message: message.into() }
    }

    /// The statement that ends here, if there is any.
    fn finish(&mut self) -> Option<(usize, usize, Vec<Word>)> {
        let words = std::mem::take(&mut self.words);
        (self.depth, self.blocks) = (0, 0);
        self.start.take().map(|start| (start, self.at, words))
    }

    /// Goes over one token; true: it stands before a semicolon that ends the statement.
    fn step(&mut self) -> Result<bool, Unreadable> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(false) };
        if first.is_ascii_whitespace() || first == '\u{b}' {
            self.at += 1;
            return Ok(false);
        }
        if rest.starts_with("--") {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return Ok(false);
        }
        if rest.starts_with("/*") {
            return self.comment().map(|()| false);
        }
        if first == ';' && self.depth == 0 && self.blocks == 0 {
            return Ok(true);
        }
        if first == '\\' {
            let command: String = rest.chars().take_while(|c| !c.is_whitespace()).collect();
            return Err(self.fail(self.at, format!("{command} is a command of psql, not SQL")));
        }
        self.start.get_or_insert(self.at);
        match first {
            '\'' => self.quoted('\'', self.plain_escapes)?,
            '"' => {
                self.push("\"");
                self.quoted('"', false)?;
            }
            '$' => self.dollar()?,
            '(' => self.bracket(true),
            ')' => self.bracket(false),
            c if is_word(c) => self.word()?,
            c => self.at += c.len_utf8(),
        }
        Ok(false)
    }

    fn bracket(&mut self, opens: bool) {
        self.depth = if opens { self.depth + 1 } else { self.depth.saturating_sub(1) };
        self.at += 1;
    }

    fn comment(&mut self) -> Result<(), Unreadable> {
        let start = self.at;
        let mut depth = 0u32;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return Ok(());
                }
            } else {
                match rest.chars().next() {
                    Some(c) => self.at += c.len_utf8(),
                    None => return Err(self.fail(start, "a comment without an end")),
                }
            }
        }
    }

    /// Goes over what begins with `quote`; a quote in it is doubled, or behind a backslash where that counts.
    fn quoted(&mut self, quote: char, has_escapes: bool) -> Result<(), Unreadable> {
        let start = self.at;
        self.at += 1;
        loop {
            let mut rest = self.rest().chars();
            match rest.next() {
                None => return Err(self.fail(start, format!("a {quote} without its end"))),
                Some('\\') if has_escapes => self.at += 1 + rest.next().map_or(0, char::len_utf8),
                Some(c) if c == quote => {
                    self.at += 1;
                    if rest.next() != Some(quote) {
                        return Ok(());
                    }
                    self.at += 1;
                }
                Some(c) => self.at += c.len_utf8(),
            }
        }
    }

    /// `$tag$ ... $tag$`, or `$1`.
    fn dollar(&mut self) -> Result<(), Unreadable> {
        let start = self.at;
        let rest = &self.text[start + 1..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let tag = &rest[..end];
        if !rest[end..].starts_with('$') || tag.starts_with(|c: char| c.is_ascii_digit()) {
            self.at += 1;
            return Ok(());
        }
        let quote = format!("${tag}$");
        let body = start + quote.len();
        match self.text[body..].find(&quote) {
            Some(length) => self.at = body + length + quote.len(),
            None => return Err(self.fail(start, format!("a {quote} without its end"))),
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest();
        // A dollar sign may be in a name, and then quotes nothing.
        let end = rest.find(|c| !is_word(c) && c != '$').unwrap_or(rest.len());
        let word = rest[..end].to_uppercase();
        let quote = rest[end..].chars().next();
        self.at += end;
        if quote == Some('\'') && matches!(word.as_str(), "E" | "B" | "X" | "N") {
            let has_escapes = word == "E" || word == "N" && self.plain_escapes;
            return self.quoted('\'', has_escapes);
        }
        self.note_block(&word);
        self.push(&word);
        Ok(())
    }

    fn push(&mut self, word: &str) {
        if self.words.len() < WORDS_MAX {
            self.words.push(Word { text: word.to_owned(), depth: self.depth });
        }
    }

    /// In CREATE FUNCTION and CREATE PROCEDURE, BEGIN ATOMIC ... END holds semicolons, and CASE has an END of its own.
    fn note_block(&mut self, word: &str) {
        let is_routine = self.words.iter().take(4).any(|word| matches!(word.text.as_str(), "FUNCTION" | "PROCEDURE"));
        if self.depth > 0 || !is_routine || self.words.first().is_none_or(|first| first.text != "CREATE") {
            return;
        }
        match word {
            "BEGIN" => self.blocks += 1,
            "CASE" if self.blocks > 0 => self.blocks += 1,
            "END" => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        split(text, false).unwrap().into_iter().map(|statement| statement.text).collect()
    }

    #[test]
    fn statements_end_at_their_semicolons() {
        for (text, wanted) in [
            ("", &[][..]),
            (" ; ;; -- nothing\n/* ; */", &[]),
            ("select 1", &["select 1"]),
            ("select 1;select 2 ;\n", &["select 1", "select 2"]),
            ("select ';', \";\", E'\\';', e'a''\\';b'; x", &["select ';', \";\", E'\\';', e'a''\\';b'", "x"]),
            ("select 'a\\'; select 2", &["select 'a\\'", "select 2"]),
            ("select U&'a;' || x'1F'; y", &["select U&'a;' || x'1F'", "y"]),
            ("do $$ begin; end $$; do $a$ $$;$b$ $a$; z", &["do $$ begin; end $$", "do $a$ $$;$b$ $a$", "z"]),
            ("select a$b$; c$b$d", &["select a$b$", "c$b$d"]),
            ("select $1; select $2", &["select $1", "select $2"]),
            ("select $ä$;$ä$; x", &["select $ä$;$ä$", "x"]),
            ("/* a /* ; */ ; */ select 1 -- ;\n + 1; b", &["select 1 -- ;\n + 1", "b"]),
            ("create rule r as on insert to t do (a; b); c", &["create rule r as on insert to t do (a; b)", "c"]),
            (
                "create or replace function f() returns int begin atomic select case when a then 1 end; select 2; end; z",
                &[
                    "create or replace function f() returns int begin atomic select case when a then 1 end; select 2; end",
                    "z",
                ],
            ),
            ("create table begin_end (a int); begin; end", &["create table begin_end (a int)", "begin", "end"]),
        ] {
            assert_eq!(texts(text), wanted, "{text}");
        }
    }

    #[test]
    fn backslashes_count_where_the_server_says_so() {
        let count = |plain_escapes| split("select 'a\\'; select 2 --'", plain_escapes).map(|found| found.len());
        assert_eq!(count(false), Ok(2));
        assert_eq!(count(true), Ok(1));
    }

    #[test]
    fn places_are_of_the_first_word() {
        let text = "-- head\n\n  create table ä (a int); select\n 1;\n\tselect 2";
        let places: Vec<String> = split(text, false).unwrap().iter().map(|one| one.at.to_string()).collect();
        assert_eq!(places, ["3:3", "3:27", "5:2"]);
    }

    #[test]
    fn what_cannot_be_read_has_a_place() {
        for (text, place, message) in [
            ("select 1;\n  \\d t", "2:3", "\\d is a command of psql, not SQL"),
            ("select 1 \\gexec", "1:10", "\\gexec is a command of psql, not SQL"),
            ("a;\n'b", "2:1", "a ' without its end"),
            ("\"b", "1:1", "a \" without its end"),
            ("do $x$ $$", "1:4", "a $x$ without its end"),
            ("a /* /* */", "1:3", "a comment without an end"),
        ] {
            let e = split(text, false).unwrap_err();
            assert_eq!((e.at.to_string().as_str(), e.message.as_str()), (place, message), "{text}");
        }
    }

    #[test]
    fn words_know_their_parentheses() {
        let statement = split("Reindex (concurrently) Table \"drop\".T", false).unwrap().remove(0);
        let words: Vec<(&str, u32)> = statement.words.iter().map(|word| (word.text.as_str(), word.depth)).collect();
        assert_eq!(words, [("REINDEX", 0), ("CONCURRENTLY", 1), ("TABLE", 0), ("\"", 0), ("T", 0)]);
        assert!(statement.begins(&["REINDEX"]) && statement.has("TABLE") && !statement.has("CONCURRENTLY"));
    }
}
