use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::copy::{State, key_of};
use super::{PREFIX, Vault};
use crate::config::FleetConfig;
use crate::fleet::MemoryEngine;
use crate::fleet::engine::{Engine as _, Entry, Operation, read_all};
use crate::fleet::memory::Faults;

/// The longest that anything takes.
const LIMIT: Duration = Duration::from_secs(120);

impl Vault {
    /// One with this key, which is in a file below `dir`, that follows the engine by itself.
    pub(crate) fn followed(dir: &Path, engine: &MemoryEngine, key: u8) -> Arc<Self> {
        let file = dir.join(format!("keys-{key}"));
        std::fs::write(&file, BASE64_STANDARD.encode([key; 32])).unwrap();
        let config = FleetConfig {
            key_file: Some(file),
            ..FleetConfig::default()
        };
        let vault = Self::open(&config, Arc::new(engine.clone()), None);
        let vault = vault.unwrap().unwrap();
        TaskTracker::new().spawn(Arc::clone(&vault).run());
        vault
    }
}

/// A fleet's engine, and the files of its fronts.
struct Fleet {
    engine: MemoryEngine,
    dir: TempDir,
}

/// A front that follows until it is dropped.
struct Front {
    vault: Arc<Vault>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    fn new() -> Self {
        let fleet = Self {
            engine: MemoryEngine::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        fleet.set_keys(&[1]);
        fleet
    }

    fn set_keys(&self, keys: &[u8]) {
        let lines = keys.iter().map(|key| BASE64_STANDARD.encode([*key; 32]));
        let text = lines.collect::<Vec<_>>().join("\n");
        std::fs::write(self.dir.path().join("keys"), text).unwrap();
    }

    fn opened(&self, name: &str) -> Arc<Vault> {
        let config = FleetConfig {
            key_file: Some(self.dir.path().join("keys")),
            ..FleetConfig::default()
        };
        let file = self.dir.path().join(name).join("copy");
        let engine = Arc::new(self.engine.clone());
        Vault::open(&config, engine, Some(file)).unwrap().unwrap()
    }

    async fn front(&self, name: &str) -> Front {
        let vault = self.opened(name);
        let task = TaskTracker::new().spawn(Arc::clone(&vault).run());
        let front = Front { vault, task };
        front.sees("it has read", Vault::is_read).await;
        front
    }
}

impl Front {
    async fn sees(&self, what: &str, check: impl Fn(&Vault) -> bool) {
        let mut changes = self.vault.changes();
        let seen = async {
            while !check(&self.vault) {
                changes.changed().await.unwrap();
            }
        };
        assert!(timeout(LIMIT, seen).await.is_ok(), "{what}");
    }

