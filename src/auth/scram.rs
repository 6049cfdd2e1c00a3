//! `scram-sha-256`, and `md5` for users whose secret is SCRAM's.

use pgweir_proto::auth::{
    SCRAM_SHA_256, SaslInitialResponse, authentication_sasl, authentication_sasl_continue, authentication_sasl_final,
};
use pgweir_proto::client_error::ClientError;
use pgweir_proto::scram::{ScramServer, Verifier};
use pgweir_proto::secret::StoredSecret;
use tokio::io::{AsyncRead, AsyncWrite};

use super::message::{self, PROOF_LEN_MAX};
use super::random::random_bytes;
use super::{AuthError, Credential, Granted, Login, Reason};

/// What a proof is checked against, and what is made of the outcome.
struct Exchange {
    verifier: Verifier,
    /// The verifier is the one that is stored, so a server may have the same.
    is_stored: bool,
    /// Whatever the proof, the login fails for this reason.
    hopeless: Option<Reason>,
}

pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: &Login<'_>,
    credential: Credential,
) -> Result<Granted, AuthError> {
    message::send(stream, |out| authentication_sasl(out, &[SCRAM_SHA_256])).await?;
    let body = message::receive(stream, PROOF_LEN_MAX).await?;
    let client_first = client_first(&body)?;

    let Exchange { verifier, is_stored, hopeless } = exchange(login, credential).await?;
    let server = ScramServer::new(verifier, random_bytes());
    let (server, server_first) = server.client_first(client_first).map_err(failed)?;
    message::send(stream, |out| authentication_sasl_continue(out, server_first.as_bytes())).await?;

    let body = message::receive(stream, PROOF_LEN_MAX).await?;
    let proven = server.client_final(&body);
    if let Some(reason) = hopeless {
        return Err(refused(reason));
    }
    let (keys, server_final) = proven.map_err(failed)?;
    message::send(stream, |out| authentication_sasl_final(out, server_final.as_bytes())).await?;
    Ok(Granted { scram_keys: is_stored.then_some(keys), plain: None })
}

fn client_first(body: &[u8]) -> Result<&[u8], AuthError> {
    let initial = SaslInitialResponse::parse(body).map_err(|_| refused(Reason::Malformed))?;
    if initial.mechanism != SCRAM_SHA_256 {
        return Err(AuthError::protocol(ClientError::InvalidSaslMechanism));
    }
    // In SCRAM the client speaks first.
    initial.data.ok_or(refused(Reason::Malformed))
}

async fn exchange(login: &Login<'_>, credential: Credential) -> Result<Exchange, AuthError> {
    let Login { user, iterations, context } = *login;
    let reason = match credential {
        Credential::Known(StoredSecret::Scram(verifier)) => {
            return Ok(Exchange { verifier, is_stored: true, hopeless: None });
        }
        Credential::Known(StoredSecret::Plain(password)) => {
            let made = context.verifier(user, &password, iterations).await;
            let verifier = made.ok_or(refused(Reason::Interrupted))?;
            return Ok(Exchange { verifier, is_stored: false, hopeless: None });
        }
        Credential::Known(StoredSecret::Md5(_)) => Reason::Md5Secret,
        Credential::Hopeless(reason) => reason,
    };
    let verifier = context.salts().mock_verifier(user, iterations);
    Ok(Exchange { verifier, is_stored: false, hopeless: Some(reason) })
}

fn failed(error: pgweir_proto::scram::ScramError) -> AuthError {
    refused(Reason::Scram(error))
}

fn refused(reason: Reason) -> AuthError {
    AuthError::refused(ClientError::SaslFailed, reason)
}
