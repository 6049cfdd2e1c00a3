//! `md5`: a hash of the password and of a salt that is new each time.

use pgweir_proto::auth::authentication_md5_password;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::md5::Md5Secret;
use pgweir_proto::secret::StoredSecret;
use tokio::io::{AsyncRead, AsyncWrite};

use super::message::{self, PROOF_LEN_MAX};
use super::random::random_bytes;
use super::{AuthError, Credential, Granted, Login, Reason};

pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: &Login<'_>,
    credential: Credential,
) -> Result<Granted, AuthError> {
    let salt = random_bytes();
    message::send(stream, |out| authentication_md5_password(out, salt)).await?;
    let body = message::receive(stream, PROOF_LEN_MAX).await?;
    let response = message::password(&body)?;

    let (secret, hopeless) = match credential {
        Credential::Known(StoredSecret::Md5(secret)) => (secret, None),
        Credential::Known(StoredSecret::Plain(password)) => {
            (Md5Secret::from_password(login.user, password.as_bytes()), None)
        }
        // A verifier holds nothing that md5 could be checked with; SCRAM is used for these.
        Credential::Known(StoredSecret::Scram(_)) => (mock_secret(login), Some(Reason::WrongPassword)),
        Credential::Hopeless(reason) => (mock_secret(login), Some(reason)),
    };
    let is_right = secret.verify(salt, response);
    match hopeless {
        None if is_right => Ok(Granted::default()),
        reason => {
            let reason = reason.unwrap_or(Reason::WrongPassword);
            Err(AuthError::refused(ClientError::PasswordFailed, reason))
        }
    }
}

/// Takes as long to make as that of a user with a password, and nobody knows what it is of.
fn mock_secret(login: &Login<'_>) -> Md5Secret {
    Md5Secret::from_password(login.user, &random_bytes::<16>())
}
