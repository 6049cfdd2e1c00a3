//! Random bytes for salts, nonces and cancel keys.

use pgweir_proto::cancel::CancelKey;
use pgweir_proto::startup::ProtocolVersion;
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator; without it no login would be safe.
    SystemRandom::new().fill(&mut bytes).expect("the system has a random generator");
    bytes
}

/// What a client is given to cancel its queries with: as long as its protocol allows and
/// PostgreSQL's. `peer_id` is the setting.
pub(crate) fn new_cancel_key(protocol: ProtocolVersion, peer_id: u32) -> CancelKey {
    // Process id and secret.
    let bytes: [u8; 4 + 32] = random_bytes();
    let len = match protocol {
        ProtocolVersion::V3_0 => 4 + 4,
        ProtocolVersion::V3_2 => bytes.len(),
    };
    // The setting has at most 14 bits.
    CancelKey::from_random(&bytes[..len], peer_id as u16).expect("8 to 260 bytes make a key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_long_as_the_protocol_has_them() {
        let len = |protocol| new_cancel_key(protocol, 0).secret.as_bytes().len();
        assert_eq!((len(ProtocolVersion::V3_0), len(ProtocolVersion::V3_2)), (4, 32));
        let key = || new_cancel_key(ProtocolVersion::V3_0, 7);
        assert_eq!(key().peer_id(), 7);
        assert_ne!(key().head(), key().head());
    }
}
