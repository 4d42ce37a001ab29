//! The driver whose instances are virtual machines of QEMU.
//!
//! Guarantees: a sleeping instance is files, and no process; it needs no privilege; an instance
//! outlives the control plane, asleep or awake, and is found again by its folder.

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
use super::process::{QemuProcess, alive_in, kill_in};
use super::tsc;
use super::vm::{self, Vm};
use crate::clock::Clock;
use crate::driver::address_proxy::AddressProxy;
use crate::driver::connections::ConnectionTable;
use crate::driver::contract::{Boot, CommandEnd, DriverEvent, Handle, Started, Usage};
use crate::driver::error::DriverError;
use crate::driver::procfs::ProcessStat;
use crate::driver::traffic::Traffic;
use crate::guest::{Answer, Order, Program, Question};
use crate::path_info::PathInfo;
use crate::state::State;

/// The silence after which a VM is asked how it is.
const ASK_LATER: Duration = Duration::from_secs(1);
/// The silence after which a VM counts as one that has not come up.
const SILENT: Duration = Duration::from_secs(60);
/// The time that an agent may take to look at a path, and more than a command was given.
const ANSWER: Duration = Duration::from_secs(5);

/// Runs instances as VMs.
#[derive(Debug)]
pub(crate) struct QemuDriver {
    vms: DashMap<String, Arc<Vm>>,
    clock: Clock,
    events: mpsc::Sender<DriverEvent>,
    tasks: TaskTracker,
    config: QemuConfig,
    pool: Arc<Pool>,
    /// The rate of the processor's counter, in kHz.
    tsc_khz: Option<u64>,
}

// === impl QemuDriver ===

impl QemuDriver {
    pub(crate) async fn new(
        clock: Clock,
        events: mpsc::Sender<DriverEvent>,
        tasks: TaskTracker,
        config: QemuConfig,
    ) -> Self {
        let folder = config.instances.join("..").join("pool");
        let pool = Pool::new(config.prestart, folder, tasks.clone());
        let driver = Self {
            vms: DashMap::new(),
            clock,
            events,
            tasks,
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

    fn find(&self, id: &str) -> Option<Arc<Vm>> {
        self.vms.get(id).map(|vm| Arc::clone(vm.value()))
    }

    fn files(&self, id: &str) -> VmFiles {
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
        })
    }

    /// The VM that a record describes.
    fn vm(&self, files: VmFiles, record: VmRecord) -> Arc<Vm> {
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

    pub(in crate::driver) async fn start(&self, boot: &Boot) -> Result<Started, DriverError> {
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
        };
        let vm = self.vm(files, record);
        vm.remember().map_err(DriverError::Files)?;
        let source = BootSource::Boot {
            image: &self.config.image,
            tsc_khz: self.tsc_khz,
        };
        let process = vm.spawn(&self.config, &source).await?;
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
        vm.set_process(Some(Arc::clone(&process)));
        if let Some(address) = &vm.address {
            address.open();
        }
        let handle = handle(&vm, Some(&process));
        self.watch(&boot.id, &vm, process, true);
        self.vms.insert(boot.id.clone(), vm);
        let remarks = Vec::new();
        Ok(Started { handle, remarks })
    }

