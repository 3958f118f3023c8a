//! The header of the PROXY protocol, versions 1 and 2, in which a proxy names its client before the
//! client's first byte (haproxy.org, proxy-protocol.txt).
//!
//! ```text
//!   1:  PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 CR LF          at most 107 bytes
//!   2:  12 bytes, version + command, family, length u16 │ source, destination, ports │ TLVs
//! ```
//!
//! TLVs are skipped unread, the checksum (`PP2_TYPE_CRC32C`) too: TCP has one of its own, and a trusted
//! proxy does not forge.

use crate::base::limits::PROXY_HEADER_BYTES_MAX;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the bytes of a connection begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More bytes are needed to tell.
    Incomplete,
    /// No header.
    Absent,
    /// A header that is invalid or too long.
    Malformed,
    /// A header.
    Complete {
        /// Its length, bytes.
        header_bytes: usize,
        /// The client; `None` when the proxy connects for itself, does not know, or has it at an
        /// address that is none of TCP.
        client: Option<SocketAddr>,
    },
}

const V1_START: &[u8] = b"PROXY ";
/// Section 2.1, with CR LF.
const V1_BYTES_MAX: usize = 107;
/// Section 2.2.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// Reads the header at the start of `bytes`.
#[must_use]
pub fn read(bytes: &[u8]) -> ProxyHeader {
    if bytes.starts_with(V1_START) {
        return read_v1(bytes);
    }
    if bytes.starts_with(V2_START) {
        return read_v2(bytes).unwrap_or(ProxyHeader::Malformed);
    }
    if V1_START.starts_with(bytes) || V2_START.starts_with(bytes) {
        return ProxyHeader::Incomplete;
    }
    ProxyHeader::Absent
}

fn read_v1(bytes: &[u8]) -> ProxyHeader {
    let head = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(line_feed) = head.iter().position(|byte| *byte == b'\n') else {
        return match head.len() {
            V1_BYTES_MAX => ProxyHeader::Malformed,
            _ => ProxyHeader::Incomplete,
        };
    };
    let line = head.get(V1_START.len()..line_feed);
    let client = line.and_then(|line| v1_client(line.strip_suffix(b"\r")?));
    client.map_or(ProxyHeader::Malformed, |client| ProxyHeader::Complete {
        header_bytes: line_feed + 1,
        client,
    })
}

/// What follows `PROXY` on the line.
fn v1_client(line: &[u8]) -> Option<Option<SocketAddr>> {
    // The rest of the line is to be ignored then.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(None);
    }
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let is_v4 = match words.next()? {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let address = |text: &str| -> Option<IpAddr> {
        if is_v4 {
            return Some(text.parse::<Ipv4Addr>().ok()?.into());
        }
        Some(IpAddr::from(text.parse::<Ipv6Addr>().ok()?).to_canonical())
    };
    let (source, _) = (address(words.next()?)?, address(words.next()?)?);
    let (port, _) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    words
        .next()
        .is_none()
        .then_some(Some((source, port).into()))
}

/// A decimal number without leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_padded = text.len() > 1 && text.starts_with('0');
    (is_number && !is_padded).then(|| text.parse().ok())?
}

/// `None` is malformed.
fn read_v2(bytes: &[u8]) -> Option<ProxyHeader> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else {
        return Some(ProxyHeader::Incomplete);
    };
    let [.., version_command, family, high, low] = *fixed;
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    let header_bytes = V2_FIXED_BYTES + rest_bytes;
    // Receivers must drop connections with other values; UNIX sockets are the last of the families,
    // datagrams of the kinds.
    let is_known = matches!(version_command, 0x20 | 0x21) && family >> 4 <= 3 && family & 0xf <= 2;
    if !is_known || header_bytes > PROXY_HEADER_BYTES_MAX {
        return None;
    }
    let Some(rest) = bytes.get(V2_FIXED_BYTES..header_bytes) else {
        return Some(ProxyHeader::Incomplete);
    };
    let is_local = version_command == 0x20;
    let client = match family {
        _ if is_local => None,
        0x11 => {
            let (source, ports) = (rest.first_chunk::<4>()?, rest.get(8..12)?);
            Some(socket_address((*source).into(), ports)?)
        }
        0x21 => {
            let (source, ports) = (rest.first_chunk::<16>()?, rest.get(32..36)?);
            Some(socket_address((*source).into(), ports)?)
        }
        _ => None,
    };
    Some(ProxyHeader::Complete {
        header_bytes,
        client,
    })
}

fn socket_address(source: IpAddr, ports: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*ports.first_chunk()?);
    Some((source.to_canonical(), port).into())
}

