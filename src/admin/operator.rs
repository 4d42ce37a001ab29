//! What the operator's listener needs of the gateway, as a trait: this room knows no engine.

use std::net::IpAddr;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::view::{
    CertificateView, Done, HoldView, InstanceDetail, InstanceView, Problem, RouteView, StatusView,
};
use crate::telemetry::Readings;
use crate::wake::LedgerEntry;

/// Which instance an operator means.
#[derive(Debug, Clone)]
pub struct Which {
    /// Its name or its full id.
    pub name: String,
    /// Its control plane; where several have the name, the first.
    pub hypeman: Option<String>,
    /// Who asks.
    pub client: IpAddr,
}

/// The gateway, as its operator sees and handles it.
pub trait Operator: Send + Sync + 'static {
    /// As a whole.
    fn status(&self) -> StatusView;

    /// Its routes, at most `limit`, whose host or instance has `filter` in it.
    fn routes(&self, filter: &str, limit: usize) -> Vec<RouteView>;

    /// Every instance that it knows of, by name.
    fn instances(&self) -> Vec<InstanceView>;

    /// One of them.
    fn instance(&self, which: &Which) -> Option<InstanceDetail>;

    /// The last wakes, the newest first; only those after the wake with this id, if there is one
    /// with it.
    fn wakes(&self, after: Option<&str>) -> Vec<LedgerEntry>;

    /// The certificates that come by ACME, by name.
    fn certificates(&self) -> Vec<CertificateView>;

    /// The holds by which workloads keep their instances awake, by instance and task.
    fn holds(&self) -> Vec<HoldView>;

    /// Requests answered so far.
    fn served(&self) -> u64;

    /// For the metrics.
    fn readings(&self) -> Readings;

    /// The effective configuration, without secrets.
    fn config(&self) -> Value;

    /// Wakes an instance, and waits until it is Running.
    fn wake(&self, which: Which) -> BoxFuture<'_, Result<Done, Problem>>;

    /// Puts an instance to sleep.
    fn standby(&self, which: Which, force: bool) -> BoxFuture<'_, Result<Done, Problem>>;

    /// The next request may wake the instance, however often that failed.
    fn reset_breaker(&self, which: Which) -> BoxFuture<'_, Result<Done, Problem>>;

    /// Loads the configuration again; all of it is taken, or nothing.
    fn reload(&self) -> BoxFuture<'_, Result<(), Problem>>;

    /// Takes no more work; what is under way finishes.
    fn drain(&self);
}
