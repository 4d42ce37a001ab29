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

/// What a VM and a QEMU that waits for it have in common: all that is fixed when a QEMU starts.
#[derive(Debug, Clone, PartialEq)]
struct WarmPoolKey(Vec<String>);

impl WarmPoolKey {
    /// There is none for a VM on a bridge: its QEMU would have to know its device when it starts.
    fn of(shape: &Shape) -> Option<Self> {
        match shape.network {
            VmNetwork::None | VmNetwork::User { .. } => Some(Self(waiting_arguments(shape))),
            VmNetwork::Tap { .. } => None,
        }
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
        self.forget_ended();
        let Some(key) = WarmPoolKey::of(shape).filter(|key| !self.is_full(&self.ready(), key))
        else {
            return;
        };
        let (pool, config) = (Arc::clone(self), config.clone());
        self.tasks.spawn(async move {
            let folder = pool.folder.join(format!("{:016x}", fastrand::u64(..)));
            let folder_result = std::fs::create_dir_all(&folder).map_err(DriverError::Files);
            let started = async {
                folder_result?;
                let (arguments, log) = (key.0.clone(), folder.join("vmm.log"));
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

    /// Forgets those that did not wait until they were needed.
    fn forget_ended(&self) {
        let ended =
            |(_, process): &mut (WarmPoolKey, Arc<QemuProcess>)| process.ended.is_cancelled();
        let ended: Vec<_> = self.ready().extract_if(.., ended).collect();
        for (_, process) in ended {
            tracing::warn!(folder = %process.folder.display(), "a QEMU that waited has ended");
            let _left_behind = std::fs::remove_dir_all(&process.folder);
        }
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
        qmp.forward(&forward(address, *port, elsewhere)).await?;
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::command::Accelerator;
    use super::*;

    #[test]
    fn a_qemu_that_waits_is_for_vms_alone_that_would_start_it_in_the_same_way() {
        let shape = |last, egress, accelerator| Shape {
            memory_bytes: 256 << 20,
            vcpus: 1,
            accelerator,
            network: VmNetwork::User {
                address: Ipv4Addr::new(127, 78, 1, last),
                egress,
                elsewhere: None,
            },
            port: 8080,
        };
        let one = shape(1, false, Accelerator::Tcg);
        let key = WarmPoolKey::of(&one).unwrap();
        let same = shape(2, false, Accelerator::Tcg);
        assert_eq!(WarmPoolKey::of(&same), Some(key.clone()));
        for other in [
            shape(1, true, Accelerator::Tcg),
            shape(1, false, Accelerator::Kvm),
            Shape {
                vcpus: 2,
                ..one.clone()
            },
            Shape {
                memory_bytes: 512 << 20,
                ..one.clone()
            },
            Shape {
                network: VmNetwork::None,
                ..one.clone()
            },
        ] {
            assert_ne!(WarmPoolKey::of(&other), Some(key.clone()), "{other:?}");
        }
        let bridged = VmNetwork::Tap {
            address: Ipv4Addr::new(10, 177, 1, 1),
        };
        let bridged = Shape {
            network: bridged,
            ..one
        };
        assert_eq!(WarmPoolKey::of(&bridged), None);
    }
}
