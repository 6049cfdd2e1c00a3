//! From text to a configuration: every value checked, every problem collected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Loaded};
use crate::entries::{DATABASE, DATABASE_ALIASES, Database, MAINTENANCE, MaintenanceJob, PEER, Peer, USER, User};
use crate::hba::{self, Hba, Parsed};
use crate::ident::IdentMaps;
use crate::kind::CONSOLE_DATABASE;
use crate::ldap::LdapOptions;
use crate::problem::{Place, Problem, Problems, nearest, suggestion};
use crate::raw::{Entry, Item, Login, Pair, Raw, Section, read_secret, read_text};
use crate::secret::Secret;
use crate::settings::{SETTING_ALIASES, SETTINGS, Settings};
use crate::table::{Row, Status};
use crate::units::AuthType;
use crate::userlist::Userlist;

/// The largest number a peer may have in `[peers]`.
const PEER_ID_MAX: u32 = 65535;

/// Checks what was read. `conffile` is the file it was read from.
pub(crate) fn resolve(raw: Raw, conffile: Option<&Path>) -> Result<Loaded, Problems> {
    let mut resolver =
        Resolver { errors: raw.errors, warnings: raw.warnings, ldap_options: None, is_userlist_whole: true };
    let settings = resolver.settings(raw.settings, conffile);
    let (databases, autodb) = resolver.databases(raw.databases);
    let users = resolver.users(raw.users);
    let peers = resolver.peers(raw.peers);
    let maintenance = resolver.maintenance(raw.maintenance);
    let userlist = resolver.userlist(&settings, raw.logins);
    let place = resolver.ldap_options.take().unwrap_or_else(|| Place::of_source(conffile));
    let (hba, ldap) = (read_hba(&settings), read_ldap(&settings, &place));
    for problems in [hba.1, ldap.1] {
        resolver.errors.extend(problems.errors);
        resolver.warnings.extend(problems.warnings);
    }
    let (hba, ldap) = (hba.0, ldap.0);
    let config =
        Config { settings, databases, autodb, users, peers, maintenance, userlist: Arc::new(userlist), hba, ldap };
    resolver.check_together(&config, conffile);
    let Resolver { mut errors, mut warnings, is_userlist_whole, .. } = resolver;
    errors.sort();
    warnings.sort();
    if errors.is_empty() {
        Ok(Loaded { config, warnings, is_userlist_whole })
    } else {
        Err(Problems { errors, warnings })
    }
}

/// Where each setting of a section was set last.
type Places = BTreeMap<&'static str, Place>;

/// Of a job's name, which is part of the name of a file.
const JOB_NAME_MAX: usize = 64;
const JITTER_MAX: Duration = Duration::from_secs(86_400);

struct Resolver {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Where `auth_ldap_options` is set.
    ldap_options: Option<Place>,
    /// The `auth_file` had no problems.
    is_userlist_whole: bool,
}

