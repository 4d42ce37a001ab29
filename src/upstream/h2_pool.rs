//! HTTP/2 connections of one epoch and port, each carrying many requests at once.
//!
//! Guarantees: a connection gets no more requests at once than [`MAX_STREAMS`], nor than its
//! instance allows; while one has a body that its instance does not take, it gets no other request
//! with a body, since those would have no window left; a closed one is not used; how long one has
//! been idle is counted from the end of its last stream. Past [`MAX_CONNECTIONS`] requests queue
//! on the connection that has the fewest.

use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::h2_peer::PeerLimits;
use super::response_clock::{ResponseClock, WeakClock};
use super::timed_body::TimedBody;

/// Requests at once on a connection; servers commonly allow a hundred.
pub(super) const MAX_STREAMS: u32 = 100;
/// Connections that are opened because the others have nothing left, at most.
const MAX_CONNECTIONS: usize = 64;
/// A part of a body that waits for so long to be taken waits for the instance, not for its turn.
const STUCK: Duration = Duration::from_millis(100);

/// A connection among those of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// A stream of a connection, for one request and its response.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: SendRequest<TimedBody>,
    pub(super) connection: ConnectionId,
    /// The streams that the connection has, this one among them.
    pub(super) nth: usize,
    /// How long the connection had carried nothing.
    pub(super) idle_for: Duration,
}

#[derive(Debug)]
struct Shared {
    id: ConnectionId,
    sender: SendRequest<TimedBody>,
    limits: PeerLimits,
    streams: usize,
    /// The clocks of the requests that have bodies.
    bodies: Vec<WeakClock>,
    /// The end of the last stream; of use while there is none.
    idle_since: Instant,
}

/// The connections, those that were made first before the others.
#[derive(Debug, Default)]
pub(super) struct H2Connections {
    shared: Vec<Shared>,
    made: u64,
}

// === impl H2Connections ===

impl H2Connections {
    /// A stream of a connection that is there, and not idle for `idle_timeout`; `body` is the clock
    /// of a request that has one.
    pub(super) fn take(
        &mut self,
        now: Instant,
        idle_timeout: Duration,
        body: Option<&ResponseClock>,
    ) -> Option<Stream> {
        self.retain_fresh(now, idle_timeout);
        let is_full = self.shared.len() >= MAX_CONNECTIONS;
        let mut all = self.shared.iter_mut();
        let place = all.position(|one| one.has_room(now, body.is_some()));
        let one = match place {
            Some(place) => self.shared.get_mut(place),
            None if is_full => {
                let all = self.shared.iter_mut();
                let others = all.filter(|one| one.streams < MAX_STREAMS as usize);
                others.min_by_key(|one| one.streams)
            }
            None => None,
        }?;
        let idle_for = match one.streams {
            0 => now.saturating_duration_since(one.idle_since),
            _ => Duration::ZERO,
        };
        one.streams += 1;
        one.bodies.extend(body.map(ResponseClock::downgrade));
        Some(Stream {
            sender: one.sender.clone(),
            connection: one.id,
            nth: one.streams,
            idle_for,
        })
    }

    /// Keeps a new connection, and takes a stream of it.
    pub(super) fn add(
        &mut self,
        (sender, limits): (SendRequest<TimedBody>, PeerLimits),
        now: Instant,
        body: Option<&ResponseClock>,
    ) -> Stream {
        let id = ConnectionId(self.made);
        self.made += 1;
        self.shared.push(Shared {
            id,
            sender: sender.clone(),
            limits,
            streams: 1,
            bodies: body.map(ResponseClock::downgrade).into_iter().collect(),
            idle_since: now,
        });
        Stream {
            sender,
            connection: id,
            nth: 1,
            idle_for: Duration::ZERO,
        }
    }

    /// The limits of a connection whose instance has not said them yet.
    pub(super) fn unsettled(&self) -> Option<PeerLimits> {
        let mut open = self.shared.iter().filter(|one| !one.sender.is_closed());
        let one = open.find(|one| !one.limits.is_known())?;
        Some(one.limits.clone())
    }

    /// One of a connection's streams has ended.
    pub(super) fn end_stream(&mut self, id: ConnectionId, now: Instant) {
        let place = self.shared.iter().position(|one| one.id == id);
        let Some((place, one)) = place.and_then(|place| Some((place, self.shared.get_mut(place)?)))
        else {
            return;
        };
        one.streams = one.streams.saturating_sub(1);
        if one.streams == 0 {
            one.idle_since = now;
            one.bodies = Vec::new();
            if one.sender.is_closed() {
                self.shared.remove(place);
            }
        }
    }

    /// Connections that carry nothing.
    pub(super) fn idle(&self) -> usize {
        self.shared.iter().filter(|one| one.streams == 0).count()
    }

    /// Closes what is closed already or has been idle for `limit`.
    pub(super) fn retain_fresh(&mut self, now: Instant, limit: Duration) {
        self.shared.retain(|one| {
            let is_fresh = one.streams > 0 || now < one.idle_since + limit;
            is_fresh && !one.sender.is_closed()
        });
    }
}

// === impl Shared ===

impl Shared {
    /// Whether another request, with a body or without, would go at once.
    fn has_room(&mut self, now: Instant, has_body: bool) -> bool {
        let allowed = self.limits.streams().min(MAX_STREAMS as usize);
        if self.streams >= allowed {
            return false;
        }
        if has_body {
            self.bodies.retain(WeakClock::is_alive);
        }
        !has_body || !self.bodies.iter().any(|body| body.is_stuck(now, STUCK))
    }
}
