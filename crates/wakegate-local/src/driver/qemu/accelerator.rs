//! The test whether this machine can run VMs on its own processors.
//!
//! Guarantees: found out by booting one, since on some hosts `/dev/kvm` is there and guests hang;
//! asked once for each boot of the machine, and again when QEMU or the image is another.

use std::fs;
use std::path::{Path, PathBuf};
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

/// The answer, for this boot of the machine, this QEMU and this image.
#[derive(Serialize, Deserialize, PartialEq)]
struct Detection {
    boot_id: String,
    #[serde(default)]
    qemu: PathBuf,
    /// What the image was made of.
    #[serde(default)]
    image: String,
    accelerator: Accelerator,
}

// === impl Detection ===

impl Detection {
    fn new(config: &QemuConfig, accelerator: Accelerator) -> Self {
        Self {
            boot_id: boot_id(),
            qemu: config.qemu.clone(),
            image: config.image.fingerprint(),
            accelerator,
        }
    }

    /// The one that was kept, unless it is another's.
    fn kept(memory: &Path, config: &QemuConfig) -> Option<Self> {
        let bytes = fs::read(memory).ok()?;
        let kept = serde_json::from_slice::<Self>(&bytes).ok()?;
        (kept == Self::new(config, kept.accelerator)).then_some(kept)
    }
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
    if let Some(kept) = Detection::kept(memory, &config) {
        return kept.accelerator;
    }
    config.accelerator = Accelerator::Kvm;
    let accelerator = match comes_up(&config).await {
        true => Accelerator::Kvm,
        false => {
            tracing::warn!("/dev/kvm is there, and a VM does not come up with it: using software");
            Accelerator::Tcg
        }
    };
    let detection = Detection::new(&config, accelerator);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    #[test]
    fn what_was_found_out_is_used_again_for_the_same_qemu_and_image_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, made_of) = (dir.path().join("memory"), dir.path().join("made-of"));
        let mut config = QemuConfig {
            qemu: PathBuf::from("qemu"),
            image: Image {
                kernel: dir.path().join("kernel"),
                initrd: dir.path().join("initrd"),
            },
            accelerator: Accelerator::Tcg,
            egress: false,
            bridged: false,
            launcher: PathBuf::new(),
            instances: PathBuf::new(),
            prestart: 0,
        };
        fs::write(&made_of, "one").unwrap();
        let detection = Detection::new(&config, Accelerator::Kvm);
        let kept = |config: &QemuConfig| Detection::kept(&memory, config).is_some();
        assert!(!kept(&config));
        fs::write(&memory, serde_json::to_vec(&detection).unwrap()).unwrap();
        assert!(kept(&config));
        fs::write(&made_of, "another").unwrap();
        assert!(!kept(&config), "another image may work");
        fs::write(&made_of, "one").unwrap();
        config.qemu = PathBuf::from("another");
        assert!(!kept(&config), "another QEMU may work");
        config.qemu = PathBuf::from("qemu");
        let boot_id = "another".to_owned();
        let old = Detection {
            boot_id,
            ..detection
        };
        fs::write(&memory, serde_json::to_vec(&old).unwrap()).unwrap();
        assert!(!kept(&config), "of another boot of the machine");
    }
}
