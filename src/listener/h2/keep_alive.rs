//! Whether the client is still there.
//!
//! Guarantees: a client from which nothing has come for [`PING_EVERY`] is sent a PING (RFC 9113
//! §6.7), and one from which nothing comes within [`PING_TIMEOUT`] either is given up. The time in
//! which the gateway itself does not read does not count, nor that in which the client is slow to
//! take what comes before the PING, for which `send_timeout` is there.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use super::flow::ConnectionFlow;
use crate::deadline::Deadline;

/// The time between the last frame from a client and a PING; each frame starts it again.
const PING_EVERY: Duration = Duration::from_secs(20);
/// The time between a PING and the connection's end; an answer to the PING stops it.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The PINGs of one connection.
pub(super) struct KeepAlive {
    pings: PingPong,
    deadline: Deadline,
    /// The time when a PING was sent that has no answer yet.
    sent: Option<Instant>,
}

// === impl KeepAlive ===

impl KeepAlive {
    pub(super) fn new(pings: PingPong) -> Self {
        Self {
            pings,
            deadline: Deadline::new(Instant::now() + PING_EVERY),
            sent: None,
        }
    }

    /// Ready when the client is to be given up.
    pub(super) fn poll_gone(&mut self, flow: &ConnectionFlow, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sent.is_some() && self.pings.poll_pong(cx).is_ready() {
                self.sent = None;
            }
            // Whatever comes says that the client is there: the answer may be behind much else.
            let heard = flow.last_read();
            self.deadline.set(match self.sent {
                Some(sent) => sent.max(heard) + PING_TIMEOUT,
                None => heard + PING_EVERY,
            });
            ready!(self.deadline.poll_over(cx));
            let now = Instant::now();
            if self.sent.is_none() {
                if self.pings.send_ping(Ping::opaque()).is_err() {
                    // The connection is about to end by itself.
                    return Poll::Pending;
                }
            } else if !flow.is_held() && !flow.is_blocked() {
                return Poll::Ready(());
            }
            self.sent = Some(now);
        }
    }
}
