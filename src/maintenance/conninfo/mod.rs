//! Which PostgreSQL to connect to, and how: a connection string, an entry of the pooler's `[databases]`, libpq's environment
//! and files. What comes first counts: the string, its service, the entry, the environment, the defaults.

pub(super) mod child;
mod files;
mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgweir_config::{Config, Database, HostAddr, Named, Secret, SslMode, SslNegotiation, UserSecret};

use files::Env;
use parse::Pairs;

use super::exit::Failure;
use crate::net::tls::RootCertificates;

/// Which servers of a list are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

const TARGET_SESSIONS: [(&str, TargetSession); 6] = [
    ("any", TargetSession::Any),
    ("read-write", TargetSession::ReadWrite),
    ("read-only", TargetSession::ReadOnly),
    ("primary", TargetSession::Primary),
    ("standby", TargetSession::Standby),
    ("prefer-standby", TargetSession::PreferStandby),
];

/// One server of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: HostAddr,
    /// Where `host` is, so that no name has to be looked up; None: look it up.
    pub(crate) hostaddr: Option<IpAddr>,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostAddr::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// How to reach one database.
#[derive(Clone, Debug)]
pub(crate) struct Conninfo {
    /// Tried in this order; never empty.
    pub(crate) addresses: Vec<Address>,
    pub(crate) user: String,
    pub(crate) dbname: String,
    /// None: of the password file, or none is needed.
    password: Option<Secret>,
    passfile: Option<PathBuf>,
    pub(crate) sslmode: SslMode,
    pub(crate) sslnegotiation: SslNegotiation,
    pub(crate) sslrootcert: RootCertificates,
    /// Certificate and key.
    pub(crate) sslcert: Option<(PathBuf, PathBuf)>,
    pub(crate) channel_binding: tokio_postgres::config::ChannelBinding,
    pub(crate) connect_timeout: Duration,
    pub(crate) target_session: TargetSession,
    /// Settings of the session in the form of `postgres`' command line.
    pub(crate) options: Option<String>,
}

/// Whether a keyword acts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Acts,
    /// It can be left out without harm.
    Ignored,
    /// To leave it out would be less safe than was asked for.
    Refused,
}

/// libpq's keywords and their variables.
const KEYWORDS: &[(&str, &str, Use)] = &[
    ("host", "PGHOST", Use::Acts),
    ("hostaddr", "PGHOSTADDR", Use::Acts),
    ("port", "PGPORT", Use::Acts),
    ("dbname", "PGDATABASE", Use::Acts),
    ("user", "PGUSER", Use::Acts),
    ("password", "PGPASSWORD", Use::Acts),
    ("passfile", "PGPASSFILE", Use::Acts),
    ("service", "PGSERVICE", Use::Acts),
    ("options", "PGOPTIONS", Use::Acts),
    ("sslmode", "PGSSLMODE", Use::Acts),
    ("sslnegotiation", "PGSSLNEGOTIATION", Use::Acts),
    ("sslrootcert", "PGSSLROOTCERT", Use::Acts),
    ("sslcert", "PGSSLCERT", Use::Acts),
    ("sslkey", "PGSSLKEY", Use::Acts),
    ("channel_binding", "PGCHANNELBINDING", Use::Acts),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Use::Acts),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Use::Acts),
    ("application_name", "PGAPPNAME", Use::Ignored),
    ("client_encoding", "PGCLIENTENCODING", Use::Ignored),
    ("fallback_application_name", "", Use::Ignored),
    ("gssdelegation", "PGGSSDELEGATION", Use::Ignored),
    ("gssencmode", "PGGSSENCMODE", Use::Ignored),
    ("gsslib", "PGGSSLIB", Use::Ignored),
    ("keepalives", "", Use::Ignored),
    ("keepalives_count", "", Use::Ignored),
    ("keepalives_idle", "", Use::Ignored),
    ("keepalives_interval", "", Use::Ignored),
    ("krbsrvname", "PGKRBSRVNAME", Use::Ignored),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Use::Ignored),
    ("sslcertmode", "PGSSLCERTMODE", Use::Ignored),
    ("sslcompression", "PGSSLCOMPRESSION", Use::Ignored),
    ("sslsni", "PGSSLSNI", Use::Ignored),
    ("tcp_user_timeout", "", Use::Ignored),
    ("replication", "", Use::Refused),
    ("require_auth", "PGREQUIREAUTH", Use::Refused),
    ("requirepeer", "PGREQUIREPEER", Use::Refused),
    ("sslcrl", "PGSSLCRL", Use::Refused),
    ("sslcrldir", "PGSSLCRLDIR", Use::Refused),
    ("sslpassword", "", Use::Refused),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Use::Refused),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Use::Refused),
];

