//! `DATABASE_URL`: `postgres://user:password@host:port/database?key=value`.

use crate::secret::Secret;

/// A connection URL taken apart and decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// One host, or a list separated by commas.
    pub(crate) hosts: String,
    /// The same for all hosts; None where none is given.
    pub(crate) port: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Url {
    /// Errors do not quote the URL, which may hold a password.
    pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
        const WANTED: &str = "expected postgres://user:password@host:port/database";
        let (scheme, rest) = text.split_once("://").ok_or(WANTED)?;
        if !["postgres", "pgsql", "postgis"].iter().any(|known| scheme.starts_with(known)) {
            return Err(WANTED);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The last @, so that a password may hold one that is not encoded.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (addresses, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (hosts, port) = split_addresses(addresses)?;
        if hosts.is_empty() {
            return Err("the URL has no host");
        }
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (some(user), some(password)),
            None => (None, None),
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (decode(key), decode(value)));
        Ok(Url {
            user,
            password: password.map(Secret::new),
            hosts,
            port,
            database: some(database),
            parameters: pairs.map(pair).collect::<Option<_>>().ok_or("a parameter of the URL has no value")?,
        })
    }
}

/// Splits `DATABASE_URLS`: at commas, save for those inside a list of hosts.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
        match urls.last_mut() {
            Some(url) if !piece.contains("://") => {
                url.push(',');
                url.push_str(piece);
            }
            _ => urls.push(piece.to_owned()),
        }
    }
    urls
}

/// Hosts joined by commas, and their port.
fn split_addresses(text: &str) -> Result<(String, Option<String>), &'static str> {
    let mut hosts = Vec::new();
    let mut ports: Vec<&str> = Vec::new();
    for address in text.split(',').filter(|address| !address.is_empty()) {
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        hosts.push(decode(host));
        ports.extend(port.filter(|port| !port.is_empty()));
    }
    let mixed = ports.iter().any(|port| *port != ports[0]) || (!ports.is_empty() && ports.len() < hosts.len());
    if mixed {
        return Err("the hosts of the URL must have the same port");
    }
    Ok((hosts.join(","), ports.first().map(|port| (*port).to_owned())))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| decode(text))
}

/// Decodes `%XX`. A percent sign that begins no such code stands for itself, since the images take passwords undecoded.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        bytes.extend(before.as_bytes());
        let code = behind.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(b'%');
                rest = behind;
            }
        }
    }
    bytes.extend(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_urls() {
        let url = Url::parse("postgresql://app:s%40cret@db.example:6543/orders?sslmode=disable").unwrap();
        assert_eq!(url.user.as_deref(), Some("app"));
        assert_eq!(url.password, Some(Secret::new("s@cret")));
        assert_eq!((url.hosts.as_str(), url.port.as_deref()), ("db.example", Some("6543")));
        assert_eq!(url.database.as_deref(), Some("orders"));
        assert_eq!(url.parameters, [("sslmode".to_owned(), "disable".to_owned())]);
    }

    #[test]
    fn passwords_that_were_not_encoded() {
        let password = |text: &str| Url::parse(text).unwrap().password.unwrap();
        assert_eq!(password("postgres://u:p@ss:w%rd@h/d").expose(), "p@ss:w%rd");
        assert_eq!(password("postgres://u:a/b@h/d").expose(), "a/b");
        assert_eq!(password("postgres://u:100%@h/d").expose(), "100%");
    }

    #[test]
    fn parts_may_be_absent() {
        let url = Url::parse("postgres://db").unwrap();
        assert_eq!((url.user, url.password, url.port, url.database), (None, None, None, None));
        assert_eq!(Url::parse("postgres://u@h/").unwrap().user.as_deref(), Some("u"));
    }

    #[test]
    fn hosts_of_all_forms() {
        let hosts = |text: &str| Url::parse(text).map(|url| (url.hosts, url.port));
        let found = |hosts: &str, port: Option<&str>| Ok((hosts.to_owned(), port.map(str::to_owned)));
        assert_eq!(hosts("postgres://[::1]:5433/d"), found("::1", Some("5433")));
        assert_eq!(hosts("postgres://[::1]/d"), found("::1", None));
        assert_eq!(hosts("postgres://a:1,b:1/d"), found("a,b", Some("1")));
        assert_eq!(hosts("postgres://%2Frun%2Fpg/d"), found("/run/pg", None));
        assert!(hosts("postgres://a:1,b:2/d").is_err());
        assert!(hosts("postgres://a:1,b/d").is_err());
    }

    #[test]
    fn errors_do_not_show_the_url() {
        for text in ["hunter2", "mysql://u:hunter2@h/d", "postgres://u:hunter2@/d", "postgres://u:hunter2@h/d?x"] {
            let error = Url::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn lists_of_urls() {
        let urls = split_list("postgres://a:1,b:1/x, postgres://c/y");
        assert_eq!(urls, ["postgres://a:1,b:1/x", "postgres://c/y"]);
    }
}
