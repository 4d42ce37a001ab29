//! The driver whose instances are virtual machines of QEMU.
//!
//! Guarantees: a sleeping instance is files, and no process; it needs no privilege; an instance
//! outlives the control plane, asleep or awake, and is found again by its folder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::bridge::{self, Tap};
use super::command::{Accelerator, BootSource, Shape, VmNetwork};
use super::config::QemuConfig;
use super::files::{Ports, VmFiles, VmRecord};
use super::network::{self, VmAddress};
use super::pool::Pool;
use super::process::{QemuProcess, kill_in};
use super::tsc;
use super::vm::{self, Vm};
use crate::clock::Clock;
use crate::driver::address_proxy::AddressProxy;
use crate::driver::connections::ConnectionTable;
use crate::driver::contract::{Boot, CommandEnd, Commit, DriverEvent, Handle, Started, Usage};
use crate::driver::error::DriverError;
use crate::driver::procfs::ProcessStat;
use crate::driver::traffic::Traffic;
use crate::faults::FaultBox;
use crate::guest::{Answer, Order, Program, Question};
use crate::path_info::PathInfo;

/// The silence after which a VM is asked how it is.
const ASK_LATER: Duration = Duration::from_secs(1);
/// The silence after which a VM counts as one that has not come up.
const SILENT: Duration = Duration::from_secs(60);
/// The time that an agent may take to look at a path, and more than a command was given.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// An address of the user network that no VM has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 99);

/// Runs instances as VMs.
#[derive(Debug)]
pub(crate) struct QemuDriver {
    pub(super) vms: DashMap<String, Arc<Vm>>,
    /// The processes of VMs that do not answer.
    pub(super) unsure: DashMap<String, i32>,
    pub(super) clock: Clock,
    events: mpsc::Sender<DriverEvent>,
    pub(super) tasks: TaskTracker,
    faults: FaultBox,
    pub(super) config: QemuConfig,
    pub(super) pool: Arc<Pool>,
    /// The rate of the processor's counter, in kHz.
    tsc_khz: Option<u64>,
}

// === impl QemuDriver ===

