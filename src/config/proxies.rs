//! Proxies in front of the server: which are trusted, and how they name their clients.

use super::value::{SettingType, SettingValue};
use crate::base::label::label;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

label! {
    /// Whether connections begin with a header of the PROXY protocol.
    ProxyProtocol {
        /// None does; one that begins with it is rejected.
        Off = "off",
        /// Those from trusted proxies may.
        Optional = "optional",
        /// Every connection must, so that only trusted proxies can connect.
        Required = "required",
    }
}

label! {
    /// The header in which a trusted proxy names its client.
    ForwardedHeader {
        /// None.
        None = "none",
        /// `X-Forwarded-For`.
        XForwardedFor = "x-forwarded-for",
        /// `Forwarded` (RFC 7239).
        Forwarded = "forwarded",
    }
}

/// What the peer of a connection is, as far as its address and a header of the PROXY protocol tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// The client, or somebody whose word about others does not count.
    Client,
    /// A trusted proxy, whose request may say who the client is.
    Proxy,
    /// A trusted proxy that says who the client is before the request, by the PROXY protocol.
    Relay,
    /// Not a trusted proxy, where only those may connect.
    Stranger,
}

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    prefix_bits: u32,
}

impl AddressRange {
    /// A range, or a single address; `None` if it is neither, or bits after the prefix are set.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let network = address.to_canonical();
        let prefix_bits = match prefix {
            None => width(network),
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                prefix.parse().ok()?
            }
            Some(_) => return None,
        };
        let range = Self {
            network,
            prefix_bits,
        };
        // The prefix of an IPv4 address that is written as IPv6 would count other bits.
        let is_valid = prefix_bits <= width(network)
            && (prefix.is_none() || address == network)
            && range.first_bits(network) == bits(network);
        is_valid.then_some(range)
    }

    /// Whether an address is in it; an IPv4 address may be written as IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4()
            && self.first_bits(address) == bits(self.network)
    }

    /// Whether it is larger than the largest networks for private use: `10.0.0.0/8` and `fc00::/7`.
    pub(super) fn is_wide(&self) -> bool {
        self.prefix_bits < if self.network.is_ipv4() { 8 } else { 7 }
    }

    /// The bits of an address of the same family that the prefix covers.
    fn first_bits(&self, address: IpAddr) -> u128 {
        let rest = width(address).saturating_sub(self.prefix_bits);
        bits(address) & u128::MAX.checked_shl(rest).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

const fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_bits == width(self.network) {
            return write!(formatter, "{}", self.network);
        }
        write!(formatter, "{}/{}", self.network, self.prefix_bits)
    }
}

/// In variables and flags a JSON array, or strings separated by commas.
impl SettingType for Vec<AddressRange> {
    fn rule() -> Cow<'static, str> {
        "a list of addresses or ranges such as \"10.0.0.7\", \"10.0.0.0/8\" or \"fd00::/8\", without \
         bits after the prefix"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts.iter().map(|text| AddressRange::parse(text)).collect()
    }

    fn show(&self) -> Option<String> {
        let ranges: Vec<_> = self.iter().map(ToString::to_string).collect();
        ranges.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_the_addresses_with_its_prefix() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.255.0.1", "::ffff:11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::1", "::1", "::2"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
        ] {
            let parsed = AddressRange::parse(range).unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(
                !parsed.contains(outside.parse().unwrap()),
                "{range} {outside}"
            );
            let shown = parsed.to_string();
            assert_eq!(AddressRange::parse(&shown), Some(parsed), "{shown}");
        }
    }

    #[test]
    fn what_is_no_range_is_an_error() {
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "fd00::1/8",
            "localhost",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/104",
            "[::1]",
            "10.0.0.0/8/8",
            "*",
            "10.0.0.0/99999999999",
        ] {
            assert_eq!(AddressRange::parse(text), None, "{text}");
        }
    }
}
