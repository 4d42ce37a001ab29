//! The holds by which workloads keep their instances awake.
//!
//! Guarantees: a hold is its instance's and ends at its end: by the clock on the wall, which may be
//! set forwards, and by one that cannot be set, whichever comes first. Where there is a directory, it is
//! what its file says, so that another gateway on the directory may change it. Holds of an instance are
//! bounded, and so are all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::hold_dir::{HoldDir, Stored, StoredHold};
use super::task::{Owner, TaskName};
use crate::config::WorkloadConfig;
use crate::telemetry::Metrics;

/// Holds in all, however many instances have some.
const MOST: usize = 100_000;

/// The time of day.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The directory of the holds cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("holds cannot be kept in {dir}: {source}")]
pub struct HoldDirError {
    dir: PathBuf,
    source: io::Error,
}

/// Why a hold cannot be placed or taken back.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// It is for longer than it may be.
    #[error("a hold is for {0:?} at most (`workload.max_hold`)")]
    TooLong(Duration),
    /// The instance has as many as it may have.
    #[error("an instance has {0} holds at most (`workload.max_holds`); take one back first")]
    TooMany(usize),
    /// There are as many as there may be.
    #[error("there are too many holds in all")]
    Full,
    /// It would not outlive the gateway.
    #[error("the hold cannot be kept: {0}")]
    NotKept(#[from] io::Error),
}

/// A hold, for those who look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskHold {
    /// The instance.
    pub owner: Owner,
    /// The instance's name.
    pub name: Arc<str>,
    /// The task.
    pub task: TaskName,
    /// Its end.
    pub until: Timestamp,
}

/// All holds.
pub struct Holds {
    max_hold: Duration,
    most_of_one: usize,
    clock: Clock,
    /// Whoever changes something has it.
    dir: Mutex<Option<HoldDir>>,
    owned: Mutex<BTreeMap<Owner, Owned>>,
    metrics: Arc<Metrics>,
    placed: Notify,
}

/// One instance's.
#[derive(Debug, Clone)]
struct Owned {
    name: Arc<str>,
    tasks: BTreeMap<TaskName, Ends>,
}

/// When a hold ends.
#[derive(Debug, Clone, Copy)]
struct Ends {
    until: Timestamp,
    at: Instant,
}

/// The same moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    time: Timestamp,
    at: Instant,
}

