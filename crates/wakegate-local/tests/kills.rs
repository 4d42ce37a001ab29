//! A control plane that is killed, ended, or out of room: afterwards its list, its disk and its
//! processes agree.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(30);
const BINARY: &str = env!("CARGO_BIN_EXE_wakegate-local");

/// A control plane that is a process of its own.
struct Plane {
    process: Child,
    state: PathBuf,
    url: String,
    http: reqwest::Client,
    /// Keeps its port for it.
    _bound: Socket,
}

/// Waits until something is so.
async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The id of a new instance that does not end when it is asked to, so that its stop and its deletion take their time.
async fn stubborn(plane: &Plane, state: &Path, name: &str) -> String {
    // A signal that came before the shell has set its trap would end it.
    let script = "trap '' TERM; touch ready; while :; do sleep 0.1; done";
    let created = plane.create(name, &["/bin/sh", "-c", script]).await;
    let id = id_of(&created.unwrap().1);
    let ready = state.join("instances").join(&id).join("work/ready");
    eventually("it does not end any more", async || ready.exists()).await;
    id
}

/// Sends a signal by its name, such as `-TERM`.
fn signal(pid: &str, name: &str) {
    let status = Command::new("kill").args([name, pid]).status().unwrap();
    assert!(status.success());
}

/// A free port, which nobody else takes until the control plane does.
/// It is bound, and does not listen: whoever reuses addresses may.
fn free_address() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (address, socket)
}

// === impl Plane ===

impl Plane {
    async fn start(state: &Path, more: &[&str]) -> Self {
        Self::start_by(Command::new(BINARY), state, more).await
    }

    /// Starts it by a command that ends with the program's name.
    async fn start_by(mut command: Command, state: &Path, more: &[&str]) -> Self {
        let (address, bound) = free_address();
        let process = command
            .args(["serve", "--no-auth", "--api-listen", &address.to_string()])
            .arg("--state-dir")
            .arg(state)
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{address}");
        let state = state.to_owned();
        let plane = Self {
            process,
            state,
            url,
            http,
            _bound: bound,
        };
        eventually("it serves", async || {
            plane.try_get("/health").await.is_some()
        })
        .await;
        plane
    }

    async fn try_get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        let answer = answer.ok()?;
        match answer.status().is_success() {
            true => answer.json().await.ok(),
            false => None,
        }
    }

    async fn list(&self) -> Vec<Value> {
        let list = self.try_get("/instances").await.unwrap();
        list.as_array().unwrap().clone()
    }

    /// The status and the body of a call, if it was answered.
    async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let mut call = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            call = call.json(&body);
        }
        let answer = call.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.unwrap_or_default()))
    }

    async fn create(&self, name: &str, command: &[&str]) -> Option<(u16, Value)> {
        let instance = json!({
            "name": name, "image": "local/exec", "cmd": command, "network": { "enabled": false },
        });
        self.call(reqwest::Method::POST, "/instances", Some(instance))
            .await
    }

    async fn delete(&self, id: &str) -> Option<u16> {
        let path = format!("/instances/{id}");
        let answer = self.call(reqwest::Method::DELETE, &path, None).await;
        answer.map(|(status, _)| status)
    }

    fn signal(&self, name: &str) {
        signal(&self.process.id().to_string(), name);
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn wait(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // It may have ended; and a test that fails leaves nothing, either.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
        if std::thread::panicking() {
            for (pid, _) in processes(&self.state) {
                let pid = pid.to_string();
                let _gone = Command::new("kill").args(["-KILL", &pid]).status();
            }
        }
    }
}

/// The processes that were started for instances of this state directory, by their instances.
fn processes(state: &Path) -> Vec<(i32, String)> {
    let mark = format!("WAKEGATE_LOCAL_FOLDER={}/instances/", state.display());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let marked = numbers.filter_map(|pid| {
        let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let folder = text.split('\0').find_map(|line| line.strip_prefix(&mark))?;
        let id = folder.split('/').next()?.to_owned();
        Some((pid, id))
    });
    marked.collect()
}

