//! A change of some routes among many.
//!
//! Guarantees: a change that is found between two lists leads from the one to the other, however it
//! is carried out; where the order of routes could matter, none is found.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{HostKind, RouteConfig};

/// A change of some routes.
#[derive(Debug, Default)]
pub struct RouteChange {
    /// Those that go, by their names and ports.
    pub removed: Vec<Arc<RouteConfig>>,
    /// Those that come, behind all others; one that replaces another is among `removed`, too.
    pub added: Vec<Arc<RouteConfig>>,
}

// === impl RouteChange ===

impl RouteChange {
    /// What makes one list of routes another one; `None` where their order might matter.
    pub fn between(before: &[Arc<RouteConfig>], after: &[Arc<RouteConfig>]) -> Option<Self> {
        let key = |route: &Arc<RouteConfig>| route.key();
        let mut gone: HashMap<_, _> = before.iter().map(|route| (key(route), route)).collect();
        if gone.len() < before.len() {
            return None;
        }
        let mut change = Self::default();
        for route in after {
            match gone.remove(&key(route)) {
                Some(other) if other == route => {}
                Some(other) => {
                    change.removed.push(Arc::clone(other));
                    change.added.push(Arc::clone(route));
                }
                None => change.added.push(Arc::clone(route)),
            }
        }
        change.removed.extend(gone.into_values().map(Arc::clone));
        change.is_plain().then_some(change)
    }

    /// Whether the order of its routes makes no difference to a table.
    pub fn is_plain(&self) -> bool {
        let mut both = self.removed.iter().chain(&self.added);
        // Two patterns may capture alike and yet be written differently; and paths that are spelled
        // differently may be the same.
        let is_plain = |route: &Arc<RouteConfig>| {
            route.path() == "/" && !matches!(route.name.kind(), HostKind::Labels(_))
        };
        both.all(is_plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn routes(routes: &[(&str, &str)]) -> Vec<Arc<RouteConfig>> {
        let one = |(host, rest): &(&str, &str)| format!("[[route]]\nhost = \"{host}\"\n{rest}\n");
        let text: String = routes.iter().map(one).collect();
        load("w.toml", &text, &Variables::default()).unwrap().route
    }

    fn hosts(routes: &[Arc<RouteConfig>]) -> Vec<&str> {
        routes.iter().map(|route| route.host()).collect()
    }

    #[test]
    fn a_route_that_stays_is_in_no_change() {
        let (a, b) = ("instance = \"a\"", "instance = \"b\"");
        let before = routes(&[
            ("a.x", a),
            ("b.x", a),
            ("c.x", a),
            ("{i}.y", "instance = \"{i}\""),
        ]);
        let after = routes(&[
            ("{i}.y", "instance = \"{i}\""),
            ("d.x", a),
            ("b.x", b),
            ("a.x", a),
        ]);
        let change = RouteChange::between(&before, &after).unwrap();
        assert_eq!(hosts(&change.removed), ["b.x", "c.x"]);
        assert_eq!(hosts(&change.added), ["d.x", "b.x"]);
        let none = RouteChange::between(&after, &after).unwrap();
        assert!(none.removed.is_empty() && none.added.is_empty());
    }

    #[test]
    fn where_the_order_of_routes_may_matter_no_change_is_found() {
        let before = routes(&[("a.x", "instance = \"a\"")]);
        for other in [
            ("{i}.x", "instance = \"{i}\""),
            ("a.x", "path = \"/v1\"\ninstance = \"a\""),
        ] {
            let after = routes(&[("a.x", "instance = \"a\""), other]);
            assert!(RouteChange::between(&before, &after).is_none(), "{other:?}");
            assert!(RouteChange::between(&after, &before).is_none(), "{other:?}");
        }
    }
}
