//! The route table.

use std::collections::HashMap;
use std::sync::Arc;

use super::path_readings::{AmbiguousPath, PathReadings, PathRule, Reading, SpecialPaths};
use crate::config::{HostPattern, InstanceTemplate, PatternLabel, RouteConfig, split_port};
use crate::names::Hostname;
use hypeman::InstanceRef;

/// One route.
#[derive(Debug)]
pub struct Route {
    config: Arc<RouteConfig>,
    fixed: Option<InstanceRef>,
    label: Arc<str>,
    /// Its position in the configuration.
    pub index: usize,
}

/// A route and the instance that it names for this request.
#[derive(Debug, Clone)]
pub struct Match {
    /// The route.
    pub route: Arc<Route>,
    /// The instance's name, id or prefix.
    pub instance: InstanceRef,
}

/// There is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// For this host and path.
    #[error("no route for this host and path")]
    NoRoute,
    /// Servers read the path in different ways, which would meet different routes or rules.
    #[error(transparent)]
    AmbiguousPath(#[from] AmbiguousPath),
}

/// Routes of one host, the longest path first.
#[derive(Debug, Default)]
struct Paths {
    routes: Vec<(PathRule, Arc<Route>)>,
    special: SpecialPaths,
}

/// All routes, immutable.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Those of every listener.
    any: Hosts,
    /// Those of listeners at one port.
    ports: HashMap<u16, Hosts>,
}

/// Routes by host: look-ups cost the same for ten and for a hundred thousand.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<String, Paths>,
    /// Each shape of pattern, the one with the fewest captures first.
    patterns: Vec<(Shape, HashMap<String, Paths>)>,
    wildcards: HashMap<String, Paths>,
    /// Of every host that nothing else takes.
    rest: Paths,
}

/// What a pattern captures of each label of a host, from the left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape(Vec<Captured>);

/// What a pattern captures of a label; the later, the less is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Captured {
    /// Nothing: it is what it is.
    Nothing,
    /// A port and a name.
    Port { is_first: bool },
    /// All of it.
    Label,
}

// === impl Shape ===

impl Shape {
    fn of(labels: &[PatternLabel]) -> Self {
        let captured = |label: &PatternLabel| match label {
            PatternLabel::Literal(_) => Captured::Nothing,
            PatternLabel::WithPort { is_first, .. } => Captured::Port {
                is_first: *is_first,
            },
            PatternLabel::Capture(_) => Captured::Label,
        };
        Self(labels.iter().map(captured).collect())
    }

    /// How little is known of a host that has this shape.
    fn captures(&self) -> usize {
        let weights = self.0.iter().map(|captured| match captured {
            Captured::Nothing => 0,
            Captured::Port { .. } => 1,
            Captured::Label => 2,
        });
        weights.sum()
    }

    /// The host with a mark for what is captured, if it has as many labels and fits.
    fn key(&self, host: &str) -> Option<String> {
        let (mut key, mut parts) = (String::with_capacity(host.len() + 8), host.split('.'));
        for captured in &self.0 {
            let part = parts.next()?;
            key.push_str(match captured {
                Captured::Nothing => part,
                Captured::Port { is_first } => {
                    split_port(part, *is_first)?;
                    "*"
                }
                Captured::Label => "*",
            });
            key.push('.');
        }
        parts.next().is_none().then_some(key)
    }
}

// === impl Paths ===

impl Paths {
    fn add(&mut self, route: Arc<Route>) {
        let rule = self.special.rule(&route.config.path);
        let length = rule.as_str().len();
        let is_before = |(other, _): &(PathRule, _)| other.as_str().len() >= length;
        let at = self.routes.partition_point(is_before);
        self.routes.insert(at, (rule, route));
    }

