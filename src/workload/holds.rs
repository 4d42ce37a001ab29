//! The holds by which workloads keep their instances awake.
//!
//! Guarantees: a hold is its instance's and ends at its end: by the clock on the wall, which may be
//! set forwards, and by one that cannot be set, whichever comes first. Where there is a directory, it is
//! what its file says, so that another gateway on the directory may change it; while the directory
//! cannot be read, what was read last stands. Holds of an instance are bounded, and so are all of them,
//! but for an instance's first. While an instance is put to sleep, none is placed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hypeman::GoDuration;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::hold_dir::{HoldDir, Stored, StoredHold, is_damage};
use super::task::{Owner, TaskName};
use crate::config::WorkloadConfig;
use crate::telemetry::Metrics;

/// Holds in all, however many instances have some.
const MOST: usize = 100_000;
/// How long a change waits for those before it, and then for the disk.
const TURN: Duration = Duration::from_secs(5);
const DISK: Duration = Duration::from_secs(10);
/// How often files that hold nothing any more are looked for.
const SWEEP: Duration = Duration::from_secs(600);

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
    #[error("a hold is for {} at most (`workload.max_hold`)", GoDuration::from(*.0))]
    TooLong(Duration),
    /// The instance has as many as it may have.
    #[error("an instance has {0} holds at most (`workload.max_holds`); take one back first")]
    TooMany(usize),
    /// There are as many as there may be.
    #[error("there are too many holds in all")]
    Full,
    /// The instance is being put to sleep, as its workload has asked.
    #[error("the instance is just being put to sleep; try again when it is awake")]
    Resting,
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
    most: usize,
    dir: Option<HoldDir>,
    /// Whoever changes something has it.
    writing: Mutex<()>,
    owned: Mutex<BTreeMap<Owner, Owned>>,
    /// How many there are.
    number: AtomicUsize,
    /// The instances that are about to be put to sleep: by whom, and whether it has begun.
    sleeping: Mutex<HashMap<Owner, (u64, bool)>>,
    /// What waits for a disk goes one by one, so that a disk that hangs takes one thread.
    disk: Arc<Semaphore>,
    /// Whether the log says already that the directory cannot be read.
    is_told: AtomicBool,
    swept_at: Mutex<Option<Instant>>,
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
    placed: Timestamp,
    until: Timestamp,
    /// Its end, as its file has it.
    filed: Timestamp,
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
            most: MOST,
            dir,
            writing: Mutex::default(),
            owned: Mutex::default(),
            number: AtomicUsize::new(0),
            sleeping: Mutex::default(),
            disk: Arc::new(Semaphore::new(1)),
            is_told: AtomicBool::new(false),
            swept_at: Mutex::default(),
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

    /// The directory, if others than its owner may write to it.
    pub fn open_to_others(config: &WorkloadConfig) -> Option<&Path> {
        let dir = config.state_dir.as_deref();
        dir.filter(|dir| HoldDir::is_open_to_others(dir))
    }

    fn now(&self) -> Now {
        Now {
            time: (self.clock)(),
            at: Instant::now(),
        }
    }

    /// Does something that may wait for a disk, with a deadline.
    pub(super) async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, HoldError> + Send + 'static,
    ) -> Result<T, HoldError> {
        let late = || HoldError::NotKept(io::ErrorKind::TimedOut.into());
        let turn = timeout(TURN, Arc::clone(&self.disk).acquire_owned()).await;
        let turn = turn.map_err(|_| late())?;
        let holds = Arc::clone(self);
        let working = spawn_blocking(move || {
            let done = work(&holds);
            drop(turn);
            done
        });
        let done = timeout(DISK, working).await.map_err(|_| late())?;
        done.map_err(|error| HoldError::NotKept(io::Error::other(error)))?
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
            self.keep_from_sleep(owner)?;
            let is_new = !owned.tasks.contains_key(task);
            if is_new && owned.tasks.len() >= self.most_of_one {
                return Err(HoldError::TooMany(self.most_of_one));
            }
            // However many others have, an instance may have one.
            if is_new && !owned.tasks.is_empty() && self.count() >= self.most {
                return Err(HoldError::Full);
            }
            let is_first = owned.tasks.is_empty();
            let until = whole(now.time.checked_add(time).unwrap_or(Timestamp::MAX));
            let at = now.at + time;
            let ends = Ends {
                placed: now.time,
                until,
                filed: until,
                at,
            };
            owned.tasks.insert(task.clone(), ends);
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

    /// The instance is gone, and its holds with it. Its file goes when it is over: another gateway may
    /// mean another control plane by the same name. Blocks while a file is written.
    pub fn forget(&self, owner: &Owner) {
        let _turn = lock(&self.writing);
        self.store(owner, Owned::none(""));
        self.tell();
    }

    /// Holds that have ended go. Returns each with what is left of its instance's. Blocks while
    /// files are written.
    pub fn expire(&self) -> Vec<TaskHold> {
        let now = self.now();
        let ended = self.all_of(|ends| !ends.is_open(now));
        let mut owners: Vec<&Owner> = ended.iter().map(|hold| &hold.owner).collect();
        owners.dedup();
        let mut is_stuck = false;
        for owner in owners {
            if is_stuck {
                self.drop_ended(owner, now);
                continue;
            }
            let name = self.name_of(owner);
            if let Err(error) = self.change(owner, &name, |_, _| Ok(())) {
                // It has ended all the same: what is in the file is over, too.
                tracing::warn!(%error, "files of holds that have ended stay for a while");
                self.drop_ended(owner, now);
                is_stuck = true;
            }
        }
        ended
    }

    /// Changes one instance's holds, of which those that have ended are gone.
    fn change<T>(
        &self,
        owner: &Owner,
        name: &str,
        change: impl FnOnce(&mut Owned, Now) -> Result<T, HoldError>,
    ) -> Result<T, HoldError> {
        let _turn = lock(&self.writing);
        let dir = self.dir.as_ref();
        let _locked = dir.map(|dir| self.lock_dir(dir)).transpose()?;
        let now = self.now();
        let before = lock(&self.owned).get(owner).cloned();
        let stored = match dir.map(|dir| dir.read(owner)).transpose() {
            // What is damaged is written anew.
            Err(error) if is_damage(&error) => None,
            stored => stored?,
        };
        let mut owned = match &stored {
            Some(Some(stored)) => self.live(stored, before.as_ref(), now),
            Some(None) => Owned::none(name),
            None => before.unwrap_or_else(|| Owned::none(name)),
        };
        owned.tasks.retain(|_, ends| ends.is_open(now));
        if !name.is_empty() {
            owned.name = name.into();
        }
        let result = change(&mut owned, now)?;
        if let Some(dir) = dir {
            let text = owned.stored(owner);
            let is_there = match &stored {
                Some(Some(stored)) => *stored == text,
                Some(None) => text.holds.is_empty(),
                None => false,
            };
            if !is_there && let Err(error) = dir.write(owner, &text) {
                // It may be there all the same: what is refused is not to come into force later.
                if let Some(before) = &stored {
                    dir.put_back(owner, before.as_ref());
                }
                return Err(error.into());
            }
            for ends in owned.tasks.values_mut() {
                ends.filed = ends.until;
            }
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
            // A clock that was set back makes no hold longer than it was to be, or may be.
            let length = hold.placed.map(|placed| hold.until.duration_since(placed));
            let length = length.map(|length| Duration::try_from(length).unwrap_or_default());
            let most = length.map_or(self.max_hold, |length| length.min(self.max_hold));
            let placed = hold.placed.filter(|placed| *placed <= now.time);
            let left = left.min(most);
            let mut ends = Ends {
                placed: placed.unwrap_or(now.time),
                until: now.time.checked_add(left).unwrap_or(hold.until),
                filed: hold.until,
                at: now.at + left,
            };
            let known = before.and_then(|owned| owned.tasks.get(&task));
            if let Some(known) = known.filter(|known| known.filed == hold.until) {
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
        let added = owned.tasks.len();
        let before = match added {
            0 => all.remove(owner),
            _ => all.insert(owner.clone(), owned),
        };
        let removed = before.map_or(0, |before| before.tasks.len());
        // Whoever changes it has the lock.
        let number = self.count() + added - removed;
        self.number.store(number, Ordering::Relaxed);
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
        self.number.load(Ordering::Relaxed)
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
        let owned = lock(&self.owned);
        let mut ends = owned.values().flat_map(|owned| owned.tasks.values());
        ends.any(|ends| !ends.is_open(now))
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
            placed: Some(ends.placed),
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

mod directory;
mod sleeping;
#[cfg(test)]
mod tests;
