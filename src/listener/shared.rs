//! The state that the connections of all sockets share.
//!
//! Guarantees: there are never more connections than the limit, but for those that were there
//! before it was lowered, nor more than the process has descriptors for; what goes wrong very often
//! is said once, and then at intervals.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::clients::{Clients, Share};
use super::seldom::Seldom;
use crate::config::ServerConfig;
use crate::descriptors;
use crate::drain::Drain;
use crate::flow::BufferBudget;
use crate::telemetry::Metrics;

/// A lack of permits that lasts longer is one.
const MOMENT: Duration = Duration::from_millis(10);

/// The state that the connections of all sockets share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The limits of connections; a change is for connections that begin afterwards.
    pub config: Arc<ArcSwap<ServerConfig>>,
    /// One permit for each connection that there may be.
    pub permits: Arc<Semaphore>,
    /// The gateway's metrics.
    pub metrics: Arc<Metrics>,
    /// The drain that ends the connections.
    pub drain: Drain,
    /// The budget of bytes of heads and bodies in memory.
    pub buffers: BufferBudget,
    clients: Clients,
    refused: Arc<Seldom>,
    full: Arc<Seldom>,
    not_accepted: Arc<Seldom>,
}

/// The most connections that there may be, of so many that are allowed.
fn bounded(allowed: usize) -> usize {
    let room = descriptors::limit().map_or(usize::MAX, descriptors::for_clients);
    allowed.min(room).min(Semaphore::MAX_PERMITS)
}

// === impl Shared ===

impl Shared {
    /// The state before anybody has connected.
    pub fn new(config: Arc<ArcSwap<ServerConfig>>, metrics: Arc<Metrics>, drain: Drain) -> Self {
        let buffers = BufferBudget::new(config.load().max_buffered_bytes.0);
        let most = bounded(config.load().max_connections);
        Self {
            config,
            permits: Arc::new(Semaphore::new(most)),
            metrics,
            drain,
            buffers,
            clients: Clients::default(),
            refused: Arc::default(),
            full: Arc::default(),
            not_accepted: Arc::default(),
        }
    }

    /// Allows `most` connections from now on; those that are too many end by themselves.
    pub fn resize(&self, most: usize) {
        let (before, most) = (bounded(self.config.load().max_connections), bounded(most));
        if most > before {
            let room = Semaphore::MAX_PERMITS - self.permits.available_permits();
            self.permits.add_permits((most - before).min(room));
            return;
        }
        let mut many = before - most;
        many -= self.permits.forget_permits(many);
        if many > 0 {
            let (permits, draining) = (Arc::clone(&self.permits), self.drain.draining().clone());
            let many = u32::try_from(many).unwrap_or(u32::MAX);
            self.drain.served().spawn(async move {
                let taken = draining
                    .run_until_cancelled(permits.acquire_many(many))
                    .await;
                if let Some(Ok(taken)) = taken {
                    taken.forget();
                }
            });
        }
    }

    /// The permit of one more connection, when it may be there.
    pub(super) async fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        tokio::pin!(permit);
        // Another worker holds one for as long as it takes to see that nobody has come.
        if let Ok(permit) = timeout(MOMENT, permit.as_mut()).await {
            return permit.map_err(io::Error::other);
        }
        if self.full.note().is_some() {
            let most = bounded(self.config.load().max_connections);
            tracing::warn!(
                most,
                "as many clients are connected as may be; others wait until one leaves"
            );
        }
        permit.await.map_err(io::Error::other)
    }

    /// A connection could not be accepted.
    pub(super) fn note_not_accepted(&self, error: &io::Error, address: SocketAddr) {
        if let Some(failures) = self.not_accepted.note() {
            tracing::warn!(%error, %address, failures, "cannot accept; it is tried again and again");
        }
    }

    /// Counts one more connection of this client, if it may have it.
    pub(super) fn share(&self, client: IpAddr, limit: usize) -> io::Result<Share> {
        self.clients.enter(client, limit).ok_or_else(|| {
            self.metrics.refused_connections.increment(1);
            if let Some(refused) = self.refused.note() {
                tracing::warn!(%client, limit, refused,
                    "a client has as many connections as it may have");
            }
            io::Error::other("the client has as many connections as it may have")
        })
    }
}