/// The folders of instances.
fn folders(state: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(state.join("instances")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn id_of(instance: &Value) -> String {
    instance["id"].as_str().unwrap().to_owned()
}

fn state_folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// What is listed has a folder, what runs is listed, and nothing else is there.
async fn agrees(plane: &Plane, state: &Path) {
    let list = plane.list().await;
    let ids: BTreeSet<String> = list.iter().map(id_of).collect();
    assert_eq!(folders(state), ids);
    let running: BTreeSet<String> = list
        .iter()
        .filter(|instance| instance["state"] == "Running" || instance["state"] == "Standby")
        .map(id_of)
        .collect();
    let owners: BTreeSet<String> = processes(state).into_iter().map(|(_, id)| id).collect();
    assert_eq!(owners, running);
    for folder in &ids {
        let folder = state.join("instances").join(folder);
        let unfinished = fs::read_dir(folder).unwrap().any(|entry| {
            let name = entry.unwrap().file_name();
            name.to_str().unwrap().starts_with(".tmp-")
        });
        assert!(!unfinished);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_creations_and_deletions_leaves_no_process_without_an_owner() {
    let (_dir, state) = state_folder();
    let tasks = TaskTracker::new();
    let mut plane = Plane::start(&state, &[]).await;
    for round in 0..16_u64 {
        let calls: Vec<_> = (0..4)
            .map(|number| {
                let (url, http) = (plane.url.clone(), plane.http.clone());
                tasks.spawn(async move {
                    let instance = json!({
                        "name": format!("r{round}-{number}"), "image": "local/exec",
                        "cmd": ["/bin/sleep", "600"], "network": { "enabled": false },
                    });
                    let call = http.post(format!("{url}/instances")).json(&instance);
                    let answer = call.send().await.ok()?.json::<Value>().await.ok()?;
                    let id = answer["id"].as_str()?.to_owned();
                    let call = http.delete(format!("{url}/instances/{id}?graceful_shutdown=false"));
                    call.send().await.ok()
                })
            })
            .collect();
        sleep(Duration::from_millis(round * 3)).await;
        plane.kill();
        for call in calls {
            call.await.unwrap();
        }
        plane = Plane::start(&state, &[]).await;
        agrees(&plane, &state).await;
    }
    for instance in plane.list().await {
        let status = plane.delete(&id_of(&instance)).await;
        assert_eq!(status, Some(204));
    }
    agrees(&plane, &state).await;
    plane.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_has_started_goes_with_it_when_its_leader_ended_unwatched() {
    let (_dir, state) = state_folder();
    let plane = Plane::start(&state, &[]).await;
    let script = "setsid sleep 600 & exec sleep 600";
    let (status, instance) = plane
        .create("parent", &["/bin/sh", "-c", script])
        .await
        .unwrap();
    assert_eq!(status, 201);
    eventually("both run", async || processes(&state).len() == 2).await;
    plane.kill();
    let record = state.join("instances").join(id_of(&instance));
    let record: Value =
        serde_json::from_slice(&fs::read(record.join("record.json")).unwrap()).unwrap();
    let pid = record["handle"]["pid"].to_string();
    signal(&pid, "-KILL");
    let plane = Plane::start(&state, &[]).await;
    let list = plane.list().await;
    assert_eq!(list[0]["state"], "Stopped", "{list:?}");
    agrees(&plane, &state).await;
    plane.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_races_a_deletion_does_not_bring_the_instance_back() {
    let (_dir, state) = state_folder();
    let plane = Plane::start(&state, &[]).await;
    for round in 0..40_u64 {
        let name = format!("racer-{round}");
        let (_, instance) = plane.create(&name, &["/bin/sleep", "600"]).await.unwrap();
        let path = format!("/instances/{}", id_of(&instance));
        let schedule = json!({ "interval": "1h", "retention": { "max_count": 1 } });
        let patch = plane.call(reqwest::Method::PATCH, &path, Some(json!({ "ttl": "1h" })));
        let put = format!("{path}/snapshot-schedule");
        let put = plane.call(reqwest::Method::PUT, &put, Some(schedule));
        let gone = format!("{path}?graceful_shutdown=false");
        let gone = async {
            sleep(Duration::from_micros(round * 50)).await;
            plane.call(reqwest::Method::DELETE, &gone, None).await
        };
        let (patched, scheduled, deleted) = tokio::join!(patch, put, gone);
        assert_eq!(deleted.unwrap().0, 204);
        for (status, body) in [patched.unwrap(), scheduled.unwrap()] {
            assert!([200, 404].contains(&status), "{status} {body}");
        }
    }
    assert!(folders(&state).is_empty(), "{:?}", folders(&state));
    plane.kill();
    let plane = Plane::start(&state, &[]).await;
    assert!(plane.list().await.is_empty());
    plane.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_in_the_middle_of_a_deletion_finishes_it_and_answers() {
    for more in [[].as_slice(), &["--on-exit", "stop"]] {
        let (_dir, state) = state_folder();
        let plane = Plane::start(&state, more).await;
        let id = stubborn(&plane, &state, "stubborn").await;
        let folder = state.join("instances").join(&id);
        let deletion = async { plane.delete(&id).await };
        let end = async {
            eventually("it is being deleted", async || {
                folder.join("record.deleted").exists()
            })
            .await;
            plane.signal("-TERM");
        };
        let (status, ()) = tokio::join!(deletion, end);
        assert_eq!(status, Some(204));
        plane.wait();
        assert!(folders(&state).is_empty());
        assert!(processes(&state).is_empty());
        let plane = Plane::start(&state, more).await;
        assert!(plane.list().await.is_empty());
        plane.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_deletion_and_a_killed_stop_are_finished_by_the_next_control_plane() {
    let (_dir, state) = state_folder();
    let plane = Plane::start(&state, &[]).await;
    let mut ids = Vec::new();
    for name in ["deleted", "stopped"] {
        ids.push(stubborn(&plane, &state, name).await);
    }
    let path = format!("/instances/{}/stop", ids[1]);
    let both = async {
        tokio::join!(
            plane.delete(&ids[0]),
            plane.call(reqwest::Method::POST, &path, None)
        )
    };
    let deleted = state.join("instances").join(&ids[0]).join("record.deleted");
    let stopping = state.join("instances").join(&ids[1]).join("record.json");
    let begun = async {
        eventually("both have begun", async || {
            let record = fs::read_to_string(&stopping).unwrap();
            deleted.exists() && record.contains("\"Shutdown\"")
        })
        .await;
        plane.signal("-KILL");
    };
    let ((no_answer, none), ()) = tokio::join!(both, begun);
    assert!(no_answer.is_none() && none.is_none());
    let plane = Plane::start(&state, &[]).await;
    let list = plane.list().await;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (&list[0]["name"], &list[0]["state"]),
        (&json!("stopped"), &json!("Stopped"))
    );
    agrees(&plane, &state).await;
    plane.kill();
}

/// A control plane that can make no control groups; `None` where that cannot be had.
async fn without_groups(state: &Path) -> Option<Plane> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut inside = Command::new("unshare");
    let hide = "mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" \"$@\"";
    inside.args(["--mount", "sh", "-c", hide]).arg(BINARY);
    Some(Plane::start_by(inside, state, &[]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_programs_own_goes_with_its_stop_and_its_deletion() {
    let script = "setsid sleep 600 & exec sleep 600";
    for hidden in [false, true] {
        let (_dir, state) = state_folder();
        let plane = match hidden {
            true => without_groups(&state).await,
            false => Some(Plane::start(&state, &[]).await),
        };
        let Some(plane) = plane else {
            println!("SKIPPED: control groups are hidden by root alone");
            return;
        };
        let created = plane.create("parent", &["/bin/sh", "-c", script]).await;
        let path = format!("/instances/{}", id_of(&created.unwrap().1));
        let both = async || processes(&state).len() == 2;
        eventually("both run", both).await;
        let post = async |verb: &str| {
            let path = format!("{path}/{verb}");
            plane.call(reqwest::Method::POST, &path, None).await
        };
        assert_eq!(post("stop").await.unwrap().0, 200);
        let left = processes(&state);
        assert!(left.is_empty(), "{left:?}, groups are hidden: {hidden}");
        assert_eq!(post("start").await.unwrap().0, 200);
        eventually("both run again", both).await;
        let gone = plane.call(reqwest::Method::DELETE, &path, None).await;
        assert_eq!(gone.unwrap().0, 204);
        let left = processes(&state);
        assert!(left.is_empty(), "{left:?}, groups are hidden: {hidden}");
        plane.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_to_be_started_again_is_after_a_kill_in_the_middle() {
    let (_dir, state) = state_folder();
    let plane = Plane::start(&state, &[]).await;
    // It takes its time to end, and is unhealthy when it is ready for that.
    let script = "trap '' TERM; touch ready; while :; do sleep 0.1; done";
    let instance = json!({
        "name": "unhealthy", "image": "local/exec", "cmd": ["/bin/sh", "-c", script],
        "network": { "enabled": false },
        "health_check": {
            "type": "exec", "interval": "1s", "timeout": "1s", "start_period": "0s",
            "failure_threshold": 1,
            "exec": { "command": ["/bin/sh", "-c", "test ! -e ready"] },
        },
        "restart_policy": { "policy": "always", "backoff": "0s" },
    });
    let created = plane.call(reqwest::Method::POST, "/instances", Some(instance));
    let (status, body) = created.await.unwrap();
    assert_eq!(status, 201, "{body}");
    let record = state
        .join("instances")
        .join(id_of(&body))
        .join("record.json");
    eventually("it is being stopped", async || {
        let text = fs::read_to_string(&record).unwrap();
        text.contains("\"state\": \"Shutdown\"")
    })
    .await;
    plane.kill();
    let plane = Plane::start(&state, &[]).await;
    eventually("it is started again", async || {
        let list = plane.list().await;
        list[0]["restart_status"]["attempts"].as_u64() >= Some(1)
    })
    .await;
    let path = format!("/instances/{}?graceful_shutdown=false", id_of(&body));
    let gone = plane.call(reqwest::Method::DELETE, &path, None).await;
    assert_eq!(gone.unwrap().0, 204);
    plane.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_when_the_end_has_begun_is_refused_and_leaves_nothing() {
    let (_dir, state) = state_folder();
    let plane = Plane::start(&state, &["--on-exit", "stop"]).await;
    let id = stubborn(&plane, &state, "stubborn").await;
    let record = state.join("instances").join(&id).join("record.json");
    let stop = format!("/instances/{id}/stop");
    let start_and_end = async {
        eventually("it is being stopped", async || {
            let text = fs::read_to_string(&record).unwrap();
            text.contains("\"state\": \"Shutdown\"")
        })
        .await;
        let address = plane.url.strip_prefix("http://").unwrap();
        let mut start = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /instances/{id}/start HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        );
        start.write_all(head.as_bytes()).await.unwrap();
        let mut word = [0; 12];
        // Said when the call has begun; it then waits behind the stop.
        start.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"HTTP/1.1 100");
        start.write_all(b"{}").await.unwrap();
        plane.signal("-TERM");
        let mut answer = String::new();
        start.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let stop = plane.call(reqwest::Method::POST, &stop, None);
    let (stopped, started) = tokio::join!(stop, start_and_end);
    assert_eq!(stopped.unwrap().0, 200, "it had begun");
    assert!(started.contains("HTTP/1.1 500"), "{started}");
    assert!(started.contains("the control plane is ending"), "{started}");
    plane.wait();
    assert!(processes(&state).is_empty());
}

/// A control plane whose state directory is a file system of this size, and that directory.
async fn on_a_small_disk(state: &Path, kilobytes: u32) -> Option<(Plane, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut inside = Command::new("unshare");
    let mount = format!("mount -t tmpfs -o size={kilobytes}k none \"$0\" && exec \"$@\"");
    inside
        .args(["--mount", "sh", "-c", &mount])
        .arg(state)
        .arg(BINARY);
    let plane = Plane::start_by(inside, state, &[]).await;
    let root = PathBuf::from(format!("/proc/{}/root", plane.process.id()));
    let seen = root.join(state.strip_prefix("/").unwrap());
    Some((plane, seen))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_on_the_disk_nothing_is_promised_and_nothing_is_changed() {
    let (_dir, state) = state_folder();
    let Some((plane, disk)) = on_a_small_disk(&state, 256).await else {
        println!("SKIPPED: a small disk needs root");
        return;
    };
    let (_, instance) = plane.create("first", &["/bin/sleep", "600"]).await.unwrap();
    let id = id_of(&instance);
    fs::write(disk.join("ballast"), vec![0; 1 << 20]).unwrap_err();
    let path = format!("/instances/{id}");
    let patch = || plane.call(reqwest::Method::PATCH, &path, Some(json!({ "ttl": "1h" })));
    let (status, body) = patch().await.unwrap();
    assert_eq!(
        (status, &body["code"]),
        (507, &json!("insufficient_storage"))
    );
    let before = plane.try_get(&path).await.unwrap();
    assert_eq!(before["expires_at"], Value::Null, "nothing has changed");
    let (status, _) = plane
        .create("second", &["/bin/sleep", "600"])
        .await
        .unwrap();
    assert_eq!(status, 507);
    assert_eq!(plane.list().await.len(), 1);
    assert_eq!(folders(&disk), BTreeSet::from([id.clone()]));
    assert_eq!(processes(&state).len(), 1);

    // What needs no room works, and what there was no room for is written when there is.
    let stop = format!("{path}/stop");
    let (status, _) = plane
        .call(reqwest::Method::POST, &stop, None)
        .await
        .unwrap();
    assert_eq!(status, 200);
    fs::remove_file(disk.join("ballast")).unwrap();
    let record = disk.join("instances").join(&id).join("record.json");
    eventually("the record is saved", async || {
        let text = fs::read_to_string(&record).unwrap();
        text.contains("\"state\": \"Stopped\"")
    })
    .await;
    assert_eq!(patch().await.unwrap().0, 200);
    assert_eq!(plane.delete(&id).await, Some(204));
    assert!(folders(&disk).is_empty());
    plane.signal("-TERM");
    plane.wait();
}
