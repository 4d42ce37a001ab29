//! The routes, with what each of them remembers.
//!
//! Guarantees: a request sees the routes of one moment, immutable but for what their rates have
//! counted; a route whose rules did not change keeps those counts when others do, so that no change
//! forgives anybody, or loses a key; routes that say the same share what is made of it, and all else
//! that they do not count for themselves.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::admission::Admission;
use super::auth::{KeyCaches, RouteKeys};
use super::context::GatewayParts;
use super::path_rules::PathRules;
use crate::config::{RouteConfig, RoutePolicy};
use crate::instance_tls::{Alpn, TlsHop, TlsProfile, TlsProfiles};
use crate::names::Hostname;
use crate::router::{Route, RouteChange, RouteTable};
use crate::telemetry::{Metrics, RouteMetrics};
use crate::upstream::ForwardError;

/// A route, with what it remembers.
pub(super) type ActiveRoute = Route<Arc<RouteState>>;
/// All routes of one moment.
pub(super) type ActiveRoutes = RouteTable<Arc<RouteState>>;

/// What is made of a route's settings, and what it remembers.
#[derive(Debug)]
pub(super) struct RouteState {
    /// The rules for waking.
    pub(super) admission: Arc<Admission>,
    /// What its settings say.
    pub(super) policy: Arc<PolicyState>,
    /// The route's counts, or those of many.
    pub(super) metrics: Arc<RouteMetrics>,
}

/// What is made of settings, for all routes that have them.
#[derive(Debug)]
pub(super) struct PolicyState {
    /// What is said about paths.
    pub(super) path_rules: PathRules,
    /// The keys that tokens are signed with, if some are asked for.
    pub(super) keys: Option<Arc<RouteKeys>>,
    /// The TLS that is spoken with instances, if any is.
    tls: Option<Arc<TlsProfile>>,
}

/// Makes the states of routes. Only who changes the routes has it.
#[derive(Debug, Default)]
pub(super) struct RouteStates {
    /// By where the settings and the counts are that routes share. Who has a state has its settings, too, so
    /// nothing else comes to be at their address.
    shared: HashMap<(usize, usize), Weak<RouteState>>,
    /// What is made of settings alone, by where they are.
    policies: HashMap<usize, Weak<PolicyState>>,
    /// The keys of tokens, which outlast changes of the routes.
    keys: KeyCaches,
    /// Whatever counts clients.
    limited: Vec<Weak<Admission>>,
}

/// What the states of routes are made of, besides their settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct RouteSources<'a> {
    profiles: &'a TlsProfiles,
    metrics: &'a Metrics,
}

/// The TLS that requests for `host` go over to a route's instance; `None` where they go in clear.
pub(super) fn tls_of(route: &ActiveRoute, host: &Hostname) -> Result<Option<TlsHop>, ForwardError> {
    let forwarding = &route.config().forwarding;
    if !forwarding.protocol.is_secure() {
        return Ok(None);
    }
    let refused = |reason: &str| Err(ForwardError::Tls(reason.into()));
    let Some(profile) = route.state().policy.tls.clone() else {
        return refused("the route's TLS is not set up");
    };
    let template = forwarding.upstream_tls.as_ref();
    let template = template.and_then(|tls| tls.server_name.as_ref());
    let capture = |name: &str| route.capture(host.as_str(), name);
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

fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared).addr()
}

// === impl RouteSources ===

impl<'a> RouteSources<'a> {
    /// Those of a gateway.
    pub(super) fn of<P>(parts: &'a GatewayParts<P>) -> Self {
        Self {
            profiles: &parts.instance_tls,
            metrics: &parts.metrics,
        }
    }
}

// === impl RouteStates ===

impl RouteStates {
    /// The routes of a configuration, in its order; `before` is what was in force.
    pub(super) fn all(
        &mut self,
        routes: &[Arc<RouteConfig>],
        before: &ActiveRoutes,
        sources: RouteSources<'_>,
    ) -> ActiveRoutes {
        // Files that the settings name may have changed.
        self.policies.clear();
        self.shared.clear();
        self.limited.clear();
        // In the order of the configuration, so that its first routes have series of their own.
        let labels: Vec<_> = routes.iter().map(|route| route.label()).collect();
        let metrics = sources.metrics.set_routes(&labels);
        let routes = routes.iter().zip(metrics);
        ActiveRoutes::of(
            routes.map(|(config, metrics)| self.route(config, metrics, before, sources)),
        )
    }

