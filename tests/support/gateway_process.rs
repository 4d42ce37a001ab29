//! A gateway in a process of its own, whose memory and processor time nobody shares.
//!
//! Guarantees: the program is the one that Cargo built for the tests, or that `WAKEGATE_BIN` names;
//! its numbers are the kernel's; it ends with its owner.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::reserved::Reserved;
use super::{BINARY, Program, eventually, without_settings};

/// A running `wakegate serve`.
pub struct GatewayProcess {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    program: Program,
    _reserved: [Reserved; 2],
    dir: tempfile::TempDir,
}

/// Where the program is.
pub fn binary() -> PathBuf {
    std::env::var_os("WAKEGATE_BIN").map_or_else(|| PathBuf::from(BINARY), PathBuf::from)
}

// === impl GatewayProcess ===

impl GatewayProcess {
    /// Starts it and waits until it serves. `config` is what follows the listener and `[admin]`,
    /// of which `admin` is more.
    pub async fn start(admin: &str, config: &str) -> Self {
        Self::start_under(None, admin, config).await
    }

    /// The same, with so many file descriptors at most; what it says is then kept.
    pub async fn start_under(descriptors: Option<u64>, admin: &str, config: &str) -> Self {
        Self::start_in(&[], descriptors, admin, config).await
    }

    /// The same, with more variables in its environment.
    pub async fn start_in(
        environment: &[(&str, &str)],
        descriptors: Option<u64>,
        admin: &str,
        config: &str,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let reserved = [(); 2].map(|()| Reserved::new());
        let [listen, admin_address] = reserved.each_ref().map(|one| one.address);
        let path = dir.path().join("wakegate.toml");
        let text = format!(
            "[admin]\naddress = \"{admin_address}\"\n{admin}\n\
             [[listener]]\naddress = \"{listen}\"\n{config}"
        );
        std::fs::write(&path, text).unwrap();
        let mut command = match descriptors {
            None => without_settings(Command::new(binary())),
            Some(limit) => {
                let mut shell = without_settings(Command::new("sh"));
                let under = "ulimit -n \"$0\" && exec \"$@\"";
                shell.args(["-c", under, &limit.to_string()]).arg(binary());
                let said = std::fs::File::create(dir.path().join("said")).unwrap();
                shell.stderr(said);
                shell
            }
        };
        command.envs(environment.iter().copied());
        command.arg("serve").arg("-c").arg(&path);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let program = Program(command.spawn().unwrap());
        let mut gateway = Self {
            listen,
            admin: admin_address,
            program,
            _reserved: reserved,
            dir,
        };
        eventually("the gateway serves", async || {
            let ended = gateway.program.0.try_wait().unwrap();
            assert_eq!(ended, None, "it did not start; it says why above");
            reqwest::get(format!("http://{admin_address}/readyz"))
                .await
                .is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        gateway
    }

    /// Sends it a signal, as `kill` names it.
    pub fn signal(&self, signal: &str) {
        self.program.signal(signal);
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("said")).unwrap()
    }

    /// Bytes that it has in memory.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// Processor time that its threads have had so far, to the nanosecond.
    pub fn processor_time(&self) -> Duration {
        let threads = std::fs::read_dir(self.proc("task")).unwrap().flatten();
        let times = threads.filter_map(|thread| {
            let path = thread.path().join("schedstat");
            // A thread may have ended meanwhile.
            let text = std::fs::read_to_string(path).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    /// The share of one processor that it takes for so long.
    pub async fn load(&self, time: Duration) -> f64 {
        let (before, began) = (self.processor_time(), tokio::time::Instant::now());
        tokio::time::sleep(time).await;
        let spent = self.processor_time().saturating_sub(before);
        spent.as_secs_f64() / began.elapsed().as_secs_f64()
    }

    /// The sum of a metric's series.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.admin);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.program.0.id()))
    }
}
