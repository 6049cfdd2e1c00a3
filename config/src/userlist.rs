//! The `auth_file`: names and secrets of users.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::problem::{Place, Problem};
use crate::secret::Secret;
use crate::units::unquote;

/// The length of the keys of SCRAM-SHA-256 in bytes.
pub const SCRAM_KEY_LEN: usize = 32;

/// What is known about a user's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserSecret {
    /// Nothing: no password is ever right for this user.
    Empty,
    /// The password itself.
    Plain(Secret),
    /// As PostgreSQL stores it: `md5` and 32 hexadecimal digits.
    Md5(Secret),
    /// What verifies a SCRAM login.
    Scram(Box<ScramSecret>),
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramSecret {
    pub iterations: u32,
    /// Decoded.
    pub salt: Vec<u8>,
    pub stored_key: [u8; SCRAM_KEY_LEN],
    pub server_key: [u8; SCRAM_KEY_LEN],
    /// The whole of it as written.
    pub text: Secret,
}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl ScramSecret {
    /// None for what is not a SCRAM secret, and so a password.
    fn parse(text: &str) -> Option<ScramSecret> {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |encoded: &str| BASE64.decode(encoded).ok()?.try_into().ok();
        Some(ScramSecret {
            iterations: iterations.parse().ok().filter(|n| *n > 0)?,
            salt: BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
            text: Secret::new(text),
        })
    }
}

impl UserSecret {
    /// Tells the forms apart as PgBouncer does: what is neither MD5 nor SCRAM is the password itself.
    pub fn parse(text: &str) -> UserSecret {
        if text.is_empty() {
            return UserSecret::Empty;
        }
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        let md5 = text.strip_prefix("md5").filter(|hex| hex.len() == 32 && hex.bytes().all(is_hex));
        if md5.is_some() {
            return UserSecret::Md5(Secret::new(text));
        }
        match ScramSecret::parse(text) {
            Some(scram) => UserSecret::Scram(Box::new(scram)),
            None => UserSecret::Plain(Secret::new(text)),
        }
    }
}

/// The users of an `auth_file`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Userlist {
    users: BTreeMap<String, UserSecret>,
    /// There is, or was, a [`UserSecret::Plain`]; that is asked at logins.
    has_passwords: bool,
}

impl Userlist {
    /// Reads lines of `"user" "secret" ...`. Lines that cannot be read are reported and left out.
    pub(crate) fn parse(text: &str, file: &Place) -> (Userlist, Vec<Problem>) {
        let mut userlist = Userlist::default();
        let mut problems = Vec::new();
        for (line, number) in text.split('\n').zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            match split_line(line) {
                Some(_) if line.contains(char::REPLACEMENT_CHARACTER) => {
                    problems.push(file.line(number).problem("not in UTF-8"));
                }
                Some((user, secret)) => userlist.insert(user, UserSecret::parse(&secret)),
                None => {
                    let message = "broken line in the auth file, expected \"user\" \"secret\"";
                    problems.push(file.line(number).problem(message));
                }
            }
        }
        (userlist, problems)
    }

    pub fn get(&self, user: &str) -> Option<&UserSecret> {
        self.users.get(user)
    }

    /// All users in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &UserSecret)> {
        self.users.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether some secrets are passwords themselves.
    pub fn has_passwords(&self) -> bool {
        self.has_passwords
    }

    /// Adds a user, or replaces the secret of one.
    pub fn insert(&mut self, user: impl Into<String>, secret: UserSecret) {
        self.has_passwords |= matches!(secret, UserSecret::Plain(_));
        self.users.insert(user.into(), secret);
    }
}

/// The name and the secret of a line, whose further fields do not matter.
fn split_line(line: &str) -> Option<(String, String)> {
    let (user, rest) = unquote(line.strip_prefix('"')?, '"')?;
    let (_, rest) = rest.split_once('"')?;
    let (secret, _) = unquote(rest, '"')?;
    Some((user, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "md545f2603610af569b6155c45067268c6b";
    const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHQ=$MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=:MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=";

    fn parse(text: &str) -> (Userlist, Vec<String>) {
        let (userlist, problems) = Userlist::parse(text, &Place::file("users.txt"));
        (userlist, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn secrets_of_all_forms() {
        assert_eq!(UserSecret::parse(""), UserSecret::Empty);
        assert_eq!(UserSecret::parse("x"), UserSecret::Plain(Secret::new("x")));
        assert_eq!(UserSecret::parse(MD5), UserSecret::Md5(Secret::new(MD5)));
        let UserSecret::Scram(scram) = UserSecret::parse(SCRAM) else {
            panic!("not taken for SCRAM");
        };
        assert_eq!((scram.iterations, scram.salt.as_slice()), (4096, b"saltsalt".as_slice()));
        assert_eq!((scram.stored_key, scram.server_key), ([b'0'; 32], [b'1'; 32]));
        assert_eq!(scram.text.expose(), SCRAM);
    }

    #[test]
    fn what_only_looks_like_a_hash_is_a_password() {
        let not_base64 = SCRAM.replace("c2Fs", "!!!!");
        let short_key = SCRAM.replace("MDAw", "");
        let no_iterations = SCRAM.replace("4096", "0");
        let upper = MD5.replace("f2", "F2");
        for text in ["md5", "md5x", &upper, "SCRAM-SHA-256$", &not_base64, &short_key, &no_iterations] {
            assert_eq!(UserSecret::parse(text), UserSecret::Plain(Secret::new(text)), "{text}");
        }
    }

    #[test]
    fn lines_of_all_forms() {
        let text = format!(
            "; comment\n\n\"a\" \"x\"\r\n  \"b\"\t\"{MD5}\" \"2030-01-01\" more\n\"c \"\"d\"\"\" \"e\"\"f\"\n\"g\" \"\"\n\"h\" \"{SCRAM}\"\n\"a\" \"y\""
        );
        let (userlist, problems) = parse(&text);
        assert!(problems.is_empty(), "{problems:?}");
        let names: Vec<&str> = userlist.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c \"d\"", "g", "h"]);
        // The last line of a user counts.
        assert_eq!(userlist.get("a"), Some(&UserSecret::parse("y")));
        assert_eq!(userlist.get("c \"d\""), Some(&UserSecret::parse("e\"f")));
        assert_eq!(userlist.get("g"), Some(&UserSecret::Empty));
        assert_eq!(userlist.get("nobody"), None);
    }

    #[test]
    fn broken_lines_are_reported_and_the_rest_is_read() {
        let (userlist, problems) = parse("bob x\n\"a\"\n\"a\" \"hunter2\n\"b\" \"y\"\n# no comment\n");
        let lines: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').nth(1)).collect();
        assert_eq!(lines, ["1", "2", "3", "5"]);
        assert!(!problems.concat().contains("hunter2"));
        assert_eq!(userlist.len(), 1);
        let (userlist, problems) = parse("\"a\" \"\u{fffd}\"");
        assert_eq!((userlist.len(), problems.as_slice()), (0, ["users.txt:1: not in UTF-8".to_owned()].as_slice()));
    }

    #[test]
    fn debug_shows_no_secret() {
        let (userlist, _) = parse(&format!("\"a\" \"hunter2\"\n\"b\" \"{MD5}\"\n\"c\" \"{SCRAM}\"\n"));
        let shown = format!("{userlist:?}");
        for secret in ["hunter2", "45f26", "c2Fs", "48, 48"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
