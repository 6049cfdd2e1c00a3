//! Who is at the other end of a Unix socket, according to the kernel.

use nix::unistd::{Uid, User, getuid};
use pgweir_config::{IdentMap, UserSecret};
use pgweir_proto::client_error::ClientError;
use tokio::task::spawn_blocking;

use super::method::Origin;
use super::{AuthError, Granted, Reason};
use crate::net::stream::Stream;

/// This user gets in to the console without a password over a Unix socket, from the system
/// user that runs the pooler.
const CONSOLE_OWNER: &str = "pgbouncer";

/// Whether a client that asks for the console as `user` is whoever runs this process.
pub(crate) fn is_console_owner(stream: &Stream, user: &str) -> bool {
    user == CONSOLE_OWNER && is_own_process(stream)
}

/// Whether whoever runs this process is at the other end, on this machine.
pub(crate) fn is_own_process(stream: &Stream) -> bool {
    stream.peer_cred().is_some_and(|peer| peer.uid() == getuid().as_raw())
}

/// `peer`: the user must exist, and be the system user at the other end, or be allowed to it by
/// the map.
pub(super) async fn authenticate(
    origin: &Origin,
    map: Option<&IdentMap>,
    user: &str,
    secret: Option<&UserSecret>,
) -> Result<Granted, AuthError> {
    let reason = match (system_user(origin).await, map) {
        (None, _) => Reason::NoSystemUser,
        (Some(name), None) if name != user => Reason::OtherSystemUser(name),
        (Some(name), Some(map)) if !map.allows(&name, user) => Reason::NotInMap { map: map.name.clone(), name },
        _ if secret.is_none() => Reason::UnknownUser,
        _ => return Ok(Granted::default()),
    };
    Err(AuthError::refused(ClientError::UnixSocketRejected, reason))
}

/// The name of the system user at the other end. The system may have to ask a directory for it.
async fn system_user(origin: &Origin) -> Option<String> {
    let uid = Uid::from_raw(origin.uid?);
    let user = spawn_blocking(move || User::from_uid(uid)).await.ok()?;
    user.ok()?.map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    #[tokio::test]
    async fn only_the_same_user_over_a_unix_socket_owns_the_console() {
        let (_peer, unix) = UnixStream::pair().unwrap();
        let unix = Stream::unix(unix);
        assert!(is_console_owner(&unix, "pgbouncer"));
        assert!(!is_console_owner(&unix, "postgres"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_console_owner(&Stream::tcp(tcp), "pgbouncer"));
    }

    #[tokio::test]
    async fn a_peer_is_who_the_system_says_and_the_map_allows() {
        let me = User::from_uid(getuid()).unwrap().unwrap().name;
        let here = Origin { uid: Some(getuid().as_raw()), ..Origin::default() };
        let text = format!("staff {me} app\n");
        let reason =
            async |origin: &Origin, map: Option<&IdentMap>, user: &str, secret: Option<UserSecret>| match authenticate(
                origin,
                map,
                user,
                secret.as_ref(),
            )
            .await
            {
                Ok(_) => None,
                Err(AuthError::Refused { error: ClientError::UnixSocketRejected, reason }) => reason,
                Err(other) => panic!("{other:?}"),
            };
        let exists = || Some(UserSecret::Empty);
        assert_eq!(reason(&here, None, &me, exists()).await, None);
        assert_eq!(reason(&here, None, &me, None).await, Some(Reason::UnknownUser));
        assert_eq!(reason(&here, None, "app", exists()).await, Some(Reason::OtherSystemUser(me.clone())));
        assert_eq!(reason(&Origin::default(), None, &me, exists()).await, Some(Reason::NoSystemUser));
        let map = pgweir_config::fuzzing::ident_map("staff", &text);
        assert_eq!(reason(&here, Some(&map), "app", exists()).await, None);
        assert_eq!(reason(&here, Some(&map), "app", None).await, Some(Reason::UnknownUser));
        let refused = Reason::NotInMap { map: "staff".to_owned(), name: me.clone() };
        assert_eq!(reason(&here, Some(&map), &me, exists()).await, Some(refused));
    }
}
