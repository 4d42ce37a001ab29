//! Series that are about something that comes and goes: a route, a listener, its certificates.
//!
//! Guarantees: such a series is served for as long as what it is about is there, so a reload leaves
//! nothing behind; a route that goes gives its place back. The registry of the other series forgets
//! none, so these are kept and written here.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use metrics::{Gauge, GaugeFn};

use super::catalogue::{self as name, BUCKETS};
use super::handles::Counted;

/// What routes beyond the bound are called together.
const OTHER_ROUTES: &str = "other";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Everything that has series which go with it.
#[derive(Debug)]
pub(super) struct Owned {
    most_routes: usize,
    routes: Mutex<Routes>,
    listeners: Mutex<BTreeMap<SocketAddr, Weak<ListenerSeries>>>,
    expiries: Mutex<BTreeMap<SocketAddr, i64>>,
}

/// The routes in force.
#[derive(Debug, Default)]
struct Routes {
    own: BTreeMap<Arc<str>, RouteSeries>,
    /// Those beyond the bound, if there are any.
    others: Option<RouteSeries>,
}

/// The series of one route, or of several.
#[derive(Debug, Default)]
struct RouteSeries {
    /// How many routes they are of: one label may be that of several ports.
    routes: usize,
    metrics: Arc<RouteMetrics>,
}

/// One route's metrics.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    classes: [AtomicU64; CLASSES.len()],
    /// Responses by the first bucket that they fit into; the last is that of the slowest.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    /// How long all of them took, in nanoseconds.
    total: AtomicU64,
}

/// One listener's metrics.
#[derive(Debug)]
pub struct ListenerMetrics {
    open: Gauge,
    series: Arc<ListenerSeries>,
}

#[derive(Debug, Default)]
struct ListenerSeries {
    /// A gauge's bits.
    open: AtomicU64,
    accepted: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A label's value in quotes, as the text format has it.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}

// === impl Owned ===

impl Owned {
    /// None yet; so many routes may have series of their own.
    pub(super) fn new(most_routes: usize) -> Self {
        Self {
            most_routes,
            routes: Mutex::default(),
            listeners: Mutex::default(),
            expiries: Mutex::default(),
        }
    }

    /// Makes these the routes, by their labels, and returns the metrics of each. Who had series of
    /// their own keep them; the places that are left go to the first of the others.
    pub(super) fn set_routes(&self, labels: &[&Arc<str>]) -> Vec<Arc<RouteMetrics>> {
        let mut routes = lock(&self.routes);
        let Routes { own, others } = &mut *routes;
        let stay: HashSet<&str> = labels
            .iter()
            .map(|label| &***label)
            .filter(|label| own.contains_key(*label))
            .collect();
        own.retain(|label, _| stay.contains(&**label));
        for series in own.values_mut() {
            series.routes = 0;
        }
        let mut before = others.take();
        let mut add = |label: &Arc<str>| routes.add(label, self.most_routes, &mut before);
        labels.iter().map(|label| add(label)).collect()
    }

    /// The metrics of a route that has come.
    pub(super) fn add_route(&self, label: &Arc<str>) -> Arc<RouteMetrics> {
        lock(&self.routes).add(label, self.most_routes, &mut None)
    }

    /// A route of this label has gone.
    pub(super) fn remove_route(&self, label: &str) {
        let mut routes = lock(&self.routes);
        let Routes { own, others } = &mut *routes;
        if let Some(series) = own.get_mut(label) {
            series.routes = series.routes.saturating_sub(1);
            if series.routes == 0 {
                own.remove(label);
            }
        } else if let Some(series) = others {
            series.routes = series.routes.saturating_sub(1);
            if series.routes == 0 {
                *others = None;
            }
        }
    }

    /// A listener's metrics. Its series go with the last of them and of its connections.
    pub(super) fn listener(&self, address: SocketAddr) -> ListenerMetrics {
        let mut listeners = lock(&self.listeners);
        let present = listeners.get(&address).and_then(Weak::upgrade);
        let series = present.unwrap_or_default();
        listeners.insert(address, Arc::downgrade(&series));
        ListenerMetrics {
            open: Gauge::from_arc(Arc::clone(&series)),
            series,
        }
    }

    /// When the first certificate of each listener expires, in seconds since 1970.
    pub(super) fn set_expiries(&self, expiries: BTreeMap<SocketAddr, i64>) {
        *lock(&self.expiries) = expiries;
    }

    /// Adds the series in Prometheus' text format.
    pub(super) fn render(&self, text: &mut String) {
        self.render_routes(text);
        let mut listeners = lock(&self.listeners);
        listeners.retain(|_, series| series.strong_count() > 0);
        let present: Vec<_> = listeners
            .iter()
            .filter_map(|(address, series)| Some((*address, series.upgrade()?)))
            .collect();
        drop(listeners);
        let open = |series: &ListenerSeries| f64::from_bits(series.open.load(Ordering::Acquire));
        let of_listeners = |text: &mut String, name, value: &dyn Fn(&ListenerSeries) -> String| {
            let values = present
                .iter()
                .map(|(address, series)| (*address, value(series)));
            write_listeners(text, name, values);
        };
        of_listeners(text, name::LISTENER_CONNECTIONS, &|series| {
            open(series).to_string()
        });
        of_listeners(text, name::LISTENER_ACCEPTED, &|series| {
            series.accepted.load(Ordering::Relaxed).to_string()
        });
        let expiries = lock(&self.expiries).clone();
        let expiries = expiries.iter().map(|(address, at)| (*address, at));
        write_listeners(text, name::TLS_NOT_AFTER, expiries);
    }

