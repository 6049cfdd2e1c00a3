//! SQL text in tokens, as PostgreSQL's lexer splits it, as far as needed to find where a
//! statement begins and what is no string or comment.

use memchr::{memchr, memchr2, memmem};

/// A piece of SQL. White space and comments are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or a name that is not quoted.
    Word(&'a [u8]),
    /// What stands between double quotes.
    Quoted(&'a [u8]),
    /// What stands between single quotes or dollar quotes. A prefix (`E`, `N`, ...) comes as a
    /// word before it.
    Literal(&'a [u8]),
    /// A byte of anything else: an operator, a digit, a `;`.
    Symbol(u8),
}

impl Token<'_> {
    /// It is this keyword, given in lower case.
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    pub(super) fn is_one_of(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

/// The tokens of a text, up to its end or to where it becomes unclear: an unfinished string or
/// comment, or a backslash in a string, whose meaning depends on the session.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    rest: &'a [u8],
    is_unclear: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a [u8]) -> Tokens<'a> {
        Tokens { rest: sql, is_unclear: false }
    }

    /// It has ended before the end of the text.
    pub(super) fn is_unclear(&self) -> bool {
        self.is_unclear
    }

    /// The text that is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn unclear<T>(&mut self) -> Option<T> {
        self.is_unclear = true;
        self.rest = &[];
        None
    }

    /// Cuts off `len` bytes and what closes them.
    fn cut(&mut self, len: usize, closing: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(len);
        self.rest = &rest[closing..];
        head
    }

    /// What is left begins behind the opening quote.
    fn quoted(&mut self, quote: u8) -> Option<&'a [u8]> {
        let mut at = 0;
        loop {
            let found = match quote {
                b'\'' => memchr2(quote, b'\\', &self.rest[at..]),
                _ => memchr(quote, &self.rest[at..]),
            };
            let Some(found) = found.map(|found| at + found) else { return self.unclear() };
            if self.rest[found] == b'\\' {
                return self.unclear();
            }
            if self.rest.get(found + 1) != Some(&quote) {
                return Some(self.cut(found, 1));
            }
            at = found + 2;
        }
    }

    /// What is left begins with a `$`.
    fn dollar(&mut self) -> Option<Token<'a>> {
        let behind = &self.rest[1..];
        let name = behind.iter().position(|&b| b == b'$' || !is_in_word(b)).unwrap_or(behind.len());
        let is_tag = behind.get(name) == Some(&b'$') && !behind.first().is_some_and(u8::is_ascii_digit);
        if !is_tag {
            return Some(Token::Symbol(self.cut(1, 0)[0]));
        }
        let tag = self.cut(name + 2, 0);
        match memmem::find(self.rest, tag) {
            Some(end) => Some(Token::Literal(self.cut(end, tag.len()))),
            None => self.unclear(),
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        match skip_blank(self.rest) {
            Some(rest) => self.rest = rest,
            None => return self.unclear(),
        }
        let first = *self.rest.first()?;
        match first {
            b'\'' => {
                self.rest = &self.rest[1..];
                self.quoted(first).map(Token::Literal)
            }
            b'"' => {
                self.rest = &self.rest[1..];
                self.quoted(first).map(Token::Quoted)
            }
            b'$' => self.dollar(),
            _ if begins_word(first) => {
                let len = self.rest.iter().position(|&b| !is_in_word(b)).unwrap_or(self.rest.len());
                Some(Token::Word(self.cut(len, 0)))
            }
            _ => Some(Token::Symbol(self.cut(1, 0)[0])),
        }
    }
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_in_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// `sql` without the white space and the comments that it begins with; `None` if a comment
/// does not end.
#[inline]
pub(super) fn skip_blank(mut sql: &[u8]) -> Option<&[u8]> {
    loop {
        match sql {
            [b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c', rest @ ..] => sql = rest,
            [b'-', b'-', rest @ ..] => sql = &rest[memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())..],
            [b'/', b'*', rest @ ..] => sql = skip_comment(rest)?,
            _ => return Some(sql),
        }
    }
}

/// Comments nest. `rest` begins inside of one.
fn skip_comment(mut rest: &[u8]) -> Option<&[u8]> {
    let mut depth = 1_usize;
    while depth > 0 {
        rest = &rest[memchr2(b'*', b'/', rest)?..];
        rest = match rest {
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            rest => &rest[1..],
        };
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens in short, and whether the text became unclear.
    fn tokens(sql: &str) -> (Vec<String>, bool) {
        let mut tokens = Tokens::new(sql.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let short = |token| match token {
            Token::Word(word) => text(word),
            Token::Quoted(name) => format!("\"{}\"", text(name)),
            Token::Literal(value) => format!("'{}'", text(value)),
            Token::Symbol(byte) => text(&[byte]),
        };
        (tokens.by_ref().map(short).collect(), tokens.is_unclear())
    }

    #[test]
    fn strings_names_and_comments_are_told_apart() {
        let cases: [(&str, &[&str]); 10] = [
            ("", &[]),
            (" select a_1,é$b ;", &["select", "a_1", ",", "é$b", ";"]),
            ("'it''s;' \"a\"\";\"", &["'it''s;'", "\"a\"\";\""]),
            ("$$a;'$$ $x$b$$;$x$ $1", &["'a;''", "'b$$;'", "$", "1"]),
            ("a$$b$$", &["a$$b$$"]),
            ("1 -- x;'\n/* ;/* \" */ ' */ 2", &["1", "2"]),
            ("a--b", &["a"]),
            ("a - -b / *", &["a", "-", "-", "b", "/", "*"]),
            ("e'x' N'y'", &["e", "'x'", "N", "'y'"]),
            ("$é$x$é$", &["'x'"]),
        ];
        for (sql, expected) in cases {
            let (found, is_unclear) = tokens(sql);
            assert_eq!(found, expected, "{sql}");
            assert!(!is_unclear, "{sql}");
        }
    }

    #[test]
    fn what_is_unclear_ends_the_tokens() {
        for sql in ["a 'b", "a \"b", "a $$b", "a $x$b$$", "a /* /* */", "a 'b\\' c", "a '''"] {
            assert_eq!(tokens(sql), (vec!["a".to_owned()], true), "{sql}");
        }
    }
}
