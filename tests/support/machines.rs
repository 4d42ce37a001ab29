//! Machines on a network of a test's own: each is a Linux network namespace, and all are joined by a switch.
//!
//! Guarantees: nothing of the network reaches another one; all of it goes with its owner, also when the
//! test fails, and what a killed test has left goes when the next one begins; where namespaces cannot be
//! had, that is said, and a machine is the loopback of this one.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;

use super::reserved::Reserved;
use super::skips::{Lacking, skip};

/// Each namespace is called this, the test's process, and what it is.
const PREFIX: &str = "wakegate-test";
/// In a machine's namespace, its link to the switch.
const LINK: &str = "eth0";
/// Nobody's.
const NOBODY: &str = "02:00:00:00:00:01";

/// A network; its machines are at one switch.
pub struct Network {
    /// The first three bytes of its addresses are 198, 18 (RFC 2544) and this.
    subnet: u8,
    switch: String,
    machines: Vec<Arc<Machine>>,
}

/// A machine, or this one where there are no namespaces.
pub struct Machine {
    pub ip: Ipv4Addr,
    /// Its namespace, and its port at the switch.
    namespace: Option<(String, String)>,
    runtime: Option<Runtime>,
}

fn ip(words: &str) -> Result<String, String> {
    let output = Command::new("ip").args(words.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("ip {words}: {}", said.trim()))
        }
    }
}

/// Takes away a namespace and whatever still runs in it.
fn remove(namespace: &str) {
    let pids = ip(&format!("netns pids {namespace}")).unwrap_or_default();
    for pid in pids.split_whitespace() {
        // A thread of this process, or a test's that was killed.
        if pid != std::process::id().to_string() {
            let _gone = Command::new("kill").args(["-KILL", pid]).output();
        }
    }
    let _gone = ip(&format!("netns del {namespace}"));
}

/// Takes away what tests' processes that are no more have left.
fn remove_leftovers() {
    let listed = ip("netns list").unwrap_or_default();
    for line in listed.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(name);
        }
    }
}

// === impl Network ===

impl Network {
    /// None, with a word, where this machine has none to give.
    pub fn new() -> Option<Self> {
        let pid = std::process::id();
        remove_leftovers();
        let switch = format!("{PREFIX}-{pid}-switch");
        let taken = ip("-4 addr show").unwrap_or_default();
        let subnet = (0..=u8::MAX).map(|step| step.wrapping_add(pid.to_le_bytes()[0]));
        let subnet = subnet
            .into_iter()
            .find(|subnet| !taken.contains(&format!(" 198.18.{subnet}.")))?;
        let network = Self {
            subnet,
            switch,
            machines: Vec::new(),
        };
        match network.build() {
            Ok(()) => Some(network),
            Err(error) => {
                skip(
                    Lacking::Machine,
                    &format!("no network namespaces ({error}): everything is on loopback"),
                );
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let Self { subnet, switch, .. } = self;
        let own = format!("wgt{}", std::process::id());
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        ip(&format!(
            "link add {own} type veth peer name test netns {switch}"
        ))?;
        ip(&format!("-n {switch} link set test master br0 up"))?;
        ip(&format!("addr add 198.18.{subnet}.1/24 dev {own}"))?;
        ip(&format!("link set {own} up"))?;
        Ok(())
    }

    /// Another machine.
    pub fn machine(&mut self, name: &str) -> Arc<Machine> {
        let Self { subnet, switch, .. } = self;
        let (number, pid) = (self.machines.len() + 2, std::process::id());
        let (namespace, port) = (format!("{PREFIX}-{pid}-{name}"), format!("p{number}"));
        let address = Ipv4Addr::new(198, 18, *subnet, u8::try_from(number).unwrap());
        let steps = [
            format!("netns add {namespace}"),
            format!("-n {namespace} link set lo up"),
            format!("link add {LINK} netns {namespace} type veth peer name {port} netns {switch}"),
            format!("-n {switch} link set {port} master br0 up"),
            format!("-n {namespace} addr add {address}/24 dev {LINK}"),
            format!("-n {namespace} link set {LINK} up"),
        ];
        for step in steps {
            ip(&step).unwrap();
        }
        let file = File::open(Path::new("/run/netns").join(&namespace)).unwrap();
        // Also those for what blocks.
        let enter = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(enter)
            .build();
        let machine = Arc::new(Machine {
            ip: address,
            namespace: Some((namespace, port)),
            runtime: Some(runtime.unwrap()),
        });
        self.machines.push(Arc::clone(&machine));
        machine
    }

    /// Nothing goes from one of the two to the other any more, or it does again. Nobody is told: it is as
    /// where a network drops packets.
    pub fn cut(one: &Machine, other: &Machine, is_cut: bool) {
        for (from, to) in [(one, other), (other, one)] {
            let (namespace, to) = (from.name(), to.ip);
            let step = match is_cut {
                true => format!(
                    "-n {namespace} neigh replace {to} lladdr {NOBODY} nud permanent dev {LINK}"
                ),
                false => format!("-n {namespace} neigh del {to} dev {LINK}"),
            };
            ip(&step).unwrap();
        }
    }

    /// Takes a machine off the network, or puts it back.
    pub fn unplug(&self, machine: &Machine, is_off: bool) {
        let (_, port) = machine.namespace.as_ref().unwrap();
        let way = if is_off { "down" } else { "up" };
        ip(&format!("-n {} link set {port} {way}", self.switch)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in &self.machines {
            remove(machine.name());
        }
        // Its end of our own link goes with it, and so does ours.
        remove(&self.switch);
    }
}

// === impl Machine ===

impl Machine {
    /// The loopback of this machine.
    pub fn here() -> Arc<Self> {
        Arc::new(Self {
            ip: Ipv4Addr::LOCALHOST,
            namespace: None,
            runtime: None,
        })
    }

    fn name(&self) -> &str {
        &self.namespace.as_ref().unwrap().0
    }

    /// A program that is to run there, by the id that it is started with.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some((namespace, _)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }

    /// An address there; on a machine of its own, with this port.
    pub fn reserve(&self, port: u16) -> Reserved {
        match &self.namespace {
            None => Reserved::new(),
            Some(_) => Reserved::known((IpAddr::from(self.ip), port).into()),
        }
    }

    /// Does something there: what is connected and started meanwhile is there, too.
    pub async fn run<F, W>(&self, what: W) -> F::Output
    where
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output: Send + 'static>,
    {
        let doing = move || Handle::current().block_on(what());
        let done = match &self.runtime {
            None => spawn_blocking(doing),
            Some(runtime) => runtime.spawn_blocking(doing),
        };
        done.await.unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where nobody may wait.
            runtime.shutdown_background();
        }
    }
}
