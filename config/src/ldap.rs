//! `auth_ldap_options`, and what stands behind `ldap` in a line of the `auth_hba_file`: which directory is asked, and how.
//! The names are those of PostgreSQL. <https://www.postgresql.org/docs/current/auth-ldap.html>

mod filter;
mod pairs;
#[cfg(test)]
mod tests;
mod url;

pub use filter::{Comparison, LdapFilter, Template};

use crate::secret::Secret;
use pairs::pairs;

const PORT: u16 = 389;
const TLS_PORT: u16 = 636;

/// The option whose value is never shown.
const PASSWORD: &str = "ldapbindpasswd";

/// A directory, and how it tells whether a password is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapOptions {
    /// Names or addresses, tried in this order. Never empty.
    pub servers: Vec<String>,
    pub port: u16,
    /// `ldaps`: TLS from the first byte on.
    pub is_ldaps: bool,
    /// `ldaptls=1`: TLS is asked for inside the connection.
    pub is_start_tls: bool,
    pub bind: LdapBind,
}

/// Whom to log in to the directory as, with the client's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapBind {
    /// The user's name between these two.
    Simple { prefix: String, suffix: String },
    /// The one entry that a search finds.
    Search(LdapSearch),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapSearch {
    /// Where it begins.
    pub base_dn: String,
    pub scope: LdapScope,
    /// Who searches; empty: nobody in particular.
    pub bind_dn: String,
    pub bind_password: Secret,
    pub filter: LdapFilter,
}

/// How far below `base_dn` a search looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LdapScope {
    /// Only at it.
    Base,
    /// At the entries right below it.
    One,
    #[default]
    Sub,
}

impl LdapOptions {
    /// Whether there is TLS, of either kind.
    pub fn is_tls(&self) -> bool {
        self.is_ldaps || self.is_start_tls
    }

    /// Reads and checks all of it. An error never holds a password.
    pub(crate) fn parse(text: &str) -> Result<LdapOptions, String> {
        let mut given = Given::default();
        for (name, value) in pairs(text)? {
            given.set(&name, value)?;
        }
        given.check()
    }

    /// What can be used, but most likely is not what was meant.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        match &self.bind {
            _ if self.is_ldaps && self.is_start_tls => {
                Some("ldaptls=1 asks for TLS inside of ldaps: every login will fail")
            }
            LdapBind::Search(search) if !search.filter.names_user() => {
                Some("ldapsearchfilter is without $username: it finds the same entry for every user")
            }
            _ => None,
        }
    }
}

/// The options as they are written.
#[derive(Default)]
struct Given {
    servers: Vec<String>,
    port: Option<u16>,
    is_ldaps: bool,
    is_start_tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base_dn: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<String>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: LdapScope,
}

impl Given {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "ldaptls" => {
                self.is_start_tls = match &*value {
                    "1" => true,
                    "0" => false,
                    _ => return Err(format!("invalid ldaptls \"{value}\", expected 1 or 0")),
                }
            }
            "ldapscheme" => self.is_ldaps = is_ldaps(&value).ok_or_else(|| unknown_scheme(&value))?,
            "ldapport" => {
                let port = value.parse().ok().filter(|port| *port > 0);
                self.port = Some(port.ok_or_else(|| format!("invalid ldapport \"{value}\", expected a port"))?);
            }
            "ldapserver" => self.servers = servers(&value)?,
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapbasedn" => self.base_dn = Some(value),
            "ldapbinddn" => self.bind_dn = Some(value),
            PASSWORD => self.bind_password = Some(value),
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapurl" => self.set_url(url::parse(&value).map_err(|why| format!("invalid ldapurl: {why}"))?),
            _ => return Err(format!("unknown LDAP option \"{name}\"")),
        }
        Ok(())
    }

    fn set_url(&mut self, url: url::Url) {
        self.is_ldaps = url.is_ldaps;
        self.port = Some(url.port.unwrap_or(default_port(url.is_ldaps)));
        self.scope = url.scope;
        self.servers = url.host.map_or(std::mem::take(&mut self.servers), |host| vec![host]);
        self.base_dn = Some(url.dn);
        self.attribute = url.attribute.or(self.attribute.take());
        self.filter = url.filter.or(self.filter.take());
    }

    fn check(self) -> Result<LdapOptions, String> {
        if self.servers.is_empty() {
            return Err("LDAP needs ldapserver, or a host in ldapurl; servers are not looked up in the DNS".to_owned());
        }
        let searches = self.base_dn.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let bind = match (self.prefix, self.suffix, self.base_dn) {
            (None, None, None) => return Err("LDAP needs ldapbasedn, ldapprefix or ldapsuffix".to_owned()),
            (None, None, Some(base_dn)) => LdapBind::Search(LdapSearch {
                base_dn,
                scope: self.scope,
                bind_dn: self.bind_dn.unwrap_or_default(),
                bind_password: Secret::new(self.bind_password.unwrap_or_default()),
                filter: search_filter(self.attribute.as_deref(), self.filter.as_deref())?,
            }),
            _ if searches => return Err("ldapprefix and ldapsuffix do not go with options for a search".to_owned()),
            (prefix, suffix, _) => {
                LdapBind::Simple { prefix: prefix.unwrap_or_default(), suffix: suffix.unwrap_or_default() }
            }
        };
        Ok(LdapOptions {
            servers: self.servers,
            port: self.port.unwrap_or(default_port(self.is_ldaps)),
            is_ldaps: self.is_ldaps,
            is_start_tls: self.is_start_tls,
            bind,
        })
    }
}

