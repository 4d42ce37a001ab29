//! The route table.
//!
//! Guarantees: a table answers by the routes that are in it, whether they were there from the start
//! or came, or others went, one by one; a copy costs next to nothing and shares with its original
//! all that no change has touched; nobody who looks something up waits for a change.

use std::collections::HashMap;
use std::sync::Arc;

use super::host_map::{HostMap, Keyed, hash_of};
use super::path_readings::PathReadings;
use super::paths::{Order, Paths, RouteError};
use super::route::Route;
use super::shape::{Shape, fits};
use crate::config::{HostKind, InstanceTemplate, RouteConfig};
use crate::names::Hostname;
use hypeman::InstanceRef;

/// As the port of a route: it is for every port that no other route of its host is for.
pub const OTHER_PORTS: u16 = 0;

/// A route and the instance that it names for this request.
#[derive(Debug, Clone)]
pub struct Match<S = ()> {
    /// The route.
    pub route: Arc<Route<S>>,
    /// The instance's name, id or prefix.
    pub instance: InstanceRef,
}

/// All routes, each with what its gateway knows about it.
#[derive(Debug)]
pub struct RouteTable<S = ()> {
    /// Those of every listener.
    any: Hosts<S>,
    /// Those of listeners at one port; at [`OTHER_PORTS`] those of all others.
    ports: HashMap<u16, Hosts<S>>,
}

/// Routes by host: look-ups cost the same for ten and for a million.
#[derive(Debug)]
struct Hosts<S> {
    exact: HostMap<S>,
    /// Those with the fewest captures first; among equals, whichever has the first route.
    patterns: Vec<Patterns<S>>,
    /// How many patterns have come.
    order: Order,
    wildcards: HostMap<S>,
    /// Of every host that nothing else takes.
    rest: Option<Paths<S>>,
}

/// The patterns of one shape.
#[derive(Debug)]
struct Patterns<S> {
    shape: Shape,
    /// The order of the first of them, or of one that was there and went.
    first: Order,
    hosts: HostMap<S>,
}

// === impl Patterns ===

impl<S> Patterns<S> {
    fn rank(&self) -> (usize, Order) {
        (self.shape.captures(), self.first)
    }
}

impl<S> Clone for Patterns<S> {
    fn clone(&self) -> Self {
        Self {
            shape: self.shape.clone(),
            first: self.first,
            hosts: self.hosts.clone(),
        }
    }
}

// === impl Hosts ===

impl<S> Hosts<S> {
    /// Of routes in the order of the configuration.
    fn of(routes: impl Iterator<Item = Arc<Route<S>>>) -> Self {
        let (mut exact, mut wildcards) = (Vec::new(), Vec::new());
        let mut patterns: Vec<(Shape, Vec<Keyed<S>>)> = Vec::new();
        let (mut order, mut rest) = (0, None);
        for route in routes {
            let name = route.config().name.clone();
            let key = |hash, order| Keyed { hash, order, route };
            match name.kind() {
                HostKind::Exact(host) => exact.push(key(hash_of(host), 0)),
                HostKind::Wildcard(suffix) => wildcards.push(key(hash_of(suffix), 0)),
                HostKind::Labels(pattern) => {
                    let shape = Shape::of(pattern);
                    let keyed = key(shape.hash_of(pattern), order);
                    order = order.saturating_add(1);
                    match patterns.iter_mut().find(|(other, _)| *other == shape) {
                        Some((_, routes)) => routes.push(keyed),
                        None => patterns.push((shape, vec![keyed])),
                    }
                }
                HostKind::Any => Self::add(&mut rest, key(0, 0).route),
            }
        }
        let is_same = |one: &Route<S>, other: &Route<S>| one.host() == other.host();
        let is_alike = |one: &Route<S>, other: &Route<S>| fits(one.host(), other.host());
        let patterns = patterns.into_iter().map(|(shape, routes)| Patterns {
            shape,
            first: routes.first().map_or(0, |keyed| keyed.order),
            hosts: HostMap::of(routes, &is_alike),
        });
        let mut hosts = Self {
            exact: HostMap::of(exact, &is_same),
            patterns: patterns.collect(),
            order,
            wildcards: HostMap::of(wildcards, &is_same),
            rest,
        };
        hosts.patterns.sort_by_key(Patterns::rank);
        hosts
    }

