//! The console's language: one command, a word or two, with an optional `;` behind it.
//!
//! A word is letters, digits and `_`, or anything in double quotes, in which `""` stands for
//! one. `SET` has its own form: `SET key = value`, or `TO`, the value a word or a string in
//! single quotes. Key words are taken without regard to case.
//!
//! Comments may stand in front, as in what drivers send to see that we are there.

use pgweir_proto::admin_error::AdminError;

/// PgBouncer's limits on a verb and on its argument, in bytes.
const VERB_LEN_MAX: usize = 15;
const ARGUMENT_LEN_MAX: usize = 63;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but white space and perhaps a `;`, which clients send to see that we are there.
    Nothing,
    Set {
        key: String,
        value: String,
    },
    /// Everything else.
    Plain {
        verb: String,
        /// Empty if there is none.
        argument: String,
    },
}

impl Command {
    pub(super) fn parse(text: &str) -> Result<Command, AdminError> {
        let bare = skip_comments(text);
        if is_end(bare) {
            return Ok(Command::Nothing);
        }
        let plain = plain(bare).map(|(verb, argument)| {
            let fits = verb.len() <= VERB_LEN_MAX && argument.len() <= ARGUMENT_LEN_MAX;
            fits.then_some(Command::Plain { verb, argument })
        });
        let set = || {
            let (key, value) = set(bare)?;
            Some((!key.is_empty()).then_some(Command::Set { key, value }))
        };
        match plain.or_else(set) {
            Some(Some(command)) => Ok(command),
            Some(None) => Err(AdminError::BadArguments),
            None if has_parameter(text) => Err(AdminError::Parameters),
            None => Err(AdminError::InvalidCommand(text.to_owned())),
        }
    }

    /// What is to be shown, if it is a SHOW.
    pub(super) fn shown(&self) -> Option<&str> {
        match self {
            Command::Plain { verb, argument } => {
                let is_show = verb.eq_ignore_ascii_case("show") || verb.eq_ignore_ascii_case("select");
                is_show.then_some(argument)
            }
            Command::Nothing | Command::Set { .. } => None,
        }
    }
}

/// `VERB [argument] [;]`
fn plain(text: &str) -> Option<(String, String)> {
    let (verb, rest) = word(text)?;
    let behind = skip_space(rest);
    if is_end(behind) {
        return Some((verb, String::new()));
    }
    let (argument, rest) = if behind.len() < rest.len() { word(behind)? } else { return None };
    is_end(skip_space(rest)).then_some((verb, argument))
}

/// `SET key = value [;]` or `SET key TO value [;]`
fn set(text: &str) -> Option<(String, String)> {
    let behind = strip_keyword(text, "set")?;
    let key = skip_space(behind);
    let (key, rest) = if key.len() < behind.len() { word(key)? } else { return None };
    let rest = skip_space(rest);
    let value = skip_space(rest.strip_prefix('=').or_else(|| strip_keyword(rest, "to"))?);
    let (value, rest) = if value.starts_with('\'') { quoted(value, '\'')? } else { word(value)? };
    is_end(skip_space(rest)).then_some((key, value))
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

/// Goes to where a command begins.
fn skip_comments(text: &str) -> &str {
    let text = skip_space(text);
    let line = text.strip_prefix("--").map(|comment| comment.split_once('\n').map_or("", |(_, rest)| rest));
    let block = || text.strip_prefix("/*").and_then(|comment| Some(comment.split_once("*/")?.1));
    line.or_else(block).map_or(text, skip_comments)
}

/// Nothing, or a `;` and nothing.
fn is_end(text: &str) -> bool {
    skip_space(text.strip_prefix(';').unwrap_or(text)).is_empty()
}

/// There is a `$1`, or another number.
fn has_parameter(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| pair[0] == b'$' && pair[1].is_ascii_digit())
}

fn strip_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then_some(rest)
}

/// The word at the beginning of `text`, unquoted, and what is behind it.
fn word(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (!word.is_empty()).then(|| (word.to_owned(), rest))
}