    /// The routes after a change.
    pub(super) fn changed(
        &mut self,
        change: &RouteChange,
        before: &ActiveRoutes,
        sources: RouteSources<'_>,
    ) -> ActiveRoutes {
        let mut table = before.clone();
        for config in &change.removed {
            if table.remove(config) {
                sources.metrics.remove_route(config.label());
            }
        }
        for config in &change.added {
            let metrics = sources.metrics.add_route(config.label());
            table.insert(self.route(config, metrics, before, sources));
        }
        table
    }

    fn route(
        &mut self,
        config: &Arc<RouteConfig>,
        metrics: Arc<RouteMetrics>,
        before: &ActiveRoutes,
        sources: RouteSources<'_>,
    ) -> ActiveRoute {
        let rules = &config.admission;
        let is_shared = rules.rate.is_none() && rules.rate_per_client.is_none();
        let key = (address(&config.policy), address(&metrics));
        let found = self.shared.get(&key).filter(|_| is_shared);
        if let Some(state) = found.and_then(Weak::upgrade) {
            return Route::new(Arc::clone(config), state);
        }
        let kept = before.get(config).filter(|earlier| {
            let other = earlier.config();
            !is_shared && (&other.admission, &other.asleep) == (rules, &config.asleep)
        });
        let kept = kept.map(|earlier| Arc::clone(&earlier.state().admission));
        let state = Arc::new(RouteState {
            admission: kept.unwrap_or_else(|| Arc::new(Admission::new(config))),
            policy: self.policy(&config.policy, sources.profiles),
            metrics,
        });
        match is_shared {
            true => drop(self.shared.insert(key, Arc::downgrade(&state))),
            false => self.limited.push(Arc::downgrade(&state.admission)),
        }
        Route::new(Arc::clone(config), state)
    }

    /// A route that no table has.
    pub(super) fn alone(
        &mut self,
        config: &Arc<RouteConfig>,
        sources: RouteSources<'_>,
    ) -> Arc<ActiveRoute> {
        let metrics = sources.metrics.add_route(config.label());
        Arc::new(self.route(config, metrics, &ActiveRoutes::default(), sources))
    }

