//! Whether this machine can run VMs on its own processors.
//!
//! Guarantees: found out by booting one, since on some hosts `/dev/kvm` is there and guests hang;
//! asked once for each boot of the machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::command::{Accelerator, Beginning, Network, Shape};
use super::config::Config;
use super::files::{About, Files, Ports};
use super::vm::Vm;
use crate::driver::procfs::boot_id;

/// A guest that works has said something long before.
const PATIENCE: Duration = Duration::from_secs(10);
const MEMORY: u64 = 256 << 20;

#[derive(Serialize, Deserialize, PartialEq)]
struct Found {
    boot_id: String,
    accelerator: Accelerator,
}

/// Boots a VM with the host's processors and says whether it came up. `memory`: where the answer is
/// kept.
pub(crate) async fn detect(mut config: Config, memory: &Path) -> Accelerator {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Accelerator::Tcg;
    }
    let read = fs::read(memory).ok();
    let known = read.and_then(|bytes| serde_json::from_slice::<Found>(&bytes).ok());
    if let Some(known) = known.filter(|known| known.boot_id == boot_id()) {
        return known.accelerator;
    }
    config.accelerator = Accelerator::Kvm;
    let accelerator = match comes_up(&config).await {
        true => Accelerator::Kvm,
        false => {
            tracing::warn!("/dev/kvm is there, and a VM does not come up with it: using software");
            Accelerator::Tcg
        }
    };
    let found = Found {
        boot_id: boot_id(),
        accelerator,
    };
    let kept = serde_json::to_vec(&found).map(|bytes| fs::write(memory, bytes));
    if !matches!(kept, Ok(Ok(()))) {
        tracing::warn!(path = %memory.display(), "cannot remember whether KVM works");
    }
    accelerator
}

async fn comes_up(config: &Config) -> bool {
    let folder = config.instances.join("..").join("probe");
    let files = Files::new(folder.join("vm"));
    let shape = Shape {
        memory_bytes: MEMORY,
        vcpus: 1,
        accelerator: Accelerator::Kvm,
        network: Network::None,
        port: 0,
    };
    let about = About {
        shape,
        ports: Ports::new(),
        moved: false,
    };
    let vm = Vm::new(files, about, None, TaskTracker::new());
    if vm.files.begin().is_err() {
        return false;
    }
    let speaks = async {
        let boot = Beginning::Boot {
            image: &config.image,
            tsc_khz: None,
        };
        let process = vm.spawn(config, &boot).await.ok()?;
        let mut status = process.agent.status();
        let spoke = timeout(PATIENCE, status.changed()).await;
        vm.end(&process).await;
        spoke.ok()?.ok()
    };
    let came_up = speaks.await.is_some();
    // What is left is only disk space.
    let _left_behind = fs::remove_dir_all(&folder);
    came_up
}
