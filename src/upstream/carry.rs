//! What happens between a client and an instance once their connection is no HTTP any more.
//!
//! Guarantees: nothing is carried beyond the instance's epoch or the gateway's end, longer than the
//! route's rules allow, or for as long as they allow without payload; pings keep no tunnel open; who
//! ended it is said whatever ended it, and both sides are told ([`Farewell`]).

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::carried::Carried;
use super::epoch_end::cut;
use super::farewell::Farewell;
use super::relay::Relay;
use super::websocket::Close;
use crate::config::TunnelConfig;
use crate::deadline::Deadline;
use crate::telemetry::{TunnelEnd as EndedBy, TunnelState};
use crate::wake::{Endpoint, Instance};

/// How long it is waited for whether an instance that breaks a WebSocket off sleeps: what its clients are
/// told depends on it.
pub(super) const VERDICT: Duration = Duration::from_secs(1);

/// The rules for one tunnel, or raw connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct TunnelRules {
    /// Whether WebSocket is spoken: its data frames are payload, and its closes are said. Of anything
    /// else each byte is payload.
    pub is_websocket: bool,
    /// How long it may be without payload.
    pub idle: Option<Duration>,
    /// How long it may live at most.
    pub until: Option<Instant>,
}

// === impl TunnelRules ===

impl TunnelRules {
    /// Those of a route for a tunnel that begins now.
    pub fn of(config: &TunnelConfig, is_websocket: bool) -> Self {
        Self {
            is_websocket,
            idle: config.idle,
            until: config.max_life.map(|life| Instant::now() + life),
        }
    }
}

/// Completes at a time that need not be.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What the sides of a tunnel are told that the gateway ends.
pub fn close_for(ended_by: EndedBy) -> Close {
    match ended_by {
        EndedBy::Sleep => Close::restart("sleep"),
        EndedBy::Idle => Close::going_away("idle"),
        EndedBy::MaxLife => Close::going_away("max_life"),
        EndedBy::ParkTime => Close::going_away("park_time"),
        EndedBy::Gateway | EndedBy::Client | EndedBy::Instance => Close::going_away("drain"),
    }
}

/// Carries bytes both ways, until both sides have ended, the epoch of `endpoint`, which is `owner`'s, ends, the rules say so,
/// or `stop`. What is to be done then is for whoever has given back what the tunnel had.
pub async fn carry<'a, C, I>(
    client: C,
    instance: I,
    rules: TunnelRules,
    carried: &'a Carried,
    (owner, endpoint): (Option<&Instance>, Option<&Endpoint>),
    stop: &CancellationToken,
) -> Farewell<'a, C, I>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut open = carried.open(TunnelState::Open);
    let mut relay = Relay::new(client, instance, carried, rules.is_websocket);
    let mut idle = rules
        .idle
        .map(|idle| (idle, Deadline::new(Instant::now() + idle)));
    let ended_by = loop {
        let copying = poll_fn(|cx| {
            if let Poll::Ready(copied) = relay.poll_copy(cx) {
                return Poll::Ready(Some(copied));
            }
            if let Some((idle, deadline)) = &mut idle {
                if relay.take_payload() {
                    deadline.set(Instant::now() + *idle);
                }
                if deadline.poll_over(cx).is_ready() {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        });
        tokio::select! {
            copied = copying => match copied {
                Some(Ok(())) => {
                    open.complete();
                    return Farewell::nothing();
                }
                Some(Err(error)) => {
                    let is_end = relay.to_client.take_held_end();
                    let is_instances = carried.ended_by() == EndedBy::Instance;
                    if is_instances && owner.is_some() && relay.to_client.lacks_close() {
                        if let Some(owner) = owner {
                            owner.doubt();
                        }
                        let asleep = timeout(VERDICT, cut(endpoint)).await;
                        if asleep.is_ok() {
                            break EndedBy::Sleep;
                        }
                    }
                    if is_end {
                        continue;
                    }
                    tracing::debug!(%error, "a tunnel or connection broke");
                    open.over();
                    return Farewell::nothing();
                }
                None => break EndedBy::Idle,
            },
            () = cut(endpoint) => break EndedBy::Sleep,
            () = carried.is_forsaken() => {
                tracing::debug!("one side has ended and the other is silent");
                open.over();
                return Farewell::nothing();
            }
            () = at(rules.until) => break EndedBy::MaxLife,
            () = stop.cancelled() => break EndedBy::Gateway,
        }
    };
    open.cut(ended_by);
    let is_by_rule = matches!(ended_by, EndedBy::Idle | EndedBy::MaxLife);
    if !rules.is_websocket && !is_by_rule {
        // Nobody can be told.
        return Farewell::nothing();
    }
    if ended_by == EndedBy::Sleep {
        relay.instance = None;
    }
    Farewell::of(relay, close_for(ended_by))
}