    fn add(paths: &mut Option<Paths<S>>, route: Arc<Route<S>>) {
        match paths {
            Some(paths) => paths.add(0, route),
            None => *paths = Some(Paths::of(0, route)),
        }
    }

    fn insert(&mut self, route: Arc<Route<S>>) {
        let name = route.config().name.clone();
        let key = |hash, order| Keyed { hash, order, route };
        match name.kind() {
            HostKind::Exact(host) => {
                let keyed = key(hash_of(host), 0);
                self.exact.insert(keyed, |other| other.is_of(host));
            }
            HostKind::Wildcard(suffix) => {
                let keyed = key(hash_of(suffix), 0);
                let host = name.host();
                self.wildcards.insert(keyed, |other| other.is_of(host));
            }
            HostKind::Labels(pattern) => {
                let shape = Shape::of(pattern);
                let keyed = key(shape.hash_of(pattern), self.order);
                let is_its = |other: &Route<S>| fits(other.host(), pattern);
                match self.patterns.iter_mut().find(|other| other.shape == shape) {
                    Some(patterns) => patterns.hosts.insert(keyed, is_its),
                    None => {
                        let mut hosts = HostMap::default();
                        hosts.insert(keyed, is_its);
                        let first = self.order;
                        self.patterns.push(Patterns {
                            shape,
                            first,
                            hosts,
                        });
                        self.patterns.sort_by_key(Patterns::rank);
                    }
                }
                self.order = self.order.saturating_add(1);
            }
            HostKind::Any => Self::add(&mut self.rest, key(0, 0).route),
        }
    }

    fn remove(&mut self, config: &RouteConfig) -> bool {
        let (name, label) = (&config.name, &**config.name.label());
        match name.kind() {
            HostKind::Exact(host) => {
                let is_its = |other: &Route<S>| other.is_of(host);
                self.exact.remove(hash_of(host), label, is_its)
            }
            HostKind::Wildcard(suffix) => {
                let host = name.host();
                let is_its = |other: &Route<S>| other.is_of(host);
                self.wildcards.remove(hash_of(suffix), label, is_its)
            }
            HostKind::Labels(pattern) => {
                let shape = Shape::of(pattern);
                let captures = shape.captures();
                let equals = self.patterns.iter();
                let equals = equals.filter(|other| other.shape.captures() == captures);
                let is_alone = equals.count() == 1;
                let mut patterns = self.patterns.iter_mut();
                let Some(patterns) = patterns.find(|other| other.shape == shape) else {
                    return false;
                };
                let hash = shape.hash_of(pattern);
                let is_its = |other: &Route<S>| fits(other.host(), pattern);
                let is_removed = patterns.hosts.remove(hash, label, is_its);
                if is_removed && !is_alone {
                    // Which of several shapes goes first depends on the routes that there are.
                    patterns.first = patterns.hosts.first();
                    self.patterns.sort_by_key(Patterns::rank);
                }
                self.patterns.retain(|other| !other.hosts.is_empty());
                is_removed
            }
            HostKind::Any => {
                let named = |route: &Arc<Route<S>>| &**route.label() == label;
                let found = self.rest.as_ref();
                let found = found.is_some_and(|paths| paths.routes().any(named));
                if found {
                    self.rest = self.rest.as_ref().and_then(|paths| paths.without(label));
                }
                found
            }
        }
    }

    /// The routes whose hosts are written in the same way, or alike.
    fn written(&self, config: &RouteConfig) -> Option<&Paths<S>> {
        match config.name.kind() {
            HostKind::Exact(host) => self.exact(host),
            HostKind::Wildcard(suffix) => self.wildcard_of(suffix),
            HostKind::Labels(pattern) => {
                let shape = Shape::of(pattern);
                let found = self.patterns.iter().find(|other| other.shape == shape)?;
                let is_its = |other: &Route<S>| fits(other.host(), pattern);
                found.hosts.get(shape.hash_of(pattern), is_its)
            }
            HostKind::Any => self.rest.as_ref(),
        }
    }

    fn exact(&self, host: &str) -> Option<&Paths<S>> {
        if self.exact.is_empty() {
            return None;
        }
        self.exact.get(hash_of(host), |route| route.is_of(host))
    }

    fn pattern(&self, host: &str) -> Option<&Paths<S>> {
        if self.patterns.is_empty() {
            return None;
        }
        let mut fitting = self.patterns.iter();
        fitting.find_map(|Patterns { shape, hosts, .. }| {
            if !shape.fits(host) {
                return None;
            }
            hosts.get(shape.hash_of(host), |route| fits(route.host(), host))
        })
    }