    /// Follows what the VM's agent says until the VM's end. `boots`: it has yet to come up.
    fn watch(&self, id: &str, vm: &Arc<Vm>, process: Arc<QemuProcess>, boots: bool) {
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
            if process.expected.load(Ordering::Acquire) {
                return;
            }
            vm.gone(&process).await;
            let exit = vm::exit(id, &status.borrow());
            let _unheard = events.send(DriverEvent::Ended(exit)).await;
        });
    }

    pub(in crate::driver) async fn stop(&self, id: &str, grace: Duration) {
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
        if let Err(error) = vm.forget().await {
            tracing::warn!(instance = id, %error, "cannot remove a VM's files");
        }
    }

    pub(in crate::driver) async fn restore(&self, id: &str) -> Result<(), DriverError> {
        let vm = self.find(id).ok_or(DriverError::Gone)?;
        let process = vm.wake(&self.config, &self.pool, &self.clock).await?;
        self.watch(id, &vm, process, false);
        self.pool.fill(&self.config, &vm.shape);
        Ok(())
    }

    /// Puts the VM that sleeps in these files among those of this driver.
    fn sleeper(&self, id: &str, files: VmFiles) -> Option<Handle> {
        let record = files.record().filter(|_| files.is_asleep())?;
        let vm = self.vm(files, record);
        let handle = handle(&vm, None);
        vm.keep_last();
        self.pool.fill(&self.config, &vm.shape);
        self.vms.insert(id.to_owned(), vm);
        Some(handle)
    }

    pub(in crate::driver) async fn adopt(&self, id: &str) -> Option<State> {
        let files = self.files(id);
        let place = files.place();
        if files.is_asleep() {
            // Whatever process there is was about to end, or had not begun.
            kill_in(&place).await;
            self.sleeper(id, files)?;
            return Some(State::Standby);
        }
        let Some(pid) = alive_in(&place) else {
            if !files.restore_last().ok()? {
                return None;
            }
            tracing::warn!(
                instance = id,
                "its VM broke while it fell asleep: it is back in the sleep before"
            );
            self.sleeper(id, files)?;
            return Some(State::Standby);
        };
        let record = files.record()?;
        let vm = self.vm(files, record);
        let process = QemuProcess::find(pid, &place, &self.tasks).await.ok()?;
        // In the middle of falling asleep: as soon as its state is written, it can go on; what was
        // written is then old, and goes.
        if process.qmp.status().await.ok()? != "running" {
            // Nobody reads it any more, so it fails.
            let _failed = process.settled().await;
            process.resume().await.ok()?;
        }
        vm.files.clear_suspend().ok()?;
        process.agent.order(Order::Tell);
        vm.set_process(Some(Arc::clone(&process)));
        if let Some(address) = &vm.address {
            address.open();
        }
        let mut status = process.agent.status();
        let first = tokio::time::timeout(ANSWER, status.changed()).await;
        let up = matches!(first, Ok(Ok(()))) && status.borrow().started;
        self.watch(id, &vm, process, false);
        self.vms.insert(id.to_owned(), vm);
        Some(if up {
            State::Running
        } else {
            State::Initializing
        })
    }

    /// Copies a VM's files to where they belong to `id`, which then sleeps with that memory.
    pub(in crate::driver) async fn import(
        &self,
        id: &str,
        from: &Path,
        former: Option<&Handle>,
        port: u16,
    ) -> Result<Handle, DriverError> {
        let (original, files) = (VmFiles::new(from.to_owned()), self.files(id));
        let target = files.clone();
        vm::blocking(&self.tasks, move || original.copy_to(&target)).await?;
        let mut record = files.record().ok_or(DriverError::NotLoaded)?;
        let former = former.and_then(|handle| handle.address);
        let new = match (&record.shape.network, former) {
            (VmNetwork::None, _) => None,
            (_, None) => Some(self.place(port)?),
            (_, Some(address)) if self.config.bridged => Some(VmNetwork::Tap { address }),
            (_, Some(address)) => {
                let [_, _, x, y] = address.octets();
                Some(VmNetwork::User {
                    address: AddressProxy::new(self.clock.clone(), [x, y], port).private,
                    egress: self.config.egress,
                })
            }
        };
        if let Some(new) = new {
            // Inside, the user network looks the same for all.
            record.moved |= matches!(new, VmNetwork::Tap { .. }) && record.shape.network != new;
            record.shape.network = new;
            files.write_record(&record).map_err(DriverError::Files)?;
        }
        self.sleeper(id, files).ok_or(DriverError::NotLoaded)
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
        vm.suspend().await?;
        self.pool.fill(&self.config, &vm.shape);
        Ok(())
    }

    pub(in crate::driver) async fn end(&self) {
        self.pool.end().await;
    }

    pub(in crate::driver) async fn export(&self, id: &str, into: &Path) -> Result<(), DriverError> {
        let vm = self.find(id).ok_or(DriverError::Gone)?;
        vm.copy_to(VmFiles::new(into.to_owned())).await
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

fn handle(vm: &Vm, process: Option<&QemuProcess>) -> Handle {
    let public = vm.address.as_ref().map(VmAddress::public);
    let mut handle = Handle::of_files(public, vm.shape.port);
    if let Some(process) = process {
        handle.pid = process.pid.as_raw_nonzero().get();
    }
    handle
}