    async fn has(&self, name: &str, value: Option<&[u8]>) {
        let is_so = |vault: &Vault| vault.read(name).ok().flatten().as_deref() == value;
        self.sees(name, is_so).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_or_moved_or_is_not_sealed_is_not_believed() {
    let fleet = Fleet::new();
    let front = fleet.front("a").await;
    front.vault.write("one", b"secret", None).await.unwrap();
    let (entries, _) = read_all(&fleet.engine, PREFIX).await.unwrap();
    let sealed = entries[0].value.clone();
    assert!(!String::from_utf8_lossy(&sealed).contains("secret"));
    for (name, value, is_of_another_key) in [
        ("two", sealed, false),
        ("three", b"plain".to_vec(), false),
        (
            "four",
            br#"{"sealed":{"key":"beef","nonce":"","data":""}}"#.to_vec(),
            true,
        ),
    ] {
        let put = Operation::Put {
            key: key_of(name),
            value,
            lease: 0,
        };
        fleet.engine.commit(Vec::new(), vec![put]).await.unwrap();
        front
            .sees(name, |vault| vault.version(name).is_some())
            .await;
        let error = front.vault.read(name).unwrap_err();
        assert_eq!(error.is_of_another_key(), is_of_another_key, "{error}");
        assert!(!error.to_string().contains("secret"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_one_front_s_and_ends_with_it_also_when_it_dies() {
    let fleet = Fleet::new();
    let (one, other) = (fleet.front("a").await, fleet.front("b").await);
    let held = one.vault.try_lock("x").await.unwrap().unwrap();
    assert!(other.vault.try_lock("x").await.unwrap().is_none());
    let tied = one.vault.write("challenges/x", b"y", Some(&held));
    tied.await.unwrap();
    other.has("challenges/x", Some(b"y")).await;
    // It lasts as long as it is held.
    sleep(Duration::from_secs(300)).await;
    assert!(other.vault.try_lock("x").await.unwrap().is_none());
    drop(held);
    other.has("challenges/x", None).await;
    drop(other.vault.try_lock("x").await.unwrap().unwrap());
    // A lease that nobody keeps alive, as that of a process that was killed.
    let lease = fleet.engine.grant(30).await.unwrap();
    let put = Operation::Put {
        key: key_of("locks/y"),
        value: b"{}".to_vec(),
        lease,
    };
    fleet.engine.commit(Vec::new(), vec![put]).await.unwrap();
    assert!(other.vault.try_lock("y").await.unwrap().is_none());
    let died = Instant::now();
    while other.vault.try_lock("y").await.unwrap().is_none() {
        sleep(Duration::from_secs(1)).await;
        assert!(died.elapsed() < Duration::from_secs(60));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_a_lock_knows_what_was_written_before_and_nobody_has_one_without_the_directory()
{
    let fleet = Fleet::new();
    let (one, other) = (fleet.front("a").await, fleet.front("b").await);
    let first = one.vault.try_lock("x").await.unwrap();
    one.vault.write("x", b"1", None).await.unwrap();
    drop(first);
    let lock = loop {
        match other.vault.try_lock("x").await.unwrap() {
            Some(lock) => break lock,
            None => sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(other.vault.read("x").unwrap().as_deref(), Some(&b"1"[..]));
    fleet.engine.set_faults(Faults {
        away: true,
        ..Faults::default()
    });
    let error = one.vault.try_lock("z").await.unwrap_err();
    assert!(error.is_away(), "{error}");
    // A lock that was lost ties nothing to it any more.
    fleet.engine.set_faults(Faults::default());
    let delete = Operation::Delete(key_of("locks/x"));
    fleet.engine.commit(Vec::new(), vec![delete]).await.unwrap();
    let tied = other.vault.write("challenges/x", b"y", Some(&lock)).await;
    assert!(tied.unwrap_err().is_away());
}

#[tokio::test]
async fn a_front_that_starts_without_the_directory_has_what_was_there_and_its_file_tells_nothing() {
    let fleet = Fleet::new();
    let one = fleet.front("a").await;
    let lock = one.vault.try_lock("x").await.unwrap().unwrap();
    let tied = one.vault.write("challenges/x", b"y", Some(&lock));
    tied.await.unwrap();
    one.vault.write("lasting", b"secret", None).await.unwrap();
    let file = fleet.dir.path().join("a/copy");
    let is_written = async {
        while !file.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, is_written).await.unwrap();
    drop(one);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("secret") && !text.contains("challenges/"));
    fleet.engine.set_faults(Faults {
        away: true,
        ..Faults::default()
    });
    let again = fleet.opened("a");
    assert!(!again.is_read());
    let found = again.read("lasting").unwrap();
    assert_eq!(found.as_deref(), Some(&b"secret"[..]));
    std::fs::write(&file, text.replace("lasting", "another")).unwrap();
    assert_eq!(fleet.opened("a").read("another").unwrap(), None, "damaged");
}

#[tokio::test(start_paused = true)]
async fn an_offer_is_taken_where_nobody_was_quicker_and_waits_for_the_directory() {
    let fleet = Fleet::new();
    let (one, other) = (fleet.front("a").await, fleet.front("b").await);
    fleet.engine.set_faults(Faults {
        away: true,
        ..Faults::default()
    });
    one.vault.offer("ring", b"first", None).unwrap();
    sleep(Duration::from_secs(30)).await;
    fleet.engine.set_faults(Faults::default());
    other.has("ring", Some(b"first")).await;
    other.vault.offer("ring", b"late", None).unwrap();
    other.vault.offer("marker", b"x", None).unwrap();
    one.has("marker", Some(b"x")).await;
    one.has("ring", Some(b"first")).await;
    let version = one.vault.version("ring").unwrap();
    let offered = one.vault.offer("ring", b"next", Some(version.modified));
    offered.unwrap();
    other.has("ring", Some(b"next")).await;
}

#[tokio::test(start_paused = true)]
async fn another_first_key_seals_anew_what_is_there() {
    let fleet = Fleet::new();
    let one = fleet.front("a").await;
    one.vault.write("x", b"secret", None).await.unwrap();
    fleet.set_keys(&[2, 1]);
    let both = one.vault.version("x");
    one.sees("other keys", |vault| vault.version("x") != both)
        .await;
    // The old key is not needed any more.
    let is_anew = |vault: &Vault| {
        let modified = vault.version("x").map(|version| version.modified);
        modified != both.map(|version| version.modified)
    };
    one.sees("sealed anew", is_anew).await;
    fleet.set_keys(&[2]);
    fleet.front("b").await.has("x", Some(b"secret")).await;
}

#[test]
fn an_engine_that_was_set_back_gets_back_what_it_has_lost() {
    let entry = |name: &str, modified: i64| Entry {
        key: key_of(name),
        value: Vec::new(),
        created: modified,
        modified,
    };
    let mut state = State::default();
    let kept = vec![entry("old", 3), entry("new", 9), entry("locks/x", 9)];
    assert!(state.replace(kept, 9).is_empty());
    // What was written here since it was read stays.
    state.put(entry("own", 12));
    assert!(
        state
            .replace(vec![entry("old", 3), entry("new", 9)], 11)
            .is_empty()
    );
    assert_eq!(state.entries.len(), 3);
    let lost = state.replace(vec![entry("old", 3)], 5);
    let names: Vec<_> = lost.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["new", "own"]);
    // What comes from now on is newer.
    state.put(entry("new", 6));
    assert_eq!(state.entries["new"].modified, 6);
    state.delete("new", 7);
    state.put(entry("old", 2));
    assert_eq!(state.entries["old"].modified, 3);
    assert!(!state.entries.contains_key("new"));
}
