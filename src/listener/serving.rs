//! A connection that is served.
//!
//! Guarantees: it is one box, with what its protocol needs, and another for what ends it from outside,
//! if that is not part of the first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::h1::HandedOver;

/// A connection on which requests, or another protocol's bytes, are served; it may leave HTTP.
pub(super) struct Serving<'a> {
    serving: Pin<Box<dyn Future<Output = io::Result<Option<HandedOver>>> + Send + 'a>>,
    /// Ends it, whatever it is doing.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
}

// === impl Serving ===

impl<'a> Serving<'a> {
    /// One that ends by itself. In a box, which is written to at once.
    pub(super) fn of(
        serving: impl Future<Output = io::Result<Option<HandedOver>>> + Send + 'a,
    ) -> Self {
        let serving = Box::into_pin(Box::write(Box::new_uninit(), serving));
        Self { serving, end: None }
    }

    /// The same; it ends with `end` at the latest.
    pub(super) fn until(mut self, end: impl Future<Output = ()> + Send + 'a) -> Self {
        let end = Box::into_pin(Box::write(Box::new_uninit(), end));
        self.end = Some(end);
        self
    }
}

impl Future for Serving<'_> {
    type Output = io::Result<Option<HandedOver>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(served) = self.serving.as_mut().poll(cx) {
            return Poll::Ready(served);
        }
        match &mut self.end {
            Some(end) => end.as_mut().poll(cx).map(|()| Ok(None)),
            None => Poll::Pending,
        }
    }
}
