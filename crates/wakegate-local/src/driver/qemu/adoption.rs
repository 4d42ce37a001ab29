//! VMs that an earlier control plane has left.
//!
//! Guarantees: one that cannot be asked is not said to be gone; one whose files a loss of power may
//! have changed does not run again; a process that is no VM's is ended.

use std::path::Path;
use std::sync::Arc;

use super::driver::{ANSWER, QemuDriver};
use super::files::VmFiles;
use super::process::{QemuProcess, alive_in, kill_in};
use crate::driver::contract::Adoption;
use crate::driver::error::{DriverError, QmpError};
use crate::driver::remnants;
use crate::guest::Order;
use crate::state::State;

/// The states of a QEMU that was given a saved VM and has not let it run.
const HAS_NOT_RUN: [&str; 3] = ["inmigrate", "paused", "prelaunch"];

// === impl QemuDriver ===

impl QemuDriver {
    pub(in crate::driver) async fn adopt(&self, id: &str) -> Adoption {
        let files = self.files(id);
        let place = files.place();
        self.unsure.remove(id);
        if files.is_asleep() {
            // Whatever process there is was about to end, or had not begun.
            kill_in(&place).await;
            return self.adopt_sleeper(id, files).await;
        }
        let Some(pid) = alive_in(&place) else {
            return self.adopt_broken(id, files).await;
        };
        let error = match self.adopt_running(id, &files, pid).await {
            Ok(state) => return Adoption::Found(state),
            Err(error) => error,
        };
        if alive_in(&place).is_none() {
            return self.adopt_broken(id, files).await;
        }
        if matches!(error, DriverError::Qmp(QmpError::Refused { .. })) {
            tracing::warn!(instance = id, %error, "its VM cannot go on");
            kill_in(&place).await;
            return self.adopt_broken(id, files).await;
        }
        self.unsure.insert(id.to_owned(), pid);
        Adoption::Unsure(error.to_string())
    }

    /// Takes over a VM that sleeps, unless its memory may be another than it was.
    async fn adopt_sleeper(&self, id: &str, files: VmFiles) -> Adoption {
        files.leave_place();
        if !files.is_believable() {
            let why = "its sleep was not on the disk yet when the machine went down";
            return Adoption::Gone(why.to_owned());
        }
        if let Err(error) = self.sleeper(id, files) {
            return Adoption::Gone(error.to_string());
        }
        // A process that was killed did not take its device with it.
        if let Some(address) = self.find(id).and_then(|vm| vm.address.clone()) {
            address.leave().await;
        }
        Adoption::Found(State::Standby)
    }

    /// Takes over a VM that neither sleeps nor runs.
    async fn adopt_broken(&self, id: &str, files: VmFiles) -> Adoption {
        files.leave_place();
        if !files.is_of_this_boot() {
            return Adoption::Gone("it went down with the machine".to_owned());
        }
        match files.restore_last() {
            Ok(true) => {}
            Ok(false) => {
                let why = "its process was gone when the control plane came back";
                return Adoption::Gone(why.to_owned());
            }
            Err(error) => return Adoption::Gone(error.to_string()),
        }
        let text = "its VM broke while it fell asleep or woke: it is back in the sleep before";
        tracing::warn!(instance = id, text);
        self.adopt_sleeper(id, files).await
    }

    /// Takes over a VM that has a process.
    async fn adopt_running(
        &self,
        id: &str,
        files: &VmFiles,
        pid: i32,
    ) -> Result<State, DriverError> {
        let place = files.place();
        let record = files.record().ok_or(DriverError::NotLoaded)?;
        let process = QemuProcess::find(pid, &place, &self.tasks).await?;
        let status = process.qmp.status().await?;
        if files.is_waking() && HAS_NOT_RUN.contains(&status.as_str()) {
            // Its sleep is as it was.
            process.kill().await;
            files.cancel_wake().map_err(DriverError::Files)?;
            return match self.adopt_sleeper(id, files.clone()).await {
                Adoption::Found(state) => Ok(state),
                Adoption::Gone(_) | Adoption::Unsure(_) => Err(DriverError::NotLoaded),
            };
        }
        let vm = self.vm(files.clone(), record);
        // In the middle of falling asleep: as soon as its state is written, it can go on; what was
        // written is then old, and goes.
        if status != "running" {
            // Nobody reads it any more, so it fails.
            process.settled_anyhow().await;
            process.resume().await?;
        }
        if status != "running" || files.is_waking() {
            // It stood still, or was not told the time when it woke.
            let now = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
            process.agent.order(Order::Clock(now));
        }
        let noted = files.clear_suspend().and_then(|()| files.finish_wake());
        if let Err(error) = noted.and(vm.introduce(&process)) {
            tracing::warn!(instance = id, %error, "a VM's files do not say that it runs");
        }
        process.agent.order(Order::Tell);
        vm.set_process(Some(Arc::clone(&process)));
        if let Some(address) = &vm.address {
            address.open();
        }
        let mut status = process.agent.status();
        let first = tokio::time::timeout(ANSWER, status.changed()).await;
        let up = matches!(first, Ok(Ok(()))) && status.borrow().started;
        self.watch(id, &vm, process, !up);
        self.vms.insert(id.to_owned(), vm);
        Ok(match up {
            true => State::Running,
            false => State::Initializing,
        })
    }

    pub(in crate::driver) async fn end_remnants(&self, root: &Path) {
        let vms = self.vms.iter().filter_map(|vm| vm.process());
        let mut used: Vec<i32> = vms
            .map(|process| process.pid.as_raw_nonzero().get())
            .collect();
        used.extend(self.unsure.iter().map(|pid| *pid.value()));
        used.extend(self.pool.processes());
        remnants::end(root, |remnant| used.contains(&remnant.pid)).await;
    }
}
