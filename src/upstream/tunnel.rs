//! Upgraded connections: bytes both ways until either side ends.
//!
//! Guarantees: a tunnel ends with its instance's epoch or with the gateway, even before both sides
//! have switched; it closes the instance's side whenever the client's is gone, or takes nothing for
//! `send_timeout`, so that a vanished client keeps nobody awake; a half-closed side stays
//! half-closed.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

use crate::flow::SendTimeout;
use crate::wake::Endpoint;

/// Carries bytes between the two sides once both have switched.
pub async fn tunnel(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    endpoint: Endpoint,
    stop: CancellationToken,
    send_timeout: Duration,
) {
    let carrying = async {
        // A side that agreed to switch may still never do so.
        let (client, instance) = tokio::try_join!(downstream, upstream)
            .map_err(|error| tracing::debug!(%error, "an upgrade did not happen"))?;
        let mut client = SendTimeout::new(TokioIo::new(client), send_timeout);
        let mut instance = TokioIo::new(instance);
        copy_bidirectional(&mut client, &mut instance)
            .await
            .map_err(|error| tracing::debug!(%error, "a tunnel broke"))
    };
    tokio::select! {
        _ended = carrying => {}
        () = endpoint.cut().cancelled() => {}
        () = stop.cancelled() => {}
    }
}
