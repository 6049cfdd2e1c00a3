//! Random bytes for salts, nonces and cancel keys.

use pgweir_proto::cancel::SecretKey;
use pgweir_proto::startup::ProtocolVersion;
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator; without it no login would be safe.
    SystemRandom::new().fill(&mut bytes).expect("the system has a random generator");
    bytes
}

/// The secret half of a client's cancel key, as long as its protocol allows and PostgreSQL's.
pub(crate) fn new_secret_key(protocol: ProtocolVersion) -> SecretKey {
    let bytes: [u8; 32] = random_bytes();
    let len = match protocol {
        ProtocolVersion::V3_0 => 4,
        ProtocolVersion::V3_2 => bytes.len(),
    };
    SecretKey::new(&bytes[..len]).expect("4 to 256 bytes make a secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_long_as_the_protocol_has_them() {
        let len = |protocol| new_secret_key(protocol).as_bytes().len();
        assert_eq!((len(ProtocolVersion::V3_0), len(ProtocolVersion::V3_2)), (4, 32));
        assert_ne!(new_secret_key(ProtocolVersion::V3_2), new_secret_key(ProtocolVersion::V3_2));
    }
}
