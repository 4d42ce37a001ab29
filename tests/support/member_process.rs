//! Members of a fleet as processes of their own, each with a configuration's file, and the commands that
//! an operator gives with that file.
//!
//! Guarantees: each has addresses of its own for as long as it is there, also while its process is not;
//! what it says is kept; its process ends with it.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::fleet::{Authority, CELL};
use super::gateway_process::binary;
use super::machines::Machine;
use super::reserved::Reserved;
use super::{Program, eventually, without_settings};

/// As much of what it has said is shown where a test fails.
const LAST_LINES: usize = 20;

/// Who asks a member's admin listener for more than its health shows this.
const TOKEN: &str = "a-token-of-a-test-0123456789abcdef";

/// A member.
pub struct MemberProcess {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub members: SocketAddr,
    /// Its configuration.
    pub path: PathBuf,
    /// Where it runs.
    pub machine: Arc<Machine>,
    running: Option<Program>,
    _reserved: [Reserved; 3],
    dir: tempfile::TempDir,
}

/// What an operator's command came to.
pub struct Said {
    pub is_fine: bool,
    pub out: String,
    pub err: String,
}

/// A client whose requests each have a connection of their own.
fn http() -> reqwest::Client {
    let http = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(60));
    http.build().unwrap()
}

// === impl Said ===

impl Said {
    /// What it printed, if that went well.
    pub fn fine(self) -> String {
        assert!(self.is_fine, "{}{}", self.out, self.err);
        self.out
    }

    /// What it complained of, if it did.
    pub fn wrong(self) -> String {
        assert!(!self.is_fine, "{}{}", self.out, self.err);
        format!("{}{}", self.out, self.err)
    }
}

// === impl MemberProcess ===

impl MemberProcess {
    /// A front; `fleet` is more of `[fleet]`, and `rest` of the file.
    pub fn front(
        authority: &Authority,
        endpoints: &str,
        name: &str,
        fleet: &str,
        rest: &str,
    ) -> Self {
        Self::front_at(&Machine::here(), authority, endpoints, name, fleet, rest)
    }

    /// The same at some machine.
    pub fn front_at(
        machine: &Arc<Machine>,
        authority: &Authority,
        endpoints: &str,
        name: &str,
        fleet: &str,
        rest: &str,
    ) -> Self {
        Self::new(machine, authority, endpoints, ("front", name), |it| {
            let snapshot = it.dir.path().join("directory");
            let snapshot = snapshot.display();
            format!(
                "snapshot = \"{snapshot}\"\n{fleet}\n[[listener]]\naddress = \"{}\"\n{rest}",
                it.listen
            )
        })
    }

    /// A node beside a control plane.
    pub fn node(
        authority: &Authority,
        endpoints: &str,
        name: &str,
        plane: (SocketAddr, &str),
        fleet: &str,
        rest: &str,
    ) -> Self {
        let machine = Machine::here();
        Self::node_at(&machine, authority, endpoints, name, plane, fleet, rest)
    }

    /// The same at some machine, where its control plane is.
    pub fn node_at(
        machine: &Arc<Machine>,
        authority: &Authority,
        endpoints: &str,
        name: &str,
        plane: (SocketAddr, &str),
        fleet: &str,
        rest: &str,
    ) -> Self {
        Self::new(machine, authority, endpoints, ("node", name), |it| {
            let key = it.dir.path().join("api-key");
            std::fs::write(&key, plane.1).unwrap();
            format!(
                "listen = \"{}\"\n{fleet}\n[[hypeman]]\nurl = \"http://{}\"\napi_key_file = \"{}\"\n{rest}",
                it.members,
                plane.0,
                key.display()
            )
        })
    }

