//! The copy of what is shared, and single changes of it.
//!
//! Guarantees: a change that is older than what is known changes nothing; a value leaves the process sealed;
//! what passes with a lock is in no file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::lock::VaultLock;
use crate::config::FleetConfig;
use crate::fleet::engine::{Compare, Engine, EngineError, Entry, Operation};
use crate::fleet::seal::{SealError, SealKeys};
use crate::fleet::snapshot;
use crate::private_files;

/// What the keys begin with; members that are no fronts do not follow them.
pub const PREFIX: &str = "/wakegate/sealed/v1/";
/// What a name begins with that lives as long as a lock: it is in no file.
const PASSING: [&str; 2] = ["locks/", "challenges/"];

/// Why something cannot be read, written or locked.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The engine has not done it.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// What is there cannot be opened.
    #[error("`{0}` in the directory {1}")]
    Sealed(String, SealError),
    /// The copy is older than what was just written.
    #[error("the directory is not followed fast enough")]
    Behind,
}

/// How a value stands: another is there once this has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The revision at which it was written.
    pub modified: i64,
    /// How often there were other keys to open it with.
    pub keys: u64,
}

/// A value that is to be written, if nobody was quicker.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) sealed: Vec<u8>,
    /// The revision of what it replaces.
    pub(super) replaces: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By their names, without the prefix.
    pub(super) entries: BTreeMap<String, Entry>,
    /// Up to which revision all is known.
    pub(super) revision: i64,
    /// Whether the directory has answered since the start.
    is_read: bool,
}

/// The keys, and how often there were others.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) seal: SealKeys,
    pub(super) generation: u64,
}

/// The copy of what is shared, and the way to change it.
pub struct Vault {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) keys: ArcSwap<Keys>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) cell: String,
    /// Where the copy is kept for the next start.
    pub(super) file: Option<PathBuf>,
    state: RwLock<State>,
    offers: Mutex<BTreeMap<String, Offer>>,
    pub(super) offered: Notify,
    /// Counts what can be seen of changes.
    changed: watch::Sender<u64>,
    /// What holds locks, until they have ended.
    pub(super) locks: TaskTracker,
    /// The revision up to which all is known.
    pub(super) known: watch::Sender<i64>,
}

pub(super) fn key_of(name: &str) -> String {
    format!("{PREFIX}{name}")
}

pub(super) fn is_passing(name: &str) -> bool {
    PASSING.iter().any(|kind| name.starts_with(kind))
}

// === impl VaultError ===

impl VaultError {
    /// Whether it may be otherwise in a while.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Engine(EngineError::Unavailable(_) | EngineError::Compacted(_)) | Self::Behind
        )
    }

    /// Whether others may well read what cannot be read here.
    pub fn is_of_another_key(&self) -> bool {
        matches!(
            self,
            Self::Sealed(_, SealError::UnknownKey(_) | SealError::NoKeys(_))
        )
    }
}

// === impl Vault ===