fn default_port(is_ldaps: bool) -> u16 {
    if is_ldaps { TLS_PORT } else { PORT }
}

/// None: another scheme.
fn is_ldaps(scheme: &str) -> Option<bool> {
    match scheme {
        "ldap" => Some(false),
        "ldaps" => Some(true),
        _ => None,
    }
}

fn unknown_scheme(scheme: &str) -> String {
    format!("unsupported LDAP scheme \"{scheme}\", expected ldap or ldaps")
}

/// Hosts in a row, separated by spaces.
fn servers(text: &str) -> Result<Vec<String>, String> {
    let hosts = text.split_ascii_whitespace().map(|host| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_address = bare.parse::<core::net::IpAddr>().is_ok();
        let is_name = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let invalid = || format!("invalid ldapserver \"{host}\", expected names or addresses; the port is ldapport");
        (is_address || is_name).then(|| bare.to_owned()).ok_or_else(invalid)
    });
    hosts.collect()
}

/// What finds the user: this filter, or an attribute that is the user's name.
fn search_filter(attribute: Option<&str>, filter: Option<&str>) -> Result<LdapFilter, String> {
    match (attribute, filter) {
        (Some(_), Some(_)) => Err("ldapsearchattribute does not go with ldapsearchfilter".to_owned()),
        (None, Some(filter)) => LdapFilter::parse(filter).map_err(|why| format!("invalid ldapsearchfilter: {why}")),
        (attribute, None) => {
            let attribute = attribute.unwrap_or("uid");
            LdapFilter::user_is(attribute).ok_or_else(|| format!("invalid ldapsearchattribute \"{attribute}\""))
        }
    }
}

/// What a name of a directory's entry cannot hold as it is.
const SPECIAL: &[char] = &[',', '+', '"', '\\', '<', '>', ';', '='];

/// The name to log in with of `user`; None: there can be no such user.
///
/// Where the prefix makes it the name of an entry, `uid=`, what would have a meaning in it is escaped. Otherwise it is of
/// another form, as `user@example.org`, which has no escapes.
pub fn bind_name(prefix: &str, user: &str, suffix: &str) -> Option<String> {
    if prefix.contains('=') {
        return Some(format!("{prefix}{}{suffix}", escape_dn(user)));
    }
    let has_meaning = |c: char| SPECIAL.contains(&c) || c.is_control() || "/@#".contains(c);
    (!user.contains(has_meaning)).then(|| format!("{prefix}{user}{suffix}"))
}

/// The value of an attribute as it stands in the name of an entry. <https://www.rfc-editor.org/rfc/rfc4514#section-2.4>
fn escape_dn(value: &str) -> String {
    let mut escaped = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            c if c.is_ascii_control() => escaped.push_str(&format!("\\{:02x}", u32::from(c))),
            c if SPECIAL.contains(&c) || (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0) => {
                escaped.extend(['\\', c]);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
