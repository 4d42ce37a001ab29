//! The PROXY header with which a trusted peer names its client (PROXY protocol, versions 1 and 2).
//!
//! Guarantees: it is read from trusted peers only, and they must send one; not a byte beyond it is
//! consumed; a peer that speaks for itself (version 2's LOCAL, version 1's UNKNOWN) stays who it
//! is.

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::AsyncRead;

use crate::flow::PeekStream;

use super::address::canonical;

/// What version 1 begins with, and the most bytes of its line, the line's end included.
const V1: &[u8] = b"PROXY ";
const V1_LONGEST: usize = 107;
/// What version 2 begins with, the bytes before its addresses, and the most that we take, with all
/// its extensions.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;
const V2_LONGEST: usize = 4096;

/// The two ends of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
}

/// A header's length, and its addresses, if it has some.
type Header = (usize, Option<Addresses>);

// === impl Addresses ===

impl Addresses {
    fn new(client: impl Into<SocketAddr>, local: impl Into<SocketAddr>) -> Self {
        Self {
            client: canonical(client.into()),
            local: canonical(local.into()),
        }
    }
}

/// The header at the beginning of `bytes`; `None` while it is not whole. What a header of either
/// version is made of is looked at only once its end is there.
fn parse(bytes: &[u8]) -> Option<Result<Header, ()>> {
    let begins = |magic: &[u8]| {
        let length = magic.len().min(bytes.len());
        bytes.get(..length) == magic.get(..length)
    };
    if begins(V1) {
        let longest = bytes.get(..V1_LONGEST).unwrap_or(bytes);
        let end = longest.windows(2).position(|pair| pair == b"\r\n");
        return match end.and_then(|end| bytes.get(..end + 2)) {
            Some(line) => Some(parse_v1(line)),
            None if bytes.len() < V1_LONGEST => None,
            None => Some(Err(())),
        };
    }
    if !begins(V2) {
        return Some(Err(()));
    }
    if *bytes.get(V2.len())? >> 4 != 2 {
        return Some(Err(()));
    }
    let length = bytes.get(V2_FIXED - 2..V2_FIXED)?.try_into().ok()?;
    let whole = V2_FIXED + usize::from(u16::from_be_bytes(length));
    match bytes.get(..whole) {
        Some(header) => Some(parse_v2(header)),
        None if whole <= V2_LONGEST => None,
        None => Some(Err(())),
    }
}

/// A line with its end.
fn parse_v1(line: &[u8]) -> Result<Header, ()> {
    let header = v1::Header::try_from(line).map_err(|_| ())?;
    let addresses = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(a) => Some(Addresses::new(
            (a.source_address, a.source_port),
            (a.destination_address, a.destination_port),
        )),
        v1::Addresses::Tcp6(a) => Some(Addresses::new(
            (a.source_address, a.source_port),
            (a.destination_address, a.destination_port),
        )),
    };
    Ok((line.len(), addresses))
}

/// A header with its extensions.
fn parse_v2(bytes: &[u8]) -> Result<Header, ()> {
    let header = v2::Header::try_from(bytes).map_err(|_| ())?;
    let addresses = match (header.command, header.addresses) {
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(a)) => Some(Addresses::new(
            (a.source_address, a.source_port),
            (a.destination_address, a.destination_port),
        )),
        (v2::Command::Proxy, v2::Addresses::IPv6(a)) => Some(Addresses::new(
            (a.source_address, a.source_port),
            (a.destination_address, a.destination_port),
        )),
    };
    Ok((bytes.len(), addresses))
}

/// Takes the header off the connection; `None` when the peer speaks for itself.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut PeekStream<S>,
) -> io::Result<Option<Addresses>> {
    loop {
        match parse(stream.peeked()) {
            Some(Ok((length, addresses))) => {
                stream.consume(length);
                return Ok(addresses);
            }
            Some(Err(())) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a trusted peer sent no valid PROXY header",
                ));
            }
            None => stream.peek_more(V2_LONGEST).await?,
        }
    }
}