    /// The route that all readings of a path meet.
    fn find(&self, path: &PathReadings<'_>) -> Result<&Arc<Route>, RouteError> {
        // Most hosts have one route, for every path.
        let is_for_all = |(rule, _): &(PathRule, _)| rule.as_str() == "/";
        let position = match self.routes.iter().all(is_for_all) {
            true => Some(0),
            false => path.agree(&self.special, |reading| self.position(reading))?,
        };
        let found = position.and_then(|position| self.routes.get(position));
        let (rule, route) = found.ok_or(RouteError::NoRoute)?;
        let is_stripped = route.config.forwarding.strip_path && rule.as_str() != "/";
        if is_stripped && path.leave(rule) {
            // The instance, which does not see the prefix, would read another path below it.
            return Err(AmbiguousPath.into());
        }
        Ok(route)
    }

    fn position(&self, reading: &Reading<'_>) -> Option<usize> {
        let mut fitting = (self.routes.iter().enumerate())
            .filter(|(_, (rule, _))| reading.is_below(rule))
            .peekable();
        let (position, (first, _)) = fitting.peek()?;
        let (first, position) = (first.as_str(), *position);
        // Where routes differ by letter case alone, it means something.
        let mut alike = fitting.take_while(|(_, (rule, _))| rule.as_str().len() == first.len());
        let exact = alike.find(|(_, (rule, _))| reading.exact().is_below(rule));
        Some(exact.map_or(position, |(position, _)| position))
    }
}

// === impl Hosts ===

impl Hosts {
    fn add(&mut self, route: Arc<Route>) {
        let paths = match &route.config.host {
            HostPattern::Exact(host) => self.exact.entry(host.as_str().to_owned()).or_default(),
            HostPattern::Wildcard(suffix) => {
                let suffix = suffix.as_str().to_owned();
                self.wildcards.entry(suffix).or_default()
            }
            HostPattern::Any => &mut self.rest,
            HostPattern::Labels(labels) => {
                let shape = Shape::of(labels);
                let key = labels.iter().fold(String::new(), |key, label| match label {
                    PatternLabel::Literal(text) => key + text + ".",
                    PatternLabel::Capture(_) | PatternLabel::WithPort { .. } => key + "*.",
                });
                let at = self.patterns.iter().position(|(other, _)| *other == shape);
                let at = at.unwrap_or_else(|| {
                    // More literal labels are more exact.
                    let captures = shape.captures();
                    let fewer = |(other, _): &(Shape, _)| other.captures() <= captures;
                    let at = self.patterns.partition_point(fewer);
                    self.patterns.insert(at, (shape, HashMap::new()));
                    at
                });
                let Some((_, hosts)) = self.patterns.get_mut(at) else {
                    return;
                };
                hosts.entry(key).or_default()
            }
        };
        paths.add(route);
    }

