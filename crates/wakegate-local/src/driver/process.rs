//! Instances as process groups, without any privilege.
//!
//! Guarantees: standby stops every process of the group (by its control group's freezer where there
//! is one, else by SIGSTOP; memory is kept) and then closes the address; restore continues them and
//! opens it, in the reverse order of harm; the group outlives the control plane and is found again
//! by process id, start time and boot id. What a program has started ends with it, also in sessions
//! of its own (found by its control group, else by its environment, unless it clears that). Limits
//! are set where control groups can, and said to be missing where they cannot.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::address_proxy::AddressProxy;
use super::beside::run_beside;
use super::cgroup::{Group, Groups, make_group};
use super::contract::{
    Adoption, Boot, CommandEnd, Commit, DriverEvent, Exit, Handle, Started, Usage,
};
use super::end_of_process::RunningProcess;
use super::error::DriverError;
use super::launch::{Launch, Launched, environment, folder, launch, wait_for_child};
use super::place::{Place, Places};
use super::port_watch::{PortWatch, Watched};
use super::procfs::{Members, ProcessStat, boot_id};
use super::remnants;
use super::traffic::Traffic;
use crate::clock::Clock;
use crate::path_info::PathInfo;
use crate::state::State;

/// Runs instances as process groups.
#[derive(Debug)]
pub(crate) struct ProcessDriver {
    processes: DashMap<String, Arc<Process>>,
    clock: Clock,
    events: mpsc::Sender<DriverEvent>,
    tasks: TaskTracker,
    boot_id: String,
    /// This program, for its `session` subcommand.
    launcher: PathBuf,
    /// The state directory.
    root: PathBuf,
    groups: Option<Groups>,
    ports: Arc<PortWatch>,
    _ports_end: DropGuard,
    places: Places,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    address: Option<Arc<AddressProxy>>,
    /// What finds out where it listens; it has an address.
    watched: Option<Arc<Watched>>,
    own_port: u16,
    group: Option<Group>,
    /// Whether we are ending it, so that its end is no [`Exit`].
    expected: AtomicBool,
    ended: CancellationToken,
}

// === impl ProcessDriver ===

impl ProcessDriver {
    /// `events` hears of programs that end by themselves; `root` is the state directory.
    pub(crate) fn new(
        clock: Clock,
        events: mpsc::Sender<DriverEvent>,
        tasks: TaskTracker,
        launcher: PathBuf,
        root: PathBuf,
    ) -> Self {
        let ports = Arc::new(PortWatch::new(events.clone()));
        let end = CancellationToken::new();
        let (watch, looks, ending) = (Arc::clone(&ports), tasks.clone(), end.clone());
        let watching = async move { ending.run_until_cancelled(watch.run(looks)).await };
        tasks.spawn(watching);
        Self {
            processes: DashMap::new(),
            clock,
            events,
            tasks,
            boot_id: boot_id(),
            launcher,
            root,
            groups: Groups::find(),
            ports,
            _ports_end: end.drop_guard(),
            places: Places::default(),
        }
    }

    fn find(&self, id: &str) -> Option<Arc<Process>> {
        self.processes
            .get(id)
            .map(|process| Arc::clone(process.value()))
    }

    /// An address and a port for one program alone.
    fn place(&self, port: u16) -> Result<Place, DriverError> {
        let running = self.processes.iter().map(|process| {
            let address = process.address.as_ref().map(|address| address.public);
            (address, process.own_port)
        });
        self.places
            .choose(&self.clock, port, self.ports.news(), running)
    }

    /// Watches the process until its end.
    fn watch<F>(&self, id: &str, process: &Arc<Process>, end: F)
    where
        F: Future<Output = (Option<i32>, String)> + Send + 'static,
    {
        let (events, process, id) = (self.events.clone(), Arc::clone(process), id.to_owned());
        let ports = Arc::clone(&self.ports);
        self.tasks.spawn(async move {
            let (code, mut message) = end.await;
            // What it has left behind in its group; at once, while the group's number is surely
            // nobody else's.
            let _none = kill_process_group(process.pid, Signal::KILL);
            if process
                .group
                .as_ref()
                .is_some_and(|group| group.out_of_memory() > 0)
            {
                message.push_str("; it had used more memory than its size");
            }
            if !process.expected.load(Ordering::Acquire) {
                ports.remove(&id);
            }
            if let Some(address) = &process.address {
                address.cut().await;
            }
            process.ended.cancel();
            if !process.expected.load(Ordering::Acquire) {
                // Nobody listens when the control plane is going down, which then adopts or marks
                // the instance at its next start.
                let exit = DriverEvent::Ended(Exit { id, code, message });
                let _unheard = events.send(exit).await;
            }
        });
    }

