//! A connection to an instance, in clear or over TLS.
//!
//! Guarantees: it can move to another runtime between two uses; bytes that were taken for sending
//! count as sent when the system has them ([`InstanceStream::poll_sent`]); a write that fails after
//! some of it may have arrived does not look as if nothing had.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::HandshakeKind;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::alpn::Alpn;
use super::verdict::later_error;

/// A connection to an instance.
pub struct InstanceStream(Kind);

enum Kind {
    Clear(TcpStream),
    Secure(Box<Secure>),
}

struct Secure {
    stream: TlsStream<Socket>,
    alpn: Alpn,
    /// Whether the system may not have all that was taken.
    is_unsent: bool,
}

/// A socket that can be taken out, and counts what goes.
pub(super) struct Socket {
    stream: Option<TcpStream>,
    written: u64,
}

// === impl InstanceStream ===

impl InstanceStream {
    pub(super) fn of_tls(stream: TlsStream<Socket>, alpn: Alpn) -> Self {
        Self(Kind::Secure(Box::new(Secure {
            stream,
            alpn,
            is_unsent: false,
        })))
    }

    /// The socket; an error if it carries TLS already.
    pub(super) fn into_clear(self) -> io::Result<TcpStream> {
        match self.0 {
            Kind::Clear(stream) => Ok(stream),
            Kind::Secure(_) => Err(io::Error::other("the connection has TLS already")),
        }
    }

    /// The protocol that was agreed on; `None` in clear.
    pub fn alpn(&self) -> Option<Alpn> {
        match &self.0 {
            Kind::Clear(_) => None,
            Kind::Secure(secure) => Some(secure.alpn),
        }
    }

    /// Whether TLS was agreed on by resuming an earlier session; `None` in clear.
    pub fn is_resumed(&self) -> Option<bool> {
        match &self.0 {
            Kind::Clear(_) => None,
            Kind::Secure(secure) => {
                let kind = secure.stream.get_ref().1.handshake_kind();
                Some(kind == Some(HandshakeKind::Resumed))
            }
        }
    }

    /// The same connection, whose events are those of the runtime that asks.
    pub fn adopt(self) -> io::Result<Self> {
        Ok(Self(match self.0 {
            Kind::Clear(stream) => Kind::Clear(moved(stream)?),
            Kind::Secure(mut secure) => {
                let socket = secure.stream.get_mut().0;
                socket.stream = socket.stream.take().map(moved).transpose()?;
                Kind::Secure(secure)
            }
        }))
    }

    /// Small requests must not wait for more; a socket that cannot do this still works.
    pub fn set_nodelay(&self) {
        if let Kind::Clear(stream) = &self.0 {
            let _slower = stream.set_nodelay(true);
        }
    }

    /// The socket, to be told how it is to behave.
    pub fn socket(&self) -> Option<SockRef<'_>> {
        match &self.0 {
            Kind::Clear(stream) => Some(SockRef::from(stream)),
            Kind::Secure(secure) => {
                let socket = secure.stream.get_ref().0.stream.as_ref();
                socket.map(SockRef::from)
            }
        }
    }

    /// Ready when the system has all that was taken for sending.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Kind::Secure(secure) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        if !secure.is_unsent {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut secure.stream).poll_flush(cx);
        secure.is_unsent = flushed.is_pending();
        flushed
    }

    /// Whether there may be something to read, as far as is known without asking the system.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Kind::Clear(stream) => stream.poll_read_ready(cx).map(|_| ()),
            // What has come may have been decrypted already.
            Kind::Secure(_) => Poll::Ready(()),
        }
    }
}

impl From<TcpStream> for InstanceStream {
    fn from(stream: TcpStream) -> Self {
        Self(Kind::Clear(stream))
    }
}

/// A socket with another runtime.
fn moved(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

impl fmt::Debug for InstanceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceStream({:?})", self.alpn())
    }
}

impl AsyncRead for InstanceStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_read(cx, into),
            Kind::Secure(secure) => {
                let polled = Pin::new(&mut secure.stream).poll_read(cx, into);
                polled.map_err(later_error)
            }
        }
    }
}

impl AsyncWrite for InstanceStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Secure(secure) => {
                secure.poll_write(|stream| Pin::new(stream).poll_write(cx, bytes))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Secure(secure) => Pin::new(&mut secure.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Secure(secure) => Pin::new(&mut secure.stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Kind::Secure(secure) => {
                secure.poll_write(|stream| Pin::new(stream).poll_write_vectored(cx, slices))
            }
        }
    }
}

// === impl Secure ===

impl Secure {
    fn poll_write(
        &mut self,
        write: impl FnOnce(&mut TlsStream<Socket>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let before = self.stream.get_ref().0.written;
        let polled = write(&mut self.stream);
        self.is_unsent |= polled.is_ready();
        let has_failed = matches!(polled, Poll::Ready(Err(_)));
        match has_failed && self.stream.get_ref().0.written > before {
            // A whole record may have gone before the one that failed, and the next write fails, too.
            true => Poll::Ready(Ok(1)),
            false => polled,
        }
    }
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Some(stream),
            written: 0,
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn count(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            self.written = self.written.saturating_add(*count as u64);
        }
        polled
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.stream()?.poll_write(cx, bytes);
        self.count(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.stream()?.poll_write_vectored(cx, slices);
        self.count(polled)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({:?})", self.stream)
    }
}
