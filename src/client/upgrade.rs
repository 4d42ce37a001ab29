//! A client's connection, or stream of HTTP/2, that leaves HTTP.
//!
//! Guarantees: the connection is handed over after the response that agrees has been written, with
//! every byte that the client has sent since its request.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::Request;

/// The client's connection, which carries another protocol from now on.
pub type UpgradedClient = Pin<Box<dyn ClientIo>>;

/// A stream of bytes both ways.
pub trait ClientIo: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> ClientIo for T {}

/// A connection that was to leave HTTP has not.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It ended, or its response was another.
    #[error("the client's connection did not switch")]
    NotSwitched,
}

/// What a connection, or a stream of HTTP/2, offers to a request that may leave HTTP: an extension of the request.
#[derive(Clone)]
pub struct UpgradeOffer(Arc<Mutex<Option<ClientUpgrade>>>);

/// The client's connection, once it has switched.
pub struct ClientUpgrade(Option<oneshot::Receiver<UpgradedClient>>);

// === impl UpgradeOffer ===

impl UpgradeOffer {
    /// An offer, and where the connection goes if it is taken up.
    pub fn new() -> (Self, oneshot::Sender<UpgradedClient>) {
        let (sender, receiver) = oneshot::channel();
        let upgrade = ClientUpgrade(Some(receiver));
        let shared = Arc::new(Mutex::new(Some(upgrade)));
        (Self(shared), sender)
    }
}

// === impl ClientUpgrade ===

impl ClientUpgrade {
    /// The connection of this request, if its client may leave HTTP.
    pub fn of<B>(request: &mut Request<B>) -> Self {
        let offer = request.extensions_mut().remove::<UpgradeOffer>();
        let own = offer.and_then(|offer| {
            let mut offer = offer.0.lock();
            offer.as_mut().ok()?.take()
        });
        own.unwrap_or(Self(None))
    }
}

impl Future for ClientUpgrade {
    type Output = Result<UpgradedClient, UpgradeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(receiver) = &mut self.0 else {
            return Poll::Ready(Err(UpgradeError::NotSwitched));
        };
        let polled = Pin::new(receiver).poll(cx);
        polled.map(|stream| stream.map_err(|_| UpgradeError::NotSwitched))
    }
}

impl fmt::Debug for UpgradeOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeOffer").finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientUpgrade").finish_non_exhaustive()
    }
}