    fn wildcard(&self, host: &str) -> Option<&Paths<S>> {
        if self.wildcards.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(paths) = self.wildcard_of(suffix) {
                return Some(paths);
            }
            rest = suffix;
        }
        None
    }

    fn wildcard_of(&self, suffix: &str) -> Option<&Paths<S>> {
        let is_its = |route: &Route<S>| route.host().strip_prefix("*.") == Some(suffix);
        self.wildcards.get(hash_of(suffix), is_its)
    }

    fn each<'a>(&'a self, show: &mut dyn FnMut(&'a Arc<Route<S>>)) {
        self.exact.each(show);
        let patterns = self.patterns.iter();
        patterns.for_each(|patterns| patterns.hosts.each(show));
        self.wildcards.each(show);
        self.rest.iter().flat_map(Paths::routes).for_each(show);
    }
}

impl<S> Default for Hosts<S> {
    fn default() -> Self {
        Self {
            exact: HostMap::default(),
            patterns: Vec::new(),
            order: 0,
            wildcards: HostMap::default(),
            rest: None,
        }
    }
}

impl<S> Clone for Hosts<S> {
    fn clone(&self) -> Self {
        Self {
            exact: self.exact.clone(),
            patterns: self.patterns.clone(),
            order: self.order,
            wildcards: self.wildcards.clone(),
            rest: self.rest.clone(),
        }
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// From the configuration, which is consistent already.
    pub fn new(routes: &[Arc<RouteConfig>]) -> Self {
        let routes = routes.iter().map(|config| (Arc::clone(config), ()));
        Self::of(routes.map(|(config, state)| Route::new(config, state)))
    }
}

impl<S> RouteTable<S> {
    /// Of routes in the order of the configuration.
    pub fn of(routes: impl IntoIterator<Item = Route<S>>) -> Self {
        let (mut any, mut ports) = (Vec::new(), HashMap::<u16, Vec<_>>::new());
        for route in routes {
            let hosts = match route.config().listen_port {
                None => &mut any,
                Some(port) => ports.entry(port).or_default(),
            };
            hosts.push(Arc::new(route));
        }
        let ports = ports.into_iter();
        Self {
            any: Hosts::of(any.into_iter()),
            ports: ports
                .map(|(port, routes)| (port, Hosts::of(routes.into_iter())))
                .collect(),
        }
    }

    /// Adds a route, as if it came last in the configuration.
    pub fn insert(&mut self, route: Route<S>) {
        let hosts = match route.config().listen_port {
            None => &mut self.any,
            Some(port) => self.ports.entry(port).or_default(),
        };
        hosts.insert(Arc::new(route));
    }

    /// Takes out the route of this name and port; whether it was there.
    pub fn remove(&mut self, config: &RouteConfig) -> bool {
        match config.listen_port {
            None => self.any.remove(config),
            Some(port) => (self.ports.get_mut(&port)).is_some_and(|hosts| hosts.remove(config)),
        }
    }

    /// The route of this name and port.
    pub fn get(&self, config: &RouteConfig) -> Option<&Arc<Route<S>>> {
        let hosts = match config.listen_port {
            None => Some(&self.any),
            Some(port) => self.ports.get(&port),
        };
        let label = config.name.label();
        let paths = hosts.and_then(|hosts| hosts.written(config))?;
        paths.routes().find(|route| route.label() == label)
    }

    /// Shows each route, in no order.
    pub fn each<'a>(&'a self, mut show: impl FnMut(&'a Arc<Route<S>>)) {
        self.any.each(&mut show);
        self.ports.values().for_each(|hosts| hosts.each(&mut show));
    }

    /// The route of a request that came to a port. The host decides first (a literal one before a
    /// pattern, that before a wildcard; among equals one of every port before one of this port
    /// alone, and that before one of all other ports), then the path among that host's routes.
    pub fn find(
        &self,
        host: &Hostname,
        path: &PathReadings<'_>,
        port: u16,
    ) -> Result<Match<S>, RouteError> {
        let name = host.as_str();
        let paths = self.paths(name, port).ok_or(RouteError::NoRoute)?;
        let route = paths.find(path)?;
        let instance = route.instance_for(name).ok_or(RouteError::NoRoute)?;
        Ok(Match {
            route: Arc::clone(route),
            instance,
        })
    }

