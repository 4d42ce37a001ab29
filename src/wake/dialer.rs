//! How the engine touches an instance, as a trait so that tests can play the network.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf as _, BytesMut};
use http::Method;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http1::{BodyLength, HeadLimits, ResponseReader, write_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::descriptors;
use crate::instance_tls::{Alpn, InstanceStream, TlsHop};

/// What a health check reads of its answer.
const LIMITS: HeadLimits = HeadLimits {
    bytes: 64 * 1024,
    fields: 256,
};

/// Connections to instances.
pub trait Dialer: Send + Sync + 'static {
    /// What a connection is.
    type Stream: Send + fmt::Debug + 'static;

    /// Opens a connection. The caller keeps the time.
    fn connect(&self, address: SocketAddr)
    -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Agrees on TLS over a connection. The caller keeps the time;
    /// [`instance_tls::verdict`](crate::instance_tls::verdict) reads the error.
    fn secure(
        &self,
        stream: Self::Stream,
        tls: &TlsHop,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Asks for `target` with GET on a connection of its own, over TLS or in clear; the response's
    /// status.
    fn get(
        &self,
        address: SocketAddr,
        target: &str,
        tls: Option<&TlsHop>,
    ) -> impl Future<Output = io::Result<u16>> + Send;
}

/// Over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

// === impl Tcp ===

impl Dialer for Tcp {
    type Stream = InstanceStream;

    async fn connect(&self, address: SocketAddr) -> io::Result<InstanceStream> {
        let stream = descriptors::unless_last(TcpStream::connect(address).await?)?;
        Ok(stream.into())
    }

    async fn secure(&self, stream: InstanceStream, tls: &TlsHop) -> io::Result<InstanceStream> {
        tls.secure(stream).await
    }

    async fn get(
        &self,
        address: SocketAddr,
        target: &str,
        tls: Option<&TlsHop>,
    ) -> io::Result<u16> {
        let mut stream = self.connect(address).await?;
        if let Some(tls) = tls {
            // A health check and a warm-up are HTTP/1.1, also where requests are not.
            stream = tls.speaking(Alpn::Http1).secure(stream).await?;
        }
        let target: PathAndQuery = target.parse().map_err(io::Error::other)?;
        let host = address.to_string();
        let fields = [
            (HOST.as_str(), host.as_bytes()),
            (USER_AGENT.as_str(), b"wakegate"),
            (CONNECTION.as_str(), b"close"),
        ];
        let mut request = Vec::new();
        let none = BodyLength::Nothing;
        write_request(&mut request, "GET", target.as_str(), fields, none, |_| {});
        stream.write_all(&request).await?;
        stream.flush().await?;
        let (mut reader, mut input) = (ResponseReader::new(LIMITS), BytesMut::new());
        loop {
            let read = reader.read_head(&input, &Method::GET, |head| {
                (head.status.as_u16(), head.framing.is_interim)
            });
            match read.map_err(io::Error::other)? {
                Some((length, (_, true))) => input.advance(length),
                Some((_, (status, false))) => return Ok(status),
                None if stream.read_buf(&mut input).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        }
    }
}
