//! Which instance was in which state when, over the last quarter of an hour.
//!
//! Guarantees: bounded in time, in instances and in changes an instance, and says when there are
//! more instances than it has room for; a state that is noted twice is one change; what is noted
//! late does not overwrite what came after it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::telemetry::InstanceCondition;
use crate::wake::PlaneAnswer;

/// How far it looks back, in milliseconds.
pub(super) const WINDOW_MS: i64 = 15 * 60 * 1000;
const MOST_INSTANCES: usize = 20_000;
/// Of one instance.
const MOST_CHANGES: usize = 256;
/// Changes that a slow watcher may be behind.
const BEHIND: usize = 4096;

/// One instance's changes, as a watcher gets them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Track {
    /// Its full id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its control plane.
    pub hypeman: String,
    /// When (milliseconds since 1970) it came into which state, the oldest first.
    pub changes: Vec<(i64, &'static str)>,
}

/// A message to the watchers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum News {
    /// An instance came into a state.
    Change {
        /// Its full id.
        id: String,
        /// Its name.
        name: String,
        /// Its control plane.
        hypeman: String,
        /// When, in milliseconds since 1970.
        at: i64,
        /// Which state.
        state: &'static str,
    },
    /// An instance is gone.
    Gone {
        /// Its full id.
        id: String,
    },
    /// A wake has ended.
    Wake(WakeNews),
}

/// A wake that has ended, as a watcher gets it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WakeNews {
    /// The instance's id.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// `woken`, `failed` or `timed_out`.
    pub outcome: &'static str,
    /// Why it failed: the code that its clients got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The phase that it failed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<&'static str>,
    /// What the control plane said last, when that was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<PlaneAnswer>,
    /// What is wrong at the instance itself, when that was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug)]
struct Kept {
    name: String,
    hypeman: String,
    changes: VecDeque<(i64, InstanceCondition)>,
}

/// The last quarter of an hour.
pub struct Timeline {
    instances: Mutex<HashMap<String, Kept>>,
    /// Instances are left out, since there are too many.
    is_full: AtomicBool,
    /// So much was said in the log.
    said: Once,
    news: broadcast::Sender<News>,
}

// === impl Timeline ===

impl Timeline {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The messages from now on, and everything before them.
    pub(super) fn watch(&self, now: i64) -> (Vec<Track>, broadcast::Receiver<News>) {
        // In one lock, so that nothing is missed and nothing comes twice.
        let mut instances = self.lock();
        let tracks = instances.iter_mut().map(|(id, kept)| {
            kept.forget_before(now - WINDOW_MS);
            let changes = kept
                .changes
                .iter()
                .map(|(at, condition)| (*at, condition.as_str()));
            Track {
                id: id.clone(),
                name: kept.name.clone(),
                hypeman: kept.hypeman.clone(),
                changes: changes.collect(),
            }
        });
        let mut tracks: Vec<Track> = tracks.collect();
        tracks.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        (tracks, self.news.subscribe())
    }

    /// An instance was in this state at `at`, in milliseconds since 1970.
    pub fn note(&self, id: &str, name: &str, hypeman: &str, condition: InstanceCondition, at: i64) {
        let mut instances = self.lock();
        if !instances.contains_key(id) && instances.len() >= MOST_INSTANCES {
            self.is_full.store(true, Ordering::Relaxed);
            self.said.call_once(|| {
                tracing::warn!(
                    most = MOST_INSTANCES,
                    "the dashboard shows no more instances than these; the API and the metrics \
                     have all of them"
                );
            });
            return;
        }
        let kept = instances.entry(id.to_owned()).or_insert_with(|| Kept {
            name: String::new(),
            hypeman: hypeman.to_owned(),
            changes: VecDeque::new(),
        });
        let renamed = kept.name != name && !name.is_empty();
        if renamed {
            name.clone_into(&mut kept.name);
        }
        let last = kept.changes.back().copied();
        let newer = last.is_none_or(|(before, last)| last != condition && before <= at);
        if newer {
            if kept.changes.len() >= MOST_CHANGES {
                kept.changes.pop_front();
            }
            kept.changes.push_back((at, condition));
        }
        if newer || renamed {
            let (at, condition) = kept.changes.back().copied().unwrap_or((at, condition));
            // Without a watcher there is nobody to tell.
            let _unheard = self.news.send(News::Change {
                id: id.to_owned(),
                name: kept.name.clone(),
                hypeman: kept.hypeman.clone(),
                at,
                state: condition.as_str(),
            });
        }
    }

    /// Whether there are more instances than it has room for.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// A wake has ended.
    pub fn note_wake(&self, wake: WakeNews) {
        let _unheard = self.news.send(News::Wake(wake));
    }

    /// Whether it is news that an instance had this name and was in this state at `at`: nothing
    /// else was noted later, and not the same before.
    pub fn is_news(&self, id: &str, name: &str, condition: InstanceCondition, at: i64) -> bool {
        let instances = self.lock();
        let Some(kept) = instances.get(id) else {
            return true;
        };
        let last = kept.changes.back();
        last.is_none_or(|(before, last)| *before <= at && (*last != condition || kept.name != name))
    }

