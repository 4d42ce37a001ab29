//! The handles of metrics, alone and in families.
//!
//! Guarantees: a gauge that nobody has set is served as 0; a family has a handle for each of its
//! label's values from the start.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::labels::Values;

const METADATA: Metadata<'static> = Metadata::new("wakegate", Level::INFO, None);

/// The recorder that every handle comes from.
pub(super) struct Registry(pub(super) PrometheusRecorder);

/// One handle for each of a label's values.
#[derive(Debug)]
pub(super) struct Family<V, H> {
    handles: Box<[H]>,
    values: std::marker::PhantomData<V>,
}

// === impl Registry ===

impl Registry {
    pub(super) fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        let key = Key::from_parts(name, labels);
        self.0.register_counter(&key, &METADATA)
    }

    pub(super) fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        let key = Key::from_parts(name, labels);
        let gauge = self.0.register_gauge(&key, &METADATA);
        // What nobody has set would not be served.
        gauge.increment(0.0);
        gauge
    }

    pub(super) fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        let key = Key::from_parts(name, labels);
        self.0.register_histogram(&key, &METADATA)
    }
}

// === impl Family ===

impl<V: Values, H> Family<V, H> {
    fn make(handle: impl Fn(Vec<Label>) -> H) -> Self {
        let handles = V::ALL.iter();
        let handles = handles.map(|value| handle(vec![Label::new(V::LABEL, value.value())]));
        Self {
            handles: handles.collect(),
            values: std::marker::PhantomData,
        }
    }

    pub(super) fn of(&self, value: V) -> Option<&H> {
        let index = V::ALL.iter().position(|other| *other == value)?;
        self.handles.get(index)
    }
}

impl<V: Values> Family<V, Counter> {
    pub(super) fn counters(registry: &Registry, name: &'static str) -> Self {
        Self::make(|labels| registry.counter(name, labels))
    }

    pub(super) fn count(&self, value: V) {
        if let Some(counter) = self.of(value) {
            counter.increment(1);
        }
    }
}

impl<V: Values> Family<V, Gauge> {
    pub(super) fn gauges(registry: &Registry, name: &'static str) -> Self {
        Self::make(|labels| registry.gauge(name, labels))
    }
}

impl<V: Values> Family<V, Histogram> {
    pub(super) fn histograms(registry: &Registry, name: &'static str) -> Self {
        Self::make(|labels| registry.histogram(name, labels))
    }

    pub(super) fn record(&self, value: V, seconds: f64) {
        if let Some(histogram) = self.of(value) {
            histogram.record(seconds);
        }
    }
}