/// How long one address may take where nothing is said; libpq would wait for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Values by keyword. They may hold a password: no `Debug`.
struct Values(BTreeMap<String, String>);

impl Values {
    fn new() -> Values {
        Values(BTreeMap::new())
    }

    /// Adds what is not there yet.
    fn add(&mut self, pairs: Pairs) -> Result<(), Failure> {
        let later_counts: BTreeMap<String, String> = pairs.into_iter().collect();
        for (key, value) in later_counts {
            match KEYWORDS.iter().find(|(keyword, ..)| *keyword == key) {
                None => return Err(Failure::usage(format!("invalid connection option \"{key}\""))),
                Some((.., Use::Refused)) => {
                    return Err(Failure::usage(format!("the connection option \"{key}\" is not supported")));
                }
                Some(_) => self.0.entry(key).or_insert(value),
            };
        }
        Ok(())
    }

    /// None where it is empty, too: that is the default, as for libpq.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).map(|value| value.split(',').map(str::trim).collect()).unwrap_or_default()
    }

    fn named<T: Named>(&self, key: &str) -> Result<Option<T>, Failure> {
        let invalid = |value| Failure::usage(format!("invalid {key} value: \"{value}\""));
        self.get(key).map(|value| T::from_name(value).ok_or_else(|| invalid(value))).transpose()
    }
}

/// Whether a connection string holds a password.
pub(crate) fn has_password(dsn: &str) -> bool {
    parse::parse(dsn).is_ok_and(|pairs| pairs.iter().any(|(key, _)| key == "password" || key == "sslpassword"))
}

/// An entry of the pooler's `[databases]`.
pub(crate) struct Entry<'a> {
    pub(crate) config: &'a Config,
    pub(crate) name: &'a str,
}

impl Conninfo {
    /// What these say together. Warnings, such as of a password file that others may read, go to `warn`.
    pub(crate) fn resolve(
        dsn: Option<&str>,
        entry: Option<Entry<'_>>,
        env: Env<'_>,
        warn: &mut dyn FnMut(String),
    ) -> Result<Conninfo, Failure> {
        let mut values = Values::new();
        values.add(dsn.map(parse::parse).transpose().map_err(Failure::usage)?.unwrap_or_default())?;
        if let Some(service) = values.get("service").map(str::to_owned).or_else(|| env("PGSERVICE")) {
            values.add(files::service(&service, env).map_err(Failure::usage)?)?;
        }
        if let Some(Entry { config, name }) = &entry {
            let database = config
                .database(name)
                .ok_or_else(|| Failure::usage(format!("there is no database \"{name}\" in the configuration")))?;
            let own = entry_pairs(config, &database);
            // The entry's password is its user's alone.
            let is_other = values.get("user").is_some_and(|user| database.user.as_deref() != Some(user));
            values.add(own.into_iter().filter(|(key, _)| !(is_other && key == "password")).collect())?;
        }
        values.add(env_pairs(env))?;
        let mut conninfo = Conninfo::from_values(&values, env)?;
        if conninfo.password.is_none() {
            conninfo.password = entry.and_then(|entry| auth_file_password(entry.config, &conninfo.user));
        }
        conninfo.password = conninfo.password.take().or_else(|| conninfo.stored_password(warn));
        Ok(conninfo)
    }

    fn from_values(values: &Values, env: Env<'_>) -> Result<Conninfo, Failure> {
        let user = values.get("user").map(str::to_owned).or_else(account).ok_or_else(|| {
            Failure::usage("it is not known as whom to connect").hint("say user=... in --dsn, or set PGUSER")
        })?;
        let home = files::home(env);
        let in_home = |name: &str| home.as_ref().map(|home| home.join(".postgresql").join(name));
        let (sslmode, sslrootcert) = tls_values(values, in_home("root.crt"))?;
        let sslcert = values.get("sslcert").map(PathBuf::from).or_else(|| in_home("postgresql.crt"));
        let sslkey = values.get("sslkey").map(PathBuf::from).or_else(|| in_home("postgresql.key"));
        let seconds = values.get("connect_timeout").map(|text| {
            text.parse::<u64>().map_err(|_| Failure::usage(format!("invalid connect_timeout value: \"{text}\"")))
        });
        Ok(Conninfo {
            addresses: addresses(values)?,
            dbname: values.get("dbname").unwrap_or(&user).to_owned(),
            user,
            password: values.get("password").map(Secret::new),
            passfile: values.get("passfile").map(PathBuf::from).or_else(|| home.map(|home| home.join(".pgpass"))),
            sslmode,
            sslnegotiation: sslnegotiation(values, sslmode)?,
            sslrootcert,
            sslcert: sslcert.zip(sslkey).filter(|(certificate, _)| certificate.exists()),
            channel_binding: channel_binding(values)?,
            connect_timeout: match seconds.transpose()? {
                None => CONNECT_TIMEOUT,
                Some(0) => Duration::MAX,
                Some(seconds) => Duration::from_secs(seconds),
            },
            target_session: target_session(values)?,
            options: values.get("options").map(str::to_owned),
        })
    }