    /// Forgets the instances of a control plane that it no longer has.
    pub fn keep_only(&self, hypeman: &str, has: impl Fn(&str) -> bool) {
        let mut gone = Vec::new();
        let mut instances = self.lock();
        instances.retain(|id, kept| {
            let stays = kept.hypeman != hypeman || has(id);
            if !stays {
                gone.push(id.clone());
            }
            stays
        });
        if instances.len() < MOST_INSTANCES {
            self.is_full.store(false, Ordering::Relaxed);
        }
        // The room for thousands that have gone goes with them.
        if instances.capacity() > 4 * instances.len() + 1024 {
            instances.shrink_to_fit();
        }
        drop(instances);
        for id in gone {
            let _unheard = self.news.send(News::Gone { id });
        }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            instances: Mutex::default(),
            is_full: AtomicBool::new(false),
            said: Once::new(),
            news: broadcast::channel(BEHIND).0,
        }
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timeline({} instances)", self.lock().len())
    }
}

// === impl Kept ===

impl Kept {
    /// The state at the beginning of the window stays.
    fn forget_before(&mut self, start: i64) {
        while self.changes.get(1).is_some_and(|(at, _)| *at <= start) {
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(timeline: &Timeline, now: i64) -> Vec<(i64, &'static str)> {
        let (tracks, _) = timeline.watch(now);
        tracks.into_iter().flat_map(|track| track.changes).collect()
    }

    #[test]
    fn a_state_told_twice_is_one_change_and_one_told_late_is_none() {
        let timeline = Timeline::default();
        timeline.note("i", "app", "default", InstanceCondition::Asleep, 1000);
        timeline.note("i", "app", "default", InstanceCondition::Asleep, 2000);
        timeline.note("i", "", "default", InstanceCondition::Waking, 3000);
        timeline.note("i", "app", "default", InstanceCondition::Asleep, 2500);
        for (id, name, condition, at, expected) in [
            ("i", "app", InstanceCondition::Waking, 4000, false),
            ("i", "app", InstanceCondition::Asleep, 4000, true),
            ("i", "web", InstanceCondition::Waking, 4000, true),
            ("i", "web", InstanceCondition::Asleep, 2999, false),
            ("j", "app", InstanceCondition::Waking, 0, true),
        ] {
            let news = timeline.is_news(id, name, condition, at);
            assert_eq!(news, expected, "{id} {name} {condition:?} {at}");
        }
        assert_eq!(
            states(&timeline, 4000),
            [(1000, "asleep"), (3000, "waking")]
        );
    }

    #[test]
    fn what_is_older_than_the_window_goes_but_for_the_state_it_began_with() {
        let timeline = Timeline::default();
        for (at, condition) in [
            (0, InstanceCondition::Asleep),
            (10, InstanceCondition::Waking),
            (20, InstanceCondition::Awake),
            (WINDOW_MS + 15, InstanceCondition::Asleep),
        ] {
            timeline.note("i", "app", "default", condition, at);
        }
        let left = states(&timeline, WINDOW_MS + 15);
        assert_eq!(
            left,
            [(10, "waking"), (20, "awake"), (WINDOW_MS + 15, "asleep")]
        );
    }

    #[tokio::test]
    async fn a_watcher_hears_of_changes_renames_and_departures() {
        let timeline = Timeline::default();
        timeline.note("i", "app", "default", InstanceCondition::Asleep, 1);
        let (tracks, mut news) = timeline.watch(2);
        assert_eq!(tracks.len(), 1);
        timeline.note("i", "app", "default", InstanceCondition::Asleep, 3);
        timeline.note("i", "web", "default", InstanceCondition::Asleep, 4);
        timeline.keep_only("other", |_| false);
        timeline.keep_only("default", |_| false);
        let News::Change { name, at, .. } = news.recv().await.unwrap() else {
            panic!("a rename")
        };
        assert_eq!((name.as_str(), at), ("web", 1));
        assert_eq!(news.recv().await.unwrap(), News::Gone { id: "i".into() });
    }

    #[test]
    fn an_instance_that_flaps_keeps_its_last_changes() {
        let timeline = Timeline::default();
        for at in 0..1000 {
            let condition =
                [InstanceCondition::Asleep, InstanceCondition::Awake][usize::from(at % 2 == 0)];
            timeline.note("i", "app", "default", condition, at);
        }
        let left = states(&timeline, 1000);
        assert_eq!((left.len(), left[0].0), (MOST_CHANGES, 1000 - 256));
    }

    #[test]
    fn more_instances_than_there_is_room_for_are_said_to_be_left_out() {
        let timeline = Timeline::default();
        for number in 0..=MOST_INSTANCES {
            assert!(!timeline.is_full(), "{number}");
            let id = number.to_string();
            timeline.note(&id, &id, "default", InstanceCondition::Asleep, 1);
        }
        assert!(timeline.is_full());
        timeline.keep_only("default", |id| id != "0");
        assert!(!timeline.is_full(), "one has gone");
    }
}
