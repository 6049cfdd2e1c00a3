//! `ldap[s]://host[:port]/basedn[?attribute[?scope[?filter]]]`. <https://www.rfc-editor.org/rfc/rfc4516>

use super::{LdapScope, is_ldaps, servers, unknown_scheme};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) is_ldaps: bool,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) dn: String,
    pub(super) attribute: Option<String>,
    /// Only the base where it does not say.
    pub(super) scope: LdapScope,
    pub(super) filter: Option<String>,
}

pub(super) fn parse(text: &str) -> Result<Url, String> {
    let (scheme, rest) = text.split_once("://").ok_or("expected ldap://host/basedn")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_ldaps = is_ldaps(&scheme).ok_or_else(|| unknown_scheme(&scheme))?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority_of(authority)?;
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('?');
    let mut next = || decode(parts.next().unwrap_or_default());
    let (dn, attributes, scope, filter) = (next()?, next()?, next()?, next()?);
    if parts.next().is_some() {
        return Err("extensions are not supported".to_owned());
    }
    let scope = match &*scope.to_ascii_lowercase() {
        "" | "base" => LdapScope::Base,
        "one" => LdapScope::One,
        "sub" => LdapScope::Sub,
        _ => return Err(format!("unknown scope \"{scope}\", expected base, one or sub")),
    };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    // Of several, PostgreSQL takes the first.
    let attribute = attributes.split(',').next().and_then(some);
    Ok(Url { is_ldaps, host, port, dn, attribute, scope, filter: some(&filter) })
}

fn authority_of(text: &str) -> Result<(Option<String>, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        // Not inside of an address of IPv6.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map(|port| port.parse().ok().filter(|port| *port > 0).ok_or(format!("invalid port \"{port}\"")));
    let hosts = servers(host)?;
    if hosts.len() > 1 {
        return Err("more than one host".to_owned());
    }
    Ok((hosts.into_iter().next(), port.transpose()?))
}

/// Takes the `%XX` off.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("% without two hexadecimal digits")?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("not in UTF-8".to_owned()),
    }
}