    /// A route of the host that takes its instance from it, whatever the path.
    pub fn captured(&self, host: &Hostname, port: u16) -> Option<Match<S>> {
        let paths = self.paths(host.as_str(), port);
        let mut routes = paths.into_iter().flat_map(Paths::routes);
        let route = routes.find(|route| {
            let instance = &route.config().instance;
            matches!(instance, InstanceTemplate::Capture(_))
        })?;
        Some(Match {
            instance: route.instance_for(host.as_str())?,
            route: Arc::clone(route),
        })
    }

    /// Whether a route of the host asks for authentication. The paths of a connection that is passed
    /// on unread may be below any of them.
    pub fn asks_for_auth(&self, host: &Hostname, port: u16) -> bool {
        let paths = self.paths(host.as_str(), port);
        let mut routes = paths.into_iter().flat_map(Paths::routes);
        routes.any(|route| route.config().forwarding.auth.is_some())
    }

    fn paths(&self, name: &str, port: u16) -> Option<&Paths<S>> {
        let here = self.ports.get(&port);
        let other = || self.ports.get(&OTHER_PORTS);
        (self.any.exact(name))
            .or_else(|| here?.exact(name))
            .or_else(|| other()?.exact(name))
            .or_else(|| self.any.pattern(name))
            .or_else(|| here?.pattern(name))
            .or_else(|| other()?.pattern(name))
            .or_else(|| self.any.wildcard(name))
            .or_else(|| here?.wildcard(name))
            .or_else(|| other()?.wildcard(name))
            .or(self.any.rest.as_ref())
            .or_else(|| here?.rest.as_ref())
            .or_else(|| other()?.rest.as_ref())
    }
}

impl<S> Default for RouteTable<S> {
    fn default() -> Self {
        Self {
            any: Hosts::default(),
            ports: HashMap::new(),
        }
    }
}

impl<S> Clone for RouteTable<S> {
    fn clone(&self) -> Self {
        Self {
            any: self.any.clone(),
            ports: self.ports.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path_readings::AmbiguousPath;
    use super::*;
    use crate::config::{Variables, load};

    fn table(routes: &[(&str, &str, &str)]) -> RouteTable {
        let text = routes
            .iter()
            .map(|(host, path, instance)| {
                let ports = match host.contains("{port}") {
                    true => "ports = \"3000-9000\"\n",
                    false => "",
                };
                format!(
                    "[[route]]\nhost = \"{host}\"\npath = \"{path}\"\ninstance = \"{instance}\"\n{ports}"
                )
            })
            .collect::<Vec<_>>()
            .concat();
        RouteTable::new(&load("test", &text, &Variables::default()).unwrap().route)
    }

    #[track_caller]
    fn check(table: &RouteTable, host: &str, path: &str, expected: Result<&str, RouteError>) {
        let path_readings = PathReadings::of(path);
        let found = table.find(&Hostname::parse(host).unwrap(), &path_readings, 80);
        let found = found.map(|found| found.instance.as_str().to_owned());
        assert_eq!(
            found.as_deref(),
            expected.as_ref().map(|e| &**e),
            "{host}{path}"
        );
    }

    #[test]
    fn the_more_exact_host_wins() {
        let table = table(&[
            ("*", "/", "rest"),
            ("*.example.com", "/", "wild"),
            ("{app}.example.com", "/", "{app}"),
            ("{a}.{b}.example.com", "/", "{b}"),
            ("api.{b}.example.com", "/", "literal-label"),
            ("api.example.com", "/", "exact"),
        ]);
        check(&table, "api.example.com", "/", Ok("exact"));
        check(&table, "blue.example.com", "/", Ok("blue"));
        check(&table, "x.y.example.com", "/", Ok("y"));
        check(&table, "api.y.example.com", "/", Ok("literal-label"));
        check(&table, "x.y.z.example.com", "/", Ok("wild"));
        check(&table, "example.com", "/", Ok("rest"));
        check(&table, "127.0.0.1", "/", Ok("rest"));
    }

    #[test]
    fn a_host_with_a_port_in_it_wins_over_one_whose_label_is_a_name() {
        let table = table(&[
            ("{app}.example.com", "/", "{app}"),
            ("{port}-{app}.example.com", "/", "{app}"),
            ("{app}-{port}.example.org", "/", "{app}"),
            ("{port}.{app}.example.net", "/", "{app}"),
        ]);
        check(&table, "3000-my-app.example.com", "/", Ok("my-app"));
        check(&table, "my-app.example.com", "/", Ok("my-app"));
        check(&table, "my-app-3000.example.org", "/", Ok("my-app"));
        check(&table, "3000.my-app.example.net", "/", Ok("my-app"));
        check(&table, "my-app.example.org", "/", Err(RouteError::NoRoute));
    }

    #[test]
    fn the_longest_path_wins_on_segment_borders() {
        let table = table(&[
            ("a.b", "/v1", "one"),
            ("a.b", "/v1/deep", "deep"),
            ("c.d", "/", "all"),
        ]);
        check(&table, "a.b", "/v1", Ok("one"));
        check(&table, "a.b", "/v1/x", Ok("one"));
        check(&table, "a.b", "/v1/deep/x", Ok("deep"));
        check(&table, "a.b", "/v10", Err(RouteError::NoRoute));
        check(&table, "a.b", "/", Err(RouteError::NoRoute));
    }

    #[test]
    fn a_path_is_refused_where_its_readings_meet_different_routes_alone() {
        let ambiguous = Err(RouteError::AmbiguousPath(AmbiguousPath));
        let table = table(&[
            ("a.b", "/v1", "one"),
            ("a.b", "/", "rest"),
            ("c.d", "/", "all"),
            ("e.f", "/v1", "one"),
        ]);
        for path in [
            "/v1/../admin",
            "/v1/%2e%2e/x",
            "//v1",
            "/v1%2fx",
            "/./v1",
            "/v1\\x",
            "/V1",
            "/v1%00",
            "/v1;x",
        ] {
            check(&table, "a.b", path, ambiguous);
            check(&table, "c.d", path, Ok("all"));
            check(&table, "e.f", path, ambiguous);
        }
        for path in ["/v1/a%2Fb", "/v1/a//b", "/v1/x/../y", "/%76%31", "/v1/A;b"] {
            check(&table, "a.b", path, Ok("one"));
        }
        for path in ["/@scope%2fpkg", "/o/a%2Fb", "/a//b", "/x/../y", "/A%20b"] {
            check(&table, "a.b", path, Ok("rest"));
        }
    }

    #[test]
    fn routes_may_differ_by_letter_case_or_by_an_encoding() {
        let table = table(&[
            ("a.b", "/Foo", "large"),
            ("a.b", "/foo", "small"),
            ("a.b", "/@s%2fp", "encoded"),
            ("a.b", "/", "rest"),
        ]);
        check(&table, "a.b", "/Foo/x", Ok("large"));
        check(&table, "a.b", "/foo/x", Ok("small"));
        let ambiguous = Err(RouteError::AmbiguousPath(AmbiguousPath));
        check(&table, "a.b", "/FOO/x", ambiguous);
        check(&table, "a.b", "/@s%2fp/x", Ok("encoded"));
        check(&table, "a.b", "/@s%2Fp/x", Ok("encoded"));
        check(&table, "a.b", "/@s/p/x", ambiguous);
        check(&table, "a.b", "/x", Ok("rest"));
    }

    #[test]
    fn neither_dot_segments_nor_an_authority_lead_out_of_a_prefix_that_is_taken_off() {
        let text = "[[route]]\nhost = \"a.b\"\npath = \"/v1\"\ninstance = \"one\"\n\
                    strip_path = true\n[[route]]\nhost = \"a.b\"\ninstance = \"rest\"\n";
        let table = RouteTable::new(&load("test", text, &Variables::default()).unwrap().route);
        let ambiguous = Err(RouteError::AmbiguousPath(AmbiguousPath));
        check(&table, "a.b", "/v1/../v1/secret", ambiguous);
        check(&table, "a.b", "/v1/x/%252e%252e/..%2f../v1/y", ambiguous);
        check(&table, "a.b", "/v1/x/../y", Ok("one"));
        check(&table, "a.b", "/x/../y", Ok("rest"));
        for rest in ["%2fx/a", "\\x/a", "/%5Cx/a", "%252Fx/a"] {
            check(&table, "a.b", &format!("/v1/{rest}"), ambiguous);
        }
        // Slashes as they are become one.
        check(&table, "a.b", "/v1//x/a", Ok("one"));
        check(&table, "a.b", "/v1/a%2fb/c;d//e", Ok("one"));
    }
}

#[cfg(test)]
mod changes;
