//! The route table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{HostPattern, InstanceTemplate, PatternLabel, RouteConfig};
use crate::names::{Hostname, InstanceRef};

/// One route.
#[derive(Debug)]
pub struct Route {
    config: RouteConfig,
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
    exact: HashMap<String, Paths>,
    patterns: Vec<(Vec<PatternLabel>, Paths)>,
    wildcards: HashMap<String, Paths>,
}

// === impl RouteTable ===

impl RouteTable {
    /// From the configuration, which is consistent already.
    pub fn new(routes: &[RouteConfig]) -> Self {
        let mut table = Self::default();
        for (index, config) in routes.iter().enumerate() {
            let fixed = match &config.instance {
                InstanceTemplate::Fixed(name) => InstanceRef::parse(name).ok(),
                InstanceTemplate::Capture(_) => None,
            };
            let route = Arc::new(Route {
                config: config.clone(),
                fixed,
                label: format!("{}{}", config.host, config.path).into(),
                index,
            });
            match &config.host {
                HostPattern::Exact(host) => {
                    table
                        .exact
                        .entry(host.as_str().to_owned())
                        .or_default()
                        .push(route);
                }
                HostPattern::Wildcard(suffix) => {
                    table
                        .wildcards
                        .entry(suffix.as_str().to_owned())
                        .or_default()
                        .push(route);
                }
                HostPattern::Labels(labels) => {
                    match table.patterns.iter_mut().find(|(known, _)| known == labels) {
                        Some((_, paths)) => paths.push(route),
                        None => table.patterns.push((labels.clone(), vec![route])),
                    }
                }
            }
        }
        let all = table.exact.values_mut().chain(table.wildcards.values_mut());
        for paths in all.chain(table.patterns.iter_mut().map(|(_, paths)| paths)) {
            paths.sort_by_key(|route| std::cmp::Reverse(route.config.path.len()));
        }
        // More literal labels are more exact.
        let captures = |labels: &[PatternLabel]| {
            labels
                .iter()
                .filter(|label| matches!(label, PatternLabel::Capture(_)))
                .count()
        };
        table.patterns.sort_by_key(|(labels, _)| captures(labels));
        table
    }

    /// All routes, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        let lists = self.exact.values().chain(self.wildcards.values());
        lists
            .chain(self.patterns.iter().map(|(_, paths)| paths))
            .flatten()
    }

    /// The route of a request. The host decides first, then the path among that host's routes.
    pub fn find(&self, host: &Hostname, path: &str) -> Result<Match, RouteError> {
        let name = host.as_str();
        let paths = self
            .exact
            .get(name)
            .or_else(|| self.pattern(name))
            .or_else(|| self.wildcard(name));
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

    fn pattern(&self, host: &str) -> Option<&Paths> {
        let fits = |labels: &[PatternLabel]| {
            let mut parts = host.split('.');
            labels.iter().all(|label| match (label, parts.next()) {
                (PatternLabel::Literal(text), Some(part)) => text == part,
                (PatternLabel::Capture(_), Some(_)) => true,
                (_, None) => false,
            }) && parts.next().is_none()
        };
        self.patterns
            .iter()
            .find(|(labels, _)| fits(labels))
            .map(|(_, paths)| paths)
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
}

// === impl Route ===

impl Route {
    /// What the configuration says.
    pub fn config(&self) -> &RouteConfig {
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
        let InstanceTemplate::Capture(wanted) = &self.config.instance else {
            return self.fixed.clone();
        };
        let HostPattern::Labels(labels) = &self.config.host else {
            return None;
        };
        let captured = labels
            .iter()
            .zip(host.split('.'))
            .find(|(label, _)| matches!(label, PatternLabel::Capture(name) if name == wanted));
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
        let found = table.find(&Hostname::parse(host).unwrap(), path);
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
        check(&table, "example.com", "/", Err(RouteError::NoRoute));
        check(&table, "other.org", "/", Err(RouteError::NoRoute));
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
