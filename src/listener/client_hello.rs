//! Which host a TLS client wants, read from its `ClientHello` without answering it.
//!
//! Guarantees: the hello stays to be read by whoever terminates TLS; what is no hello, or one of
//! more than [`LONGEST`] bytes, is an error.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::io::AsyncRead;

use crate::flow::PeekStream;

/// A hello with post-quantum key shares has about 1.8 KB.
const LONGEST: usize = 16 * 1024;

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// A whole hello.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    host: Option<Arc<str>>,
}

/// Feeds `bytes` to the parser; `None` until the hello is whole.
fn feed(acceptor: &mut Acceptor, mut bytes: &[u8]) -> io::Result<Option<Whole>> {
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes)? == 0 {
            break;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let host = accepted.client_hello().server_name().map(Arc::from);
                return Ok(Some(Whole { host }));
            }
            Err((error, _alert)) => return Err(invalid(error)),
        }
    }
    Ok(None)
}

/// Reads a connection's hello; the host that it names, if it names one.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut PeekStream<S>,
) -> io::Result<Option<Arc<str>>> {
    let (mut acceptor, mut fed) = (Acceptor::default(), 0);
    loop {
        let fresh = stream.peeked().get(fed..).unwrap_or_default();
        fed = stream.peeked().len();
        if let Some(whole) = feed(&mut acceptor, fresh)? {
            return Ok(whole.host);
        }
        stream.peek_more(LONGEST).await?;
    }
}

/// For the fuzzer: any bytes, in two pieces, mean the same as in one.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let whole = feed(&mut Acceptor::default(), bytes);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut acceptor = Acceptor::default();
    let parts = match feed(&mut acceptor, first) {
        Ok(None) => feed(&mut acceptor, second),
        done => done,
    };
    if let (Ok(whole), Ok(parts)) = (whole, parts) {
        assert_eq!(whole, parts);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn hello_for(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn the_name_is_read_and_the_hello_stays() {
        let hello = hello_for("shop.example.com");
        let (mut near, far) = tokio::io::duplex(8);
        let writing = async {
            near.write_all(&hello).await.unwrap();
            drop(near);
        };
        let reading = async {
            let mut stream = PeekStream::new(far);
            let name = read(&mut stream).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            (name, rest)
        };
        let ((), (name, rest)) = tokio::join!(writing, reading);
        assert_eq!(name.as_deref(), Some("shop.example.com"));
        assert_eq!(rest, hello);
    }

    #[tokio::test]
    async fn what_is_no_hello_is_refused() {
        for wrong in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 2, 1, 2], b""] {
            let (mut near, far) = tokio::io::duplex(64);
            near.write_all(wrong).await.unwrap();
            drop(near);
            assert!(read(&mut PeekStream::new(far)).await.is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, at in 0_usize..500, hello: bool) {
            if hello {
                let mut good = hello_for("a.example.com");
                let at = at % good.len();
                good.splice(at..(at + bytes.len()).min(good.len()), bytes);
                bytes = good;
            }
            fuzz(&bytes);
        }
    }
}
