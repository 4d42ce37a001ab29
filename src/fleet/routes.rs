//! The routes of the directory: who has written them, which one is in force.
//!
//! Guarantees: of two with one name the operator's is in force, else the older; what cannot be read
//! leaves its last good form; a route waits for the policy that it names; what is kept from going
//! stays in force until it is accepted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::engine::Entry;
use super::records::{Key, OPERATOR, RouteRecord, read, write};
use super::seal::SealKeys;
use crate::config::{RouteConfig, RoutePolicy, WakeConfig, declared_policy, declared_route};
use crate::router::RouteChange;

/// A route as one source has it.
#[derive(Debug)]
struct Candidate {
    source: Arc<str>,
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
    /// Keys that are not in force as they are, and why not.
    problems: BTreeMap<String, String>,
    /// What was in force before the change that is being made.
    before: HashMap<Arc<str>, Option<Arc<RouteConfig>>>,
    held: usize,
}

/// A route, for those who look at the directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RouteLine {
    /// Its host.
    pub host: String,
    /// Its path.
    pub path: String,
    /// Its instance, or a capture of the host.
    pub instance: String,
    /// Its port.
    pub port: u16,
    /// Its policy's name.
    pub policy: Option<String>,
    /// Who has written it.
    pub source: String,
}

fn winner(candidates: &[Candidate]) -> Option<&Candidate> {
    let good = candidates.iter().filter(|one| one.route.is_some());
    good.min_by(|one, other| {
        let rank = |it: &Candidate| (&*it.source != OPERATOR, it.created);
        rank(one)
            .cmp(&rank(other))
            .then_with(|| one.source.cmp(&other.source))
    })
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
            problems: BTreeMap::new(),
            before: HashMap::new(),
            held: 0,
        })
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
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
        let mut all: Vec<_> = self
            .by_name
            .values()
            .filter_map(|all| winner(all))
            .collect();
        all.sort_by(|one, other| {
            let name = |it: &Candidate| it.route.as_ref().map(|route| Arc::clone(route.label()));
            (one.created, name(one)).cmp(&(other.created, name(other)))
        });
        let routes = all.into_iter().filter_map(|one| one.route.clone());
        routes.collect()
    }

    /// The keys of routes that there are, those that are held apart.
    pub(super) fn keys(&self) -> HashSet<(Arc<str>, Arc<str>)> {
        let all = self.by_name.iter().flat_map(|(name, all)| {
            let there = all.iter().filter(|one| !one.is_held);
            there.map(|one| (Arc::clone(name), Arc::clone(&one.source)))
        });
        all.collect()
    }

    pub(super) fn policy_names(&self) -> Vec<String> {
        let shut = self
            .shut
            .keys()
            .filter(|name| !self.policies.contains_key(name.as_str()));
        let open = self.policies.keys().map(ToString::to_string);
        open.chain(shut.cloned()).collect()
    }

    pub(super) fn has(&self, name: &str, source: &str) -> bool {
        let all = self.by_name.get(name);
        all.is_some_and(|all| all.iter().any(|one| &*one.source == source && !one.is_held))
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
        let found = self.by_name.get(name).and_then(|all| winner(all));
        let route = found.and_then(|one| one.route.clone());
        self.before.insert(name.into(), route);
    }

    /// What has changed since it was last asked.
    pub(super) fn take_change(&mut self) -> RouteChange {
        let mut change = RouteChange::default();
        let mut before: Vec<_> = std::mem::take(&mut self.before).into_iter().collect();
        before.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, old) in before {
            let new = self.by_name.get(&name).and_then(|all| winner(all));
            let new = new.and_then(|one| one.route.clone());
            if old == new {
                continue;
            }
            change.removed.extend(old);
            change.added.extend(new);
        }
        change
    }

    pub(super) fn put_route(&mut self, (source, name): (&str, &str), entry: &Entry) {
        let made = read::<RouteRecord>(&entry.value).and_then(|record| {
            let policy = match record.policy.as_deref() {
                None => Some(Arc::clone(&self.plain)),
                Some(policy) => self.policies.get(policy).map(|one| Arc::clone(&one.read)),
            };
            let Some(policy) = policy else {
                return Ok((record, None));
            };
            let route = declared_route(name, &record.instance, record.port, &policy)?;
            Ok((record, Some(Arc::new(route))))
        });
        self.touch(name);
        let all = self.by_name.entry(name.into()).or_default();
        let known = all.iter_mut().find(|one| &*one.source == source);
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
                created: entry.created,
                policy,
                route,
                pending,
                is_held: false,
            }),
        }
    }

    /// Takes a route away, or keeps it from going.
    pub(super) fn delete_route(&mut self, (source, name): (&str, &str), hold: bool) {
        self.touch(name);
        let Some(all) = self.by_name.get_mut(name) else {
            return;
        };
        if hold {
            for one in all.iter_mut().filter(|one| &*one.source == source) {
                self.held += usize::from(!one.is_held);
                one.is_held = true;
            }
            return;
        }
        let held = all
            .iter()
            .filter(|one| &*one.source == source && one.is_held);
        self.held -= held.count();
        all.retain(|one| &*one.source != source);
        if all.is_empty() {
            self.by_name.remove(name);
        }
        let (source, name) = (source.to_owned(), name.to_owned());
        self.problems.remove(&Key::Route { source, name }.text());
    }

    /// What was kept from going goes.
    pub(super) fn release(&mut self) {
        let held = self.by_name.iter().flat_map(|(name, all)| {
            let held = all.iter().filter(|one| one.is_held);
            held.map(|one| (Arc::clone(&one.source), Arc::clone(name)))
        });
        let held: Vec<_> = held.collect();
        for (source, name) in held {
            self.delete_route((&source, &name), false);
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
                let key = || {
                    let (source, name) = (one.source.to_string(), route_name.to_string());
                    Key::Route { source, name }.text()
                };
                let (instance, port) = match (&one.pending, &one.route) {
                    (Some(record), _) => (record.instance.clone(), record.port),
                    (None, Some(route)) => (route.instance.to_string(), route.port),
                    (None, None) => continue,
                };
                match declared_route(&route_name, &instance, port, &policy) {
                    Ok(route) => {
                        self.problems.remove(&key());
                        one.route = Some(Arc::new(route));
                        one.pending = None;
                    }
                    Err(problem) => {
                        self.problems.insert(key(), problem);
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
        let winners = self.by_name.values().filter_map(|all| winner(all));
        let lines = winners.filter_map(|one| {
            let route = one.route.as_ref()?;
            Some(RouteLine {
                host: route.host().to_owned(),
                path: route.path().to_owned(),
                instance: route.instance.to_string(),
                port: route.port,
                policy: one.policy.as_deref().map(str::to_owned),
                source: one.source.to_string(),
            })
        });
        let mut lines: Vec<RouteLine> = lines.collect();
        lines.sort_by(|one, other| (&one.host, &one.path).cmp(&(&other.host, &other.path)));
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
                let (source, name) = (one.source.to_string(), name.to_string());
                Some(Entry {
                    key: Key::Route { source, name }.text(),
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
