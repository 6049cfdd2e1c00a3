//! The startup parameter `options`: command-line switches for the server process, of which
//! only settings are taken.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS>

use std::iter::Peekable;
use std::str::Chars;

/// Something other than settings. Its words are [`crate::client_error`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionsError;

/// Splits `-c name=value`, `-cname=value` and `--name=value`, in order. White space
/// separates, a backslash takes the next character as it is.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut settings = Vec::new();
    let mut rest = options.chars().peekable();
    skip_space(&mut rest);
    while rest.peek().is_some() {
        match (rest.next(), rest.next()) {
            (Some('-'), Some('c')) => skip_space(&mut rest),
            (Some('-'), Some('-')) => {}
            _ => return Err(OptionsError),
        }
        let token = token(&mut rest);
        let (name, value) = token.split_once('=').ok_or(OptionsError)?;
        settings.push((name.to_owned(), value.to_owned()));
        skip_space(&mut rest);
    }
    Ok(settings)
}

/// C's `isspace`, which is what PostgreSQL and PgBouncer split at.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|&c| is_space(c)).is_some() {}
}

fn token(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut token = String::new();
    while let Some(c) = rest.next_if(|&c| !is_space(c)) {
        match c {
            '\\' => token.extend(rest.next()),
            _ => token.push(c),
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;

    fn parse(options: &str) -> Vec<(String, String)> {
        parse_options(options).unwrap()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn both_spellings_and_escapes() {
        assert_eq!(
            parse(" -c a=b -cc=d  --e=f\t-c  g=h=i "),
            pairs(&[("a", "b"), ("c", "d"), ("e", "f"), ("g", "h=i")])
        );
        assert_eq!(
            parse(r"-c search_path=a,\ b --x=\\y\-c --z=grün\"),
            pairs(&[("search_path", "a, b"), ("x", r"\y-c"), ("z", "grün")])
        );
        assert_eq!(parse(""), pairs(&[]));
        assert_eq!(parse("-c a="), pairs(&[("a", "")]));
    }

    #[test]
    fn refuses_everything_else() {
        for bad in ["x", "-", "-c", "-c a", "--", "--a", "-d 5", "-c a=b junk", "-c a=b -", "-- a=b"] {
            assert_eq!(parse_options(bad), Err(OptionsError), "{bad}");
        }
    }

    #[test]
    fn survives_garbage() {
        garbage::throw(&[br"-c a=b --c=d\ e -cf=\\g"], |bytes| {
            let options = crate::read::text(bytes);
            if let Ok(settings) = parse_options(&options) {
                let total: usize = settings.iter().map(|(k, v)| k.len() + v.len()).sum();
                assert!(total <= options.len());
            }
        });
    }
}
