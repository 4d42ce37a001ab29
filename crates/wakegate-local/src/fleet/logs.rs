//! Logs that do not fill the disk.
//!
//! Guarantees: a log that is too long is cut within some seconds; a failure to cut one is logged.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Fleet;
use crate::store::{Kind, rotation};

const LOGS: [&str; 3] = ["app.log", "vmm.log", "hypeman.log"];
const LOOK_AT_LOGS: Duration = Duration::from_secs(5);

impl Fleet {
    /// Keeps logs from filling the disk, for ever.
    pub(crate) async fn keep_logs_short(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_AT_LOGS).await;
            let folders = self.all().into_iter();
            let folders = folders.filter_map(|i| self.store.folder(Kind::Instance, &i.id).ok());
            let folders: Vec<_> = folders.collect();
            let cut = self.tasks.spawn_blocking(move || {
                for path in folders.iter().flat_map(|f| LOGS.map(|log| f.join(log))) {
                    if let Err(error) = rotation::rotate(&path) {
                        tracing::warn!(log = %path.display(), %error, "cannot rotate a log");
                    }
                }
            });
            // A panic in it is in the log already; the next round comes.
            let _cut = cut.await;
        }
    }
}
