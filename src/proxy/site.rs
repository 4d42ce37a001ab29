//! The routes, with what each of them remembers.
//!
//! Guarantees: a site is immutable but for its rates' memory; when routes are reloaded, a route
//! whose rules did not change keeps that memory, so that a reload forgives nobody.

use std::sync::Arc;

use super::admission::Admission;
use crate::config::RouteConfig;
use crate::router::{Route, RouteTable};

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// Where requests go.
    pub(super) table: RouteTable,
    configs: Vec<RouteConfig>,
    admissions: Vec<Arc<Admission>>,
}

// === impl Site ===

impl Site {
    /// From the configuration; `before` is what was in force.
    pub(super) fn new(routes: &[RouteConfig], before: Option<&Self>) -> Self {
        let kept = |route: &RouteConfig| {
            let before = before?;
            let same = |other: &RouteConfig| {
                (&other.host, &other.path, &other.admission, &other.asleep)
                    == (&route.host, &route.path, &route.admission, &route.asleep)
            };
            let index = before.configs.iter().position(same)?;
            before.admissions.get(index).cloned()
        };
        Self {
            table: RouteTable::new(routes),
            admissions: routes
                .iter()
                .map(|route| kept(route).unwrap_or_else(|| Arc::new(Admission::new(route))))
                .collect(),
            configs: routes.to_vec(),
        }
    }

    /// A route's rules.
    pub(super) fn admission(&self, route: &Route) -> Option<&Arc<Admission>> {
        self.admissions.get(route.index)
    }

    /// Forgets what is too old to matter.
    pub(super) fn upkeep(&self) {
        self.admissions
            .iter()
            .for_each(|admission| admission.upkeep());
    }
}
