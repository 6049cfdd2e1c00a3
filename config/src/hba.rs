//! The `auth_hba_file`: rules that choose by database, user and address how a client proves who it is. The form is that of
//! pg_hba.conf, as much of it as PgBouncer knows.
//! <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
// Addresses as values; there is no socket in here.
use core::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::fields::{Field, Fields};
use crate::ident::{IdentMap, IdentMaps};
use crate::ldap::LdapOptions;
use crate::network::Network;
use crate::problem::{Place, Problem};

/// Files that name files that name files: deeper is a mistake, most likely a circle.
const FILE_DEPTH_MAX: u32 = 10;

/// The rules of a file, in its order: the first that matches counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hba {
    rules: Vec<HbaRule>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbaRule {
    /// Where it stands, counted from 1.
    pub line: u32,
    connections: Connections,
    databases: Names,
    users: Names,
    /// None: any, or a Unix socket.
    addresses: Option<Network>,
    pub method: HbaMethod,
    /// `map=`; None: the names must be the same.
    pub map: Option<Arc<IdentMap>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HbaMethod {
    Trust,
    Reject,
    Md5,
    /// The file calls it `password`.
    Plain,
    ScramSha256,
    Peer,
    Cert,
    /// By what the rest of the line says.
    Ldap(Arc<LdapOptions>),
}

impl fmt::Display for HbaMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HbaMethod::Trust => "trust",
            HbaMethod::Reject => "reject",
            HbaMethod::Md5 => "md5",
            HbaMethod::Plain => "password",
            HbaMethod::ScramSha256 => "scram-sha-256",
            HbaMethod::Peer => "peer",
            HbaMethod::Cert => "cert",
            HbaMethod::Ldap(_) => "ldap",
        })
    }
}

/// Which connections a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connections {
    /// Over a Unix socket.
    Local,
    /// Over TCP, in all these.
    Host,
    HostSsl,
    HostNoSsl,
}

impl Connections {
    fn has(self, access: &Access<'_>) -> bool {
        match self {
            Connections::Local => access.address.is_none(),
            Connections::Host => access.address.is_some(),
            Connections::HostSsl => access.address.is_some() && access.is_tls,
            Connections::HostNoSsl => access.address.is_some() && !access.is_tls,
        }
    }
}

/// The column of databases or that of users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    /// The database that has the user's name.
    same_user: bool,
    /// No database, but physical replication.
    replication: bool,
    names: BTreeSet<String>,
}

/// Who wants in, from where, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// None: over a Unix socket.
    pub address: Option<IpAddr>,
    pub is_tls: bool,
    /// It asks for physical replication, which is of no database.
    pub is_physical_replication: bool,
    pub database: &'a str,
    pub user: &'a str,
}

impl Hba {
    /// The rule that decides; None: there is none, and nobody gets in.
    pub fn find(&self, access: &Access<'_>) -> Option<&HbaRule> {
        self.rules.iter().find(|rule| rule.matches(access))
    }

    /// Those that its lines name.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &LdapOptions> {
        self.rules.iter().filter_map(|rule| match &rule.method {
            HbaMethod::Ldap(options) => Some(&**options),
            _ => None,
        })
    }
}

impl HbaRule {
    fn matches(&self, access: &Access<'_>) -> bool {
        let Access { address, is_physical_replication, database, user, .. } = *access;
        let is_from = |network: &Network| address.is_some_and(|address| network.has(address));
        self.connections.has(access)
            && self.addresses.as_ref().is_none_or(is_from)
            && match is_physical_replication {
                true => self.databases.replication,
                false => {
                    self.databases.all
                        || self.databases.same_user && database == user
                        || self.databases.names.contains(database)
                }
            }
            && (self.users.all || self.users.names.contains(user))
    }
}

/// Reads a file that another names.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// What a file says, as far as it can be read.
pub(crate) struct Parsed {
    pub(crate) hba: Hba,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// Reads the rules of `text`. Every line is looked at, so that all that is wrong is known at once.
pub(crate) fn parse(text: &str, file: &Place, maps: &IdentMaps, read: ReadFile<'_>) -> Parsed {
    let mut parsed = Parsed { hba: Hba::default(), errors: Vec::new(), warnings: Vec::new() };
    for (text, number) in text.split('\n').zip(1..) {
        let mut line = Line { fields: Fields::new(text), directory: directory(&file.file), maps, read, warning: None };
        match line.rule(number) {
            Ok(None) => {}
            Ok(Some(rule)) => parsed.hba.rules.push(rule),
            Err(message) => parsed.errors.push(file.line(number).problem(message)),
        }
        parsed.warnings.extend(line.warning.map(|message| file.line(number).problem(message)));
    }
    parsed
}

fn directory(file: &str) -> &Path {
    Path::new(file).parent().unwrap_or(Path::new(""))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Databases,
    Users,
}

/// A line being read.
struct Line<'a> {
    fields: Fields<'a>,
    /// Of the file: other files are looked for there.
    directory: &'a Path,
    maps: &'a IdentMaps,
    read: ReadFile<'a>,
    /// What the operator should know of a line that can be used.
    warning: Option<String>,
}

