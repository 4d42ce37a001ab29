//! What a VM needs before its program can run: file systems, modules, the line, the network.
//!
//! Guarantees: what a kernel or an image has done already is done by nobody twice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::system::finit_module;

use super::children::Children;
use super::error::{GuestError, missing};
use super::protocol::{GuestNetwork, HOME, PORT_NAME};

const DEVICE_PATIENCE: u32 = 5000;
const NETWORK_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn mount_all() -> Result<(), GuestError> {
    let nothing = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, place, flags) in [
        ("proc", "/proc", nothing),
        ("sysfs", "/sys", nothing),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("tmpfs", "/tmp", MountFlags::NOSUID | MountFlags::NODEV),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV),
    ] {
        fs::create_dir_all(place).map_err(|error| missing(place, &error))?;
        match mount(kind, place, kind, flags, None) {
            // The kernel mounts /dev by itself when it is built so.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(missing(place, &error)),
        }
    }
    Ok(())
}

/// Loads modules in the order of their names, which the image's builder chose.
pub(super) fn load_modules() -> Result<(), GuestError> {
    let Ok(entries) = fs::read_dir(Path::new(HOME).join("modules")) else {
        // A kernel that has everything built in.
        return Ok(());
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let name = path.display().to_string();
        let file = File::open(&path).map_err(|error| missing(&name, &error))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(missing(&name, &error)),
        }
    }
    Ok(())
}

/// The virtio port to the control plane, as soon as it is there.
pub(super) fn open_port() -> Result<File, GuestError> {
    for _ in 0..DEVICE_PATIENCE {
        for entry in fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
        {
            let Ok(entry) = entry else { continue };
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                let device = Path::new("/dev").join(entry.file_name());
                let mut options = File::options();
                if let Ok(line) = options.read(true).write(true).open(device) {
                    return Ok(line);
                }
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(missing("the line to the control plane", &"no such device"))
}

/// Gives the network card its addresses, and takes older ones away.
pub(super) fn join_network(network: &GuestNetwork, children: &Children) -> Result<(), GuestError> {
    if !Path::new("/sys/class/net/eth0").exists() {
        return Ok(());
    }
    let GuestNetwork {
        address,
        router,
        mac,
    } = network;
    // Nobody answers there, and asking for ever costs. A kernel without IPv6 has no such file.
    let _none = fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
    let busybox = Path::new(HOME).join("busybox");
    for words in [
        ["link", "set", "lo", "up"].as_slice(),
        &["link", "set", "eth0", "down"],
        &["addr", "flush", "dev", "eth0"],
        &["link", "set", "eth0", "address", mac],
        &["addr", "add", address, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        &["route", "add", "default", "via", router],
    ] {
        let mut command = Command::new(&busybox);
        command.arg("ip").args(words).stdin(Stdio::null());
        let (code, output) = children.run(&mut command, NETWORK_PATIENCE, 256);
        if code != Some(0) {
            let what = format!("the network: ip {}", words.join(" "));
            return Err(missing(&what, &output));
        }
    }
    Ok(())
}
