//! The routes, with what each of them remembers.
//!
//! Guarantees: a request sees the routes of one moment, immutable but for what their rates have
//! counted; a route whose rules did not change keeps those counts when others do, so that no change
//! forgives anybody; routes that say the same and count nothing of their own share what is made of
//! it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::admission::Admission;
use super::path_rules::PathRules;
use crate::config::RouteConfig;
use crate::router::{Route, RouteChange, RouteTable};
use crate::telemetry::{Metrics, RouteMetrics};

/// A route, with what it remembers.
pub(super) type ActiveRoute = Route<Arc<RouteState>>;
/// All routes of one moment.
pub(super) type ActiveRoutes = RouteTable<Arc<RouteState>>;

/// What is made of a route's settings, and what it remembers.
#[derive(Debug)]
pub(super) struct RouteState {
    /// The rules for waking.
    pub(super) admission: Arc<Admission>,
    /// What is said about paths.
    pub(super) path_rules: PathRules,
    /// The route's counts, or those of many.
    pub(super) metrics: Arc<RouteMetrics>,
}

/// Makes the states of routes. Only who changes the routes has it.
#[derive(Debug, Default)]
pub(super) struct RouteStates {
    /// By where the settings and the counts are that routes share. Who has a state has its settings, too, so
    /// nothing else comes to be at their address.
    shared: HashMap<(usize, usize), Weak<RouteState>>,
    /// Whatever counts clients.
    limited: Vec<Weak<Admission>>,
}

fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared).addr()
}

// === impl RouteStates ===

impl RouteStates {
    /// The routes of a configuration, in its order; `before` is what was in force.
    pub(super) fn all(
        &mut self,
        routes: &[Arc<RouteConfig>],
        before: &ActiveRoutes,
        metrics: &Metrics,
    ) -> ActiveRoutes {
        self.shared.clear();
        self.limited.clear();
        // In the order of the configuration, so that its first routes have series of their own.
        let labels: Vec<_> = routes.iter().map(|route| route.label()).collect();
        let metrics = metrics.set_routes(&labels);
        let routes = routes.iter().zip(metrics);
        ActiveRoutes::of(routes.map(|(config, metrics)| self.route(config, metrics, before)))
    }

    /// The routes after a change.
    pub(super) fn changed(
        &mut self,
        change: &RouteChange,
        before: &ActiveRoutes,
        metrics: &Metrics,
    ) -> ActiveRoutes {
        let mut table = before.clone();
        for config in &change.removed {
            if table.remove(config) {
                metrics.remove_route(config.label());
            }
        }
        for config in &change.added {
            let metrics = metrics.add_route(config.label());
            table.insert(self.route(config, metrics, before));
        }
        table
    }

    fn route(
        &mut self,
        config: &Arc<RouteConfig>,
        metrics: Arc<RouteMetrics>,
        before: &ActiveRoutes,
    ) -> ActiveRoute {
        let rules = &config.admission;
        let state = if rules.rate.is_none() && rules.rate_per_client.is_none() {
            let key = (address(&config.policy), address(&metrics));
            let found = self.shared.get(&key).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let state = Arc::new(RouteState {
                    admission: Arc::new(Admission::new(config)),
                    path_rules: PathRules::new(config),
                    metrics,
                });
                self.shared.insert(key, Arc::downgrade(&state));
                state
            })
        } else {
            let earlier = before.get(config).filter(|earlier| {
                let other = earlier.config();
                (&other.admission, &other.asleep) == (rules, &config.asleep)
            });
            let kept = earlier.map(|earlier| Arc::clone(&earlier.state().admission));
            let admission = kept.unwrap_or_else(|| Arc::new(Admission::new(config)));
            self.limited.push(Arc::downgrade(&admission));
            Arc::new(RouteState {
                admission,
                path_rules: PathRules::new(config),
                metrics,
            })
        };
        Route::new(Arc::clone(config), state)
    }

    /// Forgets what is of routes that are gone; what is left of what counts clients.
    pub(super) fn limited(&mut self) -> Vec<Arc<Admission>> {
        self.shared.retain(|_, state| state.strong_count() > 0);
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

    fn state(table: &ActiveRoutes, host: &str) -> Option<Arc<RouteState>> {
        let found = table.find(&Hostname::parse(host).unwrap(), &PathReadings::of("/"), 80);
        Some(Arc::clone(found.ok()?.route.state()))
    }

    #[tokio::test]
    async fn no_change_forgives_a_client_unless_it_changes_the_rules() {
        let limited = "admission = { rate_per_client = \"1/h\" }";
        let (metrics, mut states) = (Metrics::new(), RouteStates::default());
        let first = routes(&[("a.b", limited), ("c.d", ""), ("e.f", limited)]);
        let table = states.all(&first, &ActiveRoutes::default(), &metrics);
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
        let changed = states.changed(&change, &table, &metrics);
        assert!(charge(&changed, "a.b").is_err());
        charge(&changed, "e.f").unwrap();
        assert!(state(&changed, "c.d").is_none() && state(&changed, "g.h").is_some());
        assert!(state(&table, "c.d").is_some() && state(&table, "g.h").is_none());

        let reloaded = states.all(&first, &changed, &metrics);
        assert!(charge(&reloaded, "a.b").is_err());
        charge(&reloaded, "e.f").unwrap();
        drop((table, changed));
        assert_eq!(
            states.limited().len(),
            2,
            "those of routes that are gone are forgotten"
        );
    }

    #[test]
    fn routes_that_say_the_same_share_what_is_made_of_it_and_a_rate_is_a_routes_own() {
        let (metrics, mut states) = (Metrics::with_max_routes(1), RouteStates::default());
        let limited = "admission = { rate = \"1/h\" }";
        let all = routes(&[
            ("a.b", ""),
            ("c.d", ""),
            ("e.f", ""),
            ("g.h", limited),
            ("i.j", limited),
        ]);
        let table = states.all(&all, &ActiveRoutes::default(), &metrics);
        let states = ["a.b", "c.d", "e.f", "g.h", "i.j"].map(|host| state(&table, host).unwrap());
        let [own, one, other, limited, also_limited] = &states;
        assert!(Arc::ptr_eq(one, other) && !Arc::ptr_eq(own, one));
        assert!(!Arc::ptr_eq(&limited.admission, &also_limited.admission));
        assert!(Arc::ptr_eq(&one.metrics, &limited.metrics));
        assert!(!Arc::ptr_eq(&own.metrics, &one.metrics));
    }
}
