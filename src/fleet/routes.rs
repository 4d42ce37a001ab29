//! The routes of the directory: who has written them, which one is in force.
//!
//! Guarantees: of several sources of one name the operator's routes are in force, else those of the source that has the
//! oldest, and nobody else's at any port; what cannot be read leaves its last good form; a route waits for the policy
//! that it names; what is kept from going stays in force until it is accepted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::engine::Entry;
use super::records::{Key, OPERATOR, RouteRecord, read, write};
use super::seal::SealKeys;
use crate::config::{
    RouteConfig, RouteKey, RoutePolicy, WakeConfig, declared_policy, declared_route,
};
use crate::router::{OTHER_PORTS, RouteChange};

/// A route as one source has it.
#[derive(Debug)]
struct Candidate {
    source: Arc<str>,
    /// The port that it is for, if it is for one alone.
    at: Option<u16>,
    created: i64,
    policy: Option<Arc<str>>,
    /// Its last good form.
    route: Option<Arc<RouteConfig>>,
    /// What it says, while the policy that it names is not known.
    pending: Option<Box<RouteRecord>>,
    /// Its key is gone, and that is not accepted.
    is_held: bool,
}

/// A policy, and its value.
#[derive(Debug)]
struct Policy {
    read: Arc<RoutePolicy>,
    value: Vec<u8>,
    created: i64,
}

/// All routes and policies.
#[derive(Debug)]
pub(super) struct Routes {
    wake: WakeConfig,
    hypeman: String,
    keys: SealKeys,
    /// Policies that none of the keys opens.
    shut: BTreeMap<String, Entry>,
    plain: Arc<RoutePolicy>,
    policies: HashMap<Arc<str>, Policy>,
    by_name: HashMap<Arc<str>, Vec<Candidate>>,
    /// How many routes there are, whoever has them.
    count: usize,
    /// Keys that are not in force as they are, and why not.
    problems: BTreeMap<String, String>,
    /// What was in force before the change that is being made.
    before: HashMap<Arc<str>, Vec<Arc<RouteConfig>>>,
    held: usize,
}

/// A route, for those who look at the directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RouteLine {
    /// Its host.
    pub host: String,
    /// Its path.
    pub path: String,
    /// The port of the gateway's that it is for, if it is for one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Its instance, or a capture of the host.
    pub instance: String,
    /// Its port.
    pub port: u16,
    /// Its policy's name.
    pub policy: Option<String>,
    /// Who has written it.
    pub source: String,
}

/// Those of a name's routes that are in force: all of one source.
fn winners(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    let good = || candidates.iter().filter(|one| one.route.is_some());
    let first = good().min_by(|one, other| {
        let rank = |it: &Candidate| (&*it.source != OPERATOR, it.created);
        rank(one)
            .cmp(&rank(other))
            .then_with(|| one.source.cmp(&other.source))
    });
    good().filter(move |one| first.is_some_and(|first| first.source == one.source))
}

/// The same as the table has them.
fn in_force(candidates: &[Candidate]) -> Vec<Arc<RouteConfig>> {
    let routes = || winners(candidates).filter_map(|one| one.route.as_ref());
    // A table asks what is for every port first.
    let has_own = routes().any(|route| route.listen_port.is_some());
    let as_it_is = |route: &Arc<RouteConfig>| match route.listen_port {
        None if has_own => Arc::new(RouteConfig {
            listen_port: Some(OTHER_PORTS),
            ..RouteConfig::clone(route)
        }),
        Some(_) | None => Arc::clone(route),
    };
    routes().map(as_it_is).collect()
}

/// How many routes a name has, whoever has them.
fn count_of(candidates: &[Candidate]) -> usize {
    let is_first = |(index, one): &(usize, &Candidate)| {
        let mut earlier = candidates.iter().take(*index);
        earlier.all(|other| other.at != one.at)
    };
    candidates.iter().enumerate().filter(is_first).count()
}

// === impl RouteLine ===

