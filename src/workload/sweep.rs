//! The end of holds, and what other gateways do to them.
//!
//! Guarantees: a hold is looked at every second while there is one, so that a clock that is set
//! forwards ends it, too; what changes in the directory is noticed within seconds; an instance whose
//! handle the engine does not have yet gets one, a few at a time, and nothing else waits for that.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::door::Door;
use super::holds::TaskHold;
use super::task::Owner;

const TICK: Duration = Duration::from_secs(1);
/// How often the directory is looked at, and everything told to the engine once more.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the engine may take to be told of one.
const PATIENCE: Duration = Duration::from_secs(10);

// === impl Door ===

impl Door {
    /// Looks after the holds until the gateway has cut everything.
    pub async fn keep(self) {
        let cut = self.cut.clone();
        cut.run_until_cancelled(self.look_after())
            .await
            .unwrap_or(());
    }

    async fn look_after(&self) {
        self.apply_all(self.holds.owners());
        let mut again_at = Instant::now() + AGAIN;
        loop {
            let now = Instant::now();
            // The next end, or a second, so that a change of the clock is seen.
            let next = self.holds.next_end().map(|end| end.min(now + TICK));
            tokio::select! {
                () = sleep_until(next.unwrap_or(again_at).min(again_at)) => {}
                () = self.holds.placed() => {}
            }
            let ended = self.expire().await;
            let mut owners: Vec<Owner> = Vec::new();
            for hold in ended {
                let (owner, task) = (hold.owner, hold.task);
                tracing::info!(instance = %owner.id, name = %hold.name, %task, "its hold has ended");
                owners.push(owner);
            }
            if Instant::now() >= again_at {
                owners.extend(self.holds.owners());
                // What other gateways have taken back is told to the engine, too. A directory that
                // cannot be read now is read another time.
                let _late = self.refresh().await;
                owners.extend(self.holds.owners());
                again_at = Instant::now() + AGAIN;
            }
            owners.sort_unstable();
            owners.dedup();
            self.apply_all(owners);
        }
    }

    /// Not among the changes, which need not wait for it; again when the one before is over.
    async fn refresh(&self) -> Option<()> {
        let turn = Arc::clone(&self.refreshing).try_acquire_owned().ok()?;
        let holds = Arc::clone(&self.holds);
        let refreshing = spawn_blocking(move || {
            holds.refresh();
            drop(turn);
        });
        timeout(PATIENCE, refreshing).await.ok()?.ok()
    }

    async fn expire(&self) -> Vec<TaskHold> {
        let is_due = self.holds.has_ended();
        if !is_due {
            return Vec::new();
        }
        let expiring = self.holds.on_disk(|holds| Ok(holds.expire()));
        // What a disk that hangs keeps is over all the same, and goes another time.
        expiring.await.unwrap_or_default()
    }

    /// Beside what else is done, and for each control plane by itself.
    fn apply_all(&self, owners: Vec<Owner>) {
        for plane in self.due.add(owners) {
            let door = self.clone();
            let applying = async move {
                let tell = |owner: Owner| {
                    let door = &door;
                    async move {
                        // Who could not be told is told again.
                        let _late = timeout(PATIENCE, door.apply(&owner)).await;
                    }
                };
                let working = door.due.work_off(&plane, tell);
                door.cut.run_until_cancelled(working).await.unwrap_or(());
            };
            self.tasks.spawn(applying);
        }
    }
}
