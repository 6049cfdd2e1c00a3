//! Connection strings in libpq's two forms, taken apart into keywords and values.

/// Keywords and values in the order given; of two equal ones the later counts.
pub(super) type Pairs = Vec<(String, String)>;

/// `host=... dbname=...` or `postgres://...`; a word without either is a database's name, as psql has it. Errors do not quote
/// the text, which may hold a password.
pub(super) fn parse(text: &str) -> Result<Pairs, String> {
    match text.strip_prefix("postgresql://").or(text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None if text.contains('=') => keywords(text),
        None => Ok(vec![("dbname".to_owned(), text.trim().to_owned())]),
    }
}

fn keywords(text: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').ok_or("missing \"=\" in the connection string")?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("missing \"=\" in the connection string".to_owned());
        }
        let (value, behind) = value_of(value.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

/// A value, quoted or not, and what stands behind it.
fn value_of(text: &str) -> Result<(String, &str), String> {
    let (is_quoted, text) = text.strip_prefix('\'').map_or((false, text), |rest| (true, rest));
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => return Ok((value, &text[at + 1..])),
            c if !is_quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if is_quoted { Err("unterminated quoted string in the connection string".to_owned()) } else { Ok((value, "")) }
}

fn uri(rest: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut add = |key: &str, text: &str| -> Result<(), String> {
        if !text.is_empty() {
            pairs.push((key.to_owned(), decode(text)?));
        }
        Ok(())
    };
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    // As libpq: user and password end at the first @ that stands before any slash.
    let authority_end = before.find('/').unwrap_or(before.len());
    let (login, rest) = match before[..authority_end].find('@') {
        Some(at) => (&before[..at], &before[at + 1..]),
        None => ("", before),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    add("user", user)?;
    add("password", password)?;
    let (addresses, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (hosts, ports) = addresses_of(addresses)?;
    add("host", &hosts)?;
    add("port", &ports)?;
    add("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("missing \"=\" in a parameter of the URI")?;
        let key = decode(key)?;
        // JDBC's word, which libpq takes, too.
        let (key, value) = if key == "ssl" && value == "true" { ("sslmode", "require") } else { (key.as_str(), value) };
        pairs.push((key.to_owned(), decode(value)?));
    }
    Ok(pairs)
}

/// Lists of hosts and ports of the same length; the ports are empty if none is given.
fn addresses_of(text: &str) -> Result<(String, String), String> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for address in text.split(',') {
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']').ok_or("missing \"]\" in an address of the URI")?;
                (host, behind.strip_prefix(':').unwrap_or(""))
            }
            None => address.split_once(':').unwrap_or((address, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    let ports = if ports.iter().all(|port| port.is_empty()) { String::new() } else { ports.join(",") };
    let hosts = if hosts.iter().all(|host| host.is_empty()) { String::new() } else { hosts.join(",") };
    Ok((hosts, ports))
}

fn decode(text: &str) -> Result<String, String> {
    const BAD: &str = "invalid percent-encoding in the URI";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        bytes.extend(before.as_bytes());
        let code = behind.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit())).ok_or(BAD)?;
        bytes.push(u8::from_str_radix(code, 16).map_err(|_| BAD)?);
        rest = &behind[2..];
    }
    bytes.extend(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| BAD.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        let pairs = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        pairs.into_iter().map(|(key, value)| format!("{key}={value};")).collect()
    }

    #[test]
    fn keywords_and_values() {
        for (text, wanted) in [
            ("host=h dbname=d", "host=h;dbname=d;"),
            (" host = h  port= 1 ", "host=h;port=1;"),
            (r"password='a b\'c\\d' user=u", r"password=a b'c\d;user=u;"),
            (r"password=a\ b user=''", "password=a b;user=;"),
            ("app", "dbname=app;"),
        ] {
            assert_eq!(parsed(text), wanted, "{text}");
        }
        for text in ["host=h hunter2", "password='hunter2", "=hunter2", "host=h hun ter2=1"] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn uris() {
        for (text, wanted) in [
            ("postgres://", ""),
            ("postgresql://h", "host=h;"),
            ("postgresql://u:p%40ss@h:1/d", "user=u;password=p@ss;host=h;port=1;dbname=d;"),
            ("postgres://a:1,b/d", "host=a,b;port=1,;dbname=d;"),
            ("postgres://[::1]:5433/d", "host=::1;port=5433;dbname=d;"),
            ("postgres://%2Frun%2Fpg/d", "host=/run/pg;dbname=d;"),
            ("postgres:///d?host=/run&sslmode=require", "dbname=d;host=/run;sslmode=require;"),
            ("postgres://h/d?ssl=true", "host=h;dbname=d;sslmode=require;"),
        ] {
            assert_eq!(parsed(text), wanted, "{text}");
        }
        for text in ["postgres://h/%zz", "postgres://[::1/d", "postgres://h/d?x", "postgres://h/%ff"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
