//! The pooler's console, found by the pooler's own configuration.

use std::net::Ipv4Addr;

use pgweir_config::{CONSOLE_DATABASE, Config, HostAddr, Peer, Secret, UserSecret};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::conninfo::{Address, Conninfo};
use super::exit::Failure;
use super::job::Job;
use super::options::Target;
use super::server::Server;
use super::sql::ident;
use super::units::Span;

/// Who is, over a Unix socket, whoever runs the pooler; PgBouncer's rule.
const CONSOLE_OWNER: &str = "pgbouncer";

/// What the console is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// SHOW, which `stats_users` may, too.
    Figures,
    /// PAUSE and the like.
    Commands,
}

/// A row of a SHOW command: names and values in their order.
#[derive(Clone, Debug)]
pub(crate) struct Shown(Vec<(String, String)>);

impl Shown {
    /// Empty where there is no such column: other poolers and versions have fewer.
    pub(crate) fn text(&self, column: &str) -> &str {
        self.0.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value)
    }

    pub(crate) fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok()
    }
}

/// The console of one pooler process.
pub(crate) struct Console {
    pub(super) server: Server,
}

impl Console {
    /// The consoles of all processes that serve by the configuration that `target` names: its peers if it has any.
    pub(crate) async fn connect_all(job: &Job, target: &Target, need: Need) -> Result<Vec<Console>, Failure> {
        let mut consoles = Vec::new();
        for candidates in ways(target, need)? {
            consoles.push(Console::connect(job, &candidates).await?);
        }
        Ok(consoles)
    }

    /// The first way in that works.
    pub(super) async fn connect(job: &Job, candidates: &[Conninfo]) -> Result<Console, Failure> {
        let mut last = Failure::usage("the pooler's configuration has no admin_users")
            .hint("set admin_users and their passwords in auth_file, or name the console by --console");
        for conninfo in candidates {
            match timeout(conninfo.connect_timeout, job.console_session(conninfo)).await {
                Ok(Ok(server)) => return Ok(Console { server }),
                Ok(Err(failure)) => last = failure,
                Err(_) => {
                    let limit = Span(conninfo.connect_timeout);
                    last = Failure::unreachable(format!("no answer within {limit}"));
                }
            }
        }
        Err(last.while_at("the pooler's console"))
    }

    pub(crate) async fn show(&self, what: &str) -> Result<Vec<Shown>, Failure> {
        let messages = self.server.simple(&format!("SHOW {what}")).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let shown = rows.map(|row| {
            let cell = |index: usize| row.get(index).unwrap_or_default().to_owned();
            row.columns().iter().enumerate().map(|(index, column)| (column.name().to_owned(), cell(index))).collect()
        });
        Ok(shown.map(Shown).collect())
    }

    /// One command, such as `PAUSE`, on a database of the pooler.
    pub(super) async fn command(&self, command: &str, database: &str) -> Result<(), Failure> {
        let result = self.server.simple(&format!("{command} {}", ident(database))).await;
        result.map(|_| ()).map_err(|failure| failure.while_at(format!("{command} {database}")))
    }
}

/// For each process of the pooler, the ways into its console, best first.
pub(super) fn ways(target: &Target, need: Need) -> Result<Vec<Vec<Conninfo>>, Failure> {
    if let Some(dsn) = &target.console {
        let env = |name: &str| std::env::var(name).ok();
        let conninfo = Conninfo::resolve(Some(&dsn.0), None, &env, &mut |warning| eprintln!("warning: {warning}"))?;
        return Ok(vec![vec![conninfo.with_dbname(CONSOLE_DATABASE)]]);
    }
    let config = target.pooler()?.ok_or_else(|| {
        Failure::usage("the pooler's console is needed").hint("name its configuration by --config, or it by --console")
    })?;
    let addresses = addresses(&config);
    if addresses.is_empty() {
        return Err(Failure::usage("by its configuration the pooler listens nowhere"));
    }
    let logins = logins(&config, need);
    let ways = |address: &Address| {
        let is_local = matches!(address.host, HostAddr::Unix(_));
        let owner = is_local.then(|| (CONSOLE_OWNER.to_owned(), None));
        let logins = logins.iter().cloned().chain(owner);
        logins.map(|(user, password)| Conninfo::console(address.clone(), &user, password)).collect()
    };
    Ok(addresses.iter().map(ways).collect())
}