    /// What finds out where a process listens.
    fn watched(
        &self,
        id: &str,
        pid: Pid,
        group: Option<&Group>,
        (address, own_port): (&Arc<AddressProxy>, u16),
    ) -> Arc<Watched> {
        let folder = self.root.join("instances").join(id).join("work");
        let members = Members {
            leader: pid.as_raw_nonzero().get(),
            group: group.map(|group| group.path().to_owned()),
            mark: remnants::mark_of(&folder),
        };
        let address = Arc::clone(address);
        Arc::new(Watched::new(id.to_owned(), address, own_port, members))
    }

    pub(super) async fn start(
        &self,
        boot: &Boot,
        commit: Commit<'_>,
    ) -> Result<Started, DriverError> {
        let place = match boot.network_enabled {
            true => Some(self.place(boot.port)?),
            false => None,
        };
        // Until the process is among the others, its place is kept here.
        let address = place.as_ref().map(|place| Arc::clone(&place.address));
        let own_port = place.as_ref().map_or(boot.port, |place| place.own_port);
        let log = open_log(&boot.log)?;
        let errors = log.try_clone().map_err(DriverError::Files)?;
        let (group, mut remarks) = make_group(self.groups.as_ref(), boot);
        let (program, first) = match boot.is_hello {
            true => (&self.launcher, Some("hello")),
            false => (&boot.program, None),
        };
        let handle = Handle {
            pid: 0,
            start_ticks: 0,
            boot_id: self.boot_id.clone(),
            address: address.as_ref().map(|address| address.public),
            port: boot.port,
            own_port: Some(own_port),
            keeps_flows: boot.keeps_flows,
            group: group.as_ref().map(|group| group.path().to_owned()),
        };
        let launched = launch(Launch {
            launcher: &self.launcher,
            handle,
            commit,
            program,
            arguments: first
                .into_iter()
                .chain(boot.arguments.iter().map(String::as_str))
                .map(AsRef::as_ref)
                .collect(),
            environment: environment(
                boot,
                address.as_ref().map(|address| address.private),
                own_port,
            ),
            folder: folder(boot),
            output: [log.into(), errors.into()],
        });
        let launched = launched.await;
        if let (Err(_), Some(group)) = (&launched, &group) {
            group.remove().await;
        }
        let Launched { child, pid } = launched?;
        if let Some(address) = &address {
            let (public, port) = (address.public, address.port);
            remarks.push(format!(
                "{public}:{port} leads to $PORT, which is {own_port}"
            ));
            if boot.keeps_flows {
                address.keep_flows();
            }
        }
        let watched = address
            .as_ref()
            .map(|address| self.watched(&boot.id, pid, group.as_ref(), (address, own_port)));
        let process = Arc::new(Process {
            pid,
            address,
            watched,
            own_port,
            group,
            expected: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        self.open(&process);
        self.watch(&boot.id, &process, wait_for_child(child));
        self.processes.insert(boot.id.clone(), process);
        drop(place);
        Ok(Started { remarks })
    }

    /// Opens the address of a process that is awake.
    fn open(&self, process: &Process) {
        if let (Some(address), Some(watched)) = (&process.address, &process.watched) {
            address.open();
            self.ports.add(watched);
        }
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) {
        let Some((_, process)) = self.processes.remove(id) else {
            return;
        };
        process.expected.store(true, Ordering::Release);
        self.ports.remove(id);
        if let Some(address) = &process.address {
            address.cut().await;
        }
        // A stopped process takes SIGTERM only once it is continued. A failure to signal means that
        // it has ended already.
        let _ended = signal(&process, Signal::TERM);
        if let Some(group) = &process.group {
            let _ended = group.thaw();
        }
        let _ended = signal(&process, Signal::CONT);
        if tokio::time::timeout(grace, process.ended.cancelled())
            .await
            .is_err()
        {
            let _ended = signal(&process, Signal::KILL);
            process.ended.cancelled().await;
        }
        // What has left its session, and with it the group of processes that has ended.
        match &process.group {
            Some(group) => group.remove().await,
            None => remnants::end_of_instance(&self.tasks, &self.root, id).await,
        }
    }

    pub(super) async fn standby(&self, id: &str) -> Result<(), DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        match &process.group {
            Some(group) => {
                if process.ended.is_cancelled() {
                    return Err(DriverError::Gone);
                }
                if !group.freeze().await.map_err(DriverError::Signal)? {
                    group.thaw().map_err(DriverError::Signal)?;
                    return Err(DriverError::NotFrozen);
                }
                let group = group.clone();
                // Beside everything else: it may take longer than a wake.
                self.tasks.spawn_blocking(move || group.reclaim());
            }
            None => {
                signal(&process, Signal::STOP)?;
                if !frozen(process.pid).await {
                    signal(&process, Signal::CONT)?;
                    return Err(DriverError::NotFrozen);
                }
            }
        }
        self.ports.remove(id);
        if let Some(address) = &process.address {
            address.close().await;
        }
        Ok(())
    }

    pub(super) fn restore(&self, id: &str) -> Result<(), DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        if let Some(group) = &process.group {
            group.thaw().map_err(DriverError::Signal)?;
        }
        // Thawed by its group, a program learns from this signal that it has slept.
        signal(&process, Signal::CONT)?;
        self.open(&process);
        Ok(())
    }