    pub(crate) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The same server, another database of it.
    pub(crate) fn with_dbname(&self, dbname: &str) -> Conninfo {
        Conninfo { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// One of its servers alone.
    pub(crate) fn at(&self, address: Address) -> Conninfo {
        Conninfo { addresses: vec![address], ..self.clone() }
    }

    fn stored_password(&self, warn: &mut dyn FnMut(String)) -> Option<Secret> {
        let file = self.passfile.as_deref()?;
        self.addresses.iter().find_map(|address| {
            let host = passfile_host(address);
            let login = files::Login { host, port: address.port, dbname: &self.dbname, user: &self.user };
            files::password(file, &login, warn)
        })
    }

    /// The console of a pooler that listens there. It knows no timeouts and no TLS settings of databases.
    pub(crate) fn console(address: Address, user: &str, password: Option<Secret>) -> Conninfo {
        Conninfo {
            addresses: vec![address],
            user: user.to_owned(),
            dbname: pgweir_config::CONSOLE_DATABASE.to_owned(),
            password,
            passfile: None,
            sslmode: SslMode::Prefer,
            sslnegotiation: SslNegotiation::Postgres,
            sslrootcert: RootCertificates::None,
            sslcert: None,
            channel_binding: tokio_postgres::config::ChannelBinding::Prefer,
            connect_timeout: CONNECT_TIMEOUT,
            target_session: TargetSession::Any,
            options: None,
        }
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        write!(f, "{} at {} as {}", self.dbname, addresses.join(","), self.user)
    }
}

fn passfile_host(address: &Address) -> &str {
    match &address.host {
        HostAddr::Unix(dir) if is_default_socket_dir(dir) => "localhost",
        host => host.as_str(),
    }
}

/// Debian's, and PostgreSQL's own.
const SOCKET_DIRS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

fn is_default_socket_dir(dir: &str) -> bool {
    SOCKET_DIRS.contains(&dir)
}

fn default_socket_dir() -> &'static str {
    SOCKET_DIRS.into_iter().find(|dir| Path::new(dir).is_dir()).unwrap_or("/tmp")
}

fn account() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name)
}

fn env_pairs(env: Env<'_>) -> Pairs {
    let known = KEYWORDS.iter().filter(|(_, variable, _)| !variable.is_empty());
    known.filter_map(|(key, variable, _)| Some(((*key).to_owned(), env(variable)?))).collect()
}

