//! The engine in the memory of this process: for tests, for the simulation, and to try a fleet.
//!
//! Guarantees: the same calls in the same order give the same revisions; leases end by the runtime's
//! clock; what goes wrong is what a test has asked for ([`Faults`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::engine::{
    Change, Compare, Engine, EngineError, Entry, MOST_OPERATIONS, News, Operation, Outcome, Page,
    Range, Span, Watch,
};

/// How often a watch says that it is alive.
const BEAT: Duration = Duration::from_secs(2);
/// As many changes as are remembered without being asked to forget.
const MOST_HISTORY: usize = 100_000;

/// What goes wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing is answered.
    pub away: bool,
    /// How long each answer takes.
    pub delay: Duration,
}

#[derive(Debug, Clone)]
struct Stored {
    value: Vec<u8>,
    created: i64,
    modified: i64,
    lease: i64,
}

#[derive(Debug, Clone, Default)]
struct Store {
    revision: i64,
    keys: BTreeMap<String, Stored>,
    /// What there was at `compacted`.
    base: BTreeMap<String, Entry>,
    /// The changes after `compacted`, with their revisions.
    history: VecDeque<(i64, Change)>,
    compacted: i64,
    leases: BTreeMap<i64, (Duration, Instant)>,
    last_lease: i64,
}

/// The engine. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct MemoryEngine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    /// How often keys were asked for.
    reads: AtomicUsize,
    /// As many keys as a page may have.
    most: AtomicUsize,
    /// How many keys and changes were given to whoever reads and watches.
    given: AtomicUsize,
    /// The revision and how often watches were broken.
    changed: watch::Sender<(i64, u64)>,
}

// === impl Store ===

impl Store {
    fn entry(&self, key: &str) -> Option<Entry> {
        let stored = self.keys.get(key)?;
        Some(Entry {
            key: key.to_owned(),
            value: stored.value.clone(),
            created: stored.created,
            modified: stored.modified,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Created(key, at) => self.keys.get(key).is_some_and(|it| it.created == *at),
            Compare::Modified(key, at) => self.keys.get(key).is_some_and(|it| it.modified == *at),
        }
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back((self.revision, change));
        while self.history.len() > MOST_HISTORY {
            if let Some((revision, change)) = self.history.pop_front() {
                apply(&mut self.base, change);
                self.compacted = revision;
            }
        }
    }

    fn run(&mut self, operations: Vec<Operation>) {
        let next = self.revision + 1;
        let changes = operations.iter().any(|operation| match operation {
            Operation::Put { .. } => true,
            Operation::Delete(key) => self.keys.contains_key(key),
        });
        if !changes {
            return;
        }
        self.revision = next;
        for operation in operations {
            match operation {
                Operation::Put { key, value, lease } => {
                    let created = self.keys.get(&key).map_or(next, |before| before.created);
                    let stored = Stored {
                        value,
                        created,
                        modified: next,
                        lease,
                    };
                    self.keys.insert(key.clone(), stored);
                    if let Some(entry) = self.entry(&key) {
                        self.remember(Change::Put(entry));
                    }
                }
                Operation::Delete(key) => {
                    if self.keys.remove(&key).is_some() {
                        let revision = next;
                        self.remember(Change::Deleted { key, revision });
                    }
                }
            }
        }
    }

    /// Ends the leases whose time is over.
    fn expire(&mut self, now: Instant) {
        let over: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, (_, end))| *end <= now)
            .map(|(lease, _)| *lease)
            .collect();
        for lease in over {
            self.end(lease);
        }
    }

    fn end(&mut self, lease: i64) {
        if self.leases.remove(&lease).is_none() {
            return;
        }
        let keys = self.keys.iter().filter(|(_, stored)| stored.lease == lease);
        let gone = keys
            .map(|(key, _)| Operation::Delete(key.clone()))
            .collect();
        self.run(gone);
    }

    /// What the keys were at a revision that is remembered.
    fn at(&self, revision: i64) -> BTreeMap<String, Entry> {
        let mut keys = self.base.clone();
        for (_, change) in self.history.iter().filter(|(at, _)| *at <= revision) {
            apply(&mut keys, change.clone());
        }
        keys
    }

    fn compact(&mut self) {
        let now = self.keys.keys().filter_map(|key| self.entry(key));
        self.base = now.map(|entry| (entry.key.clone(), entry)).collect();
        self.history.clear();
        self.compacted = self.revision;
    }
}

