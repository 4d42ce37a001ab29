//! The metrics that other rooms keep in hand.
//!
//! Guarantees: what a guard added to a gauge is taken from it when the guard is dropped.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label};

use super::catalogue as name;
use super::registry::Registry;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// One route's metrics.
#[derive(Debug)]
pub struct RouteMetrics {
    classes: Vec<Counter>,
    duration: Histogram,
}

/// One listener's metrics.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(super) open: Gauge,
    pub(super) accepted: Counter,
}

/// Adds one to a gauge for as long as it is there.
#[must_use]
#[derive(Debug)]
pub struct Counted(Gauge);

// === impl RouteMetrics ===

impl RouteMetrics {
    pub(super) fn new(registry: &Registry, route: &str) -> Self {
        let label = || Label::new("route", route.to_owned());
        let class = |class| {
            let labels = vec![label(), Label::new("class", class)];
            registry.counter(name::ROUTE_REQUESTS, labels)
        };
        Self {
            classes: CLASSES.into_iter().map(class).collect(),
            duration: registry.histogram(name::ROUTE_REQUEST_DURATION, vec![label()]),
        }
    }

    /// Counts a response.
    pub fn count(&self, code: u16, took: Duration) {
        let class = usize::from(code / 100).saturating_sub(1);
        if let Some(counter) = self.classes.get(class) {
            counter.increment(1);
        }
        self.duration.record(took.as_secs_f64());
    }
}

// === impl ListenerMetrics ===

impl ListenerMetrics {
    /// Counts a connection that has just been accepted, until the guard is dropped.
    pub fn accepted(&self) -> Counted {
        self.accepted.increment(1);
        Counted::new(&self.open)
    }
}

// === impl Counted ===

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
