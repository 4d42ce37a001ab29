//! `wakegate guest`: the first process in a VM of the qemu driver.
//!
//! Guarantees: the VM's devices, file systems and network are there before the instance's program
//! starts; the program's output goes to the serial console; its end, and the ports that it listens
//! at, are told to the control plane; a control plane that goes away and comes back is told again;
//! the VM ends when its program does. It never returns in a VM.

mod ports;
mod talk;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use rustix::system::{RebootCommand, finit_module, reboot};
use rustix::time::{ClockId, Timespec, clock_settime};

pub(super) use talk::{Order, Program, Status};

/// Where the image keeps what is ours, beside whatever system it holds.
pub(super) const HOME: &str = "/.wakegate";
/// The virtio port's name.
pub(super) const PORT_NAME: &str = "wakegate";
/// The VM's address in QEMU's user network (its documentation's defaults).
const ADDRESS: &str = "10.0.2.15/24";
const ROUTER: &str = "10.0.2.2";
/// How often a line without anybody at its other end is looked at.
const NOBODY_THERE: Duration = Duration::from_millis(20);
const DEVICE_PATIENCE: u32 = 5000;

/// The agent cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It would mount and reboot.
    #[error("this is the first process of a VM, not for use on a host")]
    NotFirst,
    /// Something of the VM is missing.
    #[error("{what}: {why}")]
    Missing {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// What everybody in the agent shares.
struct Agent {
    status: Mutex<Status>,
    line: Mutex<File>,
    program: Mutex<Option<Pid>>,
}

/// Brings the VM up and runs its program to its end. Returns only an error.
pub fn run() -> GuestError {
    if std::process::id() != 1 {
        return GuestError::NotFirst;
    }
    match live() {
        Ok(()) => {}
        Err(error) => {
            // The console is all there is.
            let _lost = writeln!(std::io::stderr(), "wakegate guest: {error}");
        }
    }
    rustix::fs::sync();
    // QEMU ends when its VM restarts.
    match reboot(RebootCommand::Restart) {
        Ok(()) => missing("restart", &"it returned"),
        Err(error) => missing("restart", &error),
    }
}

fn missing(what: &str, why: &dyn std::fmt::Display) -> GuestError {
    GuestError::Missing {
        what: what.to_owned(),
        why: why.to_string(),
    }
}

fn live() -> Result<(), GuestError> {
    mount_all()?;
    load_modules()?;
    let line = open_line()?;
    let reading = line.try_clone().map_err(|e| missing("the line", &e))?;
    let agent = Arc::new(Agent {
        status: Mutex::default(),
        line: Mutex::new(line),
        program: Mutex::default(),
    });
    let (programs, wanted) = channel();
    let listener = Arc::clone(&agent);
    thread::spawn(move || listener.listen(reading, &programs));
    // The network comes up while the first order is on its way.
    if Path::new("/sys/class/net/eth0").exists() {
        bring_up_network()?;
    }
    agent.tell();
    agent.run_to_the_end(&wanted);
    Ok(())
}

fn mount_all() -> Result<(), GuestError> {
    let nothing = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, place, flags) in [
        ("proc", "/proc", nothing),
        ("sysfs", "/sys", nothing),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("tmpfs", "/tmp", MountFlags::NOSUID | MountFlags::NODEV),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV),
    ] {
        fs::create_dir_all(place).map_err(|error| missing(place, &error))?;
        match mount(kind, place, kind, flags, None) {
            // The kernel mounts /dev by itself when it is built so.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(missing(place, &error)),
        }
    }
    Ok(())
}

/// In the order of their names, which the image's builder chose.
fn load_modules() -> Result<(), GuestError> {
    let Ok(entries) = fs::read_dir(Path::new(HOME).join("modules")) else {
        // A kernel that has everything built in.
        return Ok(());
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let name = path.display().to_string();
        let file = File::open(&path).map_err(|error| missing(&name, &error))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(missing(&name, &error)),
        }
    }
    Ok(())
}

