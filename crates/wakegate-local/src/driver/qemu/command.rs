//! QEMU's command line.
//!
//! Guarantees: it has no secret (those go through the agent's line); a VM is restored by the same
//! devices in the same order that it was saved with, whatever image there is by then.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::bridge::device;
use crate::guest::{HOME, PORT_NAME};
use crate::image::Image;

/// What runs the processors of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's own processors.
    Kvm,
    /// Software.
    Tcg,
}

/// The properties of a VM that never change: its saved state fits no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) memory_bytes: u64,
    pub(super) vcpus: u32,
    pub(super) accelerator: Accelerator,
    pub(super) network: VmNetwork,
    pub(super) port: u16,
}

/// The way by which a VM is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum VmNetwork {
    /// It is not reached at all.
    None,
    /// It is reached through QEMU's own listeners, without any privilege.
    User {
        /// The address of these listeners.
        address: Ipv4Addr,
        /// Whether the VM may reach out.
        egress: bool,
        /// The address inside that ports are forwarded to, when it is not the one that every VM
        /// has: a fault, by which nothing answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        elsewhere: Option<Ipv4Addr>,
    },
    /// It is reached through a device on the host's bridge.
    Tap {
        /// The VM's own address.
        address: Ipv4Addr,
    },
}

/// What a VM begins with.
pub(super) enum BootSource<'a> {
    /// It boots the image.
    Boot {
        image: &'a Image,
        /// The rate of the processor's counter, where the VM should not measure it.
        tsc_khz: Option<u64>,
    },
    /// It begins with nothing: a saved state comes over QMP.
    Restore,
}

impl Accelerator {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// QEMU's arguments; paths are relative to the instance's folder for its VM.
pub(super) fn arguments(
    shape: &Shape,
    source: &BootSource<'_>,
    ports: &BTreeSet<u16>,
) -> Vec<String> {
    let mut words = Words::default();
    // Shared, so that saving the VM's state does not copy its memory: it is in the file already.
    words.add(
        "-object",
        format!(
            "memory-backend-file,id=memory,size={},mem-path=ram,share=on",
            shape.memory_bytes
        ),
    );
    words.machine(shape, ",memory-backend=memory", "../app.log");
    words.network(&shape.network, ports);
    match source {
        BootSource::Boot { image, tsc_khz } => {
            words.add("-kernel", image.kernel.display().to_string());
            words.add("-initrd", image.initrd.display().to_string());
            words.add("-append", kernel_line(shape.accelerator, *tsc_khz));
        }
        BootSource::Restore => words.wait(),
    }
    words.0
}

/// The arguments of a QEMU that does not know its VM yet, nor that one's memory and ports.
pub(super) fn waiting_arguments(shape: &Shape) -> Vec<String> {
    let mut words = Words::default();
    words.machine(shape, "", "console.log");
    words.network(&shape.network, &BTreeSet::new());
    words.wait();
    words.flag("-preconfig");
    words.0
}

fn kernel_line(accelerator: Accelerator, tsc_khz: Option<u64>) -> String {
    let ours = "console=ttyS0 loglevel=3 panic=-1 reboot=t tsc=reliable psi=0";
    // There is no speculation to be mitigated in translated code.
    let emulated = match accelerator {
        Accelerator::Kvm => "",
        Accelerator::Tcg => " mitigations=off",
    };
    // Where a kernel measures that against a timer, a busy host makes it fail one time in five, and
    // a kernel without a clock waits for ever.
    let counter = tsc_khz
        .filter(|_| accelerator == Accelerator::Tcg)
        .map(|khz| format!(" tsc_early_khz={khz}"))
        .unwrap_or_default();
    format!("{ours}{emulated}{counter} rdinit={HOME}/agent -- guest")
}

#[derive(Default)]
struct Words(Vec<String>);

// === impl Words ===

impl Words {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.0.push(value.into());
    }

