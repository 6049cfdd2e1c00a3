//! `scram-sha-256`, and `md5` for users whose secret is SCRAM's. Over TLS the exchange can be
//! bound to the connection.

use std::num::NonZeroU32;

use pgweir_proto::auth::{
    SCRAM_SHA_256, SCRAM_SHA_256_PLUS, SaslInitialResponse, authentication_sasl, authentication_sasl_continue,
    authentication_sasl_final,
};
use pgweir_proto::client_error::ClientError;
use pgweir_proto::scram::{ChannelBinding, ScramError, ScramServer, Verifier};
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
    // The better one first, as PostgreSQL does.
    let mechanisms = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
    let offered = if login.end_point.is_some() { &mechanisms[..] } else { &mechanisms[1..] };
    message::send(stream, |out| authentication_sasl(out, offered)).await?;
    let body = message::receive(stream, PROOF_LEN_MAX).await?;
    let (binding, client_first) = client_first(login.end_point, &body)?;

    let (salt, iterations) = asked_for(login, &credential);
    let server = ScramServer::new(&salt, iterations, random_bytes(), binding);
    let (server, server_first) = server.client_first(client_first).map_err(failed)?;
    message::send(stream, |out| authentication_sasl_continue(out, server_first.as_bytes())).await?;

    let body = message::receive(stream, PROOF_LEN_MAX).await?;
    let Checked { verifier, is_stored, hopeless, has_taken_long } = checked_with(login, credential).await?;
    let proven = server.client_final(&verifier, &body);
    let proven = match hopeless {
        Some(reason) => Err(reason),
        None => proven.map_err(Reason::Scram),
    };
    match proven {
        Ok((keys, server_final)) => {
            let mut unsent = Vec::new();
            authentication_sasl_final(&mut unsent, server_final.as_bytes());
            Ok(Granted { scram_keys: is_stored.then_some(keys), plain: None, unsent })
        }
        Err(reason) => {
            // The first login of a user with a password takes longer than that of one whom there
            // is not; so every refusal does.
            if login.has_passwords && !has_taken_long {
                login.context.take_as_long(login.iterations).await.ok_or(refused(Reason::Interrupted))?;
            }
            Err(refused(reason))
        }
    }
}

fn client_first<'a>(end_point: Option<&[u8]>, body: &'a [u8]) -> Result<(ChannelBinding, &'a [u8]), AuthError> {
    let initial = SaslInitialResponse::parse(body).map_err(|_| refused(Reason::Malformed))?;
    let binding = match (initial.mechanism, end_point) {
        (SCRAM_SHA_256_PLUS, Some(hash)) => ChannelBinding::EndPoint(hash.to_vec()),
        (SCRAM_SHA_256, Some(_)) => ChannelBinding::Unused,
        (SCRAM_SHA_256, None) => ChannelBinding::Unavailable,
        _ => return Err(AuthError::protocol(ClientError::InvalidSaslMechanism)),
    };
    // In SCRAM the client speaks first.
    Ok((binding, initial.data.ok_or(refused(Reason::Malformed))?))
}

/// Salt and iterations, before anything is computed: whether that takes its time must not be
/// seen by whoever has proven nothing.
fn asked_for(login: &Login<'_>, credential: &Credential) -> (Vec<u8>, NonZeroU32) {
    let salt = || login.context.salts().salt(login.user).to_vec();
    match credential {
        Credential::Known(StoredSecret::Scram(verifier)) => (verifier.salt().to_vec(), verifier.iterations()),
        Credential::Known(StoredSecret::Plain(_)) => (salt(), login.iterations),
        Credential::Known(StoredSecret::Md5(_)) | Credential::Hopeless(_) => (salt(), login.expected_iterations),
    }
}

/// What a proof is checked against, and what is made of the outcome.
struct Checked {
    verifier: Verifier,
    /// The verifier is the one that is stored, so a server may have the same.
    is_stored: bool,
    /// Whatever the proof, the login fails for this reason.
    hopeless: Option<Reason>,
    /// The verifier was made for this login.
    has_taken_long: bool,
}

async fn checked_with(login: &Login<'_>, credential: Credential) -> Result<Checked, AuthError> {
    let Login { user, iterations, expected_iterations, context, .. } = *login;
    let reason = match credential {
        Credential::Known(StoredSecret::Scram(verifier)) => {
            return Ok(Checked { verifier, is_stored: true, hopeless: None, has_taken_long: false });
        }
        Credential::Known(StoredSecret::Plain(password)) => {
            let made = context.verifier(user, &password, iterations).await;
            let (verifier, has_taken_long) = made.ok_or(refused(Reason::Interrupted))?;
            return Ok(Checked { verifier, is_stored: false, hopeless: None, has_taken_long });
        }
        Credential::Known(StoredSecret::Md5(_)) => Reason::Md5Secret,
        Credential::Hopeless(reason) => reason,
    };
    let verifier = context.salts().mock_verifier(user, expected_iterations);
    Ok(Checked { verifier, is_stored: false, hopeless: Some(reason), has_taken_long: false })
}

fn failed(error: ScramError) -> AuthError {
    refused(Reason::Scram(error))
}

fn refused(reason: Reason) -> AuthError {
    AuthError::refused(ClientError::SaslFailed, reason)
}
