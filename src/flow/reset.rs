//! Connections that can end with a reset.
//!
//! Guarantees: nothing is sent before the connection is closed; then its peer is told that it has broken,
//! which an orderly end does not say.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use super::{PeekStream, SendTimeout};

/// A connection that can end with a reset.
pub trait Reset {
    /// Its peer is to find it reset, and not ended, when it is closed.
    fn reset_when_closed(&self);
}

impl Reset for TcpStream {
    fn reset_when_closed(&self) {
        // A socket that cannot do this ends in the orderly way.
        let _orderly = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl<S: Reset> Reset for SendTimeout<S> {
    fn reset_when_closed(&self) {
        self.get_ref().reset_when_closed();
    }
}

impl<S: Reset + AsyncRead + Unpin> Reset for PeekStream<S> {
    fn reset_when_closed(&self) {
        self.get_ref().reset_when_closed();
    }
}