    pub(super) fn adopt(&self, id: &str, handle: &Handle) -> Adoption {
        let same_boot = self.boot_id == handle.boot_id;
        let pid = Pid::from_raw(handle.pid).filter(|_| same_boot);
        let found = pid.and_then(|pid| {
            let (running, stat) = RunningProcess::find(pid, handle.start_ticks)?;
            Some((pid, running, stat))
        });
        let Some((pid, running, stat)) = found else {
            let why = "its process was gone when the control plane came back";
            return Adoption::Gone(why.to_owned());
        };
        let group = handle.group.clone().map(Group::at);
        let asleep = stat.state == 'T' || group.as_ref().is_some_and(Group::is_frozen);
        let own_port = handle.own_port.unwrap_or(handle.port);
        let address = handle.address.map(|public| {
            let [_, _, x, y] = public.octets();
            let mut address = AddressProxy::new(self.clock.clone(), [x, y], handle.port);
            address.refused = self.ports.news();
            if handle.keeps_flows {
                address.keep_flows();
            }
            Arc::new(address)
        });
        let watched = address.as_ref().map(|address| {
            let watched = self.watched(id, pid, group.as_ref(), (address, own_port));
            // Its ports are open already, also those of one that sleeps.
            self.ports.look_at(&watched);
            watched
        });
        let process = Arc::new(Process {
            pid,
            address,
            watched,
            own_port,
            group,
            expected: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        // Not our child, so nobody tells us more of its end.
        self.watch(id, &process, async move {
            running.ended().await;
            let message = "the program ended; its exit code is not known, since it was adopted";
            (None, message.to_owned())
        });
        if !asleep {
            // A standby may have been under way, and would go on.
            if let Some(group) = &process.group {
                let _ended = group.thaw();
            }
            let _ended = kill_process_group(pid, Signal::CONT);
            self.open(&process);
        }
        self.processes.insert(id.to_owned(), process);
        Adoption::Found(if asleep {
            State::Standby
        } else {
            State::Running
        })
    }

    /// Ends what runs below the state directory `root` and is no instance's.
    pub(super) async fn end_remnants(&self, root: &Path) {
        let is_ours = |id: &str| self.processes.contains_key(id);
        remnants::end(root, |remnant| remnant.instance().is_some_and(is_ours)).await;
        let Some(groups) = &self.groups else { return };
        for id in remnants::instances(root) {
            if let Some(group) = groups.existing(&id).filter(|_| !is_ours(&id)) {
                group.remove().await;
            }
        }
    }

    /// Whether the instance's process is there.
    pub(super) fn is_alive(&self, id: &str) -> bool {
        self.find(id)
            .is_some_and(|process| !process.ended.is_cancelled())
    }

    pub(super) fn features(&self) -> Vec<&'static str> {
        let mut features = vec!["standby", "auto_standby", "health_check", "restart_policy"];
        if let Some(groups) = &self.groups {
            features.push("freezer");
            features.extend(groups.limits("memory").then_some("memory_limit"));
            features.extend(groups.limits("cpu").then_some("cpu_limit"));
        }
        features
    }

    /// An instance sees the machine's own files.
    pub(super) async fn look(&self, path: &str, follow: bool) -> Result<PathInfo, DriverError> {
        let path = path.to_owned();
        let look = move || PathInfo::look(&path, follow);
        let info = self.tasks.spawn_blocking(look).await;
        info.map_err(|_| DriverError::NoAnswer)
    }

    pub(super) async fn run(
        &self,
        id: &str,
        words: &[String],
        folder: Option<&str>,
        patience: Duration,
    ) -> Result<CommandEnd, DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        run_beside(process.pid, words, folder, patience).await
    }