impl Line<'_> {
    /// None for a line that says nothing.
    fn rule(&mut self, line: u32) -> Result<Option<HbaRule>, String> {
        if self.fields.is_end() {
            return Ok(None);
        }
        let kind = self.fields.expect("local, host, hostssl or hostnossl")?;
        let kinds = [
            ("local", Connections::Local),
            ("host", Connections::Host),
            ("hostssl", Connections::HostSsl),
            ("hostnossl", Connections::HostNoSsl),
        ];
        let Some((_, connections)) = kinds.into_iter().find(|(keyword, _)| kind.is(keyword)) else {
            let kind = kind.into_text();
            return Err(format!("unknown type \"{kind}\", expected local, host, hostssl or hostnossl"));
        };
        let databases = self.column(Column::Databases)?;
        let users = self.column(Column::Users)?;
        let addresses = if connections == Connections::Local { None } else { self.addresses()? };
        let method = self.method()?;
        let map = self.map(&method)?;
        Ok(Some(HbaRule { line, connections, databases, users, addresses, method, map }))
    }

    fn column(&mut self, column: Column) -> Result<Names, String> {
        let mut names = Names::default();
        loop {
            let missing = if column == Column::Databases { "a database" } else { "a user" };
            let field = self.fields.expect(missing)?;
            self.add(&mut names, field, column, self.directory, 0)?;
            if !self.fields.eat_comma() {
                return Ok(names);
            }
        }
    }

    /// Adds what a field of the column means. `directory` and `depth` are those of the file that it is in.
    fn add(&self, names: &mut Names, field: Field, column: Column, directory: &Path, depth: u32) -> Result<(), String> {
        let word = match field {
            Field::Quoted(name) => {
                names.names.insert(name);
                return Ok(());
            }
            Field::Word(word) => word,
        };
        match (&*word, column) {
            ("all", _) => names.all = true,
            ("sameuser", Column::Databases) => names.same_user = true,
            ("replication", Column::Databases) => names.replication = true,
            ("samerole" | "samegroup", Column::Databases) => return Err(format!("{word} is not supported")),
            _ if word.starts_with('+') => return Err("groups are not supported".to_owned()),
            _ => match word.strip_prefix('@') {
                Some(file) => self.add_file(names, &directory.join(file), column, depth)?,
                None => drop(names.names.insert(word)),
            },
        }
        Ok(())
    }

    fn add_file(&self, names: &mut Names, file: &Path, column: Column, depth: u32) -> Result<(), String> {
        if depth >= FILE_DEPTH_MAX {
            return Err("files name each other in a circle".to_owned());
        }
        let shown = file.display();
        let text = (self.read)(file).map_err(|error| format!("could not open \"{shown}\": {error}"))?;
        let directory = file.parent().unwrap_or(Path::new(""));
        for (line, number) in text.split('\n').zip(1..) {
            let mut fields = Fields::new(line);
            while !fields.is_end() {
                let field = fields.expect("a name").map_err(|message| format!("{shown}:{number}: {message}"))?;
                self.add(names, field, column, directory, depth + 1)?;
                fields.eat_comma();
            }
        }
        Ok(())
    }

    /// An address with the length of its prefix, or followed by its mask; None: all.
    fn addresses(&mut self) -> Result<Option<Network>, String> {
        let field = self.fields.expect("an address")?;
        if field.is("all") {
            return Ok(None);
        }
        let text = field.into_text();
        let (address, prefix) = text.split_once('/').map_or((&*text, None), |(address, bits)| (address, Some(bits)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(format!("\"{text}\" is no address; names of hosts, samehost and samenet are not supported"));
        };
        let network = match prefix {
            Some(bits) => Network::with_prefix(address, bits).ok_or_else(|| format!("invalid mask in \"{text}\""))?,
            None => {
                let mask = self.fields.expect("the mask of the address")?.into_text();
                let network = mask.parse().ok().and_then(|mask| Network::new(address, mask));
                network.ok_or_else(|| format!("invalid mask \"{mask}\""))?
            }
        };
        if !network.has(address) {
            self.warning =
                Some(format!("the address {address} has bits that its mask has not: the line matches nobody"));
        }
        Ok(Some(network))
    }

    fn method(&mut self) -> Result<HbaMethod, String> {
        let field = self.fields.expect("a method")?;
        Ok(match &field {
            Field::Word(word) => match &**word {
                "trust" => HbaMethod::Trust,
                "reject" => HbaMethod::Reject,
                "md5" => HbaMethod::Md5,
                "password" => HbaMethod::Plain,
                "scram-sha-256" => HbaMethod::ScramSha256,
                "peer" => HbaMethod::Peer,
                "cert" => HbaMethod::Cert,
                "ldap" if !cfg!(feature = "ldap") => return Err("the method ldap is not in this build".to_owned()),
                "ldap" => {
                    let options = LdapOptions::parse(self.fields.rest())?;
                    self.fields = Fields::new("");
                    self.warning = options.warning().map(str::to_owned).or(self.warning.take());
                    HbaMethod::Ldap(Arc::new(options))
                }
                "pam" => return Err("the method pam only works as auth_type".to_owned()),
                _ => return Err(format!("unsupported method \"{word}\"")),
            },
            Field::Quoted(text) => return Err(format!("unsupported method \"{text}\"")),
        })
    }

    /// `map=`, the only option.
    fn map(&mut self, method: &HbaMethod) -> Result<Option<Arc<IdentMap>>, String> {
        if self.fields.is_end() {
            return Ok(None);
        }
        let option = self.fields.expect("map=")?.into_text();
        let Some(name) = option.strip_prefix("map=") else {
            return Err(format!("unsupported option \"{option}\", expected map="));
        };
        let map = self.maps.get(name).ok_or_else(|| format!("the map \"{name}\" is not in the auth_ident_file"))?;
        if !self.fields.is_end() {
            return Err("nothing expected behind map=".to_owned());
        }
        if !matches!(method, HbaMethod::Peer | HbaMethod::Cert) {
            self.warning = Some(format!("map= has no effect with the method {method}"));
        }
        Ok(Some(Arc::clone(map)))
    }
}
