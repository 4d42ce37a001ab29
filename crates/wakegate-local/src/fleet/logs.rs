//! The files of instances, looked at now and then.
//!
//! Guarantees: a log that is too long is cut within some seconds while its instance is awake; a
//! record that could not be saved is, within some seconds of when it can be; a failure to cut a log
//! is logged.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Fleet;
use crate::state::State;
use crate::store::{Kind, rotation};

const LOGS: [&str; 3] = ["app.log", "vmm.log", "hypeman.log"];
const LOOK_AT_LOGS: Duration = Duration::from_secs(5);

/// Cuts every log that is too long, and saves what is not saved, for ever.
pub(super) async fn run(fleet: &Arc<Fleet>) {
    loop {
        tokio::time::sleep(LOOK_AT_LOGS).await;
        let instances = fleet.all();
        for instance in instances.iter().filter(|instance| instance.is_unsaved()) {
            // One that is busy is saved by whoever is busy with it.
            if let Some(_guard) = instance.try_lock() {
                fleet.save(instance);
            }
        }
        // One that sleeps writes nothing.
        let awake = instances
            .iter()
            .filter(|instance| instance.state() != State::Standby);
        let folders = awake.map(|i| fleet.store.folder(Kind::Instance, &i.id));
        let folders: Vec<_> = folders.collect();
        let cut = fleet.tasks.spawn_blocking(move || {
            for path in folders.iter().flat_map(|f| LOGS.map(|log| f.join(log))) {
                if let Err(error) = rotation::rotate(&path) {
                    tracing::warn!(log = %path.display(), %error, "cannot rotate a log");
                }
            }
        });
        // A panic in it is in the log already; the next round comes.
        let _panic = cut.await;
    }
}
