//! Upgraded connections: bytes both ways until either side ends.
//!
//! Guarantees: a tunnel ends with its instance's epoch or with the gateway, even before the
//! client's side has switched; it closes the instance's side whenever the client's is gone, or takes nothing for
//! `send_timeout`, so that a vanished client keeps nobody awake; its account is right whatever ended it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::carried::Carried;
use super::carry::{TunnelRules, carry};
use super::epoch_end::cut;
use super::farewell::Farewell;
use super::leased_stream::LeasedStream;
use super::park::{InstanceSide, ParkHost, ParkRules, Parted, Reopen, carry_parkable};
use crate::client::{ClientUpgrade, UpgradedClient};
use crate::flow::{PeekStream, SendTimeout};
use crate::telemetry::{TunnelEnd as EndedBy, TunnelState};
use crate::wake::{Endpoint, Instance};

/// The stream of an instance that has switched.
pub type TunnelStream = PeekStream<LeasedStream>;

/// What is left to be done when a tunnel has ended.
pub type TunnelFarewell<'a, I> = Farewell<'a, SendTimeout<UpgradedClient>, I>;

/// Carries bytes between the instance's side, which has switched, and the client's once it has.
pub async fn tunnel<'a, I>(
    downstream: ClientUpgrade,
    instance: I,
    rules: TunnelRules,
    carried: &'a Carried,
    (owner, endpoint): (Option<&Instance>, Option<&Endpoint>),
    (stop, send_timeout): (&CancellationToken, Duration),
) -> TunnelFarewell<'a, I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut open = carried.open(TunnelState::Open);
    // A side that agreed to switch may still never do so.
    let switched = tokio::select! {
        switched = downstream => switched,
        () = cut(endpoint) => {
            open.cut(EndedBy::Sleep);
            return Farewell::nothing();
        }
        () = stop.cancelled() => return Farewell::nothing(),
    };
    match switched {
        Ok(client) => {
            open.goes_on();
            let client = SendTimeout::new(client, send_timeout);
            let place = (owner, endpoint);
            carry(client, instance, rules, carried, place, stop).await
        }
        Err(error) => {
            open.cut(EndedBy::Client);
            tracing::debug!(%error, "the client's side of an upgrade did not happen");
            Farewell::nothing()
        }
    }
}

/// The same for a tunnel that may be parked.
pub fn parkable_tunnel<'a, I, H>(
    downstream: ClientUpgrade,
    instance: I,
    rules: (TunnelRules, ParkRules),
    carried: &'a Carried,
    (host, endpoint): (&mut H, &Endpoint),
    (stop, send_timeout): (&CancellationToken, Duration),
) -> impl Future<Output = Parted<'a, SendTimeout<UpgradedClient>, I>>
where
    I: InstanceSide,
    H: ParkHost + Reopen<I>,
{
    let mut open = carried.open(TunnelState::Open);
    // What an async function is called with would be in its future twice.
    async move {
        let switched = tokio::select! {
            switched = downstream => switched,
            () = cut(Some(endpoint)) => {
                open.cut(EndedBy::Sleep);
                return Parted::nothing(endpoint.clone());
            }
            () = stop.cancelled() => return Parted::nothing(endpoint.clone()),
        };
        match switched {
            Ok(client) => {
                open.goes_on();
                let client = SendTimeout::new(client, send_timeout);
                let place = (host, endpoint);
                let carrying = carry_parkable(client, instance, rules, carried, place, stop);
                Box::pin(carrying).await
            }
            Err(error) => {
                open.cut(EndedBy::Client);
                tracing::debug!(%error, "the client's side of an upgrade did not happen");
                Parted::nothing(endpoint.clone())
            }
        }
    }
}
