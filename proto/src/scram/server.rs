//! The server role: a client logs in to us.

use subtle::ConstantTimeEq;

use super::keys::{ScramKeys, sha256, sign, xor};
use super::message::{self, Attributes};
use super::{NONCE_LEN, ScramError, Verifier};

/// Waits for client-first: `gs2-header n=user,r=nonce`.
pub struct ScramServer {
    verifier: Verifier,
    /// Our part of the nonce.
    nonce: String,
}

/// Waits for client-final: `c=binding,r=nonce,p=proof`.
pub struct ServerFinal {
    verifier: Verifier,
    /// The client's flag and authorization identity, `n,,` or `y,,`; client-final repeats it
    /// together with the channel's data, of which there is none without PLUS.
    gs2_header: String,
    /// Both parts.
    nonce: String,
    /// `client-first-bare,server-first`, which proofs and signatures begin with.
    auth_message: String,
}

impl ScramServer {
    /// `nonce` comes from a random generator, anew for each login.
    pub fn new(verifier: Verifier, nonce: [u8; NONCE_LEN]) -> ScramServer {
        ScramServer::with_nonce(verifier, message::encode(&nonce))
    }

    pub(super) fn with_nonce(verifier: Verifier, nonce: String) -> ScramServer {
        ScramServer { verifier, nonce }
    }

    /// Gives server-first, `r=nonce,s=salt,i=iterations`. The user's name in the message is
    /// ignored: the startup packet's counts.
    pub fn client_first(self, client_first: &[u8]) -> Result<(ServerFinal, String), ScramError> {
        let (gs2_header, bare) = split_gs2_header(message::text(client_first)?)?;
        let mut attributes = Attributes::new(bare);
        attributes.expect('n')?;
        let client_nonce = attributes.expect('r')?;
        message::check_nonce(client_nonce)?;
        attributes.skip_rest()?;

        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = message::encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let next = ServerFinal {
            verifier: self.verifier,
            gs2_header: gs2_header.to_owned(),
            nonce,
            auth_message: format!("{bare},{server_first}"),
        };
        Ok((next, server_first))
    }
}

/// Splits `n,,rest` after the second comma. The flag says whether the client can bind the
/// channel: `n` no, `y` yes but it believes that we cannot, `p=type` it insists.
fn split_gs2_header(client_first: &str) -> Result<(&str, &str), ScramError> {
    let mut parts = client_first.splitn(3, ',');
    let (Some(flag), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(ScramError::Malformed("comma expected"));
    };
    match flag {
        "n" | "y" => {}
        _ if flag.starts_with("p=") => return Err(ScramError::ChannelBindingRequired),
        _ => return Err(ScramError::Malformed("channel-binding flag")),
    }
    match identity {
        "" => Ok((&client_first[..client_first.len() - bare.len()], bare)),
        _ if identity.starts_with("a=") => Err(ScramError::AuthorizationIdentity),
        _ => Err(ScramError::Malformed("authorization identity")),
    }
}

impl ServerFinal {
    /// Gives the client's keys and server-final, `v=signature`. The keys log in to a server
    /// that stores the same verifier.
    pub fn client_final(self, client_final: &[u8]) -> Result<(ScramKeys, String), ScramError> {
        let text = message::text(client_final)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("proof expected"))?;
        let mut attributes = Attributes::new(without_proof);
        if attributes.expect('c')? != message::encode(self.gs2_header.as_bytes()) {
            return Err(ScramError::ChannelBindingMismatch);
        }
        if !bool::from(attributes.expect('r')?.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::NonceMismatch);
        }
        attributes.skip_rest()?;
        let proof = message::decode_key(proof).ok_or(ScramError::Malformed("proof"))?;

        let signed = [self.auth_message.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = xor(&proof, &sign(&self.verifier.stored_key, &signed));
        if !bool::from(sha256(&client_key).ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let signature = sign(&self.verifier.server_key, &signed);
        let keys = ScramKeys { client_key, server_key: self.verifier.server_key };
        Ok((keys, format!("v={}", message::encode(&signature))))
    }
}
