//! A real etcd: its members as processes, which can be killed and paused.
//!
//! Guarantees: each has folders and ports of its own and ends with its test; without etcd on the machine
//! the test is skipped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use wakegate::config::FleetConfig;
use wakegate::fleet::EtcdEngine;
use wakegate::fleet::engine::read_all;
use wakegate::fleet::records::PREFIX;

use super::machines::Machine;
use super::reserved::Reserved;
use super::skips::{Lacking, skip};
use super::{Program, eventually};

/// Whether etcd is installed; the test is skipped without.
pub fn has_etcd() -> bool {
    let found = ["etcd", "etcdctl"].iter().all(|program| {
        let mut command = Command::new(program);
        command
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok()
    });
    if !found {
        skip(Lacking::Tool, "etcd is not installed");
    }
    found
}

/// Members of one etcd.
pub struct Etcd {
    dir: tempfile::TempDir,
    /// Where its members run.
    pub machines: Vec<Arc<Machine>>,
    clients: Vec<Reserved>,
    peers: Vec<Reserved>,
    running: Vec<Option<Program>>,
}

// === impl Etcd ===

impl Etcd {
    pub async fn start(members: usize) -> Self {
        Self::start_at((0..members).map(|_| Machine::here()).collect()).await
    }

    /// One member at each machine.
    pub async fn start_at(machines: Vec<Arc<Machine>>) -> Self {
        let reserve = |port| machines.iter().map(|at| at.reserve(port)).collect();
        let mut etcd = Self {
            dir: tempfile::tempdir().unwrap(),
            clients: reserve(2379),
            peers: reserve(2380),
            running: machines.iter().map(|_| None).collect(),
            machines,
        };
        for index in 0..etcd.machines.len() {
            etcd.run(index);
        }
        let engine = etcd.engine();
        eventually("etcd answers", async || {
            read_all(&engine, PREFIX).await.is_ok()
        })
        .await;
        etcd
    }

    pub fn cluster(&self) -> String {
        let members = self.peers.iter().enumerate();
        let members: Vec<String> = members
            .map(|(index, peer)| format!("m{index}=http://{}", peer.address))
            .collect();
        members.join(",")
    }

    pub fn run(&mut self, index: usize) {
        let (client, peer) = (self.clients[index].address, self.peers[index].address);
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = self.machines[index].command("etcd");
        command
            .args(["--name", &format!("m{index}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{index}")))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &self.cluster()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.running[index] = Some(Program(command.spawn().unwrap()));
    }

    /// The only member has what was saved as `backup`, as one of this cluster or, with a token, of another.
    pub fn restore(&self, token: Option<&str>) {
        std::fs::remove_dir_all(self.path("m0")).unwrap();
        let (dir, peer) = (self.path("m0"), format!("http://{}", self.peer(0)));
        let (dir, cluster) = (dir.to_str().unwrap(), self.cluster());
        let mut arguments = vec!["snapshot", "restore", "backup", "--name", "m0"];
        arguments.extend(["--data-dir", dir, "--initial-cluster", &cluster]);
        arguments.extend(["--initial-advertise-peer-urls", &peer]);
        arguments.extend(
            token
                .into_iter()
                .flat_map(|token| ["--initial-cluster-token", token]),
        );
        self.control(&arguments);
    }

    /// Runs a member where nobody knows it, and returns a way to it.
    pub async fn run_elsewhere(&mut self, index: usize) -> EtcdEngine {
        let place = Reserved::new();
        let usual = std::mem::replace(&mut self.clients[index], place);
        self.run(index);
        let engine = self.engine();
        eventually("it answers", async || {
            read_all(&engine, PREFIX).await.is_ok()
        })
        .await;
        self.clients[index] = usual;
        engine
    }

    pub fn kill(&mut self, index: usize) {
        let mut program = self.running[index].take().unwrap();
        program.0.kill().unwrap();
        program.0.wait().unwrap();
    }

    pub fn signal(&self, index: usize, signal: rustix::process::Signal) {
        let id = self.pid(index);
        let id = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// A member's process.
    pub fn pid(&self, index: usize) -> u32 {
        self.running[index].as_ref().unwrap().0.id()
    }

    pub fn endpoint(&self, index: usize) -> String {
        format!("http://{}", self.clients[index].address)
    }

    pub fn config(&self) -> FleetConfig {
        FleetConfig {
            endpoints: (0..self.clients.len())
                .map(|index| self.endpoint(index))
                .collect(),
            ..FleetConfig::default()
        }
    }

    pub fn engine(&self) -> EtcdEngine {
        EtcdEngine::new(&self.config()).unwrap()
    }

    /// The member that leads the others.
    pub async fn leader(&self) -> usize {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut leader = None;
        eventually("one leads", async || {
            for index in 0..self.clients.len() {
                let url = format!("{}/v3/maintenance/status", self.endpoint(index));
                let Ok(answer) = http.post(url).body("{}").send().await else {
                    continue;
                };
                let status: serde_json::Value = answer.json().await.unwrap_or_default();
                let own = &status["header"]["member_id"];
                if own.is_string() && status["leader"] == *own {
                    leader = Some(index);
                }
            }
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// etcd's own client.
    pub fn control(&self, arguments: &[&str]) {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint(0)]);
        let output = command
            .args(arguments)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the other members reach this one.
    pub fn peer(&self, index: usize) -> SocketAddr {
        self.peers[index].address
    }

    /// Each as TOML.
    pub fn endpoints(&self) -> String {
        let all: Vec<String> = (0..self.clients.len())
            .map(|index| format!("{:?}", self.endpoint(index)))
            .collect();
        format!("[{}]", all.join(", "))
    }
}
