//! Filters of a search, read once; a user's name is only ever put in as a value. <https://www.rfc-editor.org/rfc/rfc4515>

/// Stands for the user's name.
const USERNAME: &str = "$username";

/// Parentheses within each other: deeper is a mistake.
const DEPTH_MAX: u32 = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapFilter {
    And(Vec<LdapFilter>),
    Or(Vec<LdapFilter>),
    Not(Box<LdapFilter>),
    /// The entry has the attribute.
    Present(String),
    Compare {
        attribute: String,
        comparison: Comparison,
        value: Template,
    },
    /// Pieces of a value, in their order.
    Substrings {
        attribute: String,
        initial: Option<Template>,
        any: Vec<Template>,
        last: Option<Template>,
    },
    /// By a rule other than the attribute's own; one of the two is there.
    Extensible {
        rule: Option<String>,
        attribute: Option<String>,
        value: Template,
        with_dn: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    GreaterOrEqual,
    LessOrEqual,
    Approximate,
}

/// A value that may have the user's name in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    User,
}

impl Template {
    /// The value for `user`.
    pub fn fill(&self, user: &str) -> Vec<u8> {
        let bytes = |piece| match piece {
            &Piece::User => user.as_bytes(),
            Piece::Bytes(bytes) => bytes,
        };
        self.0.iter().flat_map(bytes).copied().collect()
    }

    fn names_user(&self) -> bool {
        self.0.contains(&Piece::User)
    }

    fn push(&mut self, more: &[u8]) {
        match self.0.last_mut() {
            Some(Piece::Bytes(bytes)) => bytes.extend_from_slice(more),
            _ => self.0.push(Piece::Bytes(more.to_vec())),
        }
    }
}

impl LdapFilter {
    /// `attribute` is the user's name. None: that cannot be an attribute.
    pub(super) fn user_is(attribute: &str) -> Option<LdapFilter> {
        let value = Template(vec![Piece::User]);
        let attribute = attribute.to_owned();
        is_attribute(&attribute).then_some(LdapFilter::Compare { attribute, comparison: Comparison::Equal, value })
    }

    /// The parentheses around the whole may be missing.
    pub(super) fn parse(text: &str) -> Result<LdapFilter, String> {
        let mut parser = Parser { rest: text.trim() };
        let filter = match parser.rest.starts_with('(') {
            true => parser.filter(0)?,
            false => item(std::mem::take(&mut parser.rest))?,
        };
        if parser.rest.is_empty() { Ok(filter) } else { Err("text behind its end".to_owned()) }
    }

    /// Whether it depends on the user at all.
    pub(super) fn names_user(&self) -> bool {
        match self {
            LdapFilter::And(filters) | LdapFilter::Or(filters) => filters.iter().any(LdapFilter::names_user),
            LdapFilter::Not(filter) => filter.names_user(),
            LdapFilter::Present(_) => false,
            LdapFilter::Compare { value, .. } | LdapFilter::Extensible { value, .. } => value.names_user(),
            LdapFilter::Substrings { initial, any, last, .. } => {
                initial.iter().chain(any).chain(last).any(Template::names_user)
            }
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn eat(&mut self, token: char) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(token).ok_or_else(|| format!("{token} expected"))?;
        Ok(())
    }

    /// One in parentheses.
    fn filter(&mut self, depth: u32) -> Result<LdapFilter, String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} parentheses within each other"));
        }
        self.eat('(')?;
        let filter = match self.rest.chars().next() {
            Some('&') => LdapFilter::And(self.list(depth)?),
            Some('|') => LdapFilter::Or(self.list(depth)?),
            Some('!') => match <[LdapFilter; 1]>::try_from(self.list(depth)?) {
                Ok([filter]) => LdapFilter::Not(Box::new(filter)),
                Err(_) => return Err("! is for one filter".to_owned()),
            },
            _ => {
                let end = self.rest.find(['(', ')']).unwrap_or(self.rest.len());
                let (text, rest) = self.rest.split_at(end);
                self.rest = rest;
                item(text)?
            }
        };
        self.eat(')')?;
        self.rest = self.rest.trim_start();
        Ok(filter)
    }

    /// Those behind a sign.
    fn list(&mut self, depth: u32) -> Result<Vec<LdapFilter>, String> {
        self.rest = self.rest[1..].trim_start();
        let mut filters = Vec::new();
        while self.rest.starts_with('(') {
            filters.push(self.filter(depth + 1)?);
        }
        if filters.is_empty() { Err("( expected".to_owned()) } else { Ok(filters) }
    }
}

