//! One VM: its process, its connections, and its sleep.
//!
//! Guarantees: a VM that sleeps has no process; its memory is in its file and its devices' state
//! beside it; a sleep or a wake that fails leaves the VM as it was, or as it last slept when its
//! process broke.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::command::{BootSource, Shape, VmNetwork, arguments, forward};
use super::config::QemuConfig;
use super::files::{Ports, VmFiles, VmRecord};
use super::network::{self, VmAddress};
use super::pool::{Pool, become_vm, move_console};
use super::process::{QemuProcess, Register};
use crate::clock::Clock;
use crate::driver::contract::Exit;
use crate::driver::error::{DriverError, QmpError};
use crate::guest::{Order, Status};

/// How long a VM sleeps before its sleep is written to the disk.
const SYNC_AFTER: Duration = Duration::from_secs(5);

/// One VM.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) files: VmFiles,
    pub(super) shape: Shape,
    pub(super) address: Option<VmAddress>,
    ports: Mutex<Ports>,
    /// Whether its address is another than its memory has.
    moved: AtomicBool,
    process: Mutex<Option<Arc<QemuProcess>>>,
    tasks: TaskTracker,
    /// A lock that is held while its files are copied.
    copying: Arc<tokio::sync::Mutex<()>>,
    /// A lock that is held while its record is written.
    writing: Mutex<()>,
    /// The number of sleeps that have begun or ended.
    sleeps: AtomicU64,
}

// === impl Vm ===

impl Vm {
    pub(super) fn new(
        files: VmFiles,
        record: VmRecord,
        address: Option<VmAddress>,
        tasks: TaskTracker,
    ) -> Self {
        let VmRecord {
            shape,
            ports,
            moved,
            boot_id: _,
        } = record;
        if let Some(address) = &address {
            address.expect(&ports);
        }
        Self {
            files,
            shape,
            address,
            ports: Mutex::new(ports),
            moved: AtomicBool::new(moved),
            process: Mutex::default(),
            tasks,
            copying: Arc::default(),
            writing: Mutex::default(),
            sleeps: AtomicU64::new(0),
        }
    }

