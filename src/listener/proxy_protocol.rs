//! The PROXY header with which a trusted peer names its client (PROXY protocol, versions 1 and 2).
//!
//! Guarantees: it is read from trusted peers only, and they must send one; not a byte beyond it is
//! consumed; a peer that speaks for itself (version 2's LOCAL, version 1's UNKNOWN) stays who it
//! is.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::io::AsyncRead;

use super::peek::PeekStream;

/// A version 1 line has at most 107 bytes; more than this of version 2's extensions is malformed.
const LONGEST: usize = 4096;

/// The two ends of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
}

/// The header at the beginning of `bytes`: its length and its addresses. `None` while it is not
/// whole.
fn parse(bytes: &[u8]) -> Option<Result<(usize, Option<Addresses>), ()>> {
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() {
        return None;
    }
    Some(match parsed {
        HeaderResult::V1(Ok(header)) => {
            let addresses = match header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(a) => Some(Addresses {
                    client: (a.source_address, a.source_port).into(),
                    local: (a.destination_address, a.destination_port).into(),
                }),
                v1::Addresses::Tcp6(a) => Some(Addresses {
                    client: (a.source_address, a.source_port).into(),
                    local: (a.destination_address, a.destination_port).into(),
                }),
            };
            Ok((header.header.len(), addresses))
        }
        HeaderResult::V2(Ok(header)) => {
            let addresses = match (header.command, header.addresses) {
                (v2::Command::Local, _)
                | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
                (v2::Command::Proxy, v2::Addresses::IPv4(a)) => Some(Addresses {
                    client: (a.source_address, a.source_port).into(),
                    local: (a.destination_address, a.destination_port).into(),
                }),
                (v2::Command::Proxy, v2::Addresses::IPv6(a)) => Some(Addresses {
                    client: (a.source_address, a.source_port).into(),
                    local: (a.destination_address, a.destination_port).into(),
                }),
            };
            Ok((header.len(), addresses))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(()),
    })
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
            None => stream.peek_more(LONGEST).await?,
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
            b"",
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
    }
}