/// The virtio port to the control plane, as soon as it is there.
fn open_line() -> Result<File, GuestError> {
    for _ in 0..DEVICE_PATIENCE {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                let device = Path::new("/dev").join(entry.file_name());
                let mut options = File::options();
                if let Ok(line) = options.read(true).write(true).open(device) {
                    return Ok(line);
                }
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(missing("the line to the control plane", &"no such device"))
}

fn bring_up_network() -> Result<(), GuestError> {
    let busybox = Path::new(HOME).join("busybox");
    for words in [
        ["link", "set", "lo", "up"].as_slice(),
        &["addr", "add", ADDRESS, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        &["route", "add", "default", "via", ROUTER],
    ] {
        let status = Command::new(&busybox).arg("ip").args(words).status();
        let status = status.map_err(|error| missing("the network", &error))?;
        if !status.success() {
            return Err(missing("the network", &status));
        }
    }
    Ok(())
}

// === impl Agent ===

impl Agent {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status, and tells it when that made a difference.
    fn change(&self, change: impl FnOnce(&mut Status)) {
        let different = {
            let mut status = self.status();
            let before = status.clone();
            change(&mut status);
            *status != before
        };
        if different {
            self.tell();
        }
    }

    fn tell(&self) {
        let Ok(mut text) = serde_json::to_vec(&*self.status()) else {
            return;
        };
        text.push(b'\n');
        // A control plane that is not there asks when it is.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let _unheard = line.write_all(&text);
    }

    /// Carries out orders for ever.
    fn listen(&self, line: File, programs: &Sender<Program>) {
        let mut reader = BufReader::new(line);
        let mut text = Vec::new();
        loop {
            match reader.read_until(b'\n', &mut text) {
                // An end in the middle of a line: whoever sent it has gone.
                Ok(0) | Err(_) => {
                    text.clear();
                    thread::sleep(NOBODY_THERE);
                    continue;
                }
                Ok(_) => {}
            }
            if text.ends_with(b"\n") {
                if let Ok(order) = serde_json::from_slice(&text) {
                    self.obey(order, programs);
                }
                text.clear();
            }
        }
    }

    fn obey(&self, order: Order, programs: &Sender<Program>) {
        match order {
            // Nobody listens any more when the program has been started.
            Order::Run(program) => drop(programs.send(program)),
            Order::Stop => {
                let program = *self.program.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(program) = program {
                    // It may have ended just now.
                    let _ended = kill_process_group(program, Signal::TERM);
                }
            }
            Order::Clock(nanos) => {
                let time = Timespec {
                    tv_sec: nanos.div_euclid(1_000_000_000),
                    tv_nsec: nanos.rem_euclid(1_000_000_000),
                };
                if let Err(error) = clock_settime(ClockId::Realtime, time) {
                    let _lost = writeln!(std::io::stderr(), "wakegate guest: clock: {error}");
                }
            }
            Order::Tell => self.tell(),
        }
    }

    /// Starts the first program that is asked for, and waits until it has ended.
    fn run_to_the_end(self: &Arc<Self>, wanted: &Receiver<Program>) {
        let Ok(program) = wanted.recv() else { return };
        let started = start(program);
        let pid = match started {
            Ok(pid) => pid,
            Err(error) => {
                let text = format!("the program could not be started: {error}");
                // As a shell says it.
                self.change(|status| status.exit = Some((127, text)));
                return;
            }
        };
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        self.change(|status| status.started = true);
        let watcher = Arc::clone(self);
        thread::spawn(move || {
            ports::watch(|ports| watcher.change(|status| status.ports = ports));
        });
        // Orphans are ours, too.
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((ended, how))) if ended == pid => {
                    let code = how.exit_status();
                    let signal = how.terminating_signal();
                    let text = match (code, signal) {
                        (Some(code), _) => format!("exit status: {code}"),
                        (None, Some(signal)) => format!("signal: {signal}"),
                        (None, None) => "ended".to_owned(),
                    };
                    let code = code.or_else(|| Some(128 + signal?)).unwrap_or(-1);
                    self.change(|status| status.exit = Some((code, text)));
                    return;
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn start(program: Program) -> std::io::Result<Pid> {
    let mut words = program.words;
    if program.is_hello {
        words.splice(0..0, [format!("{HOME}/agent"), "hello".to_owned()]);
    }
    let first = words.first().cloned().unwrap_or_default();
    let child = Command::new(first)
        .args(words.get(1..).unwrap_or_default())
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/")
        .env("HOST", "0.0.0.0")
        .envs(program.environment)
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::Error::other("no process id"))
}
