//! `trust`: no proof is asked for, but the user must exist. Its secret serves for the server.

use pgweir_config::UserSecret;
use pgweir_proto::client_error::ClientError;

use super::{AuthError, Granted, Reason};

pub(super) fn authenticate(secret: Option<&UserSecret>) -> Result<Granted, AuthError> {
    match secret {
        Some(_) => Ok(Granted::default()),
        None => Err(AuthError::refused(ClientError::TrustFailed, Reason::UnknownUser)),
    }
}
