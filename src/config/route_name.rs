//! A route's host and path, as one text.
//!
//! Guarantees: the text is that of a valid pattern and a path from `/` on, so that it can be taken
//! apart again; it is shared by all who call the route by it, since there may be a million. Two routes of one
//! name, which are for different ports, have different keys.

use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::pattern::{Captured, HostPattern};

/// A route's host and path: `api.example.com/v1`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RouteName(Arc<str>);

/// One route among all: its name, and the port that it is for, if it is for one alone. What is counted for a
/// route is counted by this. Cheap to clone; it is shown as the route's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    label: Arc<str>,
    port: Option<u16>,
}

/// The hosts of a route, as its name has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind<'a> {
    /// One host.
    Exact(&'a str),
    /// The labels of a pattern with captures, `{app}.example.com`.
    Labels(&'a str),
    /// What the hosts end with, without the dot.
    Wildcard(&'a str),
    /// Every host that nothing else takes.
    Any,
}

// === impl RouteName ===

impl RouteName {
    /// The name of a route for these hosts below this path.
    pub fn new(host: &HostPattern, path: &str) -> Self {
        Self(format!("{host}{path}").into())
    }

    /// The whole text, for logs.
    pub fn label(&self) -> &Arc<str> {
        &self.0
    }

    /// The key of the route of this name that is for this port alone, or for every one.
    pub fn key(&self, port: Option<u16>) -> RouteKey {
        RouteKey {
            label: Arc::clone(&self.0),
            port,
        }
    }

    /// The hosts, as they are written.
    pub fn host(&self) -> &str {
        // No pattern has a slash in it, and every path begins with one.
        self.0.split_once('/').map_or(&*self.0, |(host, _)| host)
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.0.get(self.host().len()..).unwrap_or_default()
    }

    /// The kind of hosts.
    pub fn kind(&self) -> HostKind<'_> {
        let host = self.host();
        match host.strip_prefix('*') {
            Some("") => HostKind::Any,
            Some(rest) => HostKind::Wildcard(rest.strip_prefix('.').unwrap_or(rest)),
            None if host.contains('{') => HostKind::Labels(host),
            None => HostKind::Exact(host),
        }
    }

    /// The hosts as a pattern.
    pub fn pattern(&self) -> HostPattern {
        // It was one before; what is none would answer for nothing.
        HostPattern::parse(self.host()).unwrap_or(HostPattern::Labels(Vec::new()))
    }

    /// What a capture has matched of a host that the route answers for.
    pub fn capture<'h>(&self, host: &'h str, capture: &str) -> Option<&'h str> {
        let HostKind::Labels(pattern) = self.kind() else {
            return None;
        };
        let mut labels = pattern.split('.').zip(host.split('.'));
        labels.find_map(|(label, part)| Captured::of(label).capture(part, capture))
    }

    /// Whether the route answers for a host.
    pub fn fits(&self, host: &str) -> bool {
        match self.kind() {
            HostKind::Exact(own) => own == host,
            HostKind::Labels(_) | HostKind::Wildcard(_) => self.pattern().fits(host),
            HostKind::Any => true,
        }
    }
}

impl fmt::Debug for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl RouteKey ===

impl RouteKey {
    /// Host and path.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The port that it is for, if it is for one alone.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The key of the route of this name that is for this port alone, or for every one.
    pub fn at(&self, port: Option<u16>) -> Self {
        Self {
            label: Arc::clone(&self.label),
            port,
        }
    }
}

/// That of something that is no route of the table, or is one for every port.
impl From<&str> for RouteKey {
    fn from(label: &str) -> Self {
        Self {
            label: label.into(),
            port: None,
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl fmt::Debug for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{} at {port}", self.label),
            None => f.write_str(&self.label),
        }
    }
}

impl Serialize for RouteName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = serializer.serialize_struct("RouteName", 2)?;
        keys.serialize_field("host", self.host())?;
        keys.serialize_field("path", self.path())?;
        keys.end()
    }
}

#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator};

    use super::HostPattern;

    /// The keys that a name is written as.
    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    struct Keys {
        /// The hosts of its requests.
        host: HostPattern,
        /// Path prefix on segment borders; `/` is all.
        path: String,
    }

    impl JsonSchema for super::RouteName {
        fn schema_name() -> Cow<'static, str> {
            Keys::schema_name()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            Keys::json_schema(generator)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_taken_apart_again() {
        for (host, path, kind) in [
            ("a.b", "/", HostKind::Exact("a.b")),
            ("[::1]", "/v1/x", HostKind::Exact("[::1]")),
            ("{a}.b", "/", HostKind::Labels("{a}.b")),
            ("*.a.b", "/@s%2fp", HostKind::Wildcard("a.b")),
            ("{port}-{a}.b", "/", HostKind::Labels("{port}-{a}.b")),
            ("*", "/x", HostKind::Any),
        ] {
            let pattern = HostPattern::parse(host).unwrap();
            let name = RouteName::new(&pattern, path);
            assert_eq!((name.host(), name.path()), (host, path));
            assert_eq!((name.kind(), name.pattern()), (kind, pattern));
            assert_eq!(&**name.label(), format!("{host}{path}"));
        }
    }

    #[test]
    fn routes_of_one_name_have_keys_of_their_own_by_the_port_that_they_are_for() {
        let name = RouteName::new(&HostPattern::parse("a.b").unwrap(), "/");
        let (any, http) = (name.key(None), name.key(Some(80)));
        assert!(any != http && http != name.key(Some(443)) && http == name.key(Some(80)));
        assert_eq!(
            (any.to_string(), http.to_string()),
            ("a.b/".into(), "a.b/".into())
        );
        assert_eq!(any, "a.b/".into());
    }

    #[test]
    fn a_capture_is_what_stands_in_its_place_of_a_host() {
        for (pattern, host, capture, expected) in [
            ("a.b", "a.b", "a", None),
            ("*.b", "a.b", "a", None),
            ("{a}.b", "x.b", "b", None),
            ("{a}.b", "x.b", "a", Some("x")),
            ("{a}.x.{ab}", "1.x.2", "ab", Some("2")),
            ("{port}.b", "80.b", "port", Some("80")),
            ("{port}-{a}.b", "80-x-y.b", "port", Some("80")),
            ("{port}-{a}.b", "80-x-y.b", "a", Some("x-y")),
            ("{a}-{port}.{c}.b", "x-y-80.z.b", "a", Some("x-y")),
            ("{a}-{port}.{c}.b", "x-y-80.z.b", "port", Some("80")),
            ("{a}-{port}.{c}.b", "x-y-80.z.b", "c", Some("z")),
        ] {
            let name = RouteName::new(&HostPattern::parse(pattern).unwrap(), "/");
            assert_eq!(name.capture(host, capture), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn a_name_fits_what_its_pattern_fits() {
        for host in ["a.b", "{a}.b", "{port}-{a}.b", "*.b", "*", "{a}.b.{c}"] {
            let pattern = HostPattern::parse(host).unwrap();
            let name = RouteName::new(&pattern, "/");
            for host in ["a.b", "1-a.b", "b", "x.a.b", "a.b.c", "127.0.0.1"] {
                assert_eq!(name.fits(host), pattern.fits(host), "{name:?} {host}");
            }
        }
    }
}