impl QemuDriver {
    pub(crate) async fn new(
        clock: Clock,
        events: mpsc::Sender<DriverEvent>,
        tasks: TaskTracker,
        faults: FaultBox,
        config: QemuConfig,
    ) -> Self {
        let folder = config.instances.with_file_name("pool");
        let pool = Pool::new(config.prestart, folder, tasks.clone());
        let driver = Self {
            vms: DashMap::new(),
            unsure: DashMap::new(),
            clock,
            events,
            tasks,
            faults,
            pool,
            tsc_khz: tsc::measure().await,
            config,
        };
        let instances = std::fs::read_dir(&driver.config.instances);
        let entries = instances.into_iter().flatten().flatten();
        let places: Vec<PathBuf> = entries
            .map(|entry| VmFiles::new(entry.path().join("vm")).place())
            .collect();
        driver
            .pool
            .clear(|folder| places.iter().any(|place| place == folder))
            .await;
        driver
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Vm>> {
        self.vms.get(id).map(|vm| Arc::clone(vm.value()))
    }

    pub(super) fn files(&self, id: &str) -> VmFiles {
        VmFiles::new(self.config.instances.join(id).join("vm"))
    }

    /// Chooses a free place in the network.
    fn place(&self, port: u16) -> Result<VmNetwork, DriverError> {
        let used = |candidate| {
            self.vms.iter().any(|vm| {
                let address = vm.address.as_ref();
                address.is_some_and(|address| address.public() == candidate)
            })
        };
        if self.config.bridged {
            let address = Tap::free(used).ok_or(DriverError::NoAddress(port))?.address;
            return Ok(VmNetwork::Tap { address });
        }
        let address =
            AddressProxy::free(&self.clock, port, used).ok_or(DriverError::NoAddress(port))?;
        Ok(VmNetwork::User {
            address: address.private,
            egress: self.config.egress,
            elsewhere: None,
        })
    }

    /// The VM that a record describes.
    pub(super) fn vm(&self, files: VmFiles, record: VmRecord) -> Arc<Vm> {
        let address = match &record.shape.network {
            VmNetwork::None => None,
            VmNetwork::User { address, .. } => {
                let [_, _, x, y] = address.octets();
                Some(VmAddress::User(Arc::new(AddressProxy::new(
                    self.clock.clone(),
                    [x, y],
                    record.shape.port,
                ))))
            }
            VmNetwork::Tap { address } => Some(VmAddress::Tap(Arc::new(Tap::new(*address)))),
        };
        let tasks = self.tasks.clone();
        Arc::new(Vm::new(files, record, address, tasks))
    }

    pub(in crate::driver) async fn start(
        &self,
        boot: &Boot,
        commit: Commit<'_>,
    ) -> Result<Started, DriverError> {
        let network = match boot.network_enabled {
            true => self.place(boot.port)?,
            false => VmNetwork::None,
        };
        let files = self.files(&boot.id);
        files.begin().map_err(DriverError::Files)?;
        let shape = Shape {
            memory_bytes: boot.memory_bytes.next_multiple_of(2 << 20),
            vcpus: boot.vcpus,
            accelerator: self.config.accelerator,
            network,
            port: boot.port,
        };
        let record = VmRecord {
            shape,
            ports: Ports::new(),
            moved: false,
            boot_id: String::new(),
        };
        let vm = self.vm(files, record);
        let begun = self.begin(&vm, commit).await;
        let process = match begun {
            Ok(process) => process,
            Err(error) => {
                if let Err(error) = vm.forget().await {
                    tracing::warn!(instance = boot.id, %error, "cannot remove a VM's files");
                }
                return Err(error);
            }
        };
        give_orders(&process, &vm, boot);
        vm.set_process(Some(Arc::clone(&process)));
        if let Some(address) = &vm.address {
            address.open();
        }
        self.watch(&boot.id, &vm, process, true);
        self.vms.insert(boot.id.clone(), vm);
        let remarks = Vec::new();
        Ok(Started { remarks })
    }

    /// Starts the QEMU of a VM that is to boot.
    async fn begin(&self, vm: &Vm, commit: Commit<'_>) -> Result<Arc<QemuProcess>, DriverError> {
        let (files, bytes) = (vm.files.clone(), vm.shape.memory_bytes);
        vm::blocking(&self.tasks, move || files.reserve(bytes)).await?;
        vm.remember().map_err(DriverError::Files)?;
        let source = BootSource::Boot {
            image: &self.config.image,
            tsc_khz: self.tsc_khz,
        };
        vm.spawn(&self.config, &source, &|pid| commit(&handle(vm, pid)))
            .await
    }

    pub(in crate::driver) fn order(&self, boot: &Boot) {
        let Some(vm) = self.find(&boot.id) else {
            return;
        };
        if let Some(process) = vm.process() {
            give_orders(&process, &vm, boot);
        }
    }

    /// Follows what the VM's agent says until the VM's end. `boots`: it has yet to come up.
    pub(super) fn watch(&self, id: &str, vm: &Arc<Vm>, process: Arc<QemuProcess>, boots: bool) {
        let (events, vm, id) = (self.events.clone(), Arc::clone(vm), id.to_owned());
        self.tasks.spawn(async move {
            let mut status = process.agent.status();
            let mut started = false;
            let patience = if boots { SILENT } else { ASK_LATER };
            let silent = tokio::time::timeout(patience, status.changed())
                .await
                .is_err();
            if !silent {
                // Its first status is yet to be looked at, below. Without one nothing is known, in
                // particular not that its ports are closed.
                status.mark_changed();
            }
            if silent && boots {
                tracing::warn!(instance = id, "its VM has not come up");
                process.end_by_itself().await;
            } else if silent {
                // Not at once, which would delay a woken VM's first answer.
                process.agent.order(Order::Tell);
            }
            // Ends with the line, when everything was heard.
            while status.changed().await.is_ok() {
                let now = status.borrow_and_update().clone();
                if now.started && !started {
                    started = true;
                    let _unheard = events.send(DriverEvent::Started(id.clone())).await;
                }
                vm.follow_ports(&process, &now).await;
            }
            process.ended.cancelled().await;
            // A program that says how it ended has ended, whatever else was going on.
            let has_said = status.borrow().exit.is_some();
            let is_ours = process.expected.load(Ordering::Acquire) && !has_said;
            if is_ours || !process.tell_end() {
                return;
            }
            vm.gone(&process).await;
            let exit = vm::exit(id, &status.borrow());
            let _unheard = events.send(DriverEvent::Ended(exit)).await;
        });
    }

    pub(in crate::driver) async fn stop(&self, id: &str, grace: Duration) {
        self.unsure.remove(id);
        let vm = match self.vms.remove(id) {
            Some((_, vm)) => vm,
            None => {
                let files = self.files(id);
                kill_in(&files.place()).await;
                files.leave_place();
                let Some(record) = files.record() else {
                    if let Err(error) = files.remove() {
                        tracing::warn!(instance = id, %error, "cannot remove a VM's files");
                    }
                    return;
                };
                self.vm(files, record)
            }
        };
        if let Some(address) = &vm.address {
            address.close().await;
        }
        if let Some(process) = vm.process() {
            process.expected.store(true, Ordering::Release);
            // Nobody waits to hear that.
            process.tell_end();
            process.agent.order(Order::Stop);
            // The VM ends when its program has.
            let _late = tokio::time::timeout(grace, process.ended.cancelled()).await;
            vm.end(&process).await;
        } else if let Some(address) = &vm.address {
            address.leave().await;
        }
        if let Err(error) = vm.forget().await {
            tracing::warn!(instance = id, %error, "cannot remove a VM's files");
        }
    }

    pub(in crate::driver) async fn restore(&self, id: &str) -> Result<(), DriverError> {
        let vm = self.find(id).ok_or(DriverError::Gone)?;
        let woken = vm.wake(&self.config, &self.pool, &self.clock).await;
        if woken.is_err() {
            // It may sleep again, or still.
            vm.keep();
        }
        let process = woken?;
        self.watch(id, &vm, process, false);
        self.pool.fill(&self.config, &vm.shape);
        Ok(())
    }

    /// Puts the VM that sleeps in these files among those of this driver.
    pub(super) fn sleeper(&self, id: &str, files: VmFiles) -> Result<(), DriverError> {
        let record = files.record().filter(|_| files.is_asleep());
        let record = record.ok_or(DriverError::NotLoaded)?;
        // A kill may have left the note that it falls asleep, which says nothing any more.
        if let Err(error) = files.clear_suspend() {
            let folder = files.folder().display();
            tracing::warn!(%folder, %error, "a VM's files say that it falls asleep");
        }
        let vm = self.vm(files, record);
        vm.keep();
        self.pool.fill(&self.config, &vm.shape);
        self.vms.insert(id.to_owned(), vm);
        Ok(())
    }

    pub(in crate::driver) fn is_alive(&self, id: &str) -> bool {
        let process = self.find(id).and_then(|vm| vm.process());
        process.is_some_and(|process| !process.ended.is_cancelled())
    }

    pub(in crate::driver) async fn copy(
        &self,
        memory: &Path,
        into: &Path,
    ) -> Result<(), DriverError> {
        let (from, into) = (
            VmFiles::new(memory.to_owned()),
            VmFiles::new(into.to_owned()),
        );
        vm::on_disk(&self.tasks, move || from.copy_to(&into)).await
    }

    pub(in crate::driver) fn prepare(
        &self,
        memory: &Path,
        former: Option<&Handle>,
        port: u16,
    ) -> Result<Handle, DriverError> {
        let files = VmFiles::new(memory.to_owned());
        let mut record = files.record().ok_or(DriverError::NotLoaded)?;
        let former = former.and_then(|handle| handle.address);
        let before = record.shape.network.clone();
        let new = match (&before, former) {
            (VmNetwork::None, _) => None,
            (_, None) => Some(self.place(port)?),
            (_, Some(address)) if self.config.bridged => Some(VmNetwork::Tap { address }),
            (before, Some(address)) => {
                let [_, _, x, y] = address.octets();
                Some(VmNetwork::User {
                    address: AddressProxy::new(self.clock.clone(), [x, y], port).private,
                    egress: self.config.egress,
                    // Its memory is what it was.
                    elsewhere: match before {
                        VmNetwork::User { elsewhere, .. } => *elsewhere,
                        VmNetwork::None | VmNetwork::Tap { .. } => None,
                    },
                })
            }
        };
        if let Some(mut new) = new {
            let stale = former.is_none() && self.faults.keeps_address();
            record.moved |= network::is_another_inside(&before, &new);
            match &mut new {
                // Inside, the user network looks the same for all.
                VmNetwork::User { elsewhere, .. } if stale => *elsewhere = Some(NOBODY),
                VmNetwork::Tap { .. } if stale => record.moved = false,
                VmNetwork::User { .. } | VmNetwork::Tap { .. } | VmNetwork::None => {}
            }
            record.shape.network = new;
        }
        files
            .write_record(record.clone())
            .map_err(DriverError::Files)?;
        Ok(handle(&self.vm(files, record), 0))
    }

    pub(in crate::driver) async fn release(&self, id: &str) {
        if let Some((_, vm)) = self.vms.remove(id) {
            vm.release().await;
        }
    }

    pub(in crate::driver) fn put_asleep(&self, id: &str) -> Result<(), DriverError> {
        self.sleeper(id, self.files(id))
    }

    async fn ask(
        &self,
        id: &str,
        question: Question,
        patience: Duration,
    ) -> Result<Answer, DriverError> {
        let process = self.find(id).and_then(|vm| vm.process());
        let answer = process
            .ok_or(DriverError::Gone)?
            .agent
            .ask(question, patience)
            .await;
        answer.ok_or(DriverError::NoAnswer)
    }

    pub(in crate::driver) async fn standby(&self, id: &str) -> Result<(), DriverError> {
        let vm = self.find(id).ok_or(DriverError::Gone)?;
        let suspended = vm.suspend().await;
        // One that has broken may sleep as it did before.
        vm.keep();
        suspended?;
        self.pool.fill(&self.config, &vm.shape);
        Ok(())
    }

    pub(in crate::driver) async fn end(&self) {
        self.pool.end().await;
        let vms: Vec<Arc<Vm>> = self.vms.iter().map(|vm| Arc::clone(vm.value())).collect();
        for vm in vms {
            vm.sync_now().await;
        }
    }

    pub(in crate::driver) async fn export(&self, id: &str, into: &Path) -> Result<(), DriverError> {
        let vm = self.find(id).ok_or(DriverError::Gone)?;
        let copied = vm.copy_to(VmFiles::new(into.to_owned())).await;
        if copied.is_err() {
            // One that has broken may sleep as it did before.
            vm.keep();
        }
        copied
    }

    pub(in crate::driver) async fn look(
        &self,
        id: &str,
        path: &str,
        follow: bool,
    ) -> Result<PathInfo, DriverError> {
        let path = path.to_owned();
        let question = Question::Path { path, follow };
        match self.ask(id, question, ANSWER).await? {
            Answer::Path(info) => Ok(info),
            Answer::Command { .. } => Err(DriverError::NoAnswer),
        }
    }

    pub(in crate::driver) async fn run(
        &self,
        id: &str,
        words: &[String],
        folder: Option<&str>,
        patience: Duration,
    ) -> Result<CommandEnd, DriverError> {
        let question = Question::Command {
            words: words.to_vec(),
            folder: folder.map(str::to_owned),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        match self.ask(id, question, patience + ANSWER).await? {
            Answer::Command { code, output } => Ok(CommandEnd { code, output }),
            Answer::Path(_) => Err(DriverError::NoAnswer),
        }
    }

    pub(in crate::driver) fn features(&self) -> Vec<&'static str> {
        let accelerator = match self.config.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        };
        let limits = ["memory_limit", "cpu_limit"];
        let policies = ["auto_standby", "health_check", "restart_policy"];
        [
            ["standby", "snapshot", "fork", accelerator].as_slice(),
            &policies,
            &limits,
        ]
        .concat()
    }

