//! The PROXY protocol, as a load balancer speaks it before the client's own first byte: version 1 is a line of text,
//! version 2 is binary.
//!
//! - Version 1: `PROXY TCP4 <source> <destination> <source port> <destination port>` and CR LF, `TCP6` likewise, or
//!   `PROXY UNKNOWN`, anything, and CR LF; 107 bytes at the most.
//! - Version 2: 12 bytes of signature; `u8` version (2) and command; `u8` family and transport; `u16` length of what
//!   follows: addresses and ports, then TLVs, which are skipped.
//!
//! <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>

use std::fmt;
// Addresses as values; there is no socket in here.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::read::Reader;

const V1_START: &[u8] = b"PROXY ";
/// CR LF included.
const V1_LEN_MAX: usize = 107;
/// `PROXY UNKNOWN` and CR LF.
const V1_LEN_MIN: usize = 15;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_HEAD_LEN: usize = 16;
/// What may follow that. Addresses are 36 bytes, or 216 of Unix sockets; balancers tell in TLVs of the client's TLS and
/// of their own network, in some hundred bytes.
const V2_BODY_LEN_MAX: usize = 4096;

/// The longest header that is read.
pub const HEADER_LEN_MAX: usize = V2_HEAD_LEN + V2_BODY_LEN_MAX;

/// Whom a header is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxySource {
    /// The client, by its address at the balancer. An IPv4 address in the form of IPv6 has become IPv4.
    Client(SocketAddr),
    /// The balancer itself (a health check), or a client without an address: one that came over a Unix socket, or of
    /// whom the balancer does not know where it comes from.
    Balancer,
}

/// How much of a header there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// It goes on for at least so many bytes more. Who reads no more than that reads nothing of what is behind it.
    NeedMore(usize),
    Whole(ProxySource),
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError {
    /// They begin as neither version does.
    NoHeader,
    /// A line that is too long, or not of the form.
    BadLine,
    /// Neither version 2 nor one of its commands.
    BadVersion,
    /// A family or transport that there is not.
    BadFamily,
    /// The addresses do not fit into the header.
    TooShort,
    TooLong,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyError::NoHeader => "the connection does not begin with a PROXY header",
            ProxyError::BadLine => "invalid PROXY header of version 1",
            ProxyError::BadVersion => "PROXY header of an unknown version or command",
            ProxyError::BadFamily => "PROXY header of an unknown address family or transport",
            ProxyError::TooShort => "PROXY header without room for its addresses",
            ProxyError::TooLong => "PROXY header longer than 4,096 bytes",
        })
    }
}