    pub(super) fn usage(&self, id: &str) -> Usage {
        let Some(process) = self.find(id) else {
            return Usage::default();
        };
        let stat = ProcessStat::read(process.pid.as_raw_nonzero().get());
        let mut usage = stat.map(|stat| stat.usage()).unwrap_or_default();
        if let Some(micros) = process.group.as_ref().and_then(Group::cpu_micros) {
            usage.cpu_seconds = micros as f64 / 1e6;
        }
        usage
    }

    pub(super) fn traffic(&self, id: &str) -> Option<Arc<Traffic>> {
        self.find(id)?
            .address
            .as_ref()
            .map(|address| Arc::clone(&address.traffic))
    }
}

fn signal(process: &Process, signal: Signal) -> Result<(), DriverError> {
    if process.ended.is_cancelled() {
        return Err(DriverError::Gone);
    }
    kill_process_group(process.pid, signal).map_err(|error| DriverError::Signal(error.into()))
}

/// Waits until the leader is stopped, five seconds at most.
async fn frozen(pid: Pid) -> bool {
    for _ in 0..5000 {
        match ProcessStat::read(pid.as_raw_nonzero().get()) {
            Some(stat) if stat.state == 'T' => return true,
            Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            None => return false,
        }
    }
    false
}

fn open_log(path: &PathBuf) -> Result<File, DriverError> {
    let mut options = OpenOptions::new();
    let log = options.create(true).append(true).mode(0o600).open(path);
    log.map_err(DriverError::Files)
}

#[cfg(test)]
mod tests {
    use super::super::launch::SESSION_OF_TESTS;
    use super::super::procfs::is_alive;
    use super::*;

    #[tokio::test]
    async fn without_control_groups_a_session_of_a_programs_own_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let folder = root.join("instances/one/work");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("session"), SESSION_OF_TESTS).unwrap();
        let (events, _heard) = mpsc::channel(8);
        let (clock, tasks) = (Clock::system(), TaskTracker::new());
        let mut driver = ProcessDriver::new(clock, events, tasks, "/bin/sh".into(), root.clone());
        driver.groups = None;
        let daemon = folder.join("daemon");
        let script = "setsid sh -c 'echo $$ > new; mv new daemon; sleep 600' & exec sleep 600";
        let boot = Boot {
            id: "one".to_owned(),
            program: "/bin/sh".into(),
            arguments: ["-c", script].map(str::to_owned).to_vec(),
            is_hello: false,
            environment: Vec::new(),
            port: 8080,
            network_enabled: false,
            keeps_flows: false,
            folder,
            log: root.join("app.log"),
            memory_bytes: 1 << 20,
            vcpus: 1,
        };
        driver.start(&boot, &|_| Ok(())).await.unwrap();
        let begun = async {
            while !daemon.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), begun)
            .await
            .unwrap();
        let pid = std::fs::read_to_string(&daemon).unwrap();
        let pid: i32 = pid.trim().parse().unwrap();
        assert!(is_alive(pid));
        driver.stop("one", Duration::from_secs(5)).await;
        assert!(!is_alive(pid), "it has outlived its instance");
    }
}
