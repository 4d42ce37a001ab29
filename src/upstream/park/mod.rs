//! Tunnels that outlive their instance's sleep.
//!
//! Guarantees: a tunnel without payload for a while is quiet, which lets its instance be put to sleep; when
//! that sleeps, both sides stay open, and nothing is sent to the instance. A client's payload wakes it,
//! is kept meanwhile within bounds, and goes on over the same connection, once and in order, or its
//! client is told that it did not. Where the rules say so, an instance that has lost a WebSocket gets a new
//! one instead, but only if nothing is lost by that: what a client has sent before the sleep was certainly
//! received, and what it has sent since was written to no other connection. A client's close wakes nothing, and the instance hears of it
//! at its next wake. No tunnel is parked for longer than its rules allow.
//!
//! This is the one exception to the rule that what is open on an epoch ends with it: the connection of
//! a parked tunnel goes over into the next epoch of the same instance at the same address.

mod end;
mod events;
#[cfg(test)]
mod histories;
mod host;
mod input;
mod left_behind;
mod lost;
mod open;
mod parkable;
mod parted;
mod rest;
mod resting;
#[cfg(test)]
mod tests;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::events::{EventSink, EventStream, event_stream};
pub use self::host::{InstanceSide, ParkHost, ParkRules, Reopen, Reopened, Unready, Woken};
pub use self::left_behind::LeftBehind;
use self::parkable::{Delivery, Next, Parkable};
pub use self::parted::Parted;
use super::carried::Carried;
use super::carry::TunnelRules;
use super::relay::Relay;
use crate::telemetry::TunnelState;
use crate::wake::Endpoint;

/// Carries bytes both ways as [`carry`](super::carry()) does, and through the instance's sleeps.
///
/// Each of its states is in a box of its own: a tunnel at rest is to be as small as what it does then.
pub fn carry_parkable<'a, 'h, C, I, H>(
    client: C,
    instance: I,
    (rules, park): (TunnelRules, ParkRules),
    carried: &'a Carried,
    (host, endpoint): (&'h mut H, &Endpoint),
    stop: &'h CancellationToken,
) -> impl Future<Output = Parted<'a, C, I>>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost + Reopen<I>,
{
    let mut tunnel = Parkable {
        relay: Relay::new(client, instance, carried, rules.is_websocket),
        rules,
        park,
        carried,
        endpoint: endpoint.clone(),
        epochs: host.epochs(),
        host,
        stop,
        payload_at: Instant::now(),
        unheard_since: None,
        delivery: Delivery::Known,
    };
    // What an async function is called with would be in its future twice.
    async move {
        let mut open = carried.open(TunnelState::Open);
        let mut next = Next::Open;
        loop {
            next = match next {
                Next::Open => {
                    open.goes_on();
                    open = carried.open(TunnelState::Open);
                    Box::pin(tunnel.carry(&mut open)).await
                }
                Next::Rest(is_asleep) => {
                    open.goes_on();
                    open = carried.open(TunnelState::Parked);
                    let rested = Box::pin(tunnel.rest(is_asleep)).await;
                    if matches!(rested, Next::Open) {
                        tunnel.host.leave_place();
                    }
                    rested
                }
                Next::Over => {
                    open.over();
                    return Parted::nothing(tunnel.endpoint);
                }
                Next::End(end) => return tunnel.part(end, &mut open),
            };
        }
    }
}
