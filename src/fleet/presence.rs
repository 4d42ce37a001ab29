//! A member's record, for as long as the member is there.
//!
//! Guarantees: a record whose lease is lost is written anew; a member that drains says so before it ends,
//! and its record goes when it has ended; the record of another process of the same name, which has taken
//! over, is neither changed nor taken away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::directory::Directory;
use super::engine::{Compare, Engine, EngineError, Entry, Operation, read_one};
use super::records::{Key, MemberRecord, read, write};

/// How long a member that is silent counts as alive.
const LEASE: i64 = 30;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the end of a member waits for the directory.
const FAREWELL: Duration = Duration::from_secs(1);

/// The phases of a member's end.
#[derive(Debug, Clone)]
pub struct Ending {
    /// It takes no new work.
    pub draining: CancellationToken,
    /// It has ended.
    pub ended: CancellationToken,
}

struct Presence {
    directory: Arc<Directory>,
    engine: Arc<dyn Engine>,
    key: Key,
    record: MemberRecord,
    lease: Option<i64>,
    /// The revision at which the record was written last.
    written: i64,
    was_lost: bool,
}

/// Keeps a member's record alive until the member has ended, and takes it along.
pub async fn keep_record(
    directory: Arc<Directory>,
    key: Key,
    record: MemberRecord,
    ending: Ending,
) {
    let mut presence = Presence {
        engine: Arc::clone(directory.engine()),
        directory,
        key,
        record,
        lease: None,
        written: 0,
        was_lost: false,
    };
    let keeping = presence.keep(&ending.draining);
    let _ended = ending.ended.run_until_cancelled(keeping).await;
    if let Some(lease) = presence.lease {
        // Who is away is not waited for: the lease ends by itself.
        let _gone = timeout(FAREWELL, presence.engine.revoke(lease)).await;
    }
}

// === impl Presence ===