    pub(in crate::driver) fn usage(&self, id: &str) -> Usage {
        let process = self.find(id).and_then(|vm| vm.process());
        let stat = process.and_then(|p| ProcessStat::read(p.pid.as_raw_nonzero().get()));
        stat.map(|stat| stat.usage()).unwrap_or_default()
    }

    pub(in crate::driver) fn traffic(&self, id: &str) -> Option<Arc<Traffic>> {
        self.find(id)?.address.as_ref().map(VmAddress::traffic)
    }

    pub(in crate::driver) fn connections(&self) -> std::io::Result<ConnectionTable> {
        match self.config.bridged {
            true => ConnectionTable::read_tracked(),
            false => Ok(ConnectionTable::default()),
        }
    }

    pub(in crate::driver) fn network(&self) -> (&'static str, Option<String>, &'static str) {
        match self.config.bridged {
            true => (
                "bridge",
                Some(bridge::router().to_string()),
                "10.177.0.0/16",
            ),
            false => ("nat", None, "127.77.0.0/16"),
        }
    }
}

fn handle(vm: &Vm, pid: i32) -> Handle {
    let public = vm.address.as_ref().map(VmAddress::public);
    let mut handle = Handle::of_files(public, vm.shape.port);
    handle.pid = pid;
    handle
}

/// Tells a VM's agent what its network and its program are; the first program that it hears of
/// counts.
fn give_orders(process: &QemuProcess, vm: &Vm, boot: &Boot) {
    let mut words = boot.arguments.clone();
    if !boot.is_hello {
        words.insert(0, boot.program.display().to_string());
    }
    let mut environment = boot.environment.clone();
    environment.push(("PORT".to_owned(), boot.port.to_string()));
    if let Some(network) = network::inside(&vm.shape.network) {
        process.agent.order(Order::Network(network));
    }
    process.agent.order(Order::Run(Program {
        words,
        is_hello: boot.is_hello,
        environment,
    }));
}
