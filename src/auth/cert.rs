//! `auth_type=cert`: the certificate that the client has shown is the user's.

use pgweir_config::UserSecret;
use pgweir_proto::client_error::ClientError;

use super::{AuthError, Granted, Reason};
use crate::net::tls::SharedTls;

/// `tls` is the client's; `secret` what is known of the user, who must be known.
pub(crate) fn authenticate(
    tls: Option<&SharedTls>,
    user: &str,
    secret: Option<&UserSecret>,
) -> Result<Granted, AuthError> {
    let refused = |reason| Err(AuthError::refused(ClientError::CertificateFailed, reason));
    let Some(tls) = tls else { return refused(Reason::NoTls) };
    let tls = tls.lock();
    if tls.peer_certificate().is_none() {
        return refused(Reason::NoCertificate);
    }
    if secret.is_none() {
        return refused(Reason::UnknownUser);
    }
    if !tls.is_peer(user) {
        return refused(Reason::CertificateOfOther);
    }
    Ok(Granted::default())
}
