//! QEMU's command line.
//!
//! Guarantees: it has no secret (those go through the agent's line); a VM is restored by the same
//! devices in the same order that it was saved with, whatever image there is by then.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::local::guest::{HOME, PORT_NAME};
use crate::local::image::Image;

/// How the VM's processors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the host's.
    Kvm,
    /// By software.
    Tcg,
}

/// What a VM is, as long as it lives: its saved state fits no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) memory_bytes: u64,
    pub(super) vcpus: u32,
    pub(super) accelerator: Accelerator,
    pub(super) network: Network,
    pub(super) port: u16,
}

/// How the VM is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Network {
    /// Not at all.
    None,
    /// Through QEMU's own listeners, without any privilege.
    User {
        /// Where these listen.
        address: Ipv4Addr,
        /// Whether the VM may reach out.
        egress: bool,
    },
}

/// What the VM begins with.
pub(super) enum Beginning<'a> {
    /// The image.
    Boot(&'a Image),
    /// Nothing yet: a saved state comes over QMP.
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
    beginning: &Beginning<'_>,
    ports: &BTreeSet<u16>,
) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |name: &str, value: String| {
        words.push(name.to_owned());
        words.extend((!value.is_empty()).then_some(value));
    };
    // ACPI tells the kernel where its devices are: distributions' kernels do not read them from
    // their command line.
    let machine = "microvm,acpi=on,x-option-roms=off,isa-serial=on,rtc=on,memory-backend=memory";
    add("-machine", machine.to_owned());
    add("-accel", shape.accelerator.as_str().to_owned());
    add("-cpu", "max".to_owned());
    add("-smp", shape.vcpus.to_string());
    add("-m", format!("{}B", shape.memory_bytes));
    add("-nodefaults", String::new());
    add("-no-user-config", String::new());
    add("-no-reboot", String::new());
    add("-display", "none".to_owned());
    add("-pidfile", "qemu.pid".to_owned());
    // Shared, so that saving the VM's state does not copy its memory: it is in the file already.
    let memory = format!(
        "memory-backend-file,id=memory,size={},mem-path=ram,share=on",
        shape.memory_bytes
    );
    add("-object", memory);
    add("-qmp", "unix:qmp.sock,server=on,wait=off".to_owned());
    add(
        "-chardev",
        "file,id=console,path=../app.log,append=on".to_owned(),
    );
    add("-serial", "chardev:console".to_owned());
    add(
        "-chardev",
        "socket,id=agent,path=agent.sock,server=on,wait=off".to_owned(),
    );
    add("-device", "virtio-serial-device".to_owned());
    add(
        "-device",
        format!("virtserialport,chardev=agent,name={PORT_NAME}"),
    );
    let network = match &shape.network {
        Network::None => None,
        Network::User { address, egress } => {
            let restrict = if *egress { "off" } else { "on" };
            let mut network = format!("user,id=network,restrict={restrict}");
            for port in ports {
                network.push_str(",hostfwd=");
                network.push_str(&forward(*address, *port));
            }
            Some(network)
        }
    };
    if let Some(network) = network {
        add("-netdev", network);
        add("-device", "virtio-net-device,netdev=network".to_owned());
    }
    match beginning {
        Beginning::Boot(image) => {
            add("-kernel", image.kernel.display().to_string());
            add("-initrd", image.initrd.display().to_string());
            let line = format!(
                "console=ttyS0 loglevel=3 panic=-1 reboot=t tsc=reliable rdinit={HOME}/agent -- guest"
            );
            add("-append", line);
        }
        Beginning::Restore => {
            add("-S", String::new());
            add("-incoming", "defer".to_owned());
        }
    }
    words
}

/// A forwarded port, in the form of `-netdev user` and `hostfwd_add`.
pub(super) fn forward(address: Ipv4Addr, port: u16) -> String {
    format!("tcp:{address}:{port}-:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(network: Network) -> Shape {
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
        let shape = shape(Network::User {
            address: Ipv4Addr::new(127, 78, 1, 2),
            egress: false,
        });
        let booted = arguments(&shape, &Beginning::Boot(&image), &BTreeSet::new());
        let restored = arguments(&shape, &Beginning::Restore, &BTreeSet::from([80]));
        assert!(!restored.contains(&"-kernel".to_owned()));
        assert!(
            restored
                .iter()
                .any(|word| word.ends_with("hostfwd=tcp:127.78.1.2:80-:80"))
        );
        assert_eq!(devices(booted), devices(restored));
    }

    #[test]
    fn a_vm_without_a_network_has_no_network_device() {
        let words = arguments(&shape(Network::None), &Beginning::Restore, &BTreeSet::new());
        assert!(!words.iter().any(|word| word.contains("net")));
    }
}