fn is_among(spans: &[Span], key: &str) -> bool {
    spans.iter().any(|span| span.has(key))
}

fn apply(keys: &mut BTreeMap<String, Entry>, change: Change) {
    match change {
        Change::Put(entry) => {
            keys.insert(entry.key.clone(), entry);
        }
        Change::Deleted { key, .. } => {
            keys.remove(&key);
        }
    }
}

// === impl MemoryEngine ===

impl MemoryEngine {
    /// An engine without keys.
    pub fn new() -> Self {
        let store = Store {
            revision: 1,
            ..Store::default()
        };
        Self(Arc::new(Shared {
            store: Mutex::new(store),
            faults: Mutex::default(),
            reads: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            given: AtomicUsize::new(0),
            changed: watch::Sender::new((1, 0)),
        }))
    }

    /// How often keys were asked for so far.
    pub fn reads(&self) -> usize {
        self.0.reads.load(Ordering::Relaxed)
    }

    /// A page may have so many keys; a longer one is refused.
    pub fn set_most(&self, keys: usize) {
        self.0.most.store(keys, Ordering::Relaxed);
    }

    /// How many keys and changes were given to whoever reads and watches so far.
    pub fn given(&self) -> usize {
        self.0.given.load(Ordering::Relaxed)
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.0.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        self.break_watches();
    }

    /// Ends every watch.
    pub fn break_watches(&self) {
        self.0.changed.send_modify(|(_, broken)| *broken += 1);
    }

    /// Forgets all changes so far.
    pub fn compact(&self) {
        let mut store = self.store();
        store.compact();
        drop(store);
        self.break_watches();
    }

    /// The revision that it has.
    pub fn revision(&self) -> i64 {
        self.store().revision
    }

    /// A copy of everything, as a backup is.
    pub fn backup(&self) -> Backup {
        Backup(self.store().clone())
    }

    /// Goes back to a backup, whose revisions are given a second time.
    pub fn restore(&self, backup: &Backup) {
        let mut store = self.store();
        *store = backup.0.clone();
        store.compact();
        drop(store);
        self.break_watches();
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        let mut store = self.0.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.expire(Instant::now());
        store
    }

    fn tell(&self, revision: i64) {
        self.0.changed.send_modify(|(known, _)| *known = revision);
    }

    async fn ready(&self) -> Result<(), EngineError> {
        let faults = self
            .0
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if !faults.delay.is_zero() {
            sleep(faults.delay).await;
        }
        match faults.away {
            true => Err(EngineError::Unavailable("it is away".to_owned())),
            false => Ok(()),
        }
    }
}

