//! VMs on a bridge of the host's, as a Hypeman server has them.
//!
//! Guarantees: a VM's device is there only while the VM is awake, so that its address vanishes with
//! it and open connections hear nothing; the host's end of them keeps its place meanwhile, so that
//! either end may speak first when the VM is awake again; connections are counted by the kernel's
//! own tracking.
//! Needs root, `ip` and `nft`; the bridge and the rule that makes the kernel track stay, for others
//! may use them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::driver::address_range::{BRIDGE_SUBNET, BRIDGED, HeldAddress};
use crate::driver::error::DriverError;
use crate::driver::traffic::Traffic;

const BRIDGE: &str = "wakegate0";
/// The last two bytes of the host's own address.
const ROUTER: [u8; 2] = [0, 1];
const TRACKING: &str = "add table ip wakegate\n\
    add chain ip wakegate track { type filter hook output priority 0 ; }\n\
    flush chain ip wakegate track\n\
    add rule ip wakegate track ct state new\n";

/// A VM's device.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) address: Ipv4Addr,
    name: String,
    traffic: Arc<Traffic>,
    _held: HeldAddress,
}

/// The host's own address on the bridge.
pub(super) fn router() -> Ipv4Addr {
    address(ROUTER)
}

fn address([c, d]: [u8; 2]) -> Ipv4Addr {
    let [a, b] = BRIDGE_SUBNET;
    Ipv4Addr::new(a, b, c, d)
}

/// The VM's address with its prefix, as it is told it.
pub(super) fn with_prefix(address: Ipv4Addr) -> String {
    format!("{address}/16")
}

/// The device's name, which follows from the address.
pub(super) fn device(address: Ipv4Addr) -> String {
    let [_, _, c, d] = address.octets();
    format!("wg-{c:02x}{d:02x}")
}

/// A network card's address, which follows from the one that it is reached at.
pub(super) fn mac(address: Ipv4Addr) -> String {
    let [_, b, c, d] = address.octets();
    format!("02:00:00:{b:02x}:{c:02x}:{d:02x}")
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> DriverError {
    DriverError::Network(format!("{what}: {why}"))
}

/// Hands a program its commands; several are one process.
async fn feed(program: &str, arguments: &[&str], text: &str) -> Result<(), DriverError> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| failed(program, &error))?;
    if let Some(mut input) = child.stdin.take() {
        let written = input.write_all(text.as_bytes()).await;
        written.map_err(|error| failed(program, &error))?;
    }
    let output = child.wait_with_output().await;
    let output = output.map_err(|error| failed(program, &error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(
            program,
            &String::from_utf8_lossy(&output.stderr).trim(),
        )),
    }
}

/// Makes the bridge what it should be, and lets the kernel track connections.
pub(crate) async fn set_up() -> Result<(), DriverError> {
    let make = match exists(BRIDGE) {
        true => String::new(),
        false => format!("link add {BRIDGE} type bridge\n"),
    };
    // Each time, since whoever made it may have been killed in the middle of it. Without a card's
    // address of its own it would take that of a device, and another when that goes: a VM would
    // wake and speak to nobody.
    let (card, address) = (mac(router()), with_prefix(router()));
    let commands = format!(
        "{make}link set {BRIDGE} address {card}\naddr replace {address} dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    );
    feed("ip", &["-batch", "-"], &commands).await?;
    feed("nft", &["-f", "-"], TRACKING).await
}

// === impl Tap ===

impl Tap {
    /// The device of a VM that has this address already.
    pub(super) fn new(address: Ipv4Addr) -> Self {
        let [_, _, c, d] = address.octets();
        Self::at(BRIDGED.former([c, d]))
    }

    fn at(held: HeldAddress) -> Self {
        let address = address(held.low());
        Self {
            address,
            name: device(address),
            traffic: Arc::default(),
            _held: held,
        }
    }

    /// One at a random address that neither we (`used`) nor another control plane uses.
    pub(super) fn free(used: impl Fn(Ipv4Addr) -> bool) -> Option<Self> {
        let held = BRIDGED.free(|low| {
            let new = address(low);
            low != ROUTER && !used(new) && !exists(&device(new))
        });
        Some(Self::at(held?))
    }

    /// Makes the device; one that a broken VM has left is as good.
    pub(super) async fn prepare(&self) -> Result<(), DriverError> {
        let name = &self.name;
        let make = format!("tuntap add dev {name} mode tap\n");
        let make = if exists(name) { "" } else { make.as_str() };
        let commands = format!("{make}link set {name} master {BRIDGE} up\n");
        feed("ip", &["-batch", "-"], &commands).await
    }

    /// The address is gone when this returns.
    pub(super) async fn remove(&self) {
        if !exists(&self.name) {
            return;
        }
        let name = &self.name;
        if let Err(error) = feed("ip", &["-batch", "-"], &format!("link del {name}\n")).await {
            tracing::warn!(device = name, %error, "a VM's device stays");
        }
    }

    /// The device's own counters; what it sends, the VM receives.
    pub(super) fn traffic(&self) -> Arc<Traffic> {
        let counter = |name: &str| {
            let path = format!("/sys/class/net/{}/statistics/{name}", self.name);
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse().ok()
        };
        if let (Some(received), Some(sent)) = (counter("tx_bytes"), counter("rx_bytes")) {
            self.traffic.replace(received, sent);
        }
        Arc::clone(&self.traffic)
    }
}

fn exists(device: &str) -> bool {
    Path::new("/sys/class/net").join(device).exists()
}