impl Presence {
    async fn keep(&mut self, draining: &CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = sleep(KEEP_ALIVE) => {}
                () = draining.cancelled(), if !self.record.draining => {
                    self.record.draining = true;
                    self.say_draining().await;
                }
            }
        }
    }

    async fn look(&mut self) {
        let kept = match self.lease {
            Some(lease) => self.engine.keep_alive(lease).await,
            None => Ok(false),
        };
        match kept {
            Ok(true) => {
                // An engine that went back may know the lease and not the record. While it drains
                // nobody follows the directory.
                let is_there = self.record.draining || self.directory.is_alive(&self.key);
                if !is_there && let Some(lease) = self.lease {
                    let _again = self.announce(lease).await;
                }
            }
            Ok(false) => match self.begin().await {
                Ok(fresh) => {
                    if self.lease.replace(fresh).is_some() {
                        tracing::warn!("the fleet had given this member up: it is announced anew");
                    }
                    self.was_lost = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.was_lost, true) {
                        tracing::warn!(%error, "this member cannot be announced to the fleet");
                    }
                }
            },
            Err(_) => {}
        }
    }

    async fn begin(&mut self) -> Result<i64, EngineError> {
        let lease = self.engine.grant(LEASE).await?;
        self.announce(lease).await?;
        Ok(lease)
    }

    /// Writes the record, unless another process has taken over: whoever drains, or was given up, has
    /// perhaps a successor already; whoever starts is one.
    async fn announce(&mut self, lease: i64) -> Result<(), EngineError> {
        let key = self.key.text();
        let compares = match (self.record.draining, self.lease) {
            (true, _) => vec![Compare::Absent(key)],
            (false, None) => Vec::new(),
            (false, Some(_)) => match read_one(&*self.engine, &key).await?.0 {
                None => vec![Compare::Absent(key)],
                Some(there) if self.is_own(&there) => vec![Compare::Modified(key, there.modified)],
                Some(_) => return Ok(()),
            },
        };
        self.write(compares, lease).await
    }

    /// Whether this process has written it.
    fn is_own(&self, there: &Entry) -> bool {
        read::<MemberRecord>(&there.value).is_ok_and(|record| record.boot == self.record.boot)
    }

    async fn say_draining(&mut self) {
        let Some(lease) = self.lease else {
            return;
        };
        let own = Compare::Modified(self.key.text(), self.written);
        if let Err(error) = self.write(vec![own], lease).await {
            tracing::warn!(%error, "the fleet is not told that this member drains");
        }
    }

    async fn write(&mut self, compares: Vec<Compare>, lease: i64) -> Result<(), EngineError> {
        let put = Operation::Put {
            key: self.key.text(),
            value: write(&self.record),
            lease,
        };
        let outcome = self.engine.commit(compares, vec![put]).await?;
        if outcome.is_done {
            self.written = outcome.revision;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FleetConfig, WakeConfig};
    use crate::fleet::directory::Own;
    use crate::fleet::memory::{Faults, MemoryEngine};

    struct Kept {
        ending: Ending,
        task: tokio::task::JoinHandle<()>,
    }

    #[allow(clippy::disallowed_methods, reason = "the test awaits its task")]
    fn keep(engine: &MemoryEngine, boot: &str) -> Kept {
        let own = Own {
            name: "h1".to_owned(),
            is_node: true,
            ..Own::default()
        };
        let shared: Arc<dyn Engine> = Arc::new(engine.clone());
        let (config, wake) = (FleetConfig::default(), WakeConfig::default());
        let directory = Directory::new(own, &config, &wake, "default", shared).unwrap();
        let record = MemberRecord {
            boot: boot.to_owned(),
            ..MemberRecord::default()
        };
        let ending = Ending {
            draining: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let key = Key::Node("h1".to_owned());
        let task = tokio::spawn(keep_record(directory, key, record, ending.clone()));
        Kept { ending, task }
    }

    /// Whose record it is, and whether it drains.
    async fn there(engine: &MemoryEngine) -> Option<(String, bool)> {
        let key = Key::Node("h1".to_owned()).text();
        let (entry, _) = read_one(engine, &key).await.unwrap();
        let record: MemberRecord = read(&entry?.value).unwrap();
        Some((record.boot, record.draining))
    }

    /// Whoever can go on goes on.
    async fn settle() {
        sleep(Duration::from_millis(10)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_says_that_it_drains_and_its_record_goes_with_it() {
        let engine = MemoryEngine::new();
        let kept = keep(&engine, "one");
        settle().await;
        assert_eq!(there(&engine).await, Some(("one".to_owned(), false)));
        kept.ending.draining.cancel();
        settle().await;
        assert_eq!(there(&engine).await, Some(("one".to_owned(), true)));
        // A long drain keeps the lease.
        sleep(Duration::from_secs(120)).await;
        assert_eq!(there(&engine).await, Some(("one".to_owned(), true)));
        kept.ending.ended.cancel();
        kept.task.await.unwrap();
        assert_eq!(there(&engine).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_process_does_not_touch_its_successors_record() {
        let engine = MemoryEngine::new();
        let before = keep(&engine, "before");
        settle().await;
        let after = keep(&engine, "after");
        settle().await;
        before.ending.draining.cancel();
        settle().await;
        assert_eq!(there(&engine).await, Some(("after".to_owned(), false)));
        before.ending.ended.cancel();
        before.task.await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(there(&engine).await, Some(("after".to_owned(), false)));
        after.ending.ended.cancel();
        after.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_given_up_does_not_take_its_successors_record_over() {
        let engine = MemoryEngine::new();
        let before = keep(&engine, "before");
        settle().await;
        let after = keep(&engine, "after");
        settle().await;
        // The first lease is the first process'.
        engine.revoke(1).await.unwrap();
        sleep(KEEP_ALIVE * 2).await;
        assert_eq!(there(&engine).await, Some(("after".to_owned(), false)));
        // Alone it is announced anew.
        after.ending.ended.cancel();
        after.task.await.unwrap();
        assert_eq!(there(&engine).await, None);
        sleep(KEEP_ALIVE * 2).await;
        assert_eq!(there(&engine).await, Some(("before".to_owned(), false)));
        before.ending.ended.cancel();
        before.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_is_away_does_not_hold_up_the_end() {
        let engine = MemoryEngine::new();
        let kept = keep(&engine, "one");
        settle().await;
        engine.set_faults(Faults {
            away: false,
            delay: Duration::from_secs(3600),
        });
        kept.ending.draining.cancel();
        settle().await;
        kept.ending.ended.cancel();
        let began = tokio::time::Instant::now();
        kept.task.await.unwrap();
        assert!(began.elapsed() <= FAREWELL + Duration::from_millis(1));
    }
}