/// Where the processes that serve by this configuration listen.
fn addresses(config: &Config) -> Vec<Address> {
    let settings = &config.settings;
    if !config.peers.is_empty() {
        let address = |peer: &Peer| Some(Address { host: peer.host()?.clone(), hostaddr: None, port: peer.port });
        return config.peers.values().filter_map(address).collect();
    }
    let directory = settings.unix_socket_dir.as_deref().filter(|directory| !directory.is_empty());
    let tcp = settings.listen_addr.first().map(|address| match address.as_str() {
        "*" | "0.0.0.0" | "::" => HostAddr::Tcp(Ipv4Addr::LOCALHOST.to_string()),
        address => HostAddr::Tcp(address.to_owned()),
    });
    let host = directory.map(|directory| HostAddr::Unix(directory.to_owned())).or(tcp);
    host.into_iter().map(|host| Address { host, hostaddr: None, port: settings.listen_port }).collect()
}

/// Who may do it, those whose password is known first.
fn logins(config: &Config, need: Need) -> Vec<(String, Option<Secret>)> {
    let settings = &config.settings;
    let stats = settings.stats_users.iter().filter(|_| need == Need::Figures);
    let login = |user: &String| {
        let password = match config.userlist.get(user) {
            Some(UserSecret::Plain(secret)) => Some(secret.clone()),
            _ => None,
        };
        (user.clone(), password)
    };
    let mut logins: Vec<_> = settings.admin_users.iter().chain(stats).map(login).collect();
    logins.sort_by_key(|(_, password)| password.is_none());
    logins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let mut text = String::from("[databases]\n* = host=h\n[pgbouncer]\n");
        settings.iter().for_each(|(key, value)| text += &format!("{key} = {value}\n"));
        let file = std::env::temp_dir().join(format!("pgweir-console-{}-{}.ini", std::process::id(), text.len()));
        std::fs::write(&file, text).unwrap();
        let loaded = pgweir_config::Source::new(Some(&file), []).load();
        std::fs::remove_file(&file).unwrap();
        loaded.unwrap_or_else(|problems| panic!("{:?}", problems.errors)).config
    }

    fn places(settings: &[(&str, &str)]) -> Vec<String> {
        addresses(&config(settings)).iter().map(Address::to_string).collect()
    }

    #[test]
    fn the_socket_comes_before_tcp() {
        assert_eq!(places(&[]), ["/tmp:6432"]);
        assert_eq!(places(&[("unix_socket_dir", "/run/x"), ("listen_port", "7")]), ["/run/x:7"]);
        let no_socket = ("unix_socket_dir", "");
        assert_eq!(places(&[no_socket, ("listen_addr", "*")]), ["127.0.0.1:6432"]);
        assert_eq!(places(&[no_socket, ("listen_addr", "10.0.0.1, ::1")]), ["10.0.0.1:6432"]);
        let peers = [("peer_id", "1\n[peers]\n1 = host=/run/1 port=1\n2 = host=/run/2 port=2")];
        assert_eq!(places(&peers), ["/run/1:1", "/run/2:2"]);
    }

    #[test]
    fn users_with_a_known_password_come_first() {
        let mut config = config(&[("admin_users", "a, b"), ("stats_users", "s")]);
        let mut userlist = pgweir_config::Userlist::default();
        userlist.insert("b", UserSecret::parse("pw"));
        config.userlist = userlist.into();
        let names = |need| logins(&config, need).into_iter().map(|(user, _)| user).collect::<Vec<_>>();
        assert_eq!(names(Need::Commands), ["b", "a"]);
        assert_eq!(names(Need::Figures), ["b", "a", "s"]);
    }
}
