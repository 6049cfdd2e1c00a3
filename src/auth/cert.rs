//! `cert`: the certificate that the client has shown is the user's, or one that the map lets log in as the user.

use pgweir_config::{IdentMap, UserSecret};
use pgweir_proto::client_error::ClientError;

use super::method::Origin;
use super::{AuthError, Granted, Reason};

/// `secret` is what is known of the user, who must be known.
pub(super) fn authenticate(
    origin: &Origin,
    map: Option<&IdentMap>,
    user: &str,
    secret: Option<&UserSecret>,
) -> Result<Granted, AuthError> {
    let refused = |reason| Err(AuthError::refused(ClientError::CertificateFailed, reason));
    let Some(tls) = &origin.tls else { return refused(Reason::NoTls) };
    let tls = tls.lock();
    if tls.peer_certificate().is_none() {
        return refused(Reason::NoCertificate);
    }
    if secret.is_none() {
        return refused(Reason::UnknownUser);
    }
    match map {
        None if !tls.is_peer(user) => refused(Reason::CertificateOfOther),
        Some(map) if !map.system_users(user).any(|name| tls.is_peer(name)) => {
            refused(Reason::CertificateNotInMap(map.name.clone()))
        }
        _ => Ok(Granted::default()),
    }
}