    fn new(
        machine: &Arc<Machine>,
        authority: &Authority,
        endpoints: &str,
        (role, name): (&str, &str),
        rest: impl FnOnce(&Self) -> String,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let reserved = [8080, 9900, 7443].map(|port| machine.reserve(port));
        let [listen, admin, members] = reserved.each_ref().map(|one| one.address);
        let member = Self {
            listen,
            admin,
            members,
            path: dir.path().join("wakegate.toml"),
            machine: Arc::clone(machine),
            running: None,
            _reserved: reserved,
            dir,
        };
        let files = authority.issue(name, &format!("wakegate://{CELL}/{role}/{name}"));
        let (cert, key, ca) = (
            files.cert.display(),
            files.key.display(),
            files.ca.display(),
        );
        // An address that others reach wants to know who asks.
        let token = match admin.ip().is_loopback() {
            true => String::new(),
            false => {
                let file = member.dir.path().join("admin-token");
                std::fs::write(&file, TOKEN).unwrap();
                format!("token_file = \"{}\"\n", file.display())
            }
        };
        let text = format!(
            "[admin]\naddress = \"{admin}\"\n{token}[fleet]\nendpoints = {endpoints}\nrole = \"{role}\"\n\
             cell = \"{CELL}\"\nzone = \"z-1\"\n\
             identity = {{ cert = \"{cert}\", key = \"{key}\", ca = \"{ca}\" }}\n{}",
            rest(&member)
        );
        std::fs::write(&member.path, text).unwrap();
        member
    }

    /// Starts its process.
    pub fn start(&mut self) {
        let said = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("said"));
        let mut command = without_settings(self.machine.command(binary()));
        command
            .arg("serve")
            .arg("-c")
            .arg(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.unwrap());
        self.running = Some(Program(command.spawn().unwrap()));
    }

    /// Starts its process, and returns when it is ready.
    pub async fn serve(&mut self) {
        self.start();
        self.is_ready().await;
    }

    /// Returns when it is ready.
    pub async fn is_ready(&mut self) {
        let admin = self.admin;
        let running = self.running.as_mut().unwrap();
        let path = self.dir.path().join("said");
        eventually("it is ready", async || {
            if let Some(ended) = running.0.try_wait().unwrap() {
                panic!("{ended}: {}", std::fs::read_to_string(&path).unwrap());
            }
            let answer = http().get(format!("http://{admin}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// Kills its process.
    pub fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// Its process, while that runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|program| program.0.id())
    }

    /// Sends a signal to its process.
    pub fn signal(&self, signal: &str) {
        self.running.as_ref().unwrap().signal(signal);
    }

    /// Lets its process end by itself, and returns when it has.
    pub async fn drain(&mut self) {
        let mut program = self.running.take().unwrap();
        program.signal("TERM");
        eventually("it ends", async || program.0.try_wait().unwrap().is_some()).await;
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("said")).unwrap()
    }

    /// A file beside its configuration.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A request for a host, over a connection of its own.
    pub fn request(&self, method: &str, host: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}{path}", self.listen);
        http().request(method, url).header("host", host)
    }

    pub async fn get(&self, host: &str) -> reqwest::Response {
        self.request("GET", host, "/").send().await.unwrap()
    }

    /// The status of an answer, and its problem's code; the code is empty where it is none.
    pub async fn code(&self, host: &str) -> (u16, String) {
        let answer = self.get(host).await;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        let code = body.get("code").and_then(Value::as_str).unwrap_or_default();
        (status, code.to_owned())
    }

    /// What its admin listener says of the fleet.
    pub async fn api(&self) -> Value {
        let answer = http()
            .get(format!("http://{}/api/fleet", self.admin))
            .bearer_auth(TOKEN)
            .send()
            .await;
        answer.unwrap().json().await.unwrap()
    }

    /// A metric's value.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = http()
            .get(format!("http://{}/metrics", self.admin))
            .send()
            .await;
        let text = text.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// `wakegate fleet …` with its configuration.
    pub async fn fleet(&self, words: &str) -> Said {
        let mut command = without_settings(Command::new(binary()));
        command
            .arg("fleet")
            .args(words.split_whitespace())
            .arg("-c")
            .arg(&self.path)
            .stdin(Stdio::null());
        let output = spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said {
            is_fine: output.status.success(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        // Whoever looks for the reason of a failure wants to know what it has said last.
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.file("said")).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            println!("{}:\n{}", self.path.display(), last.join("\n"));
        }
    }
}