    fn policy(&mut self, policy: &Arc<RoutePolicy>, profiles: &TlsProfiles) -> Arc<PolicyState> {
        let known = self.policies.get(&address(policy)).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let state = Arc::new(PolicyState {
                path_rules: PathRules::new(policy),
                keys: RouteKeys::of_policy(policy, &mut self.keys),
                tls: profiles.of(policy),
            });
            self.policies
                .insert(address(policy), Arc::downgrade(&state));
            state
        })
    }

    /// Forgets what is of routes that are gone; what is left of what counts clients.
    pub(super) fn upkeep(&mut self) -> Vec<Arc<Admission>> {
        self.shared.retain(|_, state| state.strong_count() > 0);
        self.policies.retain(|_, state| state.strong_count() > 0);
        self.keys.upkeep();
        self.limited
            .retain(|admission| admission.strong_count() > 0);
        self.limited.iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::{Variables, load};
    use crate::names::Hostname;
    use crate::router::PathReadings;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn routes(routes: &[(&str, &str)]) -> Vec<Arc<RouteConfig>> {
        let one = |(host, rest): &(&str, &str)| {
            format!("[[route]]\nhost = \"{host}\"\ninstance = \"x\"\n{rest}\n")
        };
        let text: String = routes.iter().map(one).collect();
        load("w.toml", &text, &Variables::default()).unwrap().route
    }

    fn sources<'a>(profiles: &'a TlsProfiles, metrics: &'a Metrics) -> RouteSources<'a> {
        RouteSources { profiles, metrics }
    }

    fn state(table: &ActiveRoutes, host: &str) -> Option<Arc<RouteState>> {
        let found = table.find(&Hostname::parse(host).unwrap(), &PathReadings::of("/"), 80);
        Some(Arc::clone(found.ok()?.route.state()))
    }

    #[tokio::test]
    async fn no_change_forgives_a_client_unless_it_changes_the_rules() {
        let limited = "admission = { rate_per_client = \"1/h\" }";
        let (metrics, mut states) = (Metrics::new(), RouteStates::default());
        let profiles = TlsProfiles::default();
        let sources = sources(&profiles, &metrics);
        let first = routes(&[("a.b", limited), ("c.d", ""), ("e.f", limited)]);
        let table = states.all(&first, &ActiveRoutes::default(), sources);
        let charge =
            |table: &ActiveRoutes, host: &str| state(table, host).unwrap().admission.charge(CLIENT);
        charge(&table, "a.b").unwrap();
        charge(&table, "e.f").unwrap();

        let after = routes(&[
            ("a.b", limited),
            ("e.f", "admission = { rate_per_client = \"2/h\" }"),
            ("g.h", ""),
        ]);
        let change = RouteChange::between(&first, &after).unwrap();
        let changed = states.changed(&change, &table, sources);
        assert!(charge(&changed, "a.b").is_err());
        charge(&changed, "e.f").unwrap();
        assert!(state(&changed, "c.d").is_none() && state(&changed, "g.h").is_some());
        assert!(state(&table, "c.d").is_some() && state(&table, "g.h").is_none());

        let reloaded = states.all(&first, &changed, sources);
        assert!(charge(&reloaded, "a.b").is_err());
        charge(&reloaded, "e.f").unwrap();
        drop((table, changed));
        assert_eq!(
            states.upkeep().len(),
            2,
            "those of routes that are gone are forgotten"
        );
    }

    #[test]
    fn routes_that_say_the_same_share_what_is_made_of_it_and_a_rate_is_a_routes_own() {
        let (metrics, mut states) = (Metrics::with_max_routes(1), RouteStates::default());
        let profiles = TlsProfiles::default();
        let sources = sources(&profiles, &metrics);
        let limited = "admission = { rate = \"1/h\" }";
        let all = routes(&[
            ("a.b", ""),
            ("c.d", ""),
            ("e.f", ""),
            ("g.h", limited),
            ("i.j", limited),
        ]);
        let table = states.all(&all, &ActiveRoutes::default(), sources);
        let states = ["a.b", "c.d", "e.f", "g.h", "i.j"].map(|host| state(&table, host).unwrap());
        let [own, one, other, limited, also_limited] = &states;
        assert!(Arc::ptr_eq(one, other) && !Arc::ptr_eq(own, one));
        assert!(!Arc::ptr_eq(&limited.admission, &also_limited.admission));
        assert!(Arc::ptr_eq(&one.metrics, &limited.metrics));
        assert!(!Arc::ptr_eq(&own.metrics, &one.metrics));
        assert!(Arc::ptr_eq(&own.policy, &one.policy));
        assert!(Arc::ptr_eq(&limited.policy, &also_limited.policy));
    }

    #[test]
    fn no_change_loses_fetched_keys_while_a_route_has_them() {
        let (metrics, mut states) = (Metrics::new(), RouteStates::default());
        let profiles = TlsProfiles::default();
        let sources = sources(&profiles, &metrics);
        let asks = |url: &str| {
            let jwt =
                format!("{{ jwks_url = \"https://{url}\", issuer = \"i\", audience = \"a\" }}");
            format!("auth = {{ any = [{{ jwt = {jwt} }}] }}")
        };
        let (one, other) = (asks("one.test/keys"), asks("other.test/keys"));
        let limited = format!("{one}\nadmission = {{ rate = \"1/h\" }}");
        let keys = |table: &ActiveRoutes, host: &str| {
            let state = state(table, host).unwrap();
            Arc::clone(state.policy.keys.as_ref().unwrap().of(0).unwrap())
        };
        let first = routes(&[("a.b", &one), ("c.d", &other), ("e.f", &limited)]);
        let table = states.all(&first, &ActiveRoutes::default(), sources);
        let (a, c) = (keys(&table, "a.b"), keys(&table, "c.d"));
        assert!(Arc::ptr_eq(&a, &keys(&table, "e.f")) && !Arc::ptr_eq(&a, &c));

        let after = routes(&[("c.d", &other), ("g.h", &one)]);
        let change = RouteChange::between(&first, &after).unwrap();
        let changed = states.changed(&change, &table, sources);
        drop(table);
        states.upkeep();
        assert!(Arc::ptr_eq(&a, &keys(&changed, "g.h")));
        assert!(Arc::ptr_eq(&c, &keys(&changed, "c.d")));

        let again = routes(&[("a.b", &one)]);
        let reloaded = states.all(&again, &changed, sources);
        drop(changed);
        let gone = Arc::downgrade(&c);
        drop(c);
        states.upkeep();
        assert!(Arc::ptr_eq(&a, &keys(&reloaded, "a.b")));
        assert_eq!(gone.strong_count(), 0, "no route has them any more");
    }
}