    fn render_routes(&self, text: &mut String) {
        let routes = lock(&self.routes);
        let own = routes.own.iter();
        let own = own.map(|(label, route)| (quoted(label), Arc::clone(&route.metrics)));
        let others = routes.others.iter();
        let others = others.map(|route| (quoted(OTHER_ROUTES), Arc::clone(&route.metrics)));
        let all: Vec<_> = own.chain(others).collect();
        drop(routes);
        if all.is_empty() {
            return;
        }
        name::heading(text, name::ROUTE_REQUESTS);
        for (label, route) in &all {
            route.write_classes(text, label);
        }
        text.push('\n');
        name::heading(text, name::ROUTE_REQUEST_DURATION);
        for (label, route) in &all {
            route.write_duration(text, label);
        }
        text.push('\n');
    }
}

/// A metric with one value for each listener; without listeners there is none.
fn write_listeners<V: std::fmt::Display>(
    text: &mut String,
    name: &'static str,
    values: impl Iterator<Item = (SocketAddr, V)>,
) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    name::heading(text, name);
    for (address, value) in values {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{name}{{listener=\"{address}\"}} {value}");
    }
    text.push('\n');
}

// === impl Routes ===

impl Routes {
    /// The metrics of one route more. `others` are those that routes beyond the bound had before.
    fn add(
        &mut self,
        label: &Arc<str>,
        most: usize,
        others: &mut Option<RouteSeries>,
    ) -> Arc<RouteMetrics> {
        let has_place = self.own.len() < most;
        let series = match self.own.get_mut(label) {
            Some(series) => series,
            None if has_place => self.own.entry(Arc::clone(label)).or_default(),
            None => self.others.get_or_insert_with(|| RouteSeries {
                routes: 0,
                ..others.take().unwrap_or_default()
            }),
        };
        series.routes += 1;
        Arc::clone(&series.metrics)
    }
}

// === impl RouteMetrics ===

impl RouteMetrics {
    /// Counts a response.
    pub fn count(&self, code: u16, took: Duration) {
        let class = usize::from(code / 100).saturating_sub(1);
        if let Some(counter) = self.classes.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|most| *most < seconds);
        if let Some(counter) = self.buckets.get(bucket) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.total.fetch_add(nanos, Ordering::Relaxed);
    }

    fn write_classes(&self, text: &mut String, label: &str) {
        let name = name::ROUTE_REQUESTS;
        for (class, counter) in CLASSES.iter().zip(&self.classes) {
            let count = counter.load(Ordering::Relaxed);
            let _written = writeln!(text, "{name}{{route={label},class=\"{class}\"}} {count}");
        }
    }

    fn write_duration(&self, text: &mut String, label: &str) {
        let name = name::ROUTE_REQUEST_DURATION;
        let mut count = 0;
        let bounds = BUCKETS.iter().map(ToString::to_string);
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (most, bucket) in bounds.zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let _written = writeln!(text, "{name}_bucket{{route={label},le=\"{most}\"}} {count}");
        }
        let seconds = self.total.load(Ordering::Relaxed) as f64 / 1e9;
        let _written = writeln!(
            text,
            "{name}_sum{{route={label}}} {seconds}\n{name}_count{{route={label}}} {count}"
        );
    }
}

// === impl ListenerMetrics ===

impl ListenerMetrics {
    /// Counts a connection that has just been accepted, until the guard is dropped.
    pub fn accepted(&self) -> Counted {
        self.series.accepted.fetch_add(1, Ordering::Relaxed);
        Counted::new(&self.open)
    }
}

// === impl ListenerSeries ===

impl GaugeFn for ListenerSeries {
    fn increment(&self, value: f64) {
        GaugeFn::increment(&self.open, value);
    }

    fn decrement(&self, value: f64) {
        GaugeFn::decrement(&self.open, value);
    }

