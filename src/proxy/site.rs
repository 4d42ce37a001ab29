//! The routes, with what each of them remembers.
//!
//! Guarantees: a site is immutable but for its rates' memory; when routes are reloaded, a route
//! whose rules did not change keeps that memory, so that a reload forgives nobody.

use std::collections::HashMap;
use std::sync::Arc;

use super::admission::Admission;
use crate::config::RouteConfig;
use crate::router::{Route, RouteTable};

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// Where requests go.
    pub(super) table: RouteTable,
    /// By the routes' positions.
    admissions: Vec<Arc<Admission>>,
}

// === impl Site ===

impl Site {
    /// From the configuration; `before` is what was in force.
    pub(super) fn new(routes: &[RouteConfig], before: Option<&Self>) -> Self {
        let known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|before| before.table.all().map(move |route| (before, route)))
            .filter_map(|(before, route)| {
                let config = route.config();
                let key = (&config.host, &config.path, config.listen_port);
                Some((key, (config, before.admission(route)?)))
            })
            .collect();
        let admission = |route: &RouteConfig| {
            let key = (&route.host, &route.path, route.listen_port);
            let kept = known.get(&key).filter(|(other, _)| {
                (&other.admission, &other.asleep) == (&route.admission, &route.asleep)
            });
            let kept = kept.map(|(_, admission)| Arc::clone(admission));
            kept.unwrap_or_else(|| Arc::new(Admission::new(route)))
        };
        Self {
            admissions: routes.iter().map(admission).collect(),
            table: RouteTable::new(routes),
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
