//! The server role: a client logs in to us.

use std::num::NonZeroU32;

use subtle::ConstantTimeEq;

use super::binding::BOUND;
use super::keys::{ScramKeys, sha256, sign, xor};
use super::message::{self, Attributes};
use super::{ChannelBinding, NONCE_LEN, ScramError, Verifier};

/// Waits for client-first: `gs2-header n=user,r=nonce`.
pub struct ScramServer {
    /// In base64.
    salt: String,
    iterations: NonZeroU32,
    /// Our part of the nonce.
    nonce: String,
    binding: ChannelBinding,
}

/// Waits for client-final: `c=binding,r=nonce,p=proof`.
pub struct ServerFinal {
    /// What `c=` must be: the client's flag and authorization identity again, and the hash of
    /// the certificate if that is bound to.
    binding: String,
    /// Both parts.
    nonce: String,
    /// `client-first-bare,server-first`, which proofs and signatures begin with.
    auth_message: String,
}

impl ScramServer {
    /// `salt` and `iterations` are those of the user's verifier. `nonce` comes from a random
    /// generator, anew for each login.
    pub fn new(salt: &[u8], iterations: NonZeroU32, nonce: [u8; NONCE_LEN], binding: ChannelBinding) -> ScramServer {
        ScramServer::with_nonce(salt, iterations, message::encode(&nonce), binding)
    }

    pub(super) fn with_nonce(
        salt: &[u8],
        iterations: NonZeroU32,
        nonce: String,
        binding: ChannelBinding,
    ) -> ScramServer {
        ScramServer { salt: message::encode(salt), iterations, nonce, binding }
    }

    /// Gives server-first, `r=nonce,s=salt,i=iterations`. The user's name in the message is
    /// ignored: the startup packet's counts.
    pub fn client_first(self, client_first: &[u8]) -> Result<(ServerFinal, String), ScramError> {
        let (gs2_header, bare) = split_gs2_header(message::text(client_first)?, &self.binding)?;
        let mut attributes = Attributes::new(bare);
        attributes.expect('n')?;
        let client_nonce = attributes.expect('r')?;
        message::check_nonce(client_nonce)?;
        attributes.skip_rest()?;

        let nonce = format!("{client_nonce}{}", self.nonce);
        let server_first = format!("r={nonce},s={},i={}", self.salt, self.iterations);
        let next = ServerFinal {
            binding: self.binding.attribute(gs2_header),
            nonce,
            auth_message: format!("{bare},{server_first}"),
        };
        Ok((next, server_first))
    }
}

/// Splits `n,,rest` after the second comma. The flag says whether the client can bind the
/// channel: `n` no, `y` yes but it believes that we cannot, `p=type` it does.
fn split_gs2_header<'a>(client_first: &'a str, binding: &ChannelBinding) -> Result<(&'a str, &'a str), ScramError> {
    let mut parts = client_first.splitn(3, ',');
    let (Some(flag), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(ScramError::Malformed("comma expected"));
    };
    match (flag, binding) {
        ("n" | "y", ChannelBinding::EndPoint(_)) => return Err(ScramError::ChannelBindingMissing),
        ("y", ChannelBinding::Unused) => return Err(ScramError::ChannelBindingDowngrade),
        ("n" | "y", _) => {}
        (BOUND, ChannelBinding::EndPoint(_)) => {}
        (_, ChannelBinding::EndPoint(_)) if flag.starts_with("p=") => return Err(ScramError::ChannelBindingType),
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
    pub fn client_final(self, verifier: &Verifier, client_final: &[u8]) -> Result<(ScramKeys, String), ScramError> {
        let text = message::text(client_final)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("proof expected"))?;
        let mut attributes = Attributes::new(without_proof);
        if attributes.expect('c')? != self.binding {
            return Err(ScramError::ChannelBindingMismatch);
        }
        if !bool::from(attributes.expect('r')?.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::NonceMismatch);
        }
        attributes.skip_rest()?;
        let proof = message::decode_key(proof).ok_or(ScramError::Malformed("proof"))?;

        let signed = [self.auth_message.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = xor(&proof, &sign(&verifier.stored_key, &signed));
        if !bool::from(sha256(&client_key).ct_eq(&verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let signature = sign(&verifier.server_key, &signed);
        let keys = ScramKeys { client_key, server_key: verifier.server_key };
        Ok((keys, format!("v={}", message::encode(&signature))))
    }
}