    fn pattern(&self, host: &str) -> Option<&Paths> {
        let found = |(shape, hosts): &'_ (Shape, HashMap<String, Paths>)| {
            let key = shape.key(host)?;
            hosts.contains_key(&key).then_some(key)
        };
        self.patterns
            .iter()
            .find_map(|one| found(one).and_then(|key| one.1.get(&key)))
    }

    fn wildcard(&self, host: &str) -> Option<&Paths> {
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(paths) = self.wildcards.get(suffix) {
                return Some(paths);
            }
            rest = suffix;
        }
        None
    }

    fn rest(&self) -> Option<&Paths> {
        Some(&self.rest).filter(|paths| !paths.routes.is_empty())
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        let patterns = self.patterns.iter().flat_map(|(_, hosts)| hosts.values());
        let lists = self.exact.values().chain(self.wildcards.values());
        let lists = lists.chain(patterns).chain([&self.rest]);
        lists.flat_map(|paths| paths.routes.iter().map(|(_, route)| route))
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// From the configuration, which is consistent already.
    pub fn new(routes: &[Arc<RouteConfig>]) -> Self {
        let mut table = Self::default();
        for (index, config) in routes.iter().enumerate() {
            let fixed = match &config.instance {
                InstanceTemplate::Fixed(name) => InstanceRef::parse(name).ok(),
                InstanceTemplate::Capture(_) => None,
            };
            let route = Arc::new(Route {
                config: Arc::clone(config),
                fixed,
                label: format!("{}{}", config.host, config.path).into(),
                index,
            });
            let hosts = match config.listen_port {
                None => &mut table.any,
                Some(port) => table.ports.entry(port).or_default(),
            };
            hosts.add(route);
        }
        table
    }

    /// All routes, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        let ports = self.ports.values().flat_map(Hosts::all);
        self.any.all().chain(ports)
    }

    /// The route of a request that came to a port. The host decides first (a literal one before a
    /// pattern, that before a wildcard; among equals one of every port before one of this port
    /// alone), then the path among that host's routes.
    pub fn find(
        &self,
        host: &Hostname,
        path: &PathReadings<'_>,
        port: u16,
    ) -> Result<Match, RouteError> {
        let name = host.as_str();
        let route = self.paths(name, port).ok_or(RouteError::NoRoute)?;
        let route = route.find(path)?;
        let instance = route.instance_for(name).ok_or(RouteError::NoRoute)?;
        Ok(Match {
            route: Arc::clone(route),
            instance,
        })
    }

    /// A route of the host that takes its instance from it, whatever the path.
    pub fn captured(&self, host: &Hostname, port: u16) -> Option<Match> {
        let routes = self.paths(host.as_str(), port).map(|paths| &paths.routes);
        let mut routes = routes.into_iter().flatten().map(|(_, route)| route);
        let route = routes.find(|route| route.fixed_instance().is_none())?;
        Some(Match {
            instance: route.instance_for(host.as_str())?,
            route: Arc::clone(route),
        })
    }

    /// Whether a route of the host asks for authentication. The paths of a connection that is passed
    /// on unread may be below any of them.
    pub fn asks_for_auth(&self, host: &Hostname, port: u16) -> bool {
        let routes = self.paths(host.as_str(), port).map(|paths| &paths.routes);
        let mut routes = routes.into_iter().flatten();
        routes.any(|(_, route)| route.config.forwarding.auth.is_some())
    }

    fn paths(&self, name: &str, port: u16) -> Option<&Paths> {
        let here = self.ports.get(&port);
        (self.any.exact.get(name))
            .or_else(|| here?.exact.get(name))
            .or_else(|| self.any.pattern(name))
            .or_else(|| here?.pattern(name))
            .or_else(|| self.any.wildcard(name))
            .or_else(|| here?.wildcard(name))
            .or_else(|| self.any.rest())
            .or_else(|| here?.rest())
    }
}

// === impl Route ===

impl Route {
    /// What the configuration says.
    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.config
    }

    /// Its host and path as configured: a name with few values, for logs and fairness.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The instance, when it is the same for every host.
    pub fn fixed_instance(&self) -> Option<&InstanceRef> {
        self.fixed.as_ref()
    }

    /// What a capture has matched of a host.
    pub fn capture<'h>(&self, host: &'h str, capture: &str) -> Option<&'h str> {
        let HostPattern::Labels(labels) = &self.config.host else {
            return None;
        };
        let mut parts = labels.iter().zip(host.split('.'));
        parts.find_map(|(label, part)| label.capture(part, capture))
    }

    fn instance_for(&self, host: &str) -> Option<InstanceRef> {
        match &self.config.instance {
            InstanceTemplate::Fixed(_) => self.fixed.clone(),
            InstanceTemplate::Capture(capture) => {
                InstanceRef::parse(self.capture(host, capture)?).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn dot_segments_do_not_lead_out_of_a_prefix_that_is_taken_off() {
        let text = "[[route]]\nhost = \"a.b\"\npath = \"/v1\"\ninstance = \"one\"\n\
                    strip_path = true\n[[route]]\nhost = \"a.b\"\ninstance = \"rest\"\n";
        let table = RouteTable::new(&load("test", text, &Variables::default()).unwrap().route);
        let ambiguous = Err(RouteError::AmbiguousPath(AmbiguousPath));
        check(&table, "a.b", "/v1/../v1/secret", ambiguous);
        check(&table, "a.b", "/v1/x/%252e%252e/..%2f../v1/y", ambiguous);
        check(&table, "a.b", "/v1/x/../y", Ok("one"));
        check(&table, "a.b", "/x/../y", Ok("rest"));
    }
}
