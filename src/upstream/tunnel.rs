//! Upgraded connections: bytes both ways until either side ends.
//!
//! Guarantees: a tunnel ends with its instance's epoch or with the gateway, and closes the
//! instance's side whenever the client's is gone, so that a vanished client keeps nobody awake; a
//! half-closed side stays half-closed.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::wake::Endpoint;

/// Carries bytes between the two sides once both have switched.
pub async fn tunnel(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    endpoint: Endpoint,
    stop: CancellationToken,
) {
    let (client, instance) = match tokio::try_join!(downstream, upstream) {
        Ok((client, instance)) => (client, instance),
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not happen");
            return;
        }
    };
    let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
    let copying = tokio::io::copy_bidirectional(&mut client, &mut instance);
    tokio::select! {
        result = copying => if let Err(error) = result {
            tracing::debug!(%error, "a tunnel broke");
        },
        () = endpoint.cut().cancelled() => {}
        () = stop.cancelled() => {}
    }
}
