//! What the handlers of the operator's listener share.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::access::Gatekeeper;
use super::operator::Operator;
use super::timeline::Timeline;
use super::watchers::Watchers;
use crate::config::AdminConfig;
use crate::drain::Drain;
use crate::telemetry::Metrics;

/// The operator's listener, as every handler has it.
#[derive(Clone)]
pub struct Admin {
    pub(super) operator: Arc<dyn Operator>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) watchers: Watchers,
    pub(super) drain: Drain,
    pub(super) gatekeeper: Arc<Gatekeeper>,
    pub(super) dashboard: bool,
}

// === impl Admin ===

impl Admin {
    /// For a socket at `address`.
    pub fn new(
        config: &AdminConfig,
        address: SocketAddr,
        operator: Arc<dyn Operator>,
        metrics: Arc<Metrics>,
        timeline: Arc<Timeline>,
        drain: Drain,
    ) -> Self {
        let gatekeeper = Gatekeeper::new(address.ip(), config.token.clone());
        Self {
            operator,
            metrics,
            timeline,
            watchers: Watchers::default(),
            drain,
            gatekeeper: Arc::new(gatekeeper),
            dashboard: config.dashboard,
        }
    }

    /// Whether somebody watches the dashboard now.
    pub fn watchers(&self) -> Watchers {
        self.watchers.clone()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
