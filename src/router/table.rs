//! The route table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{HostPattern, InstanceTemplate, PatternLabel, RouteConfig};
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
    /// The path has dot segments or empty ones, and routes of this host differ by path.
    #[error("the path can be read in more than one way")]
    AmbiguousPath,
}

/// Routes of one host, the longest path first.
type Paths = Vec<Arc<Route>>;

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

/// Which labels of a host a pattern captures, from the left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape(Vec<bool>);

// === impl Shape ===

impl Shape {
    fn of(labels: &[PatternLabel]) -> Self {
        let captures = |label: &PatternLabel| matches!(label, PatternLabel::Capture(_));
        Self(labels.iter().map(captures).collect())
    }

    fn captures(&self) -> usize {
        self.0.iter().filter(|captured| **captured).count()
    }

    /// The host with `*` for what is captured, if it has as many labels.
    fn key(&self, host: &str) -> Option<String> {
        let (mut key, mut parts) = (String::with_capacity(host.len() + 8), host.split('.'));
        for captured in &self.0 {
            let part = parts.next()?;
            key.push_str(if *captured { "*" } else { part });
            key.push('.');
        }
        parts.next().is_none().then_some(key)
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
                    PatternLabel::Capture(_) => key + "*.",
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
        let length = route.config.path.len();
        let at = paths.partition_point(|other| other.config.path.len() >= length);
        paths.insert(at, route);
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
        Some(&self.rest).filter(|paths| !paths.is_empty())
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        let patterns = self.patterns.iter().flat_map(|(_, hosts)| hosts.values());
        let lists = self.exact.values().chain(self.wildcards.values());
        lists.chain(patterns).flatten().chain(&self.rest)
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
    pub fn find(&self, host: &Hostname, path: &str, port: u16) -> Result<Match, RouteError> {
        let (name, here) = (host.as_str(), self.ports.get(&port));
        let paths = (self.any.exact.get(name))
            .or_else(|| here?.exact.get(name))
            .or_else(|| self.any.pattern(name))
            .or_else(|| here?.pattern(name))
            .or_else(|| self.any.wildcard(name))
            .or_else(|| here?.wildcard(name))
            .or_else(|| self.any.rest())
            .or_else(|| here?.rest());
        let paths = paths.ok_or(RouteError::NoRoute)?;
        let by_path = paths.iter().any(|route| route.config.path != "/");
        if by_path && is_ambiguous(path) {
            return Err(RouteError::AmbiguousPath);
        }
        let route = paths
            .iter()
            .find(|route| is_below(path, &route.config.path))
            .ok_or(RouteError::NoRoute)?;
        let instance = route.instance_for(name).ok_or(RouteError::NoRoute)?;
        Ok(Match {
            route: Arc::clone(route),
            instance,
        })
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

    fn instance_for(&self, host: &str) -> Option<InstanceRef> {
        let InstanceTemplate::Capture(capture) = &self.config.instance else {
            return self.fixed.clone();
        };
        let HostPattern::Labels(labels) = &self.config.host else {
            return None;
        };
        let captured = labels
            .iter()
            .zip(host.split('.'))
            .find(|(label, _)| matches!(label, PatternLabel::Capture(name) if name == capture));
        captured.and_then(|(_, part)| InstanceRef::parse(part).ok())
    }
}

/// Whether `path` is `prefix` or below it, on a segment border.
pub fn is_below(path: &str, prefix: &str) -> bool {
    prefix == "/"
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether another server could read the path as a different one: dot segments, empty segments, or
/// an encoded slash or backslash.
fn is_ambiguous(path: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    decoded.contains("//")
        || decoded.contains('\\')
        || decoded.matches('/').count() != path.matches('/').count()
        || decoded
            .split('/')
            .any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn table(routes: &[(&str, &str, &str)]) -> RouteTable {
        let text = routes
            .iter()
            .map(|(host, path, instance)| {
                format!(
                    "[[route]]\nhost = \"{host}\"\npath = \"{path}\"\ninstance = \"{instance}\"\n"
                )
            })
            .collect::<Vec<_>>()
            .concat();
        RouteTable::new(&load("test", &text, &Variables::default()).unwrap().route)
    }

    #[track_caller]
    fn check(table: &RouteTable, host: &str, path: &str, expected: Result<&str, RouteError>) {
        let found = table.find(&Hostname::parse(host).unwrap(), path, 80);
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
    fn a_path_with_two_readings_is_refused_where_the_path_matters() {
        let table = table(&[
            ("a.b", "/v1", "one"),
            ("a.b", "/", "rest"),
            ("c.d", "/", "all"),
        ]);
        for path in [
            "/v1/../admin",
            "/v1/%2e%2e/x",
            "//v1",
            "/v1%2fx",
            "/v1/./x",
            "/v1\\x",
        ] {
            check(&table, "a.b", path, Err(RouteError::AmbiguousPath));
            check(&table, "c.d", path, Ok("all"));
        }
    }
}