/// For the fuzzer: what [`parse`] makes of any bytes, and that a header is never longer than they.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Some(Ok((length, _))) = parse(bytes) {
        assert!(length <= bytes.len(), "{length} of {}", bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn read_header(bytes: &[u8]) -> (io::Result<Option<Addresses>>, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(8192);
        near.write_all(bytes).await.unwrap();
        drop(near);
        let mut stream = PeekStream::new(far);
        let addresses = read(&mut stream).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (addresses, rest)
    }

    #[tokio::test]
    async fn a_header_is_taken_off_and_the_rest_left() {
        let addresses = Some(Addresses {
            client: "192.0.2.7:4000".parse().unwrap(),
            local: "198.51.100.1:443".parse().unwrap(),
        });
        let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\nGET / HTTP/1.1\r\n";
        let (header, rest) = read_header(v1).await;
        assert_eq!(
            (header.unwrap(), rest.as_slice()),
            (addresses, &b"GET / HTTP/1.1\r\n"[..])
        );
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10".to_vec();
        v2.extend([192, 0, 2, 7, 198, 51, 100, 1, 0x0f, 0xa0, 0x01, 0xbb]);
        v2.extend(b"\x04\x00\x01xPRI");
        let (header, rest) = read_header(&v2).await;
        assert_eq!((header.unwrap(), rest.as_slice()), (addresses, &b"PRI"[..]));
    }

    /// A header that comes in two parts, of which the first is read before the second is there.
    async fn read_in_two(start: &[u8], end: &[u8]) -> (io::Result<Option<Addresses>>, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(8192);
        let mut stream = PeekStream::new(far);
        near.write_all(start).await.unwrap();
        let addresses = {
            let reading = read(&mut stream);
            tokio::pin!(reading);
            assert!(
                futures_util::poll!(reading.as_mut()).is_pending(),
                "{start:?}"
            );
            near.write_all(end).await.unwrap();
            drop(near);
            reading.await
        };
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (addresses, rest)
    }

    fn v2_of_ipv6() -> Vec<u8> {
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x28".to_vec();
        v2.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        v2.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
        v2.extend(b"\x0f\xa0\x01\xbb\x04\x00\x01x");
        v2
    }

    #[tokio::test]
    async fn a_header_that_is_cut_anywhere_is_read_as_a_whole() {
        let longest_unknown = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
        assert_eq!(longest_unknown.len(), V1_LONGEST);
        for header in [
            &b"PROXY TCP4 6.6.6.6 127.0.0.1 1 80\r\n"[..],
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8::8 65535 65535\r\n",
            b"PROXY TCP6 ::ffff:6.6.6.6 ::ffff:127.0.0.1 1 80\r\n",
            b"PROXY UNKNOWN\r\n",
            longest_unknown.as_bytes(),
            &v2_of_ipv6(),
            b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
        ] {
            let whole = read_header(header).await.0.unwrap();
            for cut in 1..header.len() {
                let (start, end) = header.split_at(cut);
                let (addresses, rest) = read_in_two(start, &[end, b"GET /"].concat()).await;
                assert_eq!(
                    (addresses.unwrap(), rest.as_slice()),
                    (whole, &b"GET /"[..]),
                    "{start:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_mapped_address_is_one_of_ipv4() {
        let v1 = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4000 443\r\n";
        let addresses = read_header(v1).await.0.unwrap().unwrap();
        assert_eq!(addresses.client, "192.0.2.7:4000".parse().unwrap());
        assert_eq!(addresses.local, "198.51.100.1:443".parse().unwrap());
    }

    #[tokio::test]
    async fn a_peer_may_speak_for_itself() {
        for bytes in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN ::1 ::1 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
        ] {
            let (header, rest) = read_header(bytes).await;
            assert_eq!((header.unwrap(), rest.len()), (None, 0), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_trusted_peer_without_a_header_is_refused() {
        for wrong in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 1.2.3.4\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 99999\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443",
            b"PROXY",
            b"",
            // A line that does not end is not waited for.
            &[b"PROXY UNKNOWN ", &[b'f'; 93][..]].concat(),
        ] {
            assert!(read_header(wrong).await.0.is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, versions in 0..3) {
            let start: &[u8] = match versions {
                0 => b"PROXY ",
                1 => b"\r\n\r\n\0\r\nQUIT\n",
                _ => b"",
            };
            fuzz(&[start, &bytes].concat());
        }

        #[test]
        fn a_whole_header_means_the_same_whatever_follows_and_less_of_it_nothing(rest: Vec<u8>) {
            for header in [&b"PROXY TCP4 6.6.6.6 127.0.0.1 1 80\r\n"[..], &v2_of_ipv6()] {
                let alone = parse(header);
                prop_assert!(matches!(alone, Some(Ok((length, Some(_)))) if length == header.len()));
                prop_assert_eq!(parse(&[header, &rest].concat()), alone);
                for end in 0..header.len() {
                    prop_assert_eq!(parse(&header[..end]), None);
                }
            }
        }
    }
}
