//! The routes, with what each of them remembers.
//!
//! Guarantees: the active routes are immutable but for what their rates have counted; when routes
//! are reloaded, a route whose rules did not change keeps those counts, so that a reload forgives
//! nobody and loses no key.

use std::collections::HashMap;
use std::sync::Arc;

use super::admission::Admission;
use super::auth::RouteKeys;
use super::path_rules::PathRules;
use super::path_verdict::PathVerdict;
use crate::config::RouteConfig;
use crate::instance_tls::{Alpn, TlsHop, TlsProfile, TlsProfiles};
use crate::names::Hostname;
use crate::router::{PathReadings, Route, RouteError, RouteTable};
use crate::telemetry::{Metrics, RouteMetrics};
use crate::upstream::ForwardError;

/// All routes of one configuration.
#[derive(Debug, Default)]
pub(super) struct ActiveRoutes {
    /// The table that requests are routed by.
    pub(super) table: RouteTable,
    /// The rules, by the routes' positions.
    admissions: Vec<Arc<Admission>>,
    path_rules: Vec<PathRules>,
    keys: Vec<Option<Arc<RouteKeys>>>,
    tls: Vec<Option<Arc<TlsProfile>>>,
    metrics: Vec<Arc<RouteMetrics>>,
}

// === impl ActiveRoutes ===

impl ActiveRoutes {
    /// The routes of a configuration; `before` is what was in force.
    pub(super) fn new(
        routes: &[Arc<RouteConfig>],
        before: Option<&Self>,
        profiles: &TlsProfiles,
        metrics: &Metrics,
    ) -> Self {
        let earlier: HashMap<_, _> = before
            .into_iter()
            .flat_map(|before| before.table.all().map(move |route| (before, route)))
            .filter_map(|(before, route)| {
                let config = route.config();
                let key = (&config.host, &config.path, config.listen_port);
                Some((key, (config, before.admission(route)?)))
            })
            .collect();
        let admission = |route: &Arc<RouteConfig>| {
            let key = (&route.host, &route.path, route.listen_port);
            let kept = earlier.get(&key).filter(|(other, _)| {
                (&other.admission, &other.asleep) == (&route.admission, &route.asleep)
            });
            let kept = kept.map(|(_, admission)| Arc::clone(admission));
            kept.unwrap_or_else(|| Arc::new(Admission::new(route)))
        };
        let (admissions, table) = (
            routes.iter().map(admission).collect(),
            RouteTable::new(routes),
        );
        // In the order of the configuration, so that its first routes have series of their own.
        let mut labels: Vec<_> = table
            .all()
            .map(|route| (route.index, route.label()))
            .collect();
        labels.sort_unstable_by_key(|(index, _)| *index);
        let labels: Vec<_> = labels.into_iter().map(|(_, label)| label).collect();
        let mut known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|before| before.keys.iter().flatten())
            .flat_map(|keys| keys.by_source())
            .collect();
        let keys = routes.iter();
        let keys = keys.map(|route| RouteKeys::of_route(route, &mut known));
        Self {
            keys: keys.collect(),
            admissions,
            path_rules: routes.iter().map(|route| PathRules::new(route)).collect(),
            tls: routes.iter().map(|route| profiles.of(route)).collect(),
            metrics: metrics.set_routes(&labels),
            table,
        }
    }

    /// A route's metrics.
    pub(super) fn metrics(&self, route: &Route) -> Option<&Arc<RouteMetrics>> {
        self.metrics.get(route.index)
    }

    /// A route's rules.
    pub(super) fn admission(&self, route: &Route) -> Option<&Arc<Admission>> {
        self.admissions.get(route.index)
    }

    /// The keys that a route's tokens are signed with.
    pub(super) fn keys(&self, route: &Route) -> Option<&Arc<RouteKeys>> {
        self.keys.get(route.index)?.as_ref()
    }

    /// The TLS that requests for `host` go over to a route's instance; `None` where they go in
    /// clear.
    pub(super) fn tls(
        &self,
        route: &Route,
        host: &Hostname,
    ) -> Result<Option<TlsHop>, ForwardError> {
        let forwarding = &route.config().forwarding;
        if !forwarding.protocol.is_secure() {
            return Ok(None);
        }
        let refused = |reason: &str| Err(ForwardError::Tls(reason.into()));
        let Some(profile) = self.tls.get(route.index).cloned().flatten() else {
            return refused("the route's TLS is not set up");
        };
        let template = forwarding.upstream_tls.as_ref();
        let template = template.and_then(|tls| tls.server_name.as_ref());
        let capture = |name: &str| route.config().host.capture(name, host.as_str());
        let filled = template.map(|template| template.fill(capture).unwrap_or_default());
        let name = filled.as_deref().unwrap_or_else(|| host.as_str());
        let alpn = match forwarding.protocol.is_h2() {
            true => Alpn::H2,
            false => Alpn::Http1,
        };
        match TlsHop::new(profile, name, alpn) {
            Some(tls) => Ok(Some(tls)),
            None => refused("the request's host is no name that a certificate can have"),
        }
    }

    /// What a route's rules say about a path.
    pub(super) fn judge(
        &self,
        route: &Route,
        path: &PathReadings<'_>,
    ) -> Result<PathVerdict, RouteError> {
        let rules = self.path_rules.get(route.index);
        Ok(rules.ok_or(RouteError::NoRoute)?.judge(path)?)
    }

    /// Forgets what is too old to matter.
    pub(super) fn upkeep(&self) {
        self.admissions
            .iter()
            .for_each(|admission| admission.upkeep());
    }
}