/// Whether `bytes`, which are no HTTP, are a header of the PROXY protocol or the beginning of one.
#[must_use]
pub fn begins(bytes: &[u8]) -> bool {
    // A request may follow empty lines, but none begins with a zero.
    let zero = V2_START.get(..=4).unwrap_or(V2_START);
    bytes.starts_with(V1_START) || bytes.starts_with(zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    fn check(bytes: &[u8], client: Option<&str>) {
        let header = ProxyHeader::Complete {
            header_bytes: bytes.len(),
            client: client.map(|client| client.parse().unwrap()),
        };
        assert_eq!(read(bytes), header, "{bytes:?}");
        // Split anywhere, and followed by a request.
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), ProxyHeader::Incomplete, "{end}");
        }
        for end in 0..REQUEST.len() {
            assert_eq!(read(&[bytes, &REQUEST[..end]].concat()), header, "{end}");
        }
    }

    fn check_malformed(bytes: &[u8]) {
        assert_eq!(read(bytes), ProxyHeader::Malformed, "{bytes:?}");
        // Nothing that follows makes it better.
        let more = [bytes, REQUEST].concat();
        assert_eq!(read(&more), ProxyHeader::Malformed, "{bytes:?}");
    }

    fn v2(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[version_command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];

    fn v6() -> [u8; 36] {
        let mut addresses = [0; 36];
        (addresses[0], addresses[15], addresses[31]) = (0x20, 7, 1);
        (addresses[32], addresses[33]) = (0xdc, 4);
        addresses
    }

    #[test]
    fn the_text_form_names_the_client() {
        let longest = "ffff:f...f:ffff".replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff");
        let longest = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
        check(
            longest.as_bytes(),
            Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        );
        for (line, client) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443",
                Some("192.0.2.1:56324"),
            ),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
                Some("255.255.255.255:65535"),
            ),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 0 0", Some("192.0.2.1:0")),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443",
                Some("[2001:db8::1]:56324"),
            ),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2", Some("192.0.2.1:1")),
            ("PROXY UNKNOWN", None),
            ("PROXY UNKNOWN ff:: ff:: 1 2", None),
            ("PROXY UNKNOWN \u{e9}\r", None),
        ] {
            check(format!("{line}\r\n").as_bytes(), client);
        }
    }

    #[test]
    fn what_is_no_text_form_is_malformed() {
        for line in [
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 5\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 +2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 \r\n",
            "PROXY TCP4 192.0.2.1\t198.51.100.1 1 2\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY unknown\r\n",
            "PROXY \u{e9}\r\n",
            "PROXY \r\n",
            &format!("PROXY TCP4 {}", "1".repeat(96)),
            &format!("PROXY UNKNOWN {}\r\n", "1".repeat(92)),
        ] {
            check_malformed(line.as_bytes());
        }
    }

    #[test]
    fn the_binary_form_names_the_client() {
        check(&v2(0x21, 0x11, &V4), Some("192.0.2.1:56324"));
        check(&v2(0x21, 0x21, &v6()), Some("[2000::7]:56324"));
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        check(&v2(0x21, 0x21, &mapped), Some("192.0.2.1:0"));
        // With TLVs, valid or not.
        let noop = [4, 0, 2, 1, 2];
        check(
            &v2(0x21, 0x11, &[&V4[..], &noop].concat()),
            Some("192.0.2.1:56324"),
        );
        let crc = [3, 0, 4, 1, 2, 3, 4];
        check(
            &v2(0x21, 0x11, &[&V4[..], &crc].concat()),
            Some("192.0.2.1:56324"),
        );
        check(
            &v2(0x21, 0x21, &[&v6()[..], b"\x20\xff"].concat()),
            Some("[2000::7]:56324"),
        );
        let full = PROXY_HEADER_BYTES_MAX - V2_FIXED_BYTES;
        let mut rest = V4.to_vec();
        rest.resize(full, 7);
        check(&v2(0x21, 0x11, &rest), Some("192.0.2.1:56324"));
    }

    #[test]
    fn without_an_address_of_tcp_the_binary_form_names_nobody() {
        check(&v2(0x20, 0, &[]), None);
        check(&v2(0x20, 0x11, &V4), None);
        check(&v2(0x20, 0x11, &V4[..3]), None);
        check(&v2(0x21, 0, b"anything"), None);
        for family in [0x01, 0x02, 0x10, 0x20] {
            check(&v2(0x21, family, &V4), None);
        }
        // UDP and UNIX sockets.
        check(&v2(0x21, 0x12, &V4), None);
        check(&v2(0x21, 0x22, &v6()), None);
        check(&v2(0x21, 0x31, &[b'/'; 216]), None);
        check(&v2(0x21, 0x32, &[]), None);
    }

    #[test]
    fn what_is_no_binary_form_is_malformed() {
        let mut long = V4.to_vec();
        long.resize(PROXY_HEADER_BYTES_MAX - V2_FIXED_BYTES + 1, 0);
        for header in [
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &v6()[..35]),
            v2(0x21, 0x11, &long),
            v2(0x22, 0x11, &V4),
            v2(0x2f, 0x11, &V4),
            v2(0x11, 0x11, &V4),
            v2(0x31, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x13, &V4),
            v2(0x20, 0xff, &V4),
            [V2_START, &[0x21, 0x11, 0xff, 0xff]].concat(),
        ] {
            check_malformed(&header);
        }
    }

    #[test]
    fn a_request_has_no_header() {
        for request in [
            "GET / HTTP/1.1\r\n",
            "PUT /",
            "\r\nGET",
            "PROXYX",
            "PROXY\r",
            "\r\n\r\nGET",
        ] {
            assert_eq!(read(request.as_bytes()), ProxyHeader::Absent, "{request}");
        }
        for start in ["", "P", "PROXY", "\r", "\r\n\r\n"] {
            assert_eq!(read(start.as_bytes()), ProxyHeader::Incomplete, "{start}");
        }
    }

    #[test]
    fn any_bytes_give_the_same_whole_and_in_pieces() {
        let seeds: [&[u8]; 4] = [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET",
            b"PROXY UNKNOWN\r\n",
            &v2(0x21, 0x11, &V4),
            &v2(0x21, 0x21, &v6()),
        ];
        for seed in seeds {
            for index in 0..seed.len() {
                for byte in 0..=255 {
                    let mut bytes = seed.to_vec();
                    bytes[index] = byte;
                    let whole = read(&bytes);
                    let mut pieces = (0..=bytes.len()).map(|end| read(&bytes[..end]));
                    let first = pieces.find(|piece| *piece != ProxyHeader::Incomplete);
                    assert_eq!(first.unwrap_or(ProxyHeader::Incomplete), whole, "{bytes:?}");
                }
            }
        }
    }
}