/// The same to the millisecond, so that people can read it.
fn whole(until: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(until.as_millisecond().saturating_add(1)).unwrap_or(until)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Holds ===

impl Holds {
    /// Opens the directory, if there is to be one, and takes the holds that are in it.
    pub fn open(
        config: &WorkloadConfig,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Arc<Self>, HoldDirError> {
        let dir = config.state_dir.as_ref().map(|dir| {
            HoldDir::open(dir).map_err(|source| HoldDirError {
                dir: dir.clone(),
                source,
            })
        });
        let holds = Self::with(config, dir.transpose()?, metrics, clock);
        holds.refresh();
        Ok(holds)
    }

    /// None, and no directory.
    pub fn none(metrics: Arc<Metrics>) -> Arc<Self> {
        Self::with(
            &WorkloadConfig::default(),
            None,
            metrics,
            Arc::new(Timestamp::now),
        )
    }

    fn with(
        config: &WorkloadConfig,
        dir: Option<HoldDir>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Arc<Self> {
        Arc::new(Self {
            max_hold: config.max_hold,
            most_of_one: config.max_holds,
            clock,
            dir: Mutex::new(dir),
            owned: Mutex::default(),
            metrics,
            placed: Notify::new(),
        })
    }

    /// What would keep the directory from being opened, and what is wrong with its files, without a
    /// trace.
    pub fn rehearse(config: &WorkloadConfig) -> Result<Vec<String>, HoldDirError> {
        let Some(dir) = &config.state_dir else {
            return Ok(Vec::new());
        };
        HoldDir::rehearse(dir).map_err(|source| HoldDirError {
            dir: dir.clone(),
            source,
        })
    }

    fn now(&self) -> Now {
        Now {
            time: (self.clock)(),
            at: Instant::now(),
        }
    }

    /// A task holds its instance awake for so long from now on, whatever it has said before. Returns
    /// the end, and whether nothing else held it before. Blocks while a file is written.
    pub fn place(
        &self,
        owner: &Owner,
        name: &str,
        task: &TaskName,
        time: Duration,
    ) -> Result<(Timestamp, bool), HoldError> {
        if time > self.max_hold {
            return Err(HoldError::TooLong(self.max_hold));
        }
        let placed = self.change(owner, name, |owned, now| {
            let is_new = !owned.tasks.contains_key(task);
            if is_new && owned.tasks.len() >= self.most_of_one {
                return Err(HoldError::TooMany(self.most_of_one));
            }
            if is_new && self.count() >= MOST {
                return Err(HoldError::Full);
            }
            let is_first = owned.tasks.is_empty();
            let until = whole(now.time.checked_add(time).unwrap_or(Timestamp::MAX));
            let at = now.at + time;
            owned.tasks.insert(task.clone(), Ends { until, at });
            Ok((until, is_first))
        });
        self.placed.notify_one();
        placed
    }

    /// A task does not hold its instance any more; whether it did. Blocks while a file is written.
    pub fn take_back(&self, owner: &Owner, task: &TaskName) -> Result<bool, HoldError> {
        let name = self.name_of(owner);
        self.change(owner, &name, |owned, _| {
            Ok(owned.tasks.remove(task).is_some())
        })
    }

    /// The instance is gone, and its holds with it. Blocks while a file is written.
    pub fn forget(&self, owner: &Owner) -> Result<(), HoldError> {
        let name = self.name_of(owner);
        self.change(owner, &name, |owned, _| {
            owned.tasks.clear();
            Ok(())
        })
    }

    /// Holds that have ended go. Returns each with what is left of its instance's. Blocks while
    /// files are written.
    pub fn expire(&self) -> Vec<TaskHold> {
        let now = self.now();
        let ended = self.all_of(|ends| !ends.is_open(now));
        let mut owners: Vec<&Owner> = ended.iter().map(|hold| &hold.owner).collect();
        owners.dedup();
        for owner in owners {
            let name = self.name_of(owner);
            if let Err(error) = self.change(owner, &name, |_, _| Ok(())) {
                // It has ended all the same: what is in the file is over, too.
                tracing::warn!(%error, "the file of a hold that has ended stays");
                self.drop_ended(owner, now);
            }
        }
        ended
    }

    /// Takes what other gateways have changed in the directory.
    pub fn refresh(&self) {
        let mut dir = lock(&self.dir);
        let Some(dir) = &mut *dir else { return };
        let now = self.now();
        let (changed, files) = dir.changed(now.time);
        for stored in changed {
            if let Some(owner) = stored.owner() {
                let before = lock(&self.owned).get(&owner).cloned();
                let owned = self.live(&stored, before.as_ref(), now);
                self.store(&owner, owned);
            }
        }
        let owners: Vec<Owner> = lock(&self.owned).keys().cloned().collect();
        for owner in owners {
            if !dir.has(&files, &owner) {
                lock(&self.owned).remove(&owner);
            }
        }
        self.tell();
    }

    /// Changes one instance's holds, of which those that have ended are gone.
    fn change<T>(
        &self,
        owner: &Owner,
        name: &str,
        change: impl FnOnce(&mut Owned, Now) -> Result<T, HoldError>,
    ) -> Result<T, HoldError> {
        let mut dir = lock(&self.dir);
        let _locked = dir.as_ref().map(HoldDir::lock).transpose()?;
        let now = self.now();
        let before = lock(&self.owned).get(owner).cloned();
        let stored = dir.as_ref().map(|dir| dir.read(owner));
        let mut owned = match stored {
            Some(Ok(Some(stored))) => self.live(&stored, before.as_ref(), now),
            Some(Ok(None)) => Owned::none(name),
            // What cannot be read is written anew.
            Some(Err(_)) | None => before.unwrap_or_else(|| Owned::none(name)),
        };
        owned.tasks.retain(|_, ends| ends.is_open(now));
        owned.name = name.into();
        let result = change(&mut owned, now)?;
        if let Some(dir) = &mut *dir {
            dir.write(owner, &owned.stored(owner))?;
        }
        self.store(owner, owned);
        self.tell();
        Ok(result)
    }

    /// What of a file is not over.
    fn live(&self, stored: &Stored, before: Option<&Owned>, now: Now) -> Owned {
        let tasks = stored.holds.iter().filter_map(|hold| {
            let task = TaskName::parse(&hold.task)?;
            let left = Duration::try_from(hold.until.duration_since(now.time)).ok()?;
            // A clock that was set back makes no hold longer than it may be.
            let left = left.min(self.max_hold);
            let mut ends = Ends {
                until: now.time.checked_add(left).unwrap_or(hold.until),
                at: now.at + left,
            };
            let known = before.and_then(|owned| owned.tasks.get(&task));
            if let Some(known) = known.filter(|known| known.until == hold.until) {
                ends = *known;
            }
            ends.is_open(now).then_some((task, ends))
        });
        Owned {
            name: stored.name.as_str().into(),
            tasks: tasks.take(self.most_of_one).collect(),
        }
    }

    fn store(&self, owner: &Owner, owned: Owned) {
        let mut all = lock(&self.owned);
        match owned.tasks.is_empty() {
            true => {
                all.remove(owner);
            }
            false => {
                all.insert(owner.clone(), owned);
            }
        }
    }

    fn drop_ended(&self, owner: &Owner, now: Now) {
        let owned = lock(&self.owned).get(owner).cloned();
        if let Some(mut owned) = owned {
            owned.tasks.retain(|_, ends| ends.is_open(now));
            self.store(owner, owned);
        }
        self.tell();
    }

    fn tell(&self) {
        self.metrics.workload_holds.set(self.count() as f64);
    }

    fn count(&self) -> usize {
        let owned = lock(&self.owned);
        owned.values().map(|owned| owned.tasks.len()).sum()
    }

    fn name_of(&self, owner: &Owner) -> Arc<str> {
        let owned = lock(&self.owned);
        owned
            .get(owner)
            .map_or_else(|| "".into(), |owned| Arc::clone(&owned.name))
    }

    fn all_of(&self, is_meant: impl Fn(&Ends) -> bool) -> Vec<TaskHold> {
        let all = lock(&self.owned);
        let mut found = Vec::new();
        for (owner, owned) in &*all {
            owned.show(owner, &is_meant, &mut found);
        }
        found
    }

    /// All that are in force, by instance and task.
    pub fn all(&self) -> Vec<TaskHold> {
        let now = self.now();
        self.all_of(|ends| ends.is_open(now))
    }

    /// Those of one instance that are in force, by task.
    pub fn of(&self, owner: &Owner) -> Vec<TaskHold> {
        let (now, mut found) = (self.now(), Vec::new());
        if let Some(owned) = lock(&self.owned).get(owner) {
            owned.show(owner, |ends| ends.is_open(now), &mut found);
        }
        found
    }

    /// Until when an instance is held awake, if it is.
    pub fn until(&self, owner: &Owner) -> Option<Instant> {
        let now = self.now();
        let owned = lock(&self.owned);
        let ends = owned.get(owner)?.tasks.values();
        ends.filter(|ends| ends.is_open(now))
            .map(|ends| ends.at)
            .max()
    }

    /// The instances that have some.
    pub fn owners(&self) -> Vec<Owner> {
        lock(&self.owned).keys().cloned().collect()
    }

    /// Whether one has ended and is still there.
    pub(super) fn has_ended(&self) -> bool {
        let now = self.now();
        !self.all_of(|ends| !ends.is_open(now)).is_empty()
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let owned = lock(&self.owned);
        let ends = owned.values().flat_map(|owned| owned.tasks.values());
        ends.map(|ends| ends.at).min()
    }

    /// Completes when one has been placed.
    pub(super) async fn placed(&self) {
        self.placed.notified().await;
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holds({})", self.count())
    }
}

// === impl Owned ===

impl Owned {
    fn none(name: &str) -> Self {
        Self {
            name: name.into(),
            tasks: BTreeMap::new(),
        }
    }

    fn show(&self, owner: &Owner, is_meant: impl Fn(&Ends) -> bool, to: &mut Vec<TaskHold>) {
        let tasks = self.tasks.iter().filter(|(_, ends)| is_meant(ends));
        to.extend(tasks.map(|(task, ends)| TaskHold {
            owner: owner.clone(),
            name: Arc::clone(&self.name),
            task: task.clone(),
            until: ends.until,
        }));
    }

    fn stored(&self, owner: &Owner) -> Stored {
        let holds = self.tasks.iter().map(|(task, ends)| StoredHold {
            task: task.as_str().to_owned(),
            until: ends.until,
        });
        Stored::new(owner, &self.name, holds.collect())
    }
}

// === impl Ends ===

impl Ends {
    fn is_open(&self, now: Now) -> bool {
        now.time < self.until && now.at < self.at
    }
}

#[cfg(test)]
mod tests;