    fn set(&self, value: f64) {
        GaugeFn::set(&self.open, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(owned: &Owned, labels: &[&str]) -> Vec<Arc<RouteMetrics>> {
        let labels: Vec<Arc<str>> = labels.iter().map(|label| Arc::from(*label)).collect();
        owned.set_routes(&labels.iter().collect::<Vec<_>>())
    }

    fn text(owned: &Owned) -> String {
        let mut text = String::new();
        owned.render(&mut text);
        text
    }

    #[track_caller]
    fn expect(owned: &Owned, counts: &[(&str, u64)]) {
        let text = text(owned);
        for (route, count) in counts {
            let line =
                format!("wakegate_route_requests_total{{route=\"{route}\",class=\"2xx\"}} {count}");
            assert!(
                text.lines().any(|other| other == line),
                "{line} is not in\n{text}"
            );
        }
        let lines = text.lines().filter(|line| line.contains("class=\"2xx\""));
        assert_eq!(lines.count(), counts.len(), "{text}");
    }

    #[test]
    fn a_route_that_goes_takes_its_series_along_and_gives_its_place_back() {
        let owned = Owned::new(2);
        let took = Duration::from_millis(3);
        for route in set(&owned, &["a.b/", "c.d/", "e.f/", "g.h/"]) {
            route.count(200, took);
        }
        expect(&owned, &[("a.b/", 1), ("c.d/", 1), ("other", 2)]);
        // A route that stays keeps its counts, and the first of the others has a place now.
        for route in set(&owned, &["g.h/", "e.f/", "c.d/"]) {
            route.count(200, took);
        }
        expect(&owned, &[("c.d/", 2), ("g.h/", 1), ("other", 3)]);
        set(&owned, &["c.d/", "g.h/"]);
        expect(&owned, &[("c.d/", 2), ("g.h/", 1)]);
        set(&owned, &[]);
        assert_eq!(text(&owned), "");
    }

    #[test]
    fn a_route_that_comes_or_goes_alone_leaves_the_others_as_they_are() {
        let owned = Owned::new(2);
        let took = Duration::from_millis(3);
        let count = |routes: Vec<Arc<RouteMetrics>>| {
            for route in routes {
                route.count(200, took);
            }
        };
        count(set(&owned, &["a.b/", "c.d/", "e.f/"]));
        // The same label at another port has the same series, which stay as long as either.
        count(vec![
            owned.add_route(&"a.b/".into()),
            owned.add_route(&"g.h/".into()),
        ]);
        expect(&owned, &[("a.b/", 2), ("c.d/", 1), ("other", 2)]);
        owned.remove_route("a.b/");
        owned.remove_route("c.d/");
        expect(&owned, &[("a.b/", 2), ("other", 2)]);
        count(vec![owned.add_route(&"i.j/".into())]);
        expect(&owned, &[("a.b/", 2), ("i.j/", 1), ("other", 2)]);
        for label in ["a.b/", "e.f/", "g.h/"] {
            owned.remove_route(label);
        }
        expect(&owned, &[("i.j/", 1)]);
    }

    #[test]
    fn a_route_has_each_class_from_the_start_and_a_whole_histogram() {
        let owned = Owned::new(9);
        let routes = set(&owned, &["a\"\\b/"]);
        for millis in [1, 5, 7, 70_000] {
            routes[0].count(503, Duration::from_millis(millis));
        }
        let text = text(&owned);
        for line in [
            "# TYPE wakegate_route_requests_total counter",
            "wakegate_route_requests_total{route=\"a\\\"\\\\b/\",class=\"1xx\"} 0",
            "wakegate_route_requests_total{route=\"a\\\"\\\\b/\",class=\"5xx\"} 4",
            "# TYPE wakegate_route_request_duration_seconds histogram",
            "wakegate_route_request_duration_seconds_bucket{route=\"a\\\"\\\\b/\",le=\"0.0005\"} 0",
            "wakegate_route_request_duration_seconds_bucket{route=\"a\\\"\\\\b/\",le=\"0.005\"} 2",
            "wakegate_route_request_duration_seconds_bucket{route=\"a\\\"\\\\b/\",le=\"60\"} 3",
            "wakegate_route_request_duration_seconds_bucket{route=\"a\\\"\\\\b/\",le=\"+Inf\"} 4",
            "wakegate_route_request_duration_seconds_sum{route=\"a\\\"\\\\b/\"} 70.013",
            "wakegate_route_request_duration_seconds_count{route=\"a\\\"\\\\b/\"} 4",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_listeners_series_go_with_its_last_connection_and_a_certificates_with_its_listener() {
        let owned = Owned::new(9);
        let address: SocketAddr = ([127, 0, 0, 1], 443).into();
        let (one, two) = (owned.listener(address), owned.listener(address));
        let (first, second) = (one.accepted(), two.accepted());
        drop(first);
        owned.set_expiries([(address, 1_800_000_000)].into());
        let has = |line: &str| text(&owned).lines().any(|other| other == line);
        assert!(has(
            "wakegate_listener_connections{listener=\"127.0.0.1:443\"} 1"
        ));
        assert!(has(
            "wakegate_listener_accepted_total{listener=\"127.0.0.1:443\"} 2"
        ));
        assert!(has(
            "wakegate_tls_certificate_not_after_timestamp_seconds{listener=\"127.0.0.1:443\"} 1800000000"
        ));
        drop((one, two));
        assert!(has(
            "wakegate_listener_connections{listener=\"127.0.0.1:443\"} 1"
        ));
        drop(second);
        owned.set_expiries(BTreeMap::new());
        assert_eq!(text(&owned), "");
    }
}
