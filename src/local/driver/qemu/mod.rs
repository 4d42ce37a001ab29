//! Instances as virtual machines of QEMU.
//!
//! Guarantees: a sleeping instance is files, and no process; it needs no privilege; an instance
//! outlives the control plane, asleep or awake, and is found again by its folder.

mod accelerator;
mod agent;
mod command;
mod files;
mod qmp;
mod socket;
mod vm;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub use command::Accelerator;
use command::{Beginning, Shape};
use files::Files;
pub(in crate::local) use qmp::QmpError;
use vm::{Process, Vm};

use super::address::{Address, Traffic};
use super::procfs::ProcessStat;
use super::{Boot, Driver, DriverError, Handle, Happening, Usage};
use crate::local::guest::{Order, Program};
use crate::local::image::Image;
use crate::local::instance::State;

type Ports = BTreeSet<u16>;

/// How VMs are run.
#[derive(Debug, Clone)]
pub(in crate::local) struct Config {
    pub(in crate::local) qemu: PathBuf,
    pub(in crate::local) image: Image,
    pub(in crate::local) accelerator: Accelerator,
    /// Whether VMs may reach out.
    pub(in crate::local) egress: bool,
    /// This program, for its `session` subcommand.
    pub(in crate::local) launcher: PathBuf,
    /// Where instances have their folders.
    pub(in crate::local) instances: PathBuf,
}

pub(in crate::local) use accelerator::detect;

/// Runs instances as VMs.
#[derive(Debug)]
pub(in crate::local) struct QemuDriver {
    vms: DashMap<String, Arc<Vm>>,
    happenings: mpsc::Sender<Happening>,
    tasks: TaskTracker,
    config: Config,
}

// === impl QemuDriver ===

impl QemuDriver {
    pub(in crate::local) fn new(
        happenings: mpsc::Sender<Happening>,
        tasks: TaskTracker,
        config: Config,
    ) -> Self {
        Self {
            vms: DashMap::new(),
            happenings,
            tasks,
            config,
        }
    }

    fn find(&self, id: &str) -> Option<Arc<Vm>> {
        self.vms.get(id).map(|vm| Arc::clone(vm.value()))
    }

    fn files(&self, id: &str) -> Files {
        Files::new(self.config.instances.join(id).join("vm"))
    }

    fn free_address(&self, port: u16) -> Result<Arc<Address>, DriverError> {
        let used = |candidate| {
            self.vms.iter().any(|vm| {
                let address = vm.address.as_ref();
                address.is_some_and(|address| address.public == candidate)
            })
        };
        Address::free(port, used)
            .map(Arc::new)
            .ok_or(DriverError::NoAddress)
    }

    async fn boot(&self, boot: &Boot) -> Result<Handle, DriverError> {
        let address = match boot.network_enabled {
            true => Some(self.free_address(boot.port)?),
            false => None,
        };
        let files = self.files(&boot.id);
        files.begin().map_err(DriverError::Files)?;
        let shape = Shape {
            memory_bytes: boot.memory_bytes.next_multiple_of(2 << 20),
            vcpus: boot.vcpus,
            accelerator: self.config.accelerator,
            address: address.as_ref().map(|address| address.private),
            port: boot.port,
            egress: self.config.egress,
        };
        let vm = Arc::new(Vm::new(files, shape, address, Ports::new()));
        vm.remember().map_err(DriverError::Files)?;
        let beginning = Beginning::Boot(&self.config.image);
        let process = vm.spawn(&self.config, &beginning).await?;
        let mut words = boot.arguments.clone();
        if !boot.is_hello {
            words.insert(0, boot.program.display().to_string());
        }
        let mut environment = boot.environment.clone();
        environment.push(("PORT".to_owned(), boot.port.to_string()));
        process.agent.order(Order::Run(Program {
            words,
            is_hello: boot.is_hello,
            environment,
        }));
        vm.set_process(Some(Arc::clone(&process)));
        if let Some(address) = &vm.address {
            address.open();
        }
        let handle = handle(&vm, &process);
        self.watch(&boot.id, &vm, process);
        self.vms.insert(boot.id.clone(), vm);
        Ok(handle)
    }

    /// Follows what the VM's agent says until the VM's end.
    fn watch(&self, id: &str, vm: &Arc<Vm>, process: Arc<Process>) {
        let (happenings, vm, id) = (self.happenings.clone(), Arc::clone(vm), id.to_owned());
        self.tasks.spawn(async move {
            let mut status = process.agent.status();
            let mut started = false;
            // Ends with the line, when everything was heard.
            while status.changed().await.is_ok() {
                let now = status.borrow_and_update().clone();
                if now.started && !started {
                    started = true;
                    let _unheard = happenings.send(Happening::Started(id.clone())).await;
                }
                vm.follow_ports(&process, &now).await;
            }
            process.ended.cancelled().await;
            if process.expected.load(Ordering::Acquire) {
                return;
            }
            if let Some(address) = &vm.address {
                address.close().await;
            }
            vm.set_process(None);
            let exit = vm::exit(id, &status.borrow());
            let _unheard = happenings.send(Happening::Ended(exit)).await;
        });
    }

    async fn end(&self, id: &str, grace: Duration) {
        let Some((_, vm)) = self.vms.remove(id) else {
            return;
        };
        if let Some(address) = &vm.address {
            address.close().await;
        }
        if let Some(process) = vm.process() {
            process.expected.store(true, Ordering::Release);
            process.agent.order(Order::Stop);
            // The VM ends when its program has.
            let _late = tokio::time::timeout(grace, process.ended.cancelled()).await;
            vm.end(&process).await;
        }
        if let Err(error) = vm.files.remove() {
            tracing::warn!(instance = id, %error, "cannot remove a VM's files");
        }
    }