    pub(super) fn process(&self) -> Option<Arc<QemuProcess>> {
        let process = self.process.lock();
        process.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_process(&self, process: Option<Arc<QemuProcess>>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }

    fn ports(&self) -> Ports {
        let ports = self.ports.lock();
        ports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes down what is needed to run the VM again.
    pub(super) fn remember(&self) -> std::io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.files.write_record(VmRecord {
            shape: self.shape.clone(),
            ports: self.ports(),
            moved: self.moved.load(Ordering::Acquire),
            boot_id: String::new(),
        })
    }

    /// Keeps a sleep for later, in the background: beside, for the case that the next one breaks,
    /// and on the disk, for the case that the machine does.
    pub(super) fn keep(self: &Arc<Self>) {
        // At once, where that can be, so that whoever wakes it waits for the copy.
        let copying = Arc::clone(&self.copying).try_lock_owned();
        let (vm, sleeps) = (Arc::clone(self), self.sleeps.load(Ordering::Acquire));
        self.tasks.spawn(async move {
            let copying = match copying {
                Ok(copying) => copying,
                Err(_) => Arc::clone(&vm.copying).lock_owned().await,
            };
            if vm.sleeps.load(Ordering::Acquire) != sleeps {
                return;
            }
            let files = vm.files.clone();
            let kept = on_disk(&vm.tasks, move || files.keep_last()).await;
            drop(copying);
            if let Err(error) = kept {
                let folder = vm.files.folder().display();
                tracing::warn!(%folder, %error, "a VM's sleep could not be kept beside");
            }
            // One that sleeps for a moment only is not worth the disk's time.
            sleep(SYNC_AFTER).await;
            vm.sync(sleeps).await;
        });
    }

    /// Waits until the sleep of this number is on the disk; for nothing when it is over.
    async fn sync(&self, sleeps: u64) {
        let is_over = || self.sleeps.load(Ordering::Acquire) != sleeps || !self.files.is_asleep();
        if is_over() || self.files.is_synced() {
            return;
        }
        let files = self.files.clone();
        let mut synced = on_disk(&self.tasks, move || files.sync()).await;
        // Nobody wakes it in the middle of this.
        let _copying = self.copying.lock().await;
        if is_over() {
            return;
        }
        if synced.is_ok() {
            let files = self.files.clone();
            synced = on_disk(&self.tasks, move || files.mark_synced()).await;
        }
        if let Err(error) = synced {
            let folder = self.files.folder().display();
            tracing::warn!(%folder, %error, "a VM's sleep would not outlive a loss of power");
        }
    }

    /// Waits until its sleep is on the disk, if it sleeps.
    pub(super) async fn sync_now(&self) {
        self.sync(self.sleeps.load(Ordering::Acquire)).await;
    }

    /// Starts a QEMU for it and connects to it.
    pub(super) async fn spawn(
        &self,
        config: &QemuConfig,
        source: &BootSource<'_>,
        commit: Register<'_>,
    ) -> Result<Arc<QemuProcess>, DriverError> {
        let folder = self.files.folder();
        self.files.set_place(None).map_err(DriverError::Files)?;
        let started = async {
            if let Some(address) = &self.address {
                address.prepare().await?;
            }
            let arguments = arguments(&self.shape, source, &self.ports());
            let log = folder.join("../vmm.log");
            QemuProcess::spawn(config, folder, &log, arguments, commit, &self.tasks).await
        };
        let process = started.await;
        if let (Err(_), Some(address)) = (&process, &self.address) {
            address.leave().await;
        }
        process
    }

    /// Takes a QEMU that has waited, if there is one and it can become this VM's.
    async fn adopt(&self, pool: &Pool) -> Option<Arc<QemuProcess>> {
        let process = pool.take(&self.shape)?;
        let adoption = async {
            let place = self.files.set_place(Some(&process.folder));
            place.map_err(DriverError::Files)?;
            let folder = self.files.folder();
            become_vm(&process, &self.shape, &self.ports(), folder).await?;
            Ok::<_, DriverError>(move_console(&process, folder).await?)
        };
        if let Err(error) = adoption.await {
            tracing::warn!(%error, "a QEMU that waited is of no use");
            process.kill().await;
            self.clear_place(&process);
            return None;
        }
        Some(process)
    }

    /// The process of a VM that runs, whose end is ours to judge from here on: whether it broke
    /// between running and sleep. One that has ended already did so while it ran.
    fn claim(&self) -> Result<Arc<QemuProcess>, DriverError> {
        let process = self.process();
        let process = process.filter(|process| !process.ended.is_cancelled());
        let process = process.ok_or(DriverError::Gone)?;
        process.expected.store(true, Ordering::Release);
        Ok(process)
    }

    /// Takes [`Self::claim`] back: whoever watches the process tells of its end again. An error when
    /// it has ended meanwhile and its watcher had looked away.
    async fn give_back(&self, process: &QemuProcess) -> Result<(), DriverError> {
        process.expected.store(false, Ordering::Release);
        if process.ended.is_cancelled() && process.tell_end() {
            self.gone(process).await;
            return Err(DriverError::Broke);
        }
        Ok(())
    }

    /// Saves the VM's state and ends its process.
    pub(super) async fn suspend(&self) -> Result<(), DriverError> {
        let process = self.claim()?;
        let saved = async {
            self.files.begin_suspend().map_err(DriverError::Files)?;
            process.pause().await?;
            if let Some(address) = &self.address {
                address.close().await;
            }
            self.remember().map_err(DriverError::Files)?;
            process.save(&self.files.new_state()).await?;
            self.sleeps.fetch_add(1, Ordering::AcqRel);
            self.files.finish_suspend().map_err(DriverError::Files)
        };
        match saved.await {
            Ok(()) => {
                self.end(&process).await;
                Ok(())
            }
            Err(error) => {
                self.go_on(&process).await?;
                Err(error)
            }
        }
    }

    /// Lets a VM run on that stands still, or breaks it: one that does not even answer may run or
    /// not, and its memory is of no use.
    async fn go_on(&self, process: &QemuProcess) -> Result<(), DriverError> {
        if process.resume().await.is_err() {
            process.kill().await;
            // A VM whose program has ended did not break; its watcher tells that.
            return Err(match process.agent.last_words().await.exit {
                Some(_) => DriverError::Gone,
                None => self.fall_back(process).await,
            });
        }
        if let Err(error) = self.files.clear_suspend() {
            let folder = self.files.folder().display();
            tracing::warn!(%folder, %error, "a VM's files say that it falls asleep");
        }
        self.give_back(process).await?;
        if let Some(address) = &self.address {
            address.open();
        }
        Ok(())
    }

    /// Ends a process that has broken between running and sleep, and goes back to the last sleep,
    /// if there is one.
    async fn fall_back(&self, process: &QemuProcess) -> DriverError {
        process.kill().await;
        self.gone(process).await;
        self.sleep_as_before()
    }

    /// Goes back to the last sleep, if there is one.
    fn sleep_as_before(&self) -> DriverError {
        match self.files.restore_last() {
            Ok(true) => {
                if let Some(record) = self.files.record() {
                    *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = record.ports;
                    self.moved.store(record.moved, Ordering::Release);
                }
                DriverError::FellBack
            }
            Ok(false) => DriverError::Broke,
            Err(error) => {
                let folder = self.files.folder().display();
                tracing::warn!(%folder, %error, "cannot go back to a VM's last sleep");
                DriverError::Broke
            }
        }
    }

    /// Copies the VM's memory and state into other files; it stands still meanwhile.
    pub(super) async fn copy_to(&self, other: VmFiles) -> Result<(), DriverError> {
        let _copying = self.copying.lock().await;
        let files = self.files.clone();
        if self.process().is_none() {
            return on_disk(&self.tasks, move || files.copy_to(&other)).await;
        }
        self.remember().map_err(DriverError::Files)?;
        let process = self.claim()?;
        let copied = async {
            self.files.begin_suspend().map_err(DriverError::Files)?;
            process.pause().await?;
            process.save(&self.files.new_state()).await?;
            on_disk(&self.tasks, move || files.copy_paused_to(&other)).await
        };
        let copied = copied.await;
        self.go_on(&process).await?;
        copied
    }

    /// Waits until nobody copies its files any more, which are about to be another VM's.
    pub(super) async fn release(&self) {
        let _copying = self.copying.lock().await;
        self.sleeps.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes the VM's files, when nobody copies them any more.
    pub(super) async fn forget(&self) -> Result<(), DriverError> {
        let _copying = self.copying.lock().await;
        self.sleeps.fetch_add(1, Ordering::AcqRel);
        let files = self.files.clone();
        on_disk(&self.tasks, move || files.remove()).await
    }

    /// Ends the process of a VM whose state is saved or not wanted.
    pub(super) async fn end(&self, process: &QemuProcess) {
        process.end().await;
        self.gone(process).await;
    }

    /// Closes and clears what belonged to its process, which has ended.
    pub(super) async fn gone(&self, process: &QemuProcess) {
        self.set_process(None);
        self.clear_place(process);
        if let Some(address) = &self.address {
            address.close().await;
            address.leave().await;
        }
    }

    /// Clears the folder where a process had waited for this VM, and keeps the log that it wrote.
    fn clear_place(&self, process: &QemuProcess) {
        let folder = self.files.folder();
        if process.folder == folder {
            return;
        }
        let moved = std::fs::read(process.folder.join("vmm.log")).and_then(|text| {
            let mut log = std::fs::File::options();
            let mut log = log
                .create(true)
                .append(true)
                .open(folder.join("../vmm.log"))?;
            std::io::Write::write_all(&mut log, &text)
        });
        if let Err(error) = moved {
            tracing::warn!(%error, "what a QEMU said is not in its VM's log");
        }
        // What cannot be removed is only a little disk space.
        let _left_behind = std::fs::remove_dir_all(&process.folder);
        let _left_behind = self.files.set_place(None);
    }

    /// Runs the VM again from its saved state.
    pub(super) async fn wake(
        &self,
        config: &QemuConfig,
        pool: &Pool,
        clock: &Clock,
    ) -> Result<Arc<QemuProcess>, DriverError> {
        if !self.files.is_asleep() {
            return Err(self.sleep_as_before());
        }
        {
            // Its memory is about to change.
            let _copying = self.copying.lock().await;
            self.sleeps.fetch_add(1, Ordering::AcqRel);
        }
        let (files, bytes) = (self.files.clone(), self.shape.memory_bytes);
        // Beside the start of QEMU, since it waits for the disk.
        let ready = blocking(&self.tasks, move || {
            files.reserve(bytes)?;
            files.clear_synced().map_err(DriverError::Files)
        });
        let started = async {
            match self.adopt(pool).await {
                Some(process) => Ok(process),
                None => self.spawn(config, &BootSource::Restore, &|_| Ok(())).await,
            }
        };
        let (ready, started) = tokio::join!(ready, started);
        let process = started?;
        let loaded = async {
            ready?;
            process.load(&self.files.state()).await?;
            // From here on the memory changes, so the state is worth nothing.
            self.files.begin_wake().map_err(DriverError::Files)
        };
        if let Err(error) = loaded.await {
            process.kill().await;
            self.gone(&process).await;
            return Err(error);
        }
        match process.resume().await {
            Ok(()) => {}
            Err(error @ QmpError::Refused { .. }) => {
                // It has not run.
                process.kill().await;
                self.gone(&process).await;
                self.files.cancel_wake().map_err(DriverError::Files)?;
                return Err(error.into());
            }
            // It may have run, or not.
            Err(_) => return Err(self.fall_back(&process).await),
        }
        self.set_process(Some(Arc::clone(&process)));
        // Only now: the guest would be late by all that came before.
        let now = i64::try_from(clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        process.agent.order(Order::Clock(now));
        let noted = self.files.finish_wake();
        if let Err(error) = noted.and(self.introduce(&process)) {
            let folder = self.files.folder().display();
            tracing::warn!(%folder, %error, "a VM's files do not say that it has woken");
        }
        if let Some(address) = &self.address {
            address.open();
        }
        Ok(process)
    }

    /// Tells a VM that has moved where it is.
    pub(super) fn introduce(&self, process: &QemuProcess) -> std::io::Result<()> {
        let moved = self.moved.swap(false, Ordering::AcqRel);
        match network::inside(&self.shape.network).filter(|_| moved) {
            Some(network) => {
                process.agent.order(Order::Network(network));
                self.remember()
            }
            None => Ok(()),
        }
    }

    /// Opens and closes ports as the VM's program does.
    pub(super) async fn follow_ports(&self, process: &QemuProcess, status: &Status) {
        let VmNetwork::User {
            address, elsewhere, ..
        } = self.shape.network
        else {
            return;
        };
        let before = self.ports();
        let mut open = before.clone();
        for port in status.ports.difference(&before) {
            match open_port(process, (address, *port), elsewhere).await {
                Ok(()) => drop(open.insert(*port)),
                Err(error) => tracing::warn!(%address, port, %error, "cannot open a VM's port"),
            }
        }
        for port in before.difference(&status.ports) {
            let from = SocketAddrV4::new(address, *port);
            match process.qmp.forward_no_more(from).await {
                Ok(()) => drop(open.remove(port)),
                Err(error) => tracing::debug!(%from, %error, "cannot close a VM's port"),
            }
        }
        if let Some(address) = &self.address {
            address.expect(&open);
        }
        if open != before {
            *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = open;
            if let Err(error) = self.remember() {
                tracing::warn!(%address, %error, "cannot remember a VM's ports");
            }
        }
    }
}

/// Lets QEMU listen for a port of its VM.
async fn open_port(
    process: &QemuProcess,
    (address, port): (Ipv4Addr, u16),
    elsewhere: Option<Ipv4Addr>,
) -> Result<(), QmpError> {
    let rule = forward(address, port, elsewhere);
    match process.qmp.forward(&rule).await {
        Err(QmpError::Refused { .. }) => {
            // A control plane that was killed may have opened it and not written that down.
            let from = SocketAddrV4::new(address, port);
            process.qmp.forward_no_more(from).await?;
            process.qmp.forward(&rule).await
        }
        result => result,
    }
}

/// Runs what blocks beside the workers.
pub(super) async fn blocking<F>(tasks: &TaskTracker, work: F) -> Result<(), DriverError>
where
    F: FnOnce() -> Result<(), DriverError> + Send + 'static,
{
    let done = tasks.spawn_blocking(work).await;
    done.map_err(|_| DriverError::Gone)?
}

/// The same for what is done to files.
pub(super) async fn on_disk<F>(tasks: &TaskTracker, work: F) -> Result<(), DriverError>
where
    F: FnOnce() -> std::io::Result<()> + Send + 'static,
{
    blocking(tasks, || work().map_err(DriverError::Files)).await
}

/// The event of a VM that ended by itself.
pub(super) fn exit(id: String, status: &Status) -> Exit {
    match &status.exit {
        Some((code, message)) => Exit {
            id,
            code: Some(*code),
            message: message.clone(),
        },
        None => Exit {
            id,
            code: None,
            message: "the VM ended without a word of its program; see the vmm log".to_owned(),
        },
    }
}
