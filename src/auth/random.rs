//! Random bytes for salts, nonces and cancel keys.

use std::cell::RefCell;

use pgweir_proto::cancel::CancelKey;
use pgweir_proto::startup::ProtocolVersion;
use ring::rand::{SecureRandom, SystemRandom};

/// So many are taken from the kernel at once: enough for ten logins or so.
const STOCK_LEN: usize = 512;

thread_local! {
    /// None of them was given out yet.
    static STOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= STOCK_LEN) };
    STOCK.with_borrow_mut(|stock| {
        if stock.len() < N {
            stock.resize(STOCK_LEN, 0);
            // The kernel's generator; without it no login would be safe.
            SystemRandom::new().fill(stock).expect("the system has a random generator");
        }
        let mut bytes = [0; N];
        let rest = stock.len() - N;
        bytes.copy_from_slice(&stock[rest..]);
        // What was given out is its owner's secret.
        stock[rest..].fill(0);
        stock.truncate(rest);
        bytes
    })
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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice() {
        let given: HashSet<[u8; 18]> = (0..10 * STOCK_LEN).map(|_| random_bytes()).collect();
        assert_eq!(given.len(), 10 * STOCK_LEN);
        assert!(!given.iter().any(|bytes| bytes[..9] == [0; 9] || bytes[9..] == [0; 9]));
    }

    #[test]
    fn keys_are_as_long_as_the_protocol_has_them() {
        let len = |protocol| new_cancel_key(protocol, 0).secret.as_bytes().len();
        assert_eq!((len(ProtocolVersion::V3_0), len(ProtocolVersion::V3_2)), (4, 32));
        let key = || new_cancel_key(ProtocolVersion::V3_0, 7);
        assert_eq!(key().peer_id(), 7);
        assert_ne!(key().head(), key().head());
    }
}
