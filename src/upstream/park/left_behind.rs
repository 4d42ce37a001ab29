//! The instance's side of a tunnel whose client has gone while the instance slept.
//!
//! Guarantees: the instance is told at its next wake, and nothing is woken for that: an end that is sent
//! to an instance that sleeps is lost. It is kept no longer than the tunnel could have been, and told only where
//! it was.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::host::{InstanceSide, ParkHost};
use crate::upstream::carry::at;

/// How long the instance has to take its leave.
const LEAVE: Duration = Duration::from_secs(1);

/// What is left of a tunnel: its instance's side.
#[must_use]
pub struct LeftBehind<I> {
    pub(super) stream: I,
    /// What it is told last.
    pub(super) last: Bytes,
    /// Where it was when it fell asleep.
    pub(super) ip: IpAddr,
    /// Until when it is kept.
    pub(super) until: Instant,
}

// === impl LeftBehind ===

impl<I: InstanceSide> LeftBehind<I> {
    /// Waits for the instance's next wake, and ends its side then.
    pub async fn end(self: Box<Self>, host: &impl ParkHost, stop: &CancellationToken) {
        let Self {
            mut stream,
            last,
            ip,
            until,
        } = *self;
        let mut epochs = host.epochs();
        let endpoint = loop {
            epochs.mark_unchanged();
            if let Some(endpoint) = host.endpoint() {
                break endpoint;
            }
            let gone = host.gone();
            tokio::select! {
                changed = epochs.changed() => if changed.is_err() { return },
                () = gone.cancelled() => return,
                () = at(Some(until)) => return,
                () = stop.cancelled() => return,
            }
        };
        if endpoint.ip() != ip {
            // Where it was somebody else may be now, who is told nothing.
            return;
        }
        // A leave is nobody's payload: the instance may sleep again as if it had not been.
        stream.attach(endpoint.open_connection().of_the_gateway());
        let leaving = async {
            stream.write_all(&last).await?;
            stream.flush().await?;
            stream.shutdown().await?;
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _late = timeout(LEAVE, endpoint.cut().run_until_cancelled(leaving)).await;
    }
}

impl<I> fmt::Debug for LeftBehind<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeftBehind(until: {:?})", self.until)
    }
}