impl RouteLine {
    /// Its host, its port if it is for one alone, and its path.
    pub fn name(&self) -> String {
        let port = self.listen_port.map(|port| format!(":{port}"));
        format!("{}{}{}", self.host, port.unwrap_or_default(), self.path)
    }
}

// === impl Candidate ===

impl Candidate {
    /// Whether it is this route of this source.
    fn is(&self, source: &str, route: &RouteKey) -> bool {
        &*self.source == source && self.at == route.port()
    }

    fn route_key(&self, name: &str) -> RouteKey {
        RouteKey::from(name).at(self.at)
    }

    /// Its key in the directory, under this name.
    fn key(&self, name: &str) -> Key {
        Key::Route {
            source: self.source.to_string(),
            route: self.route_key(name),
        }
    }
}

// === impl Routes ===

impl Routes {
    pub(super) fn new(wake: WakeConfig, hypeman: String, keys: SealKeys) -> Result<Self, String> {
        let plain = declared_policy(&Map::new(), &wake, &hypeman)?;
        Ok(Self {
            wake,
            hypeman,
            keys,
            shut: BTreeMap::new(),
            plain,
            policies: HashMap::new(),
            by_name: HashMap::new(),
            count: 0,
            problems: BTreeMap::new(),
            before: HashMap::new(),
            held: 0,
        })
    }

    /// How many there are, those of several sources once.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How many are kept from going.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// The routes that are in force, the oldest first.
    pub(super) fn in_force(&self) -> Vec<Arc<RouteConfig>> {
        let all = self.by_name.values().flat_map(|all| {
            let created = winners(all).map(|one| one.created);
            created.zip(in_force(all))
        });
        let mut all: Vec<(i64, Arc<RouteConfig>)> = all.collect();
        all.sort_by(|(created, one), (other_created, other)| {
            (created, one.label()).cmp(&(other_created, other.label()))
        });
        all.into_iter().map(|(_, route)| route).collect()
    }

    /// Whether a route of this name and port is in force.
    pub(super) fn serves(&self, route: &RouteKey) -> bool {
        let all = self.by_name.get(route.label());
        all.is_some_and(|all| in_force(all).iter().any(|one| one.key() == *route))
    }

