//! The client role: we log in to a server.

use std::num::NonZeroU32;

use subtle::ConstantTimeEq;

use super::keys::{Key, ScramKeys, sign, xor};
use super::message::{self, Attributes};
use super::{ChannelBinding, ITERATIONS_MAX, NONCE_LEN, ScramError};

/// Waits for server-first: `r=nonce,s=salt,i=iterations`.
pub struct ScramClient {
    nonce: String,
    binding: ChannelBinding,
}

/// What the server's salt and iterations ask for: the user's keys under them.
pub struct Challenge {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    /// Both parts.
    nonce: String,
    binding: ChannelBinding,
    /// `client-first-bare,server-first`, which proofs and signatures begin with.
    auth_message: String,
}

/// Waits for server-final: `v=signature` or `e=error`.
pub struct ClientFinal {
    /// What the server signs if it knows the user's keys.
    signature: Key,
}

impl ScramClient {
    /// `nonce` comes from a random generator, anew for each login.
    pub fn new(nonce: [u8; NONCE_LEN], binding: ChannelBinding) -> ScramClient {
        ScramClient::with_nonce(message::encode(&nonce), binding)
    }

    pub(super) fn with_nonce(nonce: String, binding: ChannelBinding) -> ScramClient {
        ScramClient { nonce, binding }
    }

    /// The data of SASLInitialResponse.
    pub fn client_first(&self) -> String {
        format!("{}{}", self.binding.gs2_header(), self.client_first_bare())
    }

    /// Without a name, as libpq: PostgreSQL takes the startup packet's.
    fn client_first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    pub fn server_first(self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let text = message::text(server_first)?;
        let mut attributes = Attributes::new(text);
        let nonce = attributes.expect('r')?;
        message::check_nonce(nonce)?;
        match nonce.strip_prefix(&self.nonce) {
            Some(server_nonce) if !server_nonce.is_empty() => {}
            _ => return Err(ScramError::NonceMismatch),
        }
        let salt = message::decode(attributes.expect('s')?);
        let salt = salt.ok_or(ScramError::Malformed("salt"))?;
        let iterations = parse_iterations(attributes.expect('i')?)?;
        attributes.skip_rest()?;
        Ok(Challenge {
            salt,
            iterations,
            nonce: nonce.to_owned(),
            auth_message: format!("{},{text}", self.client_first_bare()),
            binding: self.binding,
        })
    }
}

fn parse_iterations(text: &str) -> Result<NonZeroU32, ScramError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ScramError::Malformed("iteration count"));
    }
    let iterations = text.parse::<NonZeroU32>().map_err(|_| ScramError::IterationCount)?;
    if iterations.get() > ITERATIONS_MAX {
        return Err(ScramError::IterationCount);
    }
    Ok(iterations)
}

impl Challenge {
    /// An exchange that began with another client-first than ours, as the RFC's examples do.
    #[cfg(test)]
    pub(super) fn for_test(nonce: String, auth_message: String) -> Challenge {
        let binding = ChannelBinding::Unavailable;
        Challenge { salt: Vec::new(), iterations: NonZeroU32::MIN, nonce, binding, auth_message }
    }

    /// Together with [`Self::iterations`], what keys can be cached under.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// 1 to [`ITERATIONS_MAX`].
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Gives client-final, the data of SASLResponse. The keys come from
    /// [`ScramKeys::from_password`] under this salt and count, or from the client's own login
    /// to us.
    pub fn respond(self, keys: &ScramKeys) -> (ClientFinal, String) {
        let binding = self.binding.attribute(&self.binding.gs2_header());
        let without_proof = format!("c={binding},r={}", self.nonce);
        let signed = [self.auth_message.as_bytes(), b",", without_proof.as_bytes()];
        let proof = xor(&keys.client_key, &sign(&keys.stored_key(), &signed));
        let next = ClientFinal { signature: sign(&keys.server_key, &signed) };
        (next, format!("{without_proof},p={}", message::encode(&proof)))
    }
}

impl ClientFinal {
    /// Only after this is the server known to be one that knows the user.
    pub fn server_final(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(message::text(server_final)?);
        let (name, value) = match attributes.next() {
            Some(attribute) => attribute?,
            None => return Err(ScramError::Malformed("signature expected")),
        };
        match name {
            'v' => {}
            'e' => return Err(ScramError::ServerError(value.escape_default().to_string())),
            _ => return Err(ScramError::Malformed("signature expected")),
        }
        attributes.skip_rest()?;
        let signature = message::decode_key(value).ok_or(ScramError::Malformed("signature"))?;
        if bool::from(signature.ct_eq(&self.signature)) { Ok(()) } else { Err(ScramError::WrongServerSignature) }
    }
}
