//! Networks: an address and how much of it counts.

// Addresses as values; there is no socket in here.
use core::net::IpAddr;

/// All addresses that are the same where the mask has a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Of the address's family.
    mask: IpAddr,
}

impl Network {
    /// None: they are of two families.
    pub(crate) fn new(address: IpAddr, mask: IpAddr) -> Option<Network> {
        (address.is_ipv4() == mask.is_ipv4()).then_some(Network { address, mask })
    }

    /// `bits` is how many of the address count, in decimal. None: it is not, or the address has fewer.
    pub(crate) fn with_prefix(address: IpAddr, bits: &str) -> Option<Network> {
        Some(Network { address, mask: mask(address, bits)? })
    }

    /// An address with or without the length of its prefix, which must say all that the address does.
    pub(crate) fn parse(text: &str) -> Option<Network> {
        let network = match text.split_once('/') {
            Some((address, bits)) => Network::with_prefix(address.parse().ok()?, bits)?,
            None => {
                let address: IpAddr = text.parse().ok()?;
                let bits = if address.is_ipv4() { "32" } else { "128" };
                Network::with_prefix(address, bits)?
            }
        };
        network.has(network.address).then_some(network)
    }

    /// An IPv4 address in the form of IPv6 counts as IPv4.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, self.mask, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(mask), IpAddr::V4(address)) => {
                address.to_bits() & mask.to_bits() == network.to_bits()
            }
            (IpAddr::V6(network), IpAddr::V6(mask), IpAddr::V6(address)) => {
                address.to_bits() & mask.to_bits() == network.to_bits()
            }
            _ => false,
        }
    }
}

/// The mask that keeps so many bits of an address.
fn mask(address: IpAddr, bits: &str) -> Option<IpAddr> {
    let len = bits.bytes().all(|digit| digit.is_ascii_digit()).then(|| bits.parse::<u32>().ok())??;
    match address {
        IpAddr::V4(_) if len <= 32 => Some(IpAddr::V4(u32::MAX.checked_shl(32 - len).unwrap_or(0).into())),
        IpAddr::V6(_) if len <= 128 => Some(IpAddr::V6(u128::MAX.checked_shl(128 - len).unwrap_or(0).into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_has(network: &str, address: &str, expected: bool) {
        let parsed = Network::parse(network).expect("a network");
        assert_eq!(parsed.has(address.parse().unwrap()), expected, "{address} in {network}");
    }

    #[test]
    fn networks_have_their_addresses() {
        assert_has("10.0.0.0/8", "10.255.0.1", true);
        assert_has("10.0.0.0/8", "11.0.0.1", false);
        assert_has("10.0.0.7", "10.0.0.7", true);
        assert_has("10.0.0.7", "10.0.0.8", false);
        assert_has("10.0.0.0/8", "::ffff:10.1.2.3", true);
        assert_has("0.0.0.0/0", "203.0.113.9", true);
        assert_has("0.0.0.0/0", "2001:db8::1", false);
        assert_has("2001:db8::/32", "2001:db8:ffff::1", true);
        assert_has("::1", "::1", true);
        assert_has("::/0", "2001:db8::1", true);
    }

    #[test]
    fn what_is_no_network() {
        for text in
            ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "::/129", "host", "10/8"]
        {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