    fn machine(&mut self, shape: &Shape, memory: &str, console: &str) {
        // ACPI tells the kernel where its devices are: distributions' kernels do not read them from
        // their command line.
        let machine = "microvm,acpi=on,x-option-roms=off,isa-serial=on,rtc=on";
        self.add("-machine", format!("{machine}{memory}"));
        self.add("-accel", shape.accelerator.as_str());
        self.add(
            "-cpu",
            match shape.accelerator {
                Accelerator::Kvm => "max",
                // What costs translated code most and a guest of its own nothing: a check and an
                // end of a block at each access to user memory, and strings copied byte by byte.
                Accelerator::Tcg => "max,-smap,-smep,-erms,-fsrm",
            },
        );
        self.add("-smp", shape.vcpus.to_string());
        self.add("-m", format!("{}B", shape.memory_bytes));
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.flag("-no-reboot");
        self.add("-display", "none");
        self.add("-pidfile", "qemu.pid");
        self.add("-qmp", "unix:qmp.sock,server=on,wait=off");
        self.add(
            "-chardev",
            format!("file,id=console,path={console},append=on"),
        );
        self.add("-serial", "chardev:console");
        self.add(
            "-chardev",
            "socket,id=agent,path=agent.sock,server=on,wait=off",
        );
        self.add("-device", "virtio-serial-device");
        self.add(
            "-device",
            format!("virtserialport,chardev=agent,name={PORT_NAME}"),
        );
    }

    fn network(&mut self, network: &VmNetwork, ports: &BTreeSet<u16>) {
        let (address, egress, elsewhere) = match network {
            VmNetwork::None => return,
            VmNetwork::User {
                address,
                egress,
                elsewhere,
            } => (address, egress, elsewhere),
            VmNetwork::Tap { address } => {
                let (name, scripts) = (device(*address), "script=no,downscript=no");
                self.add("-netdev", format!("tap,id=network,ifname={name},{scripts}"));
                self.card();
                return;
            }
        };
        let restrict = if *egress { "off" } else { "on" };
        // Forwarding is IPv4's alone, and a router's advertisements would cost each wake.
        let mut user = format!("user,id=network,ipv6=off,restrict={restrict}");
        for port in ports {
            user.push_str(",hostfwd=");
            user.push_str(&forward(*address, *port, *elsewhere));
        }
        self.add("-netdev", user);
        self.card();
    }

    /// Adds a network card that does not announce itself at each wake, which is for networks that
    /// move.
    fn card(&mut self) {
        self.add(
            "-device",
            "virtio-net-device,netdev=network,guest_announce=off",
        );
    }

    /// Makes it wait for a saved state, over QMP.
    fn wait(&mut self) {
        self.flag("-S");
        self.add("-incoming", "defer");
    }
}

/// A forwarded port, in the form of `-netdev user` and `hostfwd_add`; to the VM's address, unless
/// that is thought to be `elsewhere`.
pub(super) fn forward(address: Ipv4Addr, port: u16, elsewhere: Option<Ipv4Addr>) -> String {
    let guest = elsewhere.map(|guest| guest.to_string()).unwrap_or_default();
    format!("tcp:{address}:{port}-{guest}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(network: VmNetwork) -> Shape {
        Shape {
            memory_bytes: 256 << 20,
            vcpus: 1,
            accelerator: Accelerator::Tcg,
            network,
            port: 8080,
        }
    }

    #[test]
    fn a_vm_is_restored_with_the_devices_it_was_booted_with() {
        let image = Image {
            kernel: "/k".into(),
            initrd: "/i".into(),
        };
        let devices = |words: Vec<String>| -> Vec<String> {
            let values = words.windows(2).filter(|pair| {
                pair.first()
                    .is_some_and(|name| name == "-device" || name == "-machine")
            });
            values.filter_map(|pair| pair.last().cloned()).collect()
        };
        let shape = shape(VmNetwork::User {
            address: Ipv4Addr::new(127, 78, 1, 2),
            egress: false,
            elsewhere: None,
        });
        let boot = BootSource::Boot {
            image: &image,
            tsc_khz: Some(2_600_000),
        };
        let booted = arguments(&shape, &boot, &BTreeSet::new());
        assert!(
            booted
                .iter()
                .any(|word| word.contains("tsc_early_khz=2600000"))
        );
        let restored = arguments(&shape, &BootSource::Restore, &BTreeSet::from([80]));
        assert!(!restored.contains(&"-kernel".to_owned()));
        assert!(
            restored
                .iter()
                .any(|word| word.ends_with("hostfwd=tcp:127.78.1.2:80-:80"))
        );
        assert_eq!(devices(booted.clone()), devices(restored));
        let waiting = waiting_arguments(&shape);
        assert!(
            !waiting
                .iter()
                .any(|word| word.contains("ram") || word.contains("hostfwd"))
        );
        let of = |words| {
            devices(words)
                .into_iter()
                .filter(|word| !word.starts_with("microvm"))
        };
        assert!(of(booted).eq(of(waiting)));
    }

    #[test]
    fn a_vm_without_a_network_has_no_network_device() {
        let words = arguments(
            &shape(VmNetwork::None),
            &BootSource::Restore,
            &BTreeSet::new(),
        );
        assert!(!words.iter().any(|word| word.contains("net")));
    }
}
