//! QEMUs that are started before anybody needs them.
//!
//! Guarantees: one that waits has no VM, no memory of one and no address; one that is taken becomes
//! the VM that takes it and no other; those of an earlier control plane that nobody has taken are
//! ended. Without a pool, no process exists for what sleeps.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio_util::task::TaskTracker;

use super::command::{Shape, VmNetwork, forward, waiting_arguments};
use super::config::QemuConfig;
use super::files::Ports;
use super::process::{QemuProcess, kill_in};
use crate::driver::error::{DriverError, QmpError};

/// The QEMUs that wait for a VM.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    folder: PathBuf,
    ready: Mutex<Vec<(WarmPoolKey, Arc<QemuProcess>)>>,
    /// Whether none is wanted any more.
    has_ended: AtomicBool,
    tasks: TaskTracker,
}

/// What a VM and a QEMU that waits for it have in common: what is fixed when a QEMU starts.
#[derive(Debug, Clone, PartialEq)]
struct WarmPoolKey {
    memory_bytes: u64,
    vcpus: u32,
    has_network: bool,
}

impl WarmPoolKey {
    /// There is none for a VM on a bridge: its QEMU would have to know its device when it starts.
    fn of(shape: &Shape) -> Option<Self> {
        let has_network = match shape.network {
            VmNetwork::None => false,
            VmNetwork::User { .. } => true,
            VmNetwork::Tap { .. } => return None,
        };
        Some(Self {
            memory_bytes: shape.memory_bytes,
            vcpus: shape.vcpus,
            has_network,
        })
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(size: usize, folder: PathBuf, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            size,
            folder,
            ready: Mutex::default(),
            has_ended: AtomicBool::new(false),
            tasks,
        })
    }

    /// Ends what an earlier control plane left here, but those that VMs use.
    pub(super) async fn clear(&self, used: impl Fn(&Path) -> bool) {
        let entries = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten();
        for folder in entries.map(|entry| entry.path()).filter(|path| !used(path)) {
            kill_in(&folder).await;
            // What cannot be removed is only a little disk space.
            let _left_behind = std::fs::remove_dir_all(&folder);
        }
    }

    /// Starts one for VMs of this shape, unless enough of them wait.
    pub(super) fn fill(self: &Arc<Self>, config: &QemuConfig, shape: &Shape) {
        let Some(key) = WarmPoolKey::of(shape).filter(|key| !self.is_full(&self.ready(), key))
        else {
            return;
        };
        let (pool, config, shape) = (Arc::clone(self), config.clone(), shape.clone());
        self.tasks.spawn(async move {
            let folder = pool.folder.join(format!("{:016x}", fastrand::u64(..)));
            let folder_result = std::fs::create_dir_all(&folder).map_err(DriverError::Files);
            let started = async {
                folder_result?;
                let (arguments, log) = (waiting_arguments(&shape), folder.join("vmm.log"));
                let noted = |_| Ok(());
                QemuProcess::spawn(&config, &folder, &log, arguments, &noted, &pool.tasks).await
            };
            match started.await {
                Ok(process) => pool.put(key, process).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot start a QEMU beforehand");
                    let _left_behind = std::fs::remove_dir_all(&folder);
                }
            }
        });
    }

    /// Puts a QEMU among those that wait; two may have been started for the last place.
    async fn put(&self, key: WarmPoolKey, process: Arc<QemuProcess>) {
        let is_superfluous = {
            let mut ready = self.ready();
            let full = self.is_full(&ready, &key);
            if !full {
                ready.push((key, Arc::clone(&process)));
            }
            full
        };
        if is_superfluous {
            discard(&process).await;
        }
    }

    fn is_full(&self, ready: &[(WarmPoolKey, Arc<QemuProcess>)], key: &WarmPoolKey) -> bool {
        self.has_ended.load(Ordering::Acquire)
            || ready.iter().filter(|(other, _)| other == key).count() >= self.size
    }

    /// The processes of those that wait.
    pub(super) fn processes(&self) -> Vec<i32> {
        let ready = self.ready();
        let pids = ready
            .iter()
            .map(|(_, process)| process.pid.as_raw_nonzero().get());
        pids.collect()
    }

    /// Takes a QEMU that can become a VM of this shape.
    pub(super) fn take(&self, shape: &Shape) -> Option<Arc<QemuProcess>> {
        let key = WarmPoolKey::of(shape)?;
        let mut ready = self.ready();
        let fits = |(other, process): &(WarmPoolKey, Arc<QemuProcess>)| {
            *other == key && !process.ended.is_cancelled()
        };
        let at = ready.iter().position(fits)?;
        Some(ready.swap_remove(at).1)
    }

    /// Ends all QEMUs that wait.
    pub(super) async fn end(&self) {
        let all = {
            let mut ready = self.ready();
            // One that is being started is discarded when it is there.
            self.has_ended.store(true, Ordering::Release);
            std::mem::take(&mut *ready)
        };
        for (_, process) in all {
            discard(&process).await;
        }
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, Vec<(WarmPoolKey, Arc<QemuProcess>)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn discard(process: &QemuProcess) {
    process.kill().await;
    let _left_behind = std::fs::remove_dir_all(&process.folder);
}

/// Makes a QEMU that waited the one of this VM, up to where its state can be loaded.
pub(super) async fn become_vm(
    process: &QemuProcess,
    shape: &Shape,
    ports: &Ports,
    folder: &Path,
) -> Result<(), QmpError> {
    let qmp = &process.qmp;
    let memory = json!({
        "qom-type": "memory-backend-file",
        "id": "memory",
        "size": shape.memory_bytes,
        "mem-path": folder.join("ram"),
        "share": true,
    });
    qmp.execute("object-add", memory).await?;
    let backend = json!({
        "path": "/machine", "property": "memory-backend", "value": "/objects/memory",
    });
    qmp.execute("qom-set", backend).await?;
    qmp.execute("x-exit-preconfig", json!(null)).await?;
    let VmNetwork::User {
        address, elsewhere, ..
    } = shape.network
    else {
        return Ok(());
    };
    for port in ports {
        let line = format!("hostfwd_add network {}", forward(address, *port, elsewhere));
        qmp.monitor(&line).await?;
    }
    Ok(())
}

/// Makes a QEMU that waited write the console's text where its VM's is.
pub(super) async fn move_console(process: &QemuProcess, folder: &Path) -> Result<(), QmpError> {
    let log = folder.join("../app.log");
    let file = json!({ "type": "file", "data": { "out": log, "append": true } });
    let change = json!({ "id": "console", "backend": file });
    process
        .qmp
        .execute("chardev-change", change)
        .await
        .map(drop)
}