impl Vault {
    /// One that knows what the file has; `None` where the fleet has no keys to seal with.
    pub fn open(
        fleet: &FleetConfig,
        engine: Arc<dyn Engine>,
        file: Option<PathBuf>,
    ) -> Result<Option<Arc<Self>>, SealError> {
        let seal = SealKeys::of(fleet)?;
        if !seal.can_seal() {
            return Ok(None);
        }
        if let Some(folder) = file.as_deref().and_then(Path::parent)
            && let Err(error) = private_files::make_dir(folder)
        {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "there is no folder for the copy of the fleet's certificates");
        }
        let mut state = State::default();
        let read = file.as_ref().map(|file| snapshot::load(file, &fleet.cell));
        match read.transpose() {
            Ok(found) => {
                let (entries, revision) = found.flatten().unwrap_or_default();
                state.revision = revision;
                state.entries = named(entries);
            }
            Err(error) => tracing::warn!(%error, "the last copy of the fleet's certificates"),
        }
        Ok(Some(Arc::new(Self {
            engine,
            keys: ArcSwap::from_pointee(Keys {
                seal,
                generation: 0,
            }),
            key_file: fleet.key_file.clone(),
            cell: fleet.cell.clone(),
            file,
            known: watch::Sender::new(state.revision),
            state: RwLock::new(state),
            offers: Mutex::default(),
            offered: Notify::new(),
            locks: TaskTracker::new(),
            changed: watch::Sender::new(0),
        })))
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn offers(&self) -> MutexGuard<'_, BTreeMap<String, Offer>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the directory has answered since the start, so that what is not there is nowhere.
    pub fn is_read(&self) -> bool {
        self.state().is_read
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn tell(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How a value stands, if there is one.
    pub fn version(&self, name: &str) -> Option<Version> {
        let modified = self.state().entries.get(name)?.modified;
        let keys = self.keys.load().generation;
        Some(Version { modified, keys })
    }

    /// A value, if there is one.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        let state = self.state();
        let Some(entry) = state.entries.get(name) else {
            return Ok(None);
        };
        let keys = self.keys.load();
        let opened = keys.seal.open_sealed(&entry.key, &entry.value);
        opened
            .map(Some)
            .map_err(|error| VaultError::Sealed(name.to_owned(), error))
    }

    /// The names that begin so.
    pub fn names(&self, beginning: &str) -> Vec<String> {
        let state = self.state();
        let from = state.entries.range(beginning.to_owned()..);
        let names = from.map(|(name, _)| name);
        names
            .take_while(|name| name.starts_with(beginning))
            .cloned()
            .collect()
    }

    fn sealed(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, VaultError> {
        let sealed = self.keys.load().seal.seal(&key_of(name), bytes.to_vec());
        sealed.map_err(|error| VaultError::Sealed(name.to_owned(), error))
    }

    /// Writes a value, whatever is there; with `lock` it goes with it.
    pub async fn write(
        &self,
        name: &str,
        bytes: &[u8],
        lock: Option<&VaultLock>,
    ) -> Result<(), VaultError> {
        let sealed = self.sealed(name, bytes)?;
        let put = Operation::Put {
            key: key_of(name),
            value: sealed.clone(),
            lease: lock.map_or(0, VaultLock::lease),
        };
        let compares = lock.map(VaultLock::is_held).into_iter().collect();
        let outcome = self.engine.commit(compares, vec![put]).await?;
        if !outcome.is_done {
            let lost = "the lock has been lost".to_owned();
            return Err(EngineError::Unavailable(lost).into());
        }
        self.keep(name, sealed, outcome.revision);
        Ok(())
    }

    /// Takes a value away.
    pub async fn remove(&self, name: &str) -> Result<(), VaultError> {
        let delete = Operation::Delete(key_of(name));
        let outcome = self.engine.commit(Vec::new(), vec![delete]).await?;
        self.state_mut().delete(name, outcome.revision);
        self.tell();
        Ok(())
    }

    /// Has a value written once the directory answers, if what is there then was written at `replaces`, or
    /// there is nothing where that is none.
    pub fn offer(&self, name: &str, bytes: &[u8], replaces: Option<i64>) -> Result<(), VaultError> {
        let sealed = self.sealed(name, bytes)?;
        let offer = Offer { sealed, replaces };
        self.offers().insert(name.to_owned(), offer);
        self.offered.notify_one();
        Ok(())
    }

    /// Takes over what was just written.
    pub(super) fn keep(&self, name: &str, value: Vec<u8>, revision: i64) {
        let entry = Entry {
            key: key_of(name),
            value,
            created: revision,
            modified: revision,
        };
        self.state_mut().put(entry);
        self.tell();
    }

    /// What is for the file.
    pub(super) fn lasting(&self) -> (Vec<Entry>, i64) {
        let state = self.state();
        let lasting = state.entries.iter().filter(|(name, _)| !is_passing(name));
        (
            lasting.map(|(_, entry)| entry.clone()).collect(),
            state.revision,
        )
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({} values)", self.state().entries.len())
    }
}

/// Entries by their names.
fn named(entries: Vec<Entry>) -> BTreeMap<String, Entry> {
    let named = entries.into_iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(PREFIX)?.to_owned();
        Some((name, entry))
    });
    named.collect()
}

// === impl State ===

impl State {
    /// A change that is older than what is known changes nothing: own changes are known before they are
    /// heard of.
    pub(super) fn put(&mut self, entry: Entry) {
        let Some(name) = entry.key.strip_prefix(PREFIX) else {
            return;
        };
        let known = self.entries.get(name);
        if known.is_none_or(|known| known.modified < entry.modified) {
            self.entries.insert(name.to_owned(), entry);
        }
    }

    pub(super) fn delete(&mut self, name: &str, revision: i64) {
        let known = self.entries.get(name);
        if known.is_some_and(|known| known.modified <= revision) {
            self.entries.remove(name);
        }
    }

    /// Takes over all that there is at a revision. Returns what an engine that was set back has lost.
    pub(super) fn replace(&mut self, entries: Vec<Entry>, revision: i64) -> Vec<(String, Entry)> {
        let went_back = revision < self.revision;
        let mut fresh = named(entries);
        let mut lost = Vec::new();
        for (name, mut known) in std::mem::take(&mut self.entries) {
            if !went_back && known.modified > revision {
                // Written here since it was read.
                fresh.insert(name, known);
            } else if went_back && !is_passing(&name) && !fresh.contains_key(&name) {
                // Its revision is of another past.
                known.modified = 0;
                lost.push((name.clone(), known.clone()));
                fresh.insert(name, known);
            }
        }
        self.entries = fresh;
        self.revision = revision;
        self.is_read = true;
        lost
    }
}

/// What an offer depends on.
pub(super) fn depends(name: &str, replaces: Option<i64>) -> Compare {
    match replaces {
        Some(revision) => Compare::Modified(key_of(name), revision),
        None => Compare::Absent(key_of(name)),
    }
}
