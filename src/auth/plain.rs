//! `plain`: the password itself goes over the wire. Deprecated, but it works.

use pgweir_config::Secret;
use pgweir_proto::auth::{AUTH_TOKEN_LEN_MAX, authentication_cleartext_password};
use pgweir_proto::client_error::ClientError;
use pgweir_proto::scram::{ITERATIONS_MAX, ScramError, Verifier};
use pgweir_proto::secret::StoredSecret;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{AuthError, Credential, Granted, Login, Reason, message};

pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: &Login<'_>,
    credential: Credential,
) -> Result<Granted, AuthError> {
    message::send(stream, authentication_cleartext_password).await?;
    let body = message::receive(stream, AUTH_TOKEN_LEN_MAX).await?;
    let password = message::password(&body)?;
    match check(login, credential, password).await {
        Ok(()) => {
            let text = std::str::from_utf8(password).ok();
            Ok(Granted { plain: text.map(Secret::new), ..Granted::default() })
        }
        Err(reason) => Err(AuthError::refused(ClientError::PasswordFailed, reason)),
    }
}

/// Every refusal has cost one PBKDF2: a quicker one would tell which secret, if any, the
/// user has.
async fn check(login: &Login<'_>, credential: Credential, password: &[u8]) -> Result<(), Reason> {
    let reason = match credential {
        Credential::Known(StoredSecret::Scram(verifier)) => {
            return match matches(login, &verifier, password).await? {
                true => Ok(()),
                false => Err(Reason::WrongPassword),
            };
        }
        Credential::Known(StoredSecret::Plain(stored)) => {
            if stored.as_bytes().ct_eq(password).into() {
                return Ok(());
            }
            Reason::WrongPassword
        }
        Credential::Known(StoredSecret::Md5(secret)) => {
            if secret.verify_password(login.user, password) {
                return Ok(());
            }
            Reason::WrongPassword
        }
        Credential::Hopeless(reason) => reason,
    };
    let mock = login.context.salts().mock_verifier(login.user, login.expected_iterations);
    matches(login, &mock, password).await?;
    Err(reason)
}

async fn matches(login: &Login<'_>, verifier: &Verifier, password: &[u8]) -> Result<bool, Reason> {
    if verifier.iterations().get() > ITERATIONS_MAX {
        return Err(Reason::Scram(ScramError::IterationCount));
    }
    login.context.verify(verifier, password).await.ok_or(Reason::Interrupted)
}
