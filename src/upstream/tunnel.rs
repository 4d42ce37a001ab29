//! Upgraded connections: bytes both ways until either side ends.
//!
//! Guarantees: a tunnel ends with its instance's epoch or with the gateway, even before both sides
//! have switched; it closes the instance's side whenever the client's is gone, or takes nothing for
//! `send_timeout`, so that a vanished client keeps nobody awake; a half-closed side stays
//! half-closed; its account is right whatever ended it.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::carry::{Carried, EndedBy, carry};
use crate::client::ClientUpgrade;
use crate::flow::SendTimeout;
use crate::wake::Endpoint;

/// The bytes that are on their way at most, in each direction.
const ROOM: usize = 8 * 1024;

/// Carries bytes between the two sides once both have switched.
pub async fn tunnel(
    downstream: ClientUpgrade,
    upstream: OnUpgrade,
    carried: &Carried,
    endpoint: &Endpoint,
    (stop, send_timeout): (&CancellationToken, Duration),
) {
    let switching = async {
        let failed = |side: EndedBy, error: &dyn std::error::Error| {
            carried.end(side);
            tracing::debug!(%error, side = side.as_str(), "an upgrade did not happen");
        };
        // A side that agreed to switch may still never do so.
        tokio::try_join!(
            async {
                let switched = downstream.await;
                switched.map_err(|error| failed(EndedBy::Client, &error))
            },
            async {
                let switched = upstream.await;
                switched.map_err(|error| failed(EndedBy::Instance, &error))
            },
        )
    };
    let switched = tokio::select! {
        switched = switching => switched,
        () = endpoint.cut().cancelled() => {
            carried.end(EndedBy::Sleep);
            return;
        }
        () = stop.cancelled() => return,
    };
    if let Ok((client, instance)) = switched {
        let client = SendTimeout::new(client, send_timeout);
        let instance = TokioIo::new(instance);
        carry(client, instance, ROOM, carried, endpoint, stop).await;
    }
}
