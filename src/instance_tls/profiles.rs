//! The profiles of all routes.
//!
//! Guarantees: routes that say the same share one profile, with its sessions; a profile stays the
//! same through reloads that do not concern it; what no route has any more is let go of.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::TlsSetupError;
use super::profile::TlsProfile;
use crate::config::{RouteConfig, RoutePolicy, UpstreamTlsConfig};

/// The profiles, by what routes say.
#[derive(Default)]
pub struct TlsProfiles(Mutex<HashMap<UpstreamTlsConfig, Arc<TlsProfile>>>);

/// What a route says of TLS, if it speaks it: all but the name, which is each connection's own.
fn key_of(policy: &RoutePolicy) -> Option<UpstreamTlsConfig> {
    let forwarding = &policy.forwarding;
    if !forwarding.protocol.is_secure() {
        return None;
    }
    let tls = forwarding.upstream_tls.clone().unwrap_or_default();
    Some(UpstreamTlsConfig {
        server_name: None,
        ..tls
    })
}

/// The policies of routes, each with the position of the first route that has it.
fn policies<'a>(
    routes: impl IntoIterator<Item = &'a Arc<RouteConfig>>,
) -> impl Iterator<Item = (usize, &'a RoutePolicy)> {
    let mut seen = HashSet::new();
    let routes = routes.into_iter().enumerate();
    let firsts = routes.filter(move |(_, route)| seen.insert(Arc::as_ptr(&route.policy)));
    firsts.map(|(index, route)| (index, &*route.policy))
}

// === impl TlsProfiles ===

impl TlsProfiles {
    fn lock(&self) -> MutexGuard<'_, HashMap<UpstreamTlsConfig, Arc<TlsProfile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what these routes need, also what has changed of it. On an error, which each comes with
    /// the position of the first route that has it, what was there before stays in force.
    pub fn load<'a>(
        &self,
        routes: impl IntoIterator<Item = &'a Arc<RouteConfig>>,
    ) -> Result<(), Vec<(usize, TlsSetupError)>> {
        let mut errors = Vec::new();
        let (mut seen, mut made) = (HashSet::new(), HashMap::new());
        for (index, policy) in policies(routes) {
            let Some(key) = key_of(policy) else { continue };
            if !seen.insert(key.clone()) {
                continue;
            }
            let there = self.lock().get(&key).cloned();
            let loaded = match there {
                Some(profile) => profile.refresh().map(|_| profile),
                None => TlsProfile::load(key.clone()).map(Arc::new),
            };
            match loaded {
                Ok(profile) => drop(made.insert(key, profile)),
                Err(error) => errors.push((index, error)),
            }
        }
        if errors.is_empty() {
            self.lock().extend(made);
            return Ok(());
        }
        Err(errors)
    }

    /// Lets go of what none of these routes has.
    pub fn retain<'a>(&self, routes: impl IntoIterator<Item = &'a Arc<RouteConfig>>) {
        let keys = policies(routes).filter_map(|(_, policy)| key_of(policy));
        let keys: HashSet<_> = keys.collect();
        self.lock().retain(|key, _| keys.contains(key));
    }

    /// The profile of routes with this policy; `None` where they speak no TLS.
    pub fn of(&self, policy: &RoutePolicy) -> Option<Arc<TlsProfile>> {
        self.lock().get(&key_of(policy)?).cloned()
    }

    /// Reads the files that have changed; returns how many profiles are others now, and what could
    /// not be used.
    pub fn refresh(&self) -> (usize, Vec<TlsSetupError>) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        let (mut changed, mut errors) = (0, Vec::new());
        for profile in all {
            match profile.look() {
                Ok(has_changed) => changed += usize::from(has_changed),
                Err(error) => errors.push(error),
            }
        }
        (changed, errors)
    }
}

impl fmt::Debug for TlsProfiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsProfiles({})", self.lock().len())
    }
}