/// What is between parentheses and has none itself.
fn item(text: &str) -> Result<LdapFilter, String> {
    let (left, value) = text.split_once('=').ok_or("attribute=value expected")?;
    let comparisons =
        [('>', Comparison::GreaterOrEqual), ('<', Comparison::LessOrEqual), ('~', Comparison::Approximate)];
    if let Some(left) = left.strip_suffix(':') {
        return extensible(left, single(value)?);
    }
    let special = comparisons.into_iter().find_map(|(sign, comparison)| Some((left.strip_suffix(sign)?, comparison)));
    let attribute = special.map_or(left, |(attribute, _)| attribute).trim().to_owned();
    if !is_attribute(&attribute) {
        return Err(format!("\"{attribute}\" is no attribute"));
    }
    if let Some((_, comparison)) = special {
        return Ok(LdapFilter::Compare { attribute, comparison, value: single(value)? });
    }
    let mut pieces = pieces(value)?;
    if pieces.len() == 1 {
        let value = pieces.remove(0);
        return Ok(LdapFilter::Compare { attribute, comparison: Comparison::Equal, value });
    }
    let some = |piece: Option<Template>| piece.filter(|piece| !piece.0.is_empty());
    let (last, initial) = (some(pieces.pop()), some(Some(pieces.remove(0))));
    pieces.retain(|piece| !piece.0.is_empty());
    if initial.is_none() && pieces.is_empty() && last.is_none() {
        return Ok(LdapFilter::Present(attribute));
    }
    Ok(LdapFilter::Substrings { attribute, initial, any: pieces, last })
}

/// `attribute:dn:rule:=value`, of which the attribute, `dn` or the rule may be missing.
fn extensible(left: &str, value: Template) -> Result<LdapFilter, String> {
    let mut parts = left.split(':');
    let attribute = parts.next().filter(|attribute| !attribute.is_empty());
    let mut rest: Vec<&str> = parts.collect();
    let with_dn = rest.first().is_some_and(|part| part.eq_ignore_ascii_case("dn"));
    if with_dn {
        rest.remove(0);
    }
    let is_known = rest.len() <= 1 && (attribute.is_some() || rest.len() == 1);
    if !is_known || !attribute.iter().chain(&rest).all(|name| is_attribute(name)) {
        return Err(format!("\"{left}:=\" is no matching rule"));
    }
    let (attribute, rule) = (attribute.map(str::to_owned), rest.first().map(|&rule| rule.to_owned()));
    Ok(LdapFilter::Extensible { rule, attribute, value, with_dn })
}

/// A value without `*`.
fn single(value: &str) -> Result<Template, String> {
    let mut pieces = pieces(value)?;
    match pieces.pop() {
        Some(value) if pieces.is_empty() => Ok(value),
        _ => Err("* has no meaning here".to_owned()),
    }
}

/// The value between its `*`: one piece at least.
fn pieces(value: &str) -> Result<Vec<Template>, String> {
    let (mut pieces, mut piece) = (Vec::new(), Template::default());
    let mut rest = value;
    while let Some(c) = rest.chars().next() {
        let behind = &rest[c.len_utf8()..];
        rest = match c {
            '$' if rest.starts_with(USERNAME) => {
                piece.0.push(Piece::User);
                &rest[USERNAME.len()..]
            }
            '\\' => {
                let digits = behind.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                piece.push(&[escaped.ok_or("\\ without two hexadecimal digits")?]);
                &behind[2..]
            }
            '*' => {
                pieces.push(std::mem::take(&mut piece));
                behind
            }
            c => {
                piece.push(c.encode_utf8(&mut [0; 4]).as_bytes());
                behind
            }
        };
    }
    pieces.push(piece);
    Ok(pieces)
}

/// A name with options, or a number with points.
fn is_attribute(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.;_".contains(&b))
}
