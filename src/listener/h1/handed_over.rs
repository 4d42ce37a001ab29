//! A connection that has left HTTP.
//!
//! Guarantees: whoever counts the connection learns when the other protocol has let go of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::flow::forward_writes;

/// The stream of such a connection.
#[derive(Debug)]
pub(super) struct HandedOver<S> {
    stream: S,
    /// Dropped with the stream, which is all that it says.
    _end: oneshot::Sender<()>,
}

// === impl HandedOver ===

impl<S> HandedOver<S> {
    /// The stream, and a future that ends when it has been dropped.
    pub(super) fn new(stream: S) -> (Self, impl Future<Output = ()>) {
        let (end, ended) = oneshot::channel();
        let ended = async {
            // Nothing is ever sent.
            let _dropped = ended.await;
        };
        (Self { stream, _end: end }, ended)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HandedOver<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HandedOver<S> {
    forward_writes!();
}
