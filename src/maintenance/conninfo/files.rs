//! libpq's files: the service file and the password file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgweir_config::Secret;

use super::parse::Pairs;

/// Looks up one variable of the environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn home(env: Env<'_>) -> Option<PathBuf> {
    env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// What the service file says of `service`: the user's own first, then the system's.
pub(super) fn service(service: &str, env: Env<'_>) -> Result<Pairs, String> {
    let own = env("PGSERVICEFILE")
        .map(PathBuf::from)
        .or_else(|| home(env).map(|home| home.join(".pg_service.conf")).filter(|file| file.exists()));
    let system = env("PGSYSCONFDIR").map_or_else(|| PathBuf::from("/etc/postgresql-common"), PathBuf::from);
    let files = own.into_iter().chain(Some(system.join("pg_service.conf")).filter(|file| file.exists()));
    for file in files {
        let text = fs::read_to_string(&file).map_err(|e| format!("service file {}: {e}", file.display()))?;
        if let Some(pairs) = section(&text, service).map_err(|e| format!("service file {}: {e}", file.display()))? {
            return Ok(pairs);
        }
    }
    Err(format!("definition of service \"{service}\" not found"))
}

fn section(text: &str, service: &str) -> Result<Option<Pairs>, String> {
    let mut found: Option<Pairs> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = (name.strip_suffix(']') == Some(service)).then(Vec::new);
        } else if let Some(pairs) = &mut found {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("syntax error in [{service}]"))?;
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(found)
}

/// Whom a line of the password file is to be about.
pub(super) struct Login<'a> {
    /// A Unix socket in the default directory is `localhost`, as libpq has it.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// The password of the first line that fits. A file that others may read is left out with a warning, as libpq does.
pub(super) fn password(file: &Path, login: &Login<'_>, warn: &mut dyn FnMut(String)) -> Option<Secret> {
    let about = fs::metadata(file).ok()?;
    if !about.is_file() {
        return None;
    }
    if about.mode() & 0o077 != 0 {
        let file = file.display();
        warn(format!("password file \"{file}\" has group or world access; permissions should be u=rw (0600) or less"));
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| fitting(line, login))
}

fn fitting(line: &str, login: &Login<'_>) -> Option<Secret> {
    let fields = fields(line);
    let [host, port, dbname, user, password] = &fields[..] else { return None };
    let wanted = [login.host, &login.port.to_string(), login.dbname, login.user];
    let fits = [host, port, dbname, user].iter().zip(wanted).all(|(field, wanted)| *field == "*" || *field == wanted);
    // An escaped star is no wildcard, but nobody is called so.
    (fits && !password.is_empty()).then(|| Secret::new(password.as_str()))
}

/// Five fields split at colons; a backslash escapes one. The password is the rest of the line.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.trim_end_matches('\r').chars();
    while let Some(c) = chars.next() {
        let is_last = fields.len() == 5;
        if c == ':' && !is_last {
            fields.push(String::new());
            continue;
        }
        let c = if c == '\\' { chars.next() } else { Some(c) };
        if let Some(field) = fields.last_mut() {
            field.extend(c);
        }
    }
    fields
}

/// A field of a password file that stands for itself.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sections_of_a_service_file() {
        let text = "# c\n[a]\nhost=h\n[b]\nhost = x\n port=1\n\n[c]\nnonsense\n";
        let b = section(text, "b").unwrap().unwrap();
        assert_eq!(b, [("host".to_owned(), "x".to_owned()), ("port".to_owned(), "1".to_owned())]);
        assert_eq!(section(text, "d"), Ok(None));
        assert!(section(text, "c").is_err());
    }

    #[test]
    fn password_files() {
        let file = std::env::temp_dir().join(format!("pgweir-pgpass-{}", std::process::id()));
        fs::write(&file, "# *:*:*:*:no\nother:*:*:*:no\n*:5432:d\\:b:u:p\\\\a:ss\n*:*:*:u:last\n").unwrap();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut warnings = Vec::new();
        let mut found = |dbname: &str, user: &str| {
            let login = Login { host: "h", port: 5432, dbname, user };
            password(&file, &login, &mut |warning| warnings.push(warning)).map(|secret| secret.expose().to_owned())
        };
        mode(0o600);
        assert_eq!(found("d:b", "u").as_deref(), Some("p\\a:ss"));
        assert_eq!(found("x", "u").as_deref(), Some("last"));
        assert_eq!(found("x", "other"), None);
        mode(0o640);
        assert_eq!(found("x", "u"), None);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        fs::remove_file(&file).unwrap();
        assert_eq!(fields(&format!("{}:1", escaped("a:b\\c")))[0], "a:b\\c");
    }
}