/// The same for a word between `quote`s.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix(quote)?;
    let mut word = String::new();
    loop {
        let (head, behind) = rest.split_once(quote)?;
        word.push_str(head);
        match behind.strip_prefix(quote) {
            Some(more) => {
                word.push(quote);
                rest = more;
            }
            None => return Some((word, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(verb: &str, argument: &str) -> Result<Command, AdminError> {
        Ok(Command::Plain { verb: verb.into(), argument: argument.into() })
    }

    #[test]
    fn takes_one_command_with_an_argument_at_most() {
        for text in ["SHOW pools", "--x\n/* y */ SHOW pools", " SHOW\t pools ;\n", "SHOW pools;", "\"SHOW\" \"pools\""]
        {
            assert_eq!(Command::parse(text), plain("SHOW", "pools"), "{text}");
        }
        assert_eq!(Command::parse("PAUSE"), plain("PAUSE", ""));
        assert_eq!(Command::parse(" PAUSE ; "), plain("PAUSE", ""));
        assert_eq!(Command::parse("PAUSE \"my-db\"\"é; \""), plain("PAUSE", "my-db\"é; "));
        assert_eq!(Command::parse("PAUSE \"\""), plain("PAUSE", ""));
        // Not a SET, which needs a value.
        assert_eq!(Command::parse("SET x"), plain("SET", "x"));
    }

    #[test]
    fn takes_both_forms_of_set() {
        let set = |key: &str, value: &str| Ok(Command::Set { key: key.into(), value: value.into() });
        for text in ["set a=b", "SET a = b;", "Set a TO b ; ", "set \"a\"='b'", "set a to\n\"b\"", "set a tob"] {
            assert_eq!(Command::parse(text), set("a", "b"), "{text}");
        }
        assert_eq!(Command::parse("set q = 'it''s; \"x\"'"), set("q", "it's; \"x\""));
        assert_eq!(Command::parse("set q = ''"), set("q", ""));
    }

    #[test]
    fn nothing_is_a_command_too() {
        for text in ["", ";", " ; ", "\n", "-- ping", "/* ping */", " --\n/**/ -- \n;"] {
            assert_eq!(Command::parse(text), Ok(Command::Nothing), "{text:?}");
        }
    }

    #[test]
    fn tells_what_is_shown() {
        let shown = |text| Command::parse(text).unwrap().shown().map(str::to_owned);
        assert_eq!(shown("select Pools"), Some("Pools".into()));
        assert_eq!((shown("SHOW"), shown("RELOAD"), shown("SET show = x")), (Some(String::new()), None, None));
    }

    #[test]
    fn refuses_parameters() {
        for text in ["KILL_CLIENT $1", "SET x = $12", "PAUSE $1;"] {
            assert_eq!(Command::parse(text), Err(AdminError::Parameters), "{text}");
        }
        assert_eq!(Command::parse("SET x = '$1'"), Ok(Command::Set { key: "x".into(), value: "$1".into() }));
        assert_eq!(Command::parse("PAUSE $"), Err(AdminError::InvalidCommand("PAUSE $".into())));
    }

    #[test]
    fn refuses_everything_else_with_its_text() {
        let texts = [
            ";;",
            "SHOW pools; SHOW pools",
            "SHOW pools x",
            "'x'",
            "show \"pools",
            "show\"pools\"",
            "PAUSE my-db",
            "PAUSE my--db",
            "/* no end",
            "PAUSE é",
            "é",
            "set a = b c",
            "set a b c",
            "seta=b",
            "set = b",
            "set a = 'b",
            "set a = ",
            "set a = b;;",
            "sé",
        ];
        for text in texts {
            assert_eq!(Command::parse(text), Err(AdminError::InvalidCommand(text.into())), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_too_long_for_pgbouncer() {
        let name = |len| "x".repeat(len);
        assert_eq!(Command::parse(&name(15)), plain(&name(15), ""));
        assert_eq!(Command::parse(&name(16)), Err(AdminError::BadArguments));
        assert_eq!(Command::parse(&format!("pause {}", name(63))), plain("pause", &name(63)));
        assert_eq!(Command::parse(&format!("pause {}", name(64))), Err(AdminError::BadArguments));
        assert_eq!(Command::parse("set \"\" = 1"), Err(AdminError::BadArguments));
    }
}
