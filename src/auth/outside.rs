//! `ldap` and `pam`: somebody else says whether the password is right, and takes as long as it takes.
//!
//! Nothing of it runs on a worker. A directory is asked by a task beside the data path, which ends with the client's login;
//! modules run on threads of their own, which nobody can end, so a place is given back when its thread is done.

// Each of the two is built only if it is asked for, and what they share must not mind.
#![cfg_attr(not(all(feature = "ldap", feature = "pam")), allow(unused))]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgweir_config::{LdapOptions, Secret};
use pgweir_proto::auth::{AUTH_TOKEN_LEN_MAX, authentication_cleartext_password};
use pgweir_proto::client_error::ClientError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{AuthError, Granted, Origin, Reason, message};
use crate::net::tls::TlsSetup;

/// A login waits no longer than this for its place and its answer; `client_login_timeout` may be shorter.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Logins that ask the same directory at once. Those of another do not wait for them.
const DIRECTORY_PLACES: usize = 64;

/// Threads that ask the system for addresses of directories.
const RESOLVING_PLACES: usize = 8;

/// Threads on which modules run.
const PAM_PLACES: usize = 16;

/// Who says so.
#[derive(Debug, Clone)]
pub(crate) enum Outside {
    Ldap(Arc<LdapOptions>),
    Pam,
}

/// How many may be asked at once.
pub(crate) struct Places {
    /// By their servers. Locked for a look-up.
    directories: Mutex<HashMap<Vec<String>, Arc<Semaphore>>>,
    resolving: Arc<Semaphore>,
    pam: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new() -> Places {
        Places {
            directories: Mutex::default(),
            resolving: Arc::new(Semaphore::new(RESOLVING_PLACES)),
            pam: Arc::new(Semaphore::new(PAM_PLACES)),
        }
    }

    /// Those of one directory. Of others that nobody asks any more nothing is kept.
    fn directory(&self, servers: &[String]) -> Arc<Semaphore> {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.retain(|known, places| known == servers || Arc::strong_count(places) > 1);
        Arc::clone(directories.entry(servers.to_vec()).or_insert_with(|| Arc::new(Semaphore::new(DIRECTORY_PLACES))))
    }
}

/// A client's login, as others are asked about it.
pub(crate) struct Asked<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Vec<u8>,
    pub(crate) origin: &'a Origin,
    pub(crate) tls: Arc<TlsSetup>,
    /// Beside the data path.
    pub(crate) control: &'a Handle,
}

/// Has the client tell its password, which is never empty.
pub(crate) async fn ask_password<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Vec<u8>, AuthError> {
    message::send(stream, authentication_cleartext_password).await?;
    let body = message::receive(stream, AUTH_TOKEN_LEN_MAX).await?;
    Ok(message::password(&body)?.to_vec())
}

/// Asks whether the password is right. May be given up at any time.
pub(crate) async fn ask(outside: &Outside, asked: Asked<'_>, places: &Places) -> Result<Granted, AuthError> {
    let text = std::str::from_utf8(&asked.password).ok().map(Secret::new);
    let asking = async {
        match outside {
            #[cfg(feature = "ldap")]
            Outside::Ldap(options) => ask_directory(options, asked, places).await,
            #[cfg(feature = "pam")]
            Outside::Pam => ask_modules(asked, places).await,
            // The configuration has been refused already.
            #[cfg(not(all(feature = "ldap", feature = "pam")))]
            _ => Err("the method is not in this build".to_owned()),
        }
    };
    let late = |_| Err(format!("no answer within {} s", ANSWER_MAX.as_secs()));
    let error = match outside {
        Outside::Ldap(_) => ClientError::LdapFailed,
        Outside::Pam => ClientError::PamFailed,
    };
    match timeout(ANSWER_MAX, asking).await.unwrap_or_else(late) {
        Ok(()) => Ok(Granted { plain: text, ..Granted::default() }),
        Err(why) => Err(AuthError::refused(error, Reason::Outside(why))),
    }
}

fn interrupted() -> String {
    "authentication was interrupted".to_owned()
}

/// On the other side of an error there is what the operator should know.
#[cfg(feature = "ldap")]
async fn ask_directory(options: &Arc<LdapOptions>, asked: Asked<'_>, places: &Places) -> Result<(), String> {
    let place = places.directory(&options.servers).acquire_owned().await.map_err(|_| interrupted())?;
    let (options, resolving) = (Arc::clone(options), Arc::clone(&places.resolving));
    let Asked { user, password, tls, control, .. } = asked;
    let user = user.to_owned();
    // What is in a set ends with the set.
    let mut tasks = JoinSet::new();
    tasks.spawn_on(
        async move {
            let _place = place;
            let checked = super::ldap::check(&options, tls.directory.as_ref(), &resolving, &user, &password).await;
            let server = options.servers.join(" ");
            checked.map_err(|why| format!("LDAP login failed for user \"{user}\" on server {server}: {why}"))
        },
        control,
    );
    tasks.join_next().await.and_then(Result::ok).unwrap_or_else(|| Err(interrupted()))
}

#[cfg(feature = "pam")]
async fn ask_modules(asked: Asked<'_>, places: &Places) -> Result<(), String> {
    let place = Arc::clone(&places.pam).acquire_owned().await.map_err(|_| interrupted())?;
    let Asked { user, password, origin, .. } = asked;
    // PgBouncer's word for the other end of a Unix socket.
    let host = origin.address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
    let user = user.to_owned();
    let (answer, answered) = oneshot::channel();
    let job = move || {
        let checked = super::pam::check(&user, password, &host);
        drop(place);
        // The client may have given up.
        let _ = answer.send(checked.map_err(|why| format!("PAM login failed for user \"{user}\": {why}")));
    };
    // Not one of the runtime's, which waits for them when it ends.
    let thread = std::thread::Builder::new().name("pam".to_owned()).spawn(job);
    thread.map_err(|error| format!("no thread for PAM: {error}"))?;
    answered.await.unwrap_or_else(|_| Err(interrupted()))
}

#[cfg(all(test, feature = "ldap"))]
mod tests {
    use super::*;

    #[test]
    fn directories_have_places_of_their_own() {
        let places = Places::new();
        let [a, b] = ["a", "b"].map(|name| vec![name.to_owned()]);
        let of_a = places.directory(&a);
        assert!(Arc::ptr_eq(&of_a, &places.directory(&a)));
        assert!(!Arc::ptr_eq(&of_a, &places.directory(&b)));
        assert_eq!(places.directories.lock().unwrap().len(), 2);
        places.directory(&a);
        assert_eq!(places.directories.lock().unwrap().len(), 1);
    }
}