    /// The keys of routes that there are, those that are held apart.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.by_name.iter().flat_map(|(name, all)| {
            let there = all.iter().filter(|one| !one.is_held);
            there.map(|one| one.key(name))
        })
    }

    pub(super) fn policy_names(&self) -> Vec<String> {
        let shut = self
            .shut
            .keys()
            .filter(|name| !self.policies.contains_key(name.as_str()));
        let open = self.policies.keys().map(ToString::to_string);
        open.chain(shut.cloned()).collect()
    }

    pub(super) fn has(&self, route: &RouteKey, source: &str) -> bool {
        let all = self.by_name.get(route.label());
        all.is_some_and(|all| all.iter().any(|one| one.is(source, route) && !one.is_held))
    }

    /// What is wrong with policies that are not there any more is wrong no longer.
    pub(super) fn forget_problems(&mut self, there: &HashSet<&str>) {
        let is_policy = |key: &str| matches!(Key::parse(key), Some(Key::Policy(_)));
        self.problems
            .retain(|key, _| there.contains(key.as_str()) || !is_policy(key));
    }

    fn touch(&mut self, name: &str) {
        if self.before.contains_key(name) {
            return;
        }
        let found = self.by_name.get(name);
        let routes = found.map(|all| in_force(all)).unwrap_or_default();
        self.before.insert(name.into(), routes);
    }

    /// What has changed since it was last asked.
    pub(super) fn take_change(&mut self) -> RouteChange {
        let mut change = RouteChange::default();
        let mut before: Vec<_> = std::mem::take(&mut self.before).into_iter().collect();
        before.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, old) in before {
            let new = self.by_name.get(&name);
            let new = new.map(|all| in_force(all)).unwrap_or_default();
            let added = new.iter().filter(|route| !old.contains(route));
            change.added.extend(added.cloned());
            let removed = old.into_iter().filter(|route| !new.contains(route));
            change.removed.extend(removed);
        }
        change
    }

    pub(super) fn put_route(&mut self, (source, key): (&str, &RouteKey), entry: &Entry) {
        let name = &**key.label();
        let made = read::<RouteRecord>(&entry.value).and_then(|record| {
            let policy = match record.policy.as_deref() {
                None => Some(Arc::clone(&self.plain)),
                Some(policy) => self.policies.get(policy).map(|one| Arc::clone(&one.read)),
            };
            let Some(policy) = policy else {
                return Ok((record, None));
            };
            let mut route = declared_route(name, &record.instance, record.port, &policy)?;
            route.listen_port = key.port();
            Ok((record, Some(Arc::new(route))))
        });
        self.touch(name);
        let all = self.by_name.entry(name.into()).or_default();
        if all.iter().all(|one| one.at != key.port()) {
            self.count += 1;
        }
        let known = all.iter_mut().find(|one| one.is(source, key));
        if let Some(known) = &known
            && known.is_held
        {
            self.held -= 1;
        }
        let (record, route) = match made {
            Ok(made) => made,
            Err(problem) => {
                self.problems.insert(entry.key.clone(), problem);
                match known {
                    Some(known) => known.is_held = false,
                    None => {
                        // That it is there is known, or it would look gone.
                        all.push(Candidate {
                            source: source.into(),
                            at: key.port(),
                            created: entry.created,
                            policy: None,
                            route: None,
                            pending: None,
                            is_held: false,
                        });
                    }
                }
                return;
            }
        };
        match (&route, &record.policy) {
            (None, Some(policy)) => {
                let problem = format!("waits for its policy `{policy}`");
                self.problems.insert(entry.key.clone(), problem);
            }
            _ => {
                self.problems.remove(&entry.key);
            }
        }
        let policy: Option<Arc<str>> = record.policy.as_deref().map(|name| {
            let known = self.policies.get_key_value(name);
            known.map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
        });
        let pending = route.is_none().then(|| Box::new(record));
        match known {
            Some(known) => {
                known.created = entry.created;
                known.policy = policy;
                known.pending = pending;
                known.is_held = false;
                if route.is_some() {
                    known.route = route;
                }
            }
            None => all.push(Candidate {
                source: source.into(),
                at: key.port(),
                created: entry.created,
                policy,
                route,
                pending,
                is_held: false,
            }),
        }
    }

    /// Takes a route away, or keeps it from going.
    pub(super) fn delete_route(&mut self, (source, key): (&str, &RouteKey), hold: bool) {
        let name = &**key.label();
        self.touch(name);
        let Some(all) = self.by_name.get_mut(name) else {
            return;
        };
        if hold {
            for one in all.iter_mut().filter(|one| one.is(source, key)) {
                self.held += usize::from(!one.is_held);
                one.is_held = true;
            }
            return;
        }
        let held = all.iter().filter(|one| one.is(source, key) && one.is_held);
        self.held -= held.count();
        let count = count_of(all);
        all.retain(|one| !one.is(source, key));
        self.count -= count - count_of(all);
        if all.is_empty() {
            self.by_name.remove(name);
        }
        let (source, route) = (source.to_owned(), key.clone());
        self.problems.remove(&Key::Route { source, route }.text());
    }

    /// What was kept from going goes.
    pub(super) fn release(&mut self) {
        let held = self.by_name.iter().flat_map(|(name, all)| {
            let held = all.iter().filter(|one| one.is_held);
            held.map(|one| (Arc::clone(&one.source), one.route_key(name)))
        });
        let held: Vec<_> = held.collect();
        for (source, route) in held {
            self.delete_route((&source, &route), false);
        }
    }

    pub(super) fn put_policy(&mut self, name: &str, entry: &Entry) {
        self.shut.remove(name);
        let opened = match self.keys.open(&entry.key, &entry.value) {
            Ok(opened) => opened,
            Err(error) => {
                self.problems.insert(entry.key.clone(), error.to_string());
                self.shut.insert(name.to_owned(), entry.clone());
                return;
            }
        };
        let made = read::<Map<String, Value>>(&opened)
            .and_then(|keys| declared_policy(&keys, &self.wake, &self.hypeman));
        let policy = match made {
            Ok(policy) => policy,
            Err(problem) => {
                self.problems.insert(entry.key.clone(), problem);
                return;
            }
        };
        self.problems.remove(&entry.key);
        let kept = self.policies.get(name);
        if kept.is_some_and(|kept| kept.value == entry.value) {
            return;
        }
        let stored = Policy {
            read: Arc::clone(&policy),
            value: entry.value.clone(),
            created: entry.created,
        };
        self.policies.insert(name.into(), stored);
        let uses = |one: &Candidate| one.policy.as_deref() == Some(name);
        let concerned = self.by_name.iter().filter(|(_, all)| all.iter().any(uses));
        let concerned: Vec<Arc<str>> = concerned.map(|(name, _)| Arc::clone(name)).collect();
        for route_name in concerned {
            self.touch(&route_name);
            let all = self.by_name.get_mut(&route_name).into_iter().flatten();
            for one in all.filter(|one| uses(one)) {
                let key = one.key(&route_name).text();
                let (instance, port) = match (&one.pending, &one.route) {
                    (Some(record), _) => (record.instance.clone(), record.port),
                    (None, Some(route)) => (route.instance.to_string(), route.port),
                    (None, None) => continue,
                };
                match declared_route(&route_name, &instance, port, &policy) {
                    Ok(mut route) => {
                        route.listen_port = one.at;
                        self.problems.remove(&key);
                        one.route = Some(Arc::new(route));
                        one.pending = None;
                    }
                    Err(problem) => {
                        self.problems.insert(key, problem);
                    }
                }
            }
        }
    }

    /// Other keys open what is sealed from now on.
    pub(super) fn use_keys(&mut self, keys: SealKeys) {
        self.keys = keys;
        for (name, entry) in std::mem::take(&mut self.shut) {
            self.put_policy(&name, &entry);
        }
    }

    /// Routes that have a policy keep it.
    pub(super) fn delete_policy(&mut self, name: &str) {
        self.shut.remove(name);
        self.policies.remove(name);
        self.problems.remove(&Key::Policy(name.to_owned()).text());
    }

    pub(super) fn lines(&self) -> Vec<RouteLine> {
        let winners = self.by_name.values().flat_map(|all| winners(all));
        let lines = winners.filter_map(|one| {
            let route = one.route.as_ref()?;
            Some(RouteLine {
                host: route.host().to_owned(),
                path: route.path().to_owned(),
                listen_port: one.at,
                instance: route.instance.to_string(),
                port: route.port,
                policy: one.policy.as_deref().map(str::to_owned),
                source: one.source.to_string(),
            })
        });
        let mut lines: Vec<RouteLine> = lines.collect();
        lines.sort_by(|one, other| {
            let (one_place, other_place) = ((&one.host, &one.path), (&other.host, &other.path));
            (one_place, one.listen_port).cmp(&(other_place, other.listen_port))
        });
        lines
    }

    /// Keys and values from which the same can be made again, policies first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let policies = self.policies.iter().map(|(name, one)| Entry {
            key: Key::Policy(name.to_string()).text(),
            value: one.value.clone(),
            created: one.created,
            modified: one.created,
        });
        let routes = self.by_name.iter().flat_map(|(name, all)| {
            all.iter().filter_map(|one| {
                let value = match (&one.pending, &one.route) {
                    (Some(record), _) => write(record),
                    (None, Some(route)) => write(&RouteRecord {
                        instance: route.instance.to_string(),
                        port: route.port,
                        policy: one.policy.as_deref().map(str::to_owned),
                        more: Map::new(),
                    }),
                    (None, None) => return None,
                };
                Some(Entry {
                    key: one.key(name).text(),
                    value,
                    created: one.created,
                    modified: one.created,
                })
            })
        });
        let shut = self.shut.iter();
        let shut = shut.filter(|(name, _)| !self.policies.contains_key(name.as_str()));
        let shut = shut.map(|(_, entry)| entry.clone());
        policies.chain(shut).chain(routes).collect()
    }
}