/// A copy of everything that an engine had.
#[derive(Debug, Clone)]
pub struct Backup(Store);

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for MemoryEngine {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, EngineError>> {
        async move {
            self.0.reads.fetch_add(1, Ordering::Relaxed);
            self.ready().await?;
            let store = self.store();
            if range.revision != 0 && range.revision < store.compacted {
                return Err(EngineError::Compacted(store.compacted));
            }
            let revision = store.revision;
            let found: Vec<Entry> = match range.revision == 0 || range.revision >= revision {
                true => {
                    let keys = store.keys.range(range.from..range.to);
                    let keys = keys.take(range.limit.saturating_add(1));
                    keys.filter_map(|(key, _)| store.entry(key)).collect()
                }
                false => {
                    let then = store.at(range.revision);
                    let keys = then.range(range.from..range.to);
                    let keys = keys.take(range.limit.saturating_add(1));
                    keys.map(|(_, entry)| entry.clone()).collect()
                }
            };
            let most = self.0.most.load(Ordering::Relaxed);
            if found.len().min(range.limit) > most {
                return Err(EngineError::TooLong(most));
            }
            let more = found.len() > range.limit;
            let entries: Vec<Entry> = found.into_iter().take(range.limit).collect();
            self.0.given.fetch_add(entries.len(), Ordering::Relaxed);
            Ok(Page {
                entries,
                revision,
                cluster: 0,
                more,
            })
        }
        .boxed()
    }

    fn watch_spans(
        &self,
        spans: Vec<Span>,
        revision: i64,
    ) -> BoxFuture<'_, Result<Watch, EngineError>> {
        async move {
            self.ready().await?;
            let engine = self.clone();
            let mut changed = self.0.changed.subscribe();
            let broken = changed.borrow_and_update().1;
            let first = (engine, changed, spans, revision, Some(broken));
            let news = stream::unfold(
                first,
                |(engine, mut changed, spans, next, broken)| async move {
                    let broken = broken?;
                    let failed = |error| Some((Err(error), None));
                    let (outcome, next) = loop {
                        if changed.borrow_and_update().1 != broken {
                            break (
                                failed(EngineError::Unavailable("the watch ended".to_owned())),
                                next,
                            );
                        }
                        let (found, end) = {
                            let store = engine.store();
                            if next <= store.compacted && store.compacted != 0 && next != 0 {
                                break (failed(EngineError::Compacted(store.compacted)), next);
                            }
                            let first = store.history.partition_point(|(at, _)| *at < next);
                            let later = store.history.range(first..);
                            let ours = later.filter(|(_, change)| is_among(&spans, change.key()));
                            let found: Vec<Change> =
                                ours.map(|(_, change)| change.clone()).collect();
                            let lease = store.leases.values().map(|(_, end)| *end).min();
                            (found, (store.revision, lease))
                        };
                        let (revision, lease) = end;
                        if !found.is_empty() {
                            engine.0.given.fetch_add(found.len(), Ordering::Relaxed);
                            break (Some((Ok(News::Changes(found)), Some(broken))), revision + 1);
                        }
                        let next = next.max(revision + 1);
                        let until_lease = async {
                            match lease {
                                Some(end) => sleep_until(end).await,
                                None => std::future::pending().await,
                            }
                        };
                        let woken = async {
                            tokio::select! {
                                _ = changed.changed() => {}
                                () = until_lease => {}
                            }
                        };
                        if timeout(BEAT, woken).await.is_err() {
                            break (Some((Ok(News::Alive(revision)), Some(broken))), next);
                        }
                    };
                    let (item, broken) = outcome?;
                    Some((item, (engine, changed, spans, next, broken)))
                },
            );
            Ok(news.boxed())
        }
        .boxed()
    }

    fn commit(
        &self,
        compares: Vec<Compare>,
        operations: Vec<Operation>,
    ) -> BoxFuture<'_, Result<Outcome, EngineError>> {
        async move {
            self.ready().await?;
            if operations.len() > MOST_OPERATIONS {
                return Err(EngineError::TooLarge(operations.len()));
            }
            let mut store = self.store();
            let is_done = compares.iter().all(|compare| store.holds(compare));
            if is_done {
                let lost = operations.iter().find_map(|operation| match operation {
                    Operation::Put { lease, .. } if *lease != 0 => {
                        (!store.leases.contains_key(lease)).then_some(*lease)
                    }
                    Operation::Put { .. } | Operation::Delete(_) => None,
                });
                if let Some(lease) = lost {
                    return Err(EngineError::Refused(format!("there is no lease {lease}")));
                }
                store.run(operations);
            }
            let revision = store.revision;
            drop(store);
            self.tell(revision);
            Ok(Outcome { is_done, revision })
        }
        .boxed()
    }

    fn grant(&self, seconds: i64) -> BoxFuture<'_, Result<i64, EngineError>> {
        async move {
            self.ready().await?;
            let length = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
            let mut store = self.store();
            store.last_lease += 1;
            let lease = store.last_lease;
            store
                .leases
                .insert(lease, (length, Instant::now() + length));
            Ok(lease)
        }
        .boxed()
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, EngineError>> {
        async move {
            self.ready().await?;
            let mut store = self.store();
            let found = store.leases.get_mut(&lease);
            Ok(found.is_some_and(|(length, end)| {
                *end = Instant::now() + *length;
                true
            }))
        }
        .boxed()
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            self.ready().await?;
            let mut store = self.store();
            store.end(lease);
            let revision = store.revision;
            drop(store);
            self.tell(revision);
            Ok(())
        }
        .boxed()
    }
}