impl Resolver {
    fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.errors.push(place.problem(message));
    }

    fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push(place.problem(message));
    }

    fn settings(&mut self, items: Vec<Item>, conffile: Option<&Path>) -> Settings {
        let defaults = Settings { conffile: conffile.map(Path::to_owned), ..Settings::default() };
        let mut settings = defaults.clone();
        let mut places = Places::new();
        for item in items {
            match item {
                Item::Set(pair) => self.set(SETTINGS, SETTING_ALIASES, &mut settings, pair, &mut places),
                Item::Start(place) => self.restart(&mut settings, &defaults, &place, &mut places),
            }
        }
        self.check_status(SETTINGS, &settings, &defaults, &places);
        self.ldap_options = places.remove("auth_ldap_options");
        settings
    }

    /// At every `[pgbouncer]` PgBouncer puts all settings that have a default back to it; so the values before a second one,
    /// say in an included file, are lost. We do the same, and tell.
    fn restart(&mut self, settings: &mut Settings, defaults: &Settings, place: &Place, places: &mut Places) {
        let mut lost = Vec::new();
        for row in SETTINGS.iter().filter(|row| row.default.is_some()) {
            if (row.show)(settings) != (row.show)(defaults) {
                lost.push(row.key);
            }
            (row.copy)(settings, defaults);
            places.remove(row.key);
        }
        if !lost.is_empty() {
            let lost = lost.join(", ");
            self.warn(place, format!("a second [pgbouncer] puts these, set before it, back to their defaults: {lost}"));
        }
    }

    /// Sets one value in a section.
    fn set<S>(
        &mut self,
        rows: &'static [Row<S>],
        aliases: &[(&str, &'static str)],
        section: &mut S,
        pair: Pair,
        places: &mut Places,
    ) {
        let Pair { key, value, place } = pair;
        let key = aliases.iter().find(|(alias, _)| *alias == key).map_or(key.as_str(), |(_, known)| known);
        let Some(row) = rows.iter().find(|row| row.key == key) else {
            let known = nearest(key, rows.iter().map(|row| row.key)).map(|known| format!("\"{known}\""));
            let elsewhere = belongs_to(key).map(|sections| format!(" (\"{key}\" belongs in {sections})"));
            let elsewhere = elsewhere.unwrap_or_default();
            return self.error(&place, format!("unknown key \"{key}\"{}{elsewhere}", suggestion(known)));
        };
        if !(row.parse)(section, &value) {
            let shown = if row.secret { String::new() } else { format!(" \"{value}\"") };
            let expected = (row.accepts)();
            return self.error(&place, format!("invalid value{shown} for {key}, expected {expected}"));
        }
        places.insert(row.key, place);
    }

    /// Speaks up for what was set and does not act in this version.
    fn check_status<S>(&mut self, rows: &'static [Row<S>], section: &S, defaults: &S, places: &Places) {
        for row in rows {
            let (Some(place), Some(value)) = (places.get(row.key), (row.show)(section)) else {
                continue;
            };
            let key = row.key;
            if row.refused().contains(&value.as_str()) {
                self.error(place, format!("{key}={value} is not in this build, and ignoring it would be unsafe"));
            } else if let Status::NoEffect(reason) = row.status
                && Some(&value) != (row.show)(defaults).as_ref()
            {
                self.warn(place, format!("{key} has no effect: {reason}"));
            }
        }
    }

    fn databases(&mut self, entries: Vec<Entry>) -> (BTreeMap<String, Arc<Database>>, Option<Arc<Database>>) {
        let mut databases = BTreeMap::new();
        for entry in entries {
            if entry.name == CONSOLE_DATABASE {
                let message = format!("the database name \"{CONSOLE_DATABASE}\" is reserved for the console");
                self.error(&entry.place, message);
            }
            let mut database = Database::new(&entry.name);
            let mut places = Places::new();
            let mut behind_password = false;
            for pair in entry.pairs {
                // A stray word behind a password is most likely a part of it, so it must not be quoted.
                if behind_password && belongs_to(&pair.key).is_none() {
                    let message = "unknown key behind password; a value with spaces needs single quotes";
                    self.error(&pair.place, message);
                    continue;
                }
                behind_password = pair.key == "password";
                self.set(DATABASE, DATABASE_ALIASES, &mut database, pair, &mut places);
            }
            self.check_status(DATABASE, &database, &Database::new(&entry.name), &places);
            self.read_password(&mut database, &entry.place);
            if database.password.is_some() && database.user.is_none() {
                self.warn(&entry.place, "password has no effect without user");
            }
            if databases.insert(entry.name.clone(), Arc::new(database)).is_some() {
                self.warn(&entry.place, format!("the database \"{}\" is defined again, this entry counts", entry.name));
            }
        }
        let autodb = databases.remove("*");
        (databases, autodb)
    }

    fn read_password(&mut self, database: &mut Database, place: &Place) {
        let Some(path) = &database.password_file else {
            return;
        };
        if database.password.is_some() {
            return self.error(place, "set either password or password_file, not both");
        }
        match read_secret(path) {
            Ok(password) => database.password = Some(Secret::new(password)),
            Err(error) => {
                let path = path.display();
                self.error(place, format!("could not read the password_file \"{path}\": {error}"));
            }
        }
    }

    fn users(&mut self, entries: Vec<Entry>) -> BTreeMap<String, Arc<User>> {
        let mut users = BTreeMap::new();
        for entry in entries {
            let mut user = User::new(&entry.name);
            let mut places = Places::new();
            for pair in entry.pairs {
                self.set(USER, &[], &mut user, pair, &mut places);
            }
            self.check_status(USER, &user, &User::new(&entry.name), &places);
            if users.insert(entry.name.clone(), Arc::new(user)).is_some() {
                self.warn(&entry.place, format!("the user \"{}\" is defined again, this entry counts", entry.name));
            }
        }
        users
    }

    fn peers(&mut self, entries: Vec<Entry>) -> BTreeMap<u32, Peer> {
        let mut peers = BTreeMap::new();
        for entry in entries {
            let id = entry.name.parse().ok().filter(|id| (1..=PEER_ID_MAX).contains(id));
            let Some(id) = id else {
                self.error(&entry.place, format!("a peer's name must be a number from 1 to {PEER_ID_MAX}"));
                continue;
            };
            let mut peer = Peer::new(id);
            for pair in entry.pairs {
                self.set(PEER, &[], &mut peer, pair, &mut Places::new());
            }
            if peer.hosts.len() != 1 {
                self.error(&entry.place, format!("the peer {id} needs one host"));
            }
            peers.insert(id, peer);
        }
        peers
    }

    fn maintenance(&mut self, entries: Vec<Entry>) -> BTreeMap<String, Arc<MaintenanceJob>> {
        let mut jobs = BTreeMap::new();
        for entry in entries {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            if entry.name.is_empty() || entry.name.len() > JOB_NAME_MAX || !entry.name.chars().all(is_plain) {
                self.error(&entry.place, format!("a job's name must be up to {JOB_NAME_MAX} letters, digits, _ and -"));
                continue;
            }
            let mut job = MaintenanceJob::new(&entry.name);
            let mut places = Places::new();
            for pair in entry.pairs {
                self.set(MAINTENANCE, &[], &mut job, pair, &mut places);
            }
            // What is wrong was complained about.
            for key in ["command", "schedule"].into_iter().filter(|key| !places.contains_key(key)) {
                self.error(&entry.place, format!("the job \"{}\" needs a {key}", entry.name));
            }
            if job.jitter > JITTER_MAX {
                self.error(&entry.place, format!("the jitter of the job \"{}\" is longer than a day", entry.name));
            }
            if jobs.insert(entry.name.clone(), Arc::new(job)).is_some() {
                self.warn(&entry.place, format!("the job \"{}\" is defined again, this entry counts", entry.name));
            }
        }
        jobs
    }

    /// The users of the `auth_file`, and those of the environment that it does not have.
    fn userlist(&mut self, settings: &Settings, logins: Vec<Login>) -> Userlist {
        let mut userlist = Userlist::default();
        if let Some(path) = &settings.auth_file {
            let file = Place::file(&path.display().to_string());
            match read_text(path) {
                Ok(text) => {
                    let (users, problems) = Userlist::parse(&text, &file);
                    userlist = users;
                    self.is_userlist_whole = problems.is_empty();
                    self.warnings.extend(problems);
                }
                // PgBouncer starts without it too.
                Err(error) => {
                    self.is_userlist_whole = false;
                    self.warn(&file, format!("could not open the auth_file: {error}"));
                }
            }
        }
        for login in logins {
            if userlist.get(&login.user).is_none() {
                userlist.insert(login.user, login.secret);
            }
        }
        userlist
    }

    /// What each value for itself does not show.
    fn check_together(&mut self, config: &Config, conffile: Option<&Path>) {
        let settings = &config.settings;
        let place = Place::of_source(conffile);
        if settings.listen_addr.is_empty() && settings.unix_socket_dir.is_none() {
            self.warn(&place, "neither listen_addr nor unix_socket_dir is set: nowhere to listen");
        }
        self.check_proxy_protocol(settings, &place);
        let needs_users = !matches!(settings.auth_type, AuthType::Any | AuthType::Pam | AuthType::Ldap);
        let asks =
            config.databases.values().chain(&config.autodb).any(|database| config.auth_user(Some(database)).is_some());
        if needs_users && config.userlist.is_empty() && settings.auth_file.is_none() && !asks {
            self.warn(&place, "auth_file is not set: no client will be able to log in");
        }
        for database in config.databases.values().chain(&config.autodb) {
            let name = &database.name;
            if settings.auth_type == AuthType::Any && database.user.is_none() {
                self.warn(&place, format!("auth_type=any needs user= in the database \"{name}\""));
            }
            if matches!(settings.auth_type, AuthType::Pam | AuthType::Ldap) && database.auth_user.is_some() {
                let method = settings.auth_type;
                let message =
                    format!("auth_type={method} does not go with auth_user of the database \"{name}\": nobody gets in");
                self.warn(&place, message);
            }
            if database.auth_dbname.as_deref() == Some(CONSOLE_DATABASE) {
                let message =
                    format!("auth_dbname of the database \"{name}\" is the console: its users cannot be looked up");
                self.warn(&place, message);
            }
            if config.hosts(database).is_empty() {
                let message = format!("the database \"{name}\" has no host, and unix_socket_dir is not set");
                self.warn(&place, message);
            }
        }
    }

    fn check_proxy_protocol(&mut self, settings: &Settings, place: &Place) {
        let port = settings.proxy_protocol_port;
        if port == 0 {
            return;
        }
        if port == u32::from(settings.listen_port) {
            self.error(place, "proxy_protocol_port must be another port than listen_port");
        }
        if settings.listen_addr.is_empty() {
            self.warn(place, "proxy_protocol_port has no effect without listen_addr");
        }
        if settings.proxy_protocol_networks.is_empty() {
            self.warn(place, "proxy_protocol_networks is not set: nobody may connect to proxy_protocol_port");
        }
    }
}

/// The rules that count with these settings: none unless `auth_type` is hba.
pub(crate) fn read_hba(settings: &Settings) -> (Option<Arc<Hba>>, Problems) {
    let mut problems = Problems { errors: Vec::new(), warnings: Vec::new() };
    if settings.auth_type != AuthType::Hba {
        return (None, problems);
    }
    let read = |setting: &str, path: &Option<PathBuf>, errors: &mut Vec<Problem>| {
        let path = path.as_ref()?;
        let file = Place::file(&path.display().to_string());
        match read_text(path) {
            Ok(text) => Some((text, file)),
            Err(error) => {
                errors.push(file.problem(format!("could not open the {setting}: {error}")));
                None
            }
        }
    };
    let mut maps = IdentMaps::default();
    if let Some((text, file)) = read("auth_ident_file", &settings.auth_ident_file, &mut problems.errors) {
        let (read, errors) = IdentMaps::parse(&text, &file);
        maps = read;
        problems.errors.extend(errors);
    }
    if settings.auth_hba_file.is_none() {
        let place = Place::of_source(settings.conffile.as_deref());
        problems.errors.push(place.problem("auth_type=hba needs an auth_hba_file"));
    }
    let Some((text, file)) = read("auth_hba_file", &settings.auth_hba_file, &mut problems.errors) else {
        return (None, problems);
    };
    let Parsed { hba, errors, warnings } = hba::parse(&text, &file, &maps, &read_text);
    problems.errors.extend(errors);
    problems.warnings.extend(warnings);
    (Some(Arc::new(hba)), problems)
}

/// The directory to ask with these settings: none unless `auth_type` is ldap. `place` is that of its options.
pub(crate) fn read_ldap(settings: &Settings, place: &Place) -> (Option<Arc<LdapOptions>>, Problems) {
    let mut problems = Problems { errors: Vec::new(), warnings: Vec::new() };
    if settings.auth_type != AuthType::Ldap || !cfg!(feature = "ldap") {
        return (None, problems);
    }
    let options = match settings.auth_ldap_options.as_ref().map(|text| LdapOptions::parse(text.expose())) {
        Some(Ok(options)) => Some(Arc::new(options)),
        Some(Err(why)) => {
            problems.errors.push(place.problem(format!("auth_ldap_options: {why}")));
            None
        }
        None => {
            problems.errors.push(place.problem("auth_type=ldap needs auth_ldap_options"));
            None
        }
    };
    let warning = options.as_ref().and_then(|options| options.warning());
    problems.warnings.extend(warning.map(|warning| place.problem(format!("auth_ldap_options: {warning}"))));
    (options, problems)
}

/// The sections that know a key, for who wrote it into another.
fn belongs_to(key: &str) -> Option<String> {
    let knows = |section: &Section| match section {
        Section::Pgbouncer => SETTINGS.iter().any(|row| row.key == key),
        Section::Databases => {
            DATABASE.iter().any(|row| row.key == key) || DATABASE_ALIASES.iter().any(|(alias, _)| *alias == key)
        }
        Section::Users => USER.iter().any(|row| row.key == key),
        Section::Peers => PEER.iter().any(|row| row.key == key),
        Section::Maintenance => MAINTENANCE.iter().any(|row| row.key == key),
    };
    let sections: Vec<String> =
        Section::ALL.iter().filter(|section| knows(section)).map(|section| format!("[{}]", section.name())).collect();
    (!sections.is_empty()).then(|| sections.join(" and "))
}