/// The pooler's way to the servers of a database, in libpq's words.
fn entry_pairs(config: &Config, database: &Database) -> Pairs {
    let settings = &config.settings;
    let hosts = config.hosts(database);
    let hosts: Vec<&str> = hosts.iter().map(HostAddr::as_str).collect();
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let pairs = [
        ("host", Some(hosts.join(","))),
        ("port", Some(database.port.to_string())),
        ("dbname", Some(database.server_dbname().to_owned())),
        ("user", database.user.clone()),
        ("password", database.password.as_ref().map(|secret| secret.expose().to_owned())),
        ("sslmode", Some(settings.server_tls_sslmode.name().to_owned())),
        ("sslnegotiation", Some(settings.server_tls_sslnegotiation.name().to_owned())),
        ("sslrootcert", path(&settings.server_tls_ca_file)),
        ("sslcert", path(&settings.server_tls_cert_file)),
        ("sslkey", path(&settings.server_tls_key_file)),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The pooler logs in with it; a verifier instead of a password is of no use to us.
fn auth_file_password(config: &Config, user: &str) -> Option<Secret> {
    match config.userlist.get(user) {
        Some(UserSecret::Plain(secret)) => Some(secret.clone()),
        _ => None,
    }
}

fn addresses(values: &Values) -> Result<Vec<Address>, Failure> {
    let (hosts, hostaddrs, ports) = (values.list("host"), values.list("hostaddr"), values.list("port"));
    let count = hosts.len().max(hostaddrs.len()).max(1);
    let mismatch = |what: &str, one: usize, other: usize| {
        Err(Failure::usage(format!("could not match {one} {what} to {other} hosts")))
    };
    if !hosts.is_empty() && !hostaddrs.is_empty() && hosts.len() != hostaddrs.len() {
        return mismatch("hostaddr values", hostaddrs.len(), hosts.len());
    }
    if ports.len() > 1 && ports.len() != count {
        return mismatch("port numbers", ports.len(), count);
    }
    (0..count)
        .map(|index| {
            let hostaddr = hostaddrs.get(index).filter(|text| !text.is_empty()).map(|text| {
                text.parse::<IpAddr>().map_err(|_| Failure::usage(format!("invalid hostaddr value: \"{text}\"")))
            });
            let hostaddr = hostaddr.transpose()?;
            let host = match (hosts.get(index).filter(|host| !host.is_empty()), hostaddr) {
                (Some(host), _) => HostAddr::parse(host),
                (None, Some(address)) => HostAddr::Tcp(address.to_string()),
                (None, None) => HostAddr::Unix(default_socket_dir().to_owned()),
            };
            let port = ports.get(index).or(ports.first().filter(|_| ports.len() == 1)).filter(|text| !text.is_empty());
            let port = match port {
                None => 5432,
                Some(text) => match text.parse() {
                    Ok(0) | Err(_) => return Err(Failure::usage(format!("invalid port number: \"{text}\""))),
                    Ok(port) => port,
                },
            };
            Ok(Address { host, hostaddr, port })
        })
        .collect()
}

/// As libpq: the system's authorities are for verify-full only, and a file of roots that is not there is none.
fn tls_values(values: &Values, default_roots: Option<PathBuf>) -> Result<(SslMode, RootCertificates), Failure> {
    let sslmode = values.named::<SslMode>("sslmode")?;
    if values.get("sslrootcert") == Some("system") {
        return match sslmode.unwrap_or(SslMode::VerifyFull) {
            SslMode::VerifyFull => Ok((SslMode::VerifyFull, RootCertificates::System)),
            weak => Err(Failure::usage(format!(
                "weak sslmode \"{}\" may not be used with sslrootcert=system (use \"verify-full\")",
                weak.name()
            ))),
        };
    }
    let sslmode = sslmode.unwrap_or(SslMode::Prefer);
    let file = values.get("sslrootcert").map(PathBuf::from).or(default_roots);
    let is_needed = matches!(sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
    let is_asked_for = values.get("sslrootcert").is_some();
    let roots = match file {
        // One that was named and is not there is told by the handshake's setup.
        Some(file) if file.exists() || (is_needed && is_asked_for) => RootCertificates::File(file),
        _ => RootCertificates::None,
    };
    Ok((sslmode, roots))
}

fn sslnegotiation(values: &Values, sslmode: SslMode) -> Result<SslNegotiation, Failure> {
    let negotiation = values.named("sslnegotiation")?.unwrap_or(SslNegotiation::Postgres);
    let is_weak = matches!(sslmode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
    if negotiation == SslNegotiation::Direct && is_weak {
        let mode = sslmode.name();
        return Err(Failure::usage(format!(
            "weak sslmode \"{mode}\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")"
        )));
    }
    Ok(negotiation)
}

fn channel_binding(values: &Values) -> Result<tokio_postgres::config::ChannelBinding, Failure> {
    use tokio_postgres::config::ChannelBinding;
    match values.get("channel_binding") {
        None | Some("prefer") => Ok(ChannelBinding::Prefer),
        Some("require") => Ok(ChannelBinding::Require),
        Some("disable") => Ok(ChannelBinding::Disable),
        Some(other) => Err(Failure::usage(format!("invalid channel_binding value: \"{other}\""))),
    }
}

fn target_session(values: &Values) -> Result<TargetSession, Failure> {
    let Some(text) = values.get("target_session_attrs") else { return Ok(TargetSession::Any) };
    let known = TARGET_SESSIONS.iter().find(|(name, _)| *name == text);
    known
        .map(|(_, target)| *target)
        .ok_or_else(|| Failure::usage(format!("invalid target_session_attrs value: \"{text}\"")))
}

#[cfg(test)]
mod tests;
