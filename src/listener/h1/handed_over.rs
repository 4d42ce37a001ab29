//! A connection that leaves HTTP.
//!
//! Guarantees: nothing of what has served its requests is kept for the other protocol; what was taken for it
//! ([`Kept`]) is given back when that has let go of it, and not before.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::client::{ClientIo, UpgradedClient};
use crate::flow::forward_writes;
use crate::listener::kept::Kept;

/// A connection that is to be handed over to whoever speaks the other protocol.
#[must_use]
pub(in crate::listener) struct HandedOver {
    stream: Box<dyn KeepingIo>,
    upgrade: oneshot::Sender<UpgradedClient>,
}

/// A stream that can keep what its connection has.
trait KeepingIo: ClientIo {
    fn keep(&mut self, kept: Kept);
}

/// The stream of such a connection.
struct Keeping<S> {
    stream: S,
    kept: Option<Kept>,
}

// === impl HandedOver ===

impl HandedOver {
    /// The stream, and where it goes.
    pub(super) fn new<S>(stream: S, upgrade: oneshot::Sender<UpgradedClient>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Box::new(Keeping { stream, kept: None });
        Self { stream, upgrade }
    }

    /// Hands it over, with what is to be given back at its end.
    pub(in crate::listener) fn with(self, kept: Kept) {
        let mut stream = self.stream;
        stream.keep(kept);
        let stream: Box<dyn ClientIo> = stream;
        // Nobody wants it: it is closed.
        let _unwanted = self.upgrade.send(stream.into());
    }
}

impl fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOver").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> KeepingIo for Keeping<S> {
    fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Keeping<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Keeping<S> {
    forward_writes!();
}
