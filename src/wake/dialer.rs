//! How the engine touches an instance, as a trait so that tests can play the network.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::Method;
use http::header::{CONNECTION, HOST, RETRY_AFTER, USER_AGENT};
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

    /// Sends a POST without a body, with these fields, on a connection of its own, over TLS or in
    /// clear.
    fn post(
        &self,
        _address: SocketAddr,
        _target: &str,
        _tls: Option<&TlsHop>,
        _fields: &[(&'static str, String)],
    ) -> impl Future<Output = io::Result<Answered>> + Send {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// What the answer to a POST says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// Its `Retry-After`, where that is in seconds.
    pub retry_after: Option<Duration>,
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
        let answered = self.exchange(address, Method::GET, target, tls, &[]).await;
        answered.map(|answered| answered.status)
    }

    async fn post(
        &self,
        address: SocketAddr,
        target: &str,
        tls: Option<&TlsHop>,
        fields: &[(&'static str, String)],
    ) -> io::Result<Answered> {
        self.exchange(address, Method::POST, target, tls, fields)
            .await
    }
}

// === impl Tcp ===

impl Tcp {
    async fn exchange(
        self,
        address: SocketAddr,
        method: Method,
        target: &str,
        tls: Option<&TlsHop>,
        more: &[(&'static str, String)],
    ) -> io::Result<Answered> {
        let mut stream = self.connect(address).await?;
        if let Some(tls) = tls {
            // Health checks, warm-ups and hooks are HTTP/1.1, also where requests are not.
            stream = tls.speaking(Alpn::Http1).secure(stream).await?;
        }
        let target: PathAndQuery = target.parse().map_err(io::Error::other)?;
        let host = address.to_string();
        let fields = [
            (HOST.as_str(), host.as_bytes()),
            (USER_AGENT.as_str(), b"wakegate"),
            (CONNECTION.as_str(), b"close"),
        ];
        let more = more.iter().map(|(name, value)| (*name, value.as_bytes()));
        let fields = fields.into_iter().chain(more);
        let mut request = Vec::new();
        let none = match method == Method::POST {
            // Without a length some servers answer 411 (RFC 9110 §8.6).
            true => BodyLength::Length(0),
            false => BodyLength::Nothing,
        };
        write_request(
            &mut request,
            method.as_str(),
            target.as_str(),
            fields,
            none,
            |_| {},
        );
        stream.write_all(&request).await?;
        stream.flush().await?;
        let (mut reader, mut input) = (ResponseReader::new(LIMITS), BytesMut::new());
        loop {
            let read = reader.read_head(&input, &method, |head| {
                let after = head.fields.all(RETRY_AFTER.as_str()).next();
                let after = after.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
                let answered = Answered {
                    status: head.status.as_u16(),
                    retry_after: after.map(Duration::from_secs),
                };
                (answered, head.framing.is_interim)
            });
            match read.map_err(io::Error::other)? {
                Some((length, (_, true))) => input.advance(length),
                Some((_, (answered, false))) => return Ok(answered),
                None if stream.read_buf(&mut input).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        }
    }
}
