//! Upgraded connections: bytes both ways until either side ends.
//!
//! Guarantees: a tunnel ends with its instance's epoch or with the gateway, even before the
//! client's side has switched; it closes the instance's side whenever the client's is gone, or takes nothing for
//! `send_timeout`, so that a vanished client keeps nobody awake; a half-closed side stays
//! half-closed; its account is right whatever ended it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::carry::{Carried, EndedBy, carry};
use crate::client::ClientUpgrade;
use crate::flow::SendTimeout;

/// The bytes that are on their way at most, in each direction.
const ROOM: usize = 8 * 1024;

/// Carries bytes between the instance's side, which has switched, and the client's once it has.
pub async fn tunnel(
    downstream: ClientUpgrade,
    instance: impl AsyncRead + AsyncWrite + Unpin,
    carried: &Carried,
    cut: &CancellationToken,
    (stop, send_timeout): (&CancellationToken, Duration),
) {
    // A side that agreed to switch may still never do so.
    let switched = tokio::select! {
        switched = downstream => switched,
        () = cut.cancelled() => {
            carried.end(EndedBy::Sleep);
            return;
        }
        () = stop.cancelled() => return,
    };
    match switched {
        Ok(client) => {
            let client = SendTimeout::new(client, send_timeout);
            carry(client, instance, ROOM, carried, cut, stop).await;
        }
        Err(error) => {
            carried.end(EndedBy::Client);
            tracing::debug!(%error, "the client's side of an upgrade did not happen");
        }
    }
}