    async fn wake(&self, id: &str) -> Result<(), DriverError> {
        let vm = self.find(id).ok_or(DriverError::Gone)?;
        let process = vm.wake(&self.config).await?;
        self.watch(id, &vm, process);
        Ok(())
    }

    /// A sleeping VM whose files are there.
    fn sleeper(&self, id: &str, handle_port: u16) -> Option<(Arc<Vm>, Handle)> {
        let files = self.files(id);
        let about = files.about().filter(|_| files.is_asleep())?;
        let address = about.shape.address.map(|private| {
            let [_, _, x, y] = private.octets();
            Arc::new(Address::new([x, y], handle_port))
        });
        let vm = Arc::new(Vm::new(files, about.shape, address, about.ports));
        let handle = Handle::of_files(vm.address.as_ref().map(|a| a.public), handle_port);
        Some((vm, handle))
    }

    async fn take_over(&self, id: &str, handle: &Handle) -> Option<State> {
        let files = self.files(id);
        let running = files.process();
        if files.is_asleep() {
            // Whatever process there is was about to end, or had not begun.
            if let Some(pid) = running {
                end_by_force(&files, pid).await;
            }
            let (vm, _) = self.sleeper(id, handle.port)?;
            self.vms.insert(id.to_owned(), vm);
            return Some(State::Standby);
        }
        let (pid, about) = (running?, files.about()?);
        let address = about.shape.address.map(|private| {
            let [_, _, x, y] = private.octets();
            Arc::new(Address::new([x, y], handle.port))
        });
        let vm = Arc::new(Vm::new(files, about.shape, address, about.ports));
        let process = vm.find(pid).await.ok()?;
        // In the middle of falling asleep: as soon as its state is written, it can go on; what was
        // written is then old, and goes.
        if process.qmp.status().await.ok()? != "running" {
            if process.qmp.migration().await.is_ok_and(|how| how == "active") {
                let _failed = vm.saved(&process.qmp).await;
            }
            process.qmp.execute("cont", json!(null)).await.ok()?;
        }
        process.agent.order(Order::Tell);
        vm.set_process(Some(Arc::clone(&process)));
        if let Some(address) = &vm.address {
            address.open();
        }
        self.watch(id, &vm, process);
        self.vms.insert(id.to_owned(), vm);
        Some(State::Running)
    }

    /// Copies a sleeping VM's files.
    async fn copy(&self, from: Files, to: Files) -> Result<(), DriverError> {
        let copied = tokio::task::spawn_blocking(move || from.copy_to(&to)).await;
        let copied = copied.map_err(|_| DriverError::Gone)?;
        copied.map_err(DriverError::Files)
    }

    /// An instance whose VM's files were put where they belong gets an address of its own.
    async fn settle(&self, id: &str, from: &Path, port: u16) -> Result<Handle, DriverError> {
        let (kept, files) = (Files::new(from.to_owned()), self.files(id));
        self.copy(kept, files.clone()).await?;
        let mut about = files.about().ok_or(DriverError::Gone)?;
        if about.shape.address.is_some() {
            let address = self.free_address(port)?;
            about.shape.address = Some(address.private);
        }
        files.write_about(&about).map_err(DriverError::Files)?;
        let (vm, handle) = self.sleeper(id, port).ok_or(DriverError::Gone)?;
        self.vms.insert(id.to_owned(), vm);
        Ok(handle)
    }
}

fn handle(vm: &Vm, process: &Process) -> Handle {
    let mut handle = Handle::of_files(vm.address.as_ref().map(|a| a.public), vm.shape.port);
    handle.pid = process.pid.as_raw_nonzero().get();
    handle
}

async fn end_by_force(files: &Files, pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have ended by itself.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    while files.process().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn starts_later(&self) -> bool {
        true
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn start<'a>(&'a self, boot: &'a Boot) -> BoxFuture<'a, Result<Handle, DriverError>> {
        self.boot(boot).boxed()
    }

    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, ()> {
        self.end(id, grace).boxed()
    }

    fn standby<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>> {
        async move { self.find(id).ok_or(DriverError::Gone)?.fall_asleep().await }.boxed()
    }

    fn restore<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>> {
        self.wake(id).boxed()
    }

    fn adopt<'a>(&'a self, id: &'a str, handle: &'a Handle) -> BoxFuture<'a, Option<State>> {
        self.take_over(id, handle).boxed()
    }

    fn keep<'a>(&'a self, id: &'a str, into: &'a Path) -> BoxFuture<'a, Result<(), DriverError>> {
        self.copy(self.files(id), Files::new(into.to_owned()))
            .boxed()
    }

    fn take<'a>(
        &'a self,
        id: &'a str,
        from: &'a Path,
        port: u16,
    ) -> BoxFuture<'a, Result<Handle, DriverError>> {
        self.settle(id, from, port).boxed()
    }

    fn usage(&self, id: &str) -> Usage {
        let process = self.find(id).and_then(|vm| vm.process());
        let stat = process.and_then(|p| ProcessStat::read(p.pid.as_raw_nonzero().get()));
        stat.map(|stat| stat.usage()).unwrap_or_default()
    }

    fn traffic(&self, id: &str) -> Option<Arc<Traffic>> {
        let vm = self.find(id)?;
        vm.address
            .as_ref()
            .map(|address| Arc::clone(&address.traffic))
    }
}
