//! Who asks for an instance, for the ledger and for fairness.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::config::RouteKey;
use crate::telemetry::TraceParent;

/// The request for which an instance is woken.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The route, as configured.
    pub route: RouteKey,
    /// The client's address.
    pub client: IpAddr,
    /// The user agent that the client names.
    pub user_agent: Option<Arc<str>>,
    /// The time from which it waits.
    pub since: Instant,
    /// What of a parked tunnel wakes, if that does.
    pub unparked_by: Option<&'static str>,
    /// The parent of the wake's spans, when the request is traced.
    pub trace: Option<TraceParent>,
}
