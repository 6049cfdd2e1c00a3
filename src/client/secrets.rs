//! Where the secret of a client's user comes from: the `auth_file`, or a server that is asked.

use std::num::NonZeroU32;
use std::sync::Arc;

use pgweir_config::{CONSOLE_DATABASE, Config, Database, UserSecret};
use pgweir_proto::client_error::ClientError;

use crate::auth::{AuthError, Granted, Reason, SecretSource};
use crate::pools::Pools;
use crate::pools::lookup::Question;
use crate::server::connect::ServerSecret;

/// What a login has come to.
pub(super) struct Proven {
    /// To log in to the server with; `None`: what the configuration says.
    pub(super) secret: Option<ServerSecret>,
    /// What the client gets in front of its welcome.
    pub(super) unsent: Vec<u8>,
}

/// The secrets for one login.
pub(super) struct Secrets<'a> {
    config: &'a Config,
    pools: &'a Arc<Pools>,
    worker: usize,
    /// What the client asks for.
    database: &'a str,
    /// `None` of the console, and of a database that there is not.
    entry: Option<Arc<Database>>,
    /// What a server was asked about the user, and the secret that it told.
    asked: Option<(Question, Option<UserSecret>)>,
}

impl<'a> Secrets<'a> {
    pub(super) fn new(config: &'a Config, pools: &'a Arc<Pools>, worker: usize, database: &'a str) -> Secrets<'a> {
        let entry = config.database(database);
        Secrets { config, pools, worker, database, entry, asked: None }
    }

    /// Users of this database may be looked up. Where it is unknown they are not, but nobody
    /// must see that.
    fn may_ask(&self) -> bool {
        self.config.auth_user(self.entry.as_deref()).is_some()
    }

    /// Asks about a user whom the `auth_file` does not have, where that is done.
    pub(super) async fn look_up(&mut self, user: &str) -> Result<(), AuthError> {
        let is_unknown_database = self.entry.is_none() && self.database != CONSOLE_DATABASE;
        if is_unknown_database || self.config.userlist.get(user).is_some() {
            return Ok(());
        }
        let question = Question::new(self.config, self.database, self.entry.as_deref(), user)?;
        let Some(question) = question else { return Ok(()) };
        let found = self.pools.look_up(self.worker, &question).await?;
        self.asked = Some((question, found));
        Ok(())
    }

    /// What has become of the login: what to log in to the server with, as far as the `auth_file`
    /// does not tell, or why it failed.
    pub(super) fn conclude(self, outcome: Result<Granted, AuthError>) -> Result<Proven, AuthError> {
        let may_ask = self.may_ask();
        let asked = self.asked;
        match outcome {
            Ok(mut granted) => {
                let found = asked.and_then(|(_, found)| found);
                Ok(Proven { unsent: std::mem::take(&mut granted.unsent), secret: server_secret(granted, found) })
            }
            Err(AuthError::Refused { error, reason }) => {
                if let Some((question, _)) = &asked {
                    self.pools.lookups.distrust(question);
                }
                let error = match error {
                    ClientError::PasswordFailed | ClientError::SaslFailed if may_ask => ClientError::CredentialsFailed,
                    ClientError::TrustFailed if asked.is_some() => ClientError::NoSuchUser,
                    error => error,
                };
                let reason = match reason {
                    Some(Reason::UnknownUser) if asked.is_some() => Some(Reason::NotFound),
                    reason => reason,
                };
                Err(AuthError::Refused { error, reason })
            }
            Err(gone) => Err(gone),
        }
    }
}

/// The client's own proof is worth most: it opens a server whatever that asks for.
fn server_secret(granted: Granted, found: Option<UserSecret>) -> Option<ServerSecret> {
    match (granted, found) {
        (Granted { scram_keys: Some(keys), .. }, _) => Some(ServerSecret::Scram(keys)),
        (Granted { plain: Some(password), .. }, _) => Some(ServerSecret::Plain(password)),
        (_, Some(UserSecret::Plain(password))) => Some(ServerSecret::Plain(password)),
        (_, Some(UserSecret::Md5(hash))) => Some(ServerSecret::Md5(hash)),
        (_, Some(UserSecret::Scram(_) | UserSecret::Empty) | None) => None,
    }
}

impl SecretSource for Secrets<'_> {
    fn secret(&self, user: &str) -> Option<UserSecret> {
        let found = || self.asked.as_ref().and_then(|(_, found)| found.clone());
        self.config.userlist.get(user).cloned().or_else(found)
    }

    fn expected_scram(&self) -> Option<NonZeroU32> {
        match self.may_ask() {
            true => self.pools.lookups.expected_scram(self.scram_iterations()),
            false => self.config.expected_scram(),
        }
    }

    fn has_passwords(&self) -> bool {
        self.config.has_passwords() || self.may_ask() && self.pools.lookups.saw_others()
    }

    fn scram_iterations(&self) -> NonZeroU32 {
        self.config.scram_iterations()
    }
}
