//! The test whether this machine can run VMs on its own processors.
//!
//! Guarantees: found out by booting one, since on some hosts `/dev/kvm` is there and guests hang;
//! asked once for each boot of the machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::command::{Accelerator, BootSource, Shape, VmNetwork};
use super::config::QemuConfig;
use super::files::{Ports, VmFiles, VmRecord};
use super::vm::Vm;
use crate::driver::procfs::boot_id;

/// The silence after which a guest does not work.
const PATIENCE: Duration = Duration::from_secs(10);
const MEMORY: u64 = 256 << 20;

/// The answer, for this boot of the machine.
#[derive(Serialize, Deserialize, PartialEq)]
struct Detection {
    boot_id: String,
    accelerator: Accelerator,
}

/// Boots a VM with the host's processors and says whether it came up. `memory`: where the answer is
/// kept.
pub(crate) async fn detect(mut config: QemuConfig, memory: &Path) -> Accelerator {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Accelerator::Tcg;
    }
    let bytes = fs::read(memory).ok();
    let cached = bytes.and_then(|bytes| serde_json::from_slice::<Detection>(&bytes).ok());
    if let Some(cached) = cached.filter(|cached| cached.boot_id == boot_id()) {
        return cached.accelerator;
    }
    config.accelerator = Accelerator::Kvm;
    let accelerator = match comes_up(&config).await {
        true => Accelerator::Kvm,
        false => {
            tracing::warn!("/dev/kvm is there, and a VM does not come up with it: using software");
            Accelerator::Tcg
        }
    };
    let detection = Detection {
        boot_id: boot_id(),
        accelerator,
    };
    let saved = serde_json::to_vec(&detection).map(|bytes| fs::write(memory, bytes));
    if !matches!(saved, Ok(Ok(()))) {
        tracing::warn!(path = %memory.display(), "cannot remember whether KVM works");
    }
    accelerator
}

async fn comes_up(config: &QemuConfig) -> bool {
    let folder = config.instances.with_file_name(".tmp-probe");
    let files = VmFiles::new(folder.join("vm"));
    let shape = Shape {
        memory_bytes: MEMORY,
        vcpus: 1,
        accelerator: Accelerator::Kvm,
        network: VmNetwork::None,
        port: 0,
    };
    let record = VmRecord {
        shape,
        ports: Ports::new(),
        moved: false,
        boot_id: boot_id(),
    };
    let vm = Vm::new(files, record, None, TaskTracker::new());
    if vm.files.begin().is_err() {
        return false;
    }
    let speaks = async {
        let boot = BootSource::Boot {
            image: &config.image,
            tsc_khz: None,
        };
        let process = vm.spawn(config, &boot, &|_| Ok(())).await.ok()?;
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