/// Looks at what a connection begins with, as much of it as there is, and never at more than the header.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let begins = |start: &[u8]| {
        let both = bytes.len().min(start.len());
        bytes[..both] == start[..both]
    };
    if begins(V1_START) {
        parse_v1(bytes)
    } else if begins(V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(ProxyError::NoHeader)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if bytes.len() < V1_LEN_MIN {
        return Ok(Parsed::NeedMore(V1_LEN_MIN - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        let is_too_long = bytes.len() + missing > V1_LEN_MAX;
        return if is_too_long || bytes.contains(&b'\n') {
            Err(ProxyError::BadLine)
        } else {
            Ok(Parsed::NeedMore(missing))
        };
    };
    if bytes.len() > V1_LEN_MAX || line.contains(&b'\n') {
        return Err(ProxyError::BadLine);
    }
    v1_source(line).map(Parsed::Whole).ok_or(ProxyError::BadLine)
}

fn v1_source(line: &[u8]) -> Option<ProxySource> {
    let rest = line.strip_prefix(V1_START)?;
    if let Some(rest) = rest.strip_prefix(b"UNKNOWN") {
        return (rest.is_empty() || rest.starts_with(b" ")).then_some(ProxySource::Balancer);
    }
    let mut fields = str::from_utf8(rest).ok()?.split(' ');
    let source = match fields.next()? {
        "TCP4" => v1_address::<Ipv4Addr>(&mut fields)?,
        "TCP6" => v1_address::<Ipv6Addr>(&mut fields)?,
        _ => return None,
    };
    let port = v1_port(fields.next()?)?;
    v1_port(fields.next()?)?;
    fields.next().is_none().then(|| client(source, port))
}

/// The source's; the destination must be one of the same family.
fn v1_address<'a, A: core::str::FromStr + Into<IpAddr>>(fields: &mut impl Iterator<Item = &'a str>) -> Option<IpAddr> {
    let source: A = fields.next()?.parse().ok()?;
    fields.next()?.parse::<A>().ok()?;
    Some(source.into())
}

fn v1_port(field: &str) -> Option<u16> {
    // A sign is nothing that `parse` minds.
    let is_plain = field.bytes().all(|digit| digit.is_ascii_digit()) && (field == "0" || !field.starts_with('0'));
    field.parse().ok().filter(|_| is_plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some((head, body)) = bytes.split_first_chunk::<V2_HEAD_LEN>() else {
        return Ok(Parsed::NeedMore(V2_HEAD_LEN - bytes.len()));
    };
    let [command, family, high, low] = [head[12], head[13], head[14], head[15]];
    let len = usize::from(u16::from_be_bytes([high, low]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::BadVersion),
    };
    if len > V2_BODY_LEN_MAX {
        return Err(ProxyError::TooLong);
    }
    if body.len() < len {
        return Ok(Parsed::NeedMore(len - body.len()));
    }
    if body.len() > len {
        // Who keeps to what was asked for never gets here.
        return Err(ProxyError::TooLong);
    }
    // What a LOCAL header says of addresses is to be ignored.
    if is_local { Ok(Parsed::Whole(ProxySource::Balancer)) } else { v2_source(family, body).map(Parsed::Whole) }
}

/// Families: 0 unspecified, 1 IPv4, 2 IPv6, 3 Unix; transports: 0 unspecified, 1 stream, 2 datagram.
fn v2_source(family: u8, body: &[u8]) -> Result<ProxySource, ProxyError> {
    let mut body = Reader::new(body);
    let source = match family {
        0x11 => body.array::<4>().zip(body.array::<4>()).map(|(source, _)| IpAddr::from(source)),
        0x21 => body.array::<16>().zip(body.array::<16>()).map(|(source, _)| IpAddr::from(source)),
        // Not a client's TCP connection, so its addresses say nothing that rules could be held against.
        0x00..=0x02 | 0x10 | 0x12 | 0x20 | 0x22 | 0x30..=0x32 => return Ok(ProxySource::Balancer),
        _ => return Err(ProxyError::BadFamily),
    };
    let port = |body: &mut Reader<'_>| body.array().map(u16::from_be_bytes);
    let (Some(source), Some(source_port), Some(_)) = (source, port(&mut body), port(&mut body)) else {
        return Err(ProxyError::TooShort);
    };
    Ok(client(source, source_port))
}

fn client(address: IpAddr, port: u16) -> ProxySource {
    ProxySource::Client(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;

    /// What is read of `sent` by somebody who reads no more than is asked for, and what is left.
    fn read(sent: &[u8]) -> (Result<Parsed, ProxyError>, &[u8]) {
        let mut len = 0;
        loop {
            match parse_proxy_header(&sent[..len]) {
                Ok(Parsed::NeedMore(more)) if len + more <= sent.len() => {
                    assert!(more > 0);
                    len += more;
                }
                parsed => return (parsed, &sent[len..]),
            }
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &len, body].concat()
    }

    fn v2_tcp4(tlvs: &[u8]) -> Vec<u8> {
        v2(0x21, 0x11, &[&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0x19, 0x20], tlvs].concat())
    }

    #[track_caller]
    fn assert_client(header: &[u8], address: &str) {
        let sent = [header, b"behind"].concat();
        let client = Ok(Parsed::Whole(ProxySource::Client(address.parse().unwrap())));
        assert_eq!(read(&sent), (client, &b"behind"[..]), "{}", header.escape_ascii());
    }

    #[track_caller]
    fn assert_balancer(header: &[u8]) {
        let sent = [header, b"behind"].concat();
        assert_eq!(
            read(&sent),
            (Ok(Parsed::Whole(ProxySource::Balancer)), &b"behind"[..]),
            "{}",
            header.escape_ascii()
        );
    }

    #[track_caller]
    fn assert_refused(sent: &[u8], error: ProxyError) {
        assert_eq!(read(sent).0, Err(error), "{}", sent.escape_ascii());
    }

    #[test]
    fn lines_of_version_1() {
        assert_client(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 6432\r\n", "192.0.2.7:4711");
        assert_client(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535");
        assert_client(b"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", "1.1.1.1:0");
        assert_client(b"PROXY TCP6 2001:db8::7 ::1 4711 6432\r\n", "[2001:db8::7]:4711");
        assert_client(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 6432\r\n", "192.0.2.7:4711");
        assert_balancer(b"PROXY UNKNOWN\r\n");
        let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
        assert_eq!(longest.len(), V1_LEN_MAX);
        assert_balancer(longest.as_bytes());
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 6432 \r\n",
            "PROXY TCP4 192.0.2.7  10.0.0.1 4711 6432\r\n",
            "PROXY TCP4 192.0.2.7 ::1 4711 6432\r\n",
            "PROXY TCP4 2001:db8::7 ::1 4711 6432\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 4711 6432\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 4711 6432\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 04711 6432\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +4711 6432\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 6432\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 -1\r\n",
            "PROXY TCP4 localhost 10.0.0.1 4711 6432\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 4711 6432\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY unknown  \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 6432\n\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1\n4711 6432\r\n",
            "PROXY TCP4 \u{661}.1.1.1 10.0.0.1 4711 6432\r\n",
        ] {
            assert_refused(line.as_bytes(), ProxyError::BadLine);
        }
        assert_refused(b"PROXY TCP4 \xff\xff 10.0.0.1 4711 6432\r\n", ProxyError::BadLine);
        assert_refused(&[b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat(), ProxyError::BadLine);
    }

    #[test]
    fn headers_of_version_2() {
        assert_client(&v2_tcp4(b""), "192.0.2.7:4711");
        assert_client(&v2_tcp4(b"\x04\0\x03abc"), "192.0.2.7:4711");
        // TLVs are nothing to us, broken ones neither.
        assert_client(&v2_tcp4(&[0xff; V2_BODY_LEN_MAX - 12]), "192.0.2.7:4711");
        let tcp6 = |source: &str| {
            let ip: Ipv6Addr = source.parse().unwrap();
            v2(0x21, 0x21, &[&ip.octets()[..], &[0; 16], &[0x12, 0x67, 0, 1]].concat())
        };
        assert_client(&tcp6("2001:db8::7"), "[2001:db8::7]:4711");
        assert_client(&tcp6("::ffff:192.0.2.7"), "192.0.2.7:4711");
        // LOCAL, whatever it says of addresses; unspecified; Unix; datagrams.
        assert_balancer(&v2(0x20, 0x00, b""));
        assert_balancer(&v2(0x20, 0x11, &[1; 12]));
        assert_balancer(&v2(0x20, 0xff, b""));
        assert_balancer(&v2(0x21, 0x00, b""));
        assert_balancer(&v2(0x21, 0x31, &[0; 216]));
        assert_balancer(&v2(0x21, 0x12, &[1; 12]));
    }

    #[test]
    fn headers_of_version_2_that_are_none() {
        assert_refused(&v2(0x11, 0x11, &[1; 12]), ProxyError::BadVersion);
        assert_refused(&v2(0x22, 0x11, &[1; 12]), ProxyError::BadVersion);
        assert_refused(&v2(0x21, 0x41, &[1; 12]), ProxyError::BadFamily);
        assert_refused(&v2(0x21, 0x13, &[1; 12]), ProxyError::BadFamily);
        assert_refused(&v2(0x21, 0x11, &[1; 11]), ProxyError::TooShort);
        assert_refused(&v2(0x21, 0x21, &[1; 35]), ProxyError::TooShort);
        // Without waiting for what it announces.
        let too_long = v2(0x21, 0x11, &[0; V2_BODY_LEN_MAX + 1]);
        assert_eq!(parse_proxy_header(&too_long[..V2_HEAD_LEN]), Err(ProxyError::TooLong));
    }

    #[test]
    fn whatever_else_is_seen_at_its_first_byte() {
        let others: [&[u8]; 6] =
            [b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x16\x03\x01", b"GET / HTTP/1.1", b"proxy ", b"PROXY\t", b"\r\n\r\n\r"];
        for other in others {
            assert_eq!(parse_proxy_header(other), Err(ProxyError::NoHeader), "{}", other.escape_ascii());
        }
        for start in [&b""[..], b"P", b"PROXY ", b"\r", b"\r\n\r\n\0"] {
            assert!(matches!(parse_proxy_header(start), Ok(Parsed::NeedMore(_))), "{}", start.escape_ascii());
        }
    }

    #[test]
    fn a_truncated_header_is_not_whole() {
        for header in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 6432\r\n"[..], &v2_tcp4(b"\x04\0\x03abc")] {
            for len in 0..header.len() {
                assert!(matches!(parse_proxy_header(&header[..len]), Ok(Parsed::NeedMore(_))), "{len}");
            }
        }
    }
    /// As `read`, a byte at a time.
    fn read_slowly(sent: &[u8]) -> Result<Parsed, ProxyError> {
        let parsed = (0..=sent.len()).map(|len| parse_proxy_header(&sent[..len]));
        let mut parsed = parsed.skip_while(|parsed| matches!(parsed, Ok(Parsed::NeedMore(_))));
        parsed.next().unwrap_or(Ok(Parsed::NeedMore(1)))
    }

    #[test]
    fn garbage_is_read_the_same_however_it_is_cut() {
        let v1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 6432\r\n";
        garbage::throw(&[v1, b"PROXY UNKNOWN\r\n", &v2_tcp4(b""), &v2_tcp4(b"\x04\0\x03abc")], |sent| {
            match (read(sent).0, read_slowly(sent)) {
                (Ok(Parsed::Whole(source)), slowly) => assert_eq!(slowly, Ok(Parsed::Whole(source))),
                (Ok(Parsed::NeedMore(_)), slowly) => assert!(!matches!(slowly, Ok(Parsed::Whole(_)))),
                (Err(_), slowly) => assert!(slowly.is_err()),
            }
        });
    }
}
