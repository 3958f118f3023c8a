//! Whose an address is, where limits count addresses.

use std::net::{IpAddr, Ipv6Addr};

/// The bits of an IPv6 address that name a network; its hosts choose the others as they like.
const NETWORK_BITS: u128 = !0 << 64;

/// Who an address belongs to, as one key for limits: the IPv4 address itself, also where it is
/// written as IPv6 (`::ffff:192.0.2.1`), or the IPv6 network of 64 bits.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK_BITS).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_one_in_both_forms_and_an_ipv6_network_is_one() {
        let same = |one: &str, two: &str| {
            let [one, two] = [one, two].map(|address| network_of(address.parse().unwrap()));
            one == two
        };
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:0:0:2"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    }
}
