//! Builders for tests over real sockets: a control plane, a gateway, a client.
//!
//! Guarantees: every port is chosen by the kernel and belongs to its test until the end, every
//! directory is temporary, and what is started ends with its owner.

pub mod browser;
pub mod etcd;
pub mod fleet;
pub mod gateway_process;
pub mod machines;
pub mod member_process;
pub mod module_graph;
pub mod relay;
pub mod reserved;
pub mod scripted_app;
pub mod scripted_ca;
pub mod scripted_plane;
pub mod skips;
pub mod tools;

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hypeman::wire::{AutoStandbyPolicy, CreateInstance, Instance, InstanceState, RedactedMap};
use hypeman::{GoDuration, InstanceRef};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wakegate::app::{App, AppHandle};
use wakegate::config::{Config, Secret, Variables, load};
use wakegate::telemetry::AccessSink;
use wakegate_local::{DriverChoice, LocalConfig, LocalServer, OnExit};

use reserved::Reserved;
use skips::{Lacking, skip};

pub const BINARY: &str = env!("CARGO_BIN_EXE_wakegate");

/// The program, among no settings but those that a test gives it: somebody who has worked with
/// wakegate in this shell has keys and addresses in the environment.
pub fn wakegate() -> Command {
    without_settings(Command::new(BINARY))
}

/// The same for another program that starts it.
pub fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("WAKEGATE_") || text.starts_with("HYPEMAN_") {
            command.env_remove(&name);
        }
    }
    command
}
/// Longer than anything takes on a machine that is busy with much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A task of the test's own, awaited by it.
#[allow(
    clippy::disallowed_methods,
    reason = "tests await their tasks themselves"
)]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(future)
}

pub fn reference(text: &str) -> InstanceRef {
    InstanceRef::parse(text).unwrap()
}

/// A temporary directory of programs that may be killed: whatever still runs in it ends with it,
/// also when a test fails.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in processes(self.path()) {
            let pid = pid.to_string();
            // It may have gone meanwhile.
            let _output = Command::new("kill").args(["-KILL", &pid]).output();
        }
    }
}

/// As many open files as this process may have: all tests share it, and some open thousands.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // What is not allowed shows where there are too few.
    let _refused = setrlimit(Resource::Nofile, raised);
}

/// The processes whose working directory is `folder` or below it.
pub fn processes(folder: &Path) -> Vec<i32> {
    let ours = folder.canonicalize().unwrap();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let here = |pid: &i32| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd.starts_with(&ours))
    };
    pids.filter(here).collect()
}

/// A number that the environment variable `name` gives a long test; `None` when it is not set.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    Some(text.to_str().unwrap().parse().unwrap())
}

/// Waits until `check` says so; fails when it has not for a long time.
pub async fn eventually(what: &str, check: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, check).await;
}

/// The same, for what may take longer.
pub async fn eventually_within(
    patience: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> bool,
) {
    let end = Instant::now() + patience;
    while !check().await {
        assert!(Instant::now() < end, "not so after {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// === The control plane ===

/// A local control plane in this process, with a client.
pub struct Plane {
    pub address: SocketAddr,
    pub token: String,
    pub client: hypeman::Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    dir: Home,
}

/// An instance to create.
pub struct Wanted {
    pub request: CreateInstance,
}

impl Wanted {
    pub fn hello(name: &str) -> Self {
        let request = CreateInstance {
            name: name.to_owned(),
            image: "wakegate/hello".to_owned(),
            env: RedactedMap(BTreeMap::from([(
                "HELLO_EXIT_WITH_PARENT".into(),
                "1".into(),
            )])),
            ..CreateInstance::default()
        };
        Self { request }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.0.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn idle(mut self, timeout: Duration) -> Self {
        self.request.auto_standby = Some(AutoStandbyPolicy {
            enabled: true,
            idle_timeout: Some(GoDuration::from(timeout)),
            ..AutoStandbyPolicy::default()
        });
        self
    }
}

/// What is between a gateway and the application of an instance until the test opens it.
pub struct Door {
    ip: String,
}

impl Door {
    /// Keys of a route that goes through the door.
    pub const ROUTE: &str = "port = 9000";

    /// Opens it for good.
    pub async fn open(self) {
        let listener = tokio::net::TcpListener::bind((self.ip.as_str(), 9000)).await;
        let listener = listener.unwrap();
        spawn(async move {
            while let Ok((mut outside, _)) = listener.accept().await {
                let ip = self.ip.clone();
                spawn(async move {
                    let inside = tokio::net::TcpStream::connect((ip.as_str(), 8080)).await;
                    if let Ok(mut inside) = inside {
                        let passing = tokio::io::copy_bidirectional(&mut outside, &mut inside);
                        let _ended = passing.await;
                    }
                });
            }
        });
    }
}

/// What a program says, line by line, as it says it.
pub struct Lines {
    heard: std::sync::mpsc::Receiver<String>,
    pub story: Vec<String>,
}

impl Lines {
    pub fn of(reader: impl std::io::Read + Send + 'static) -> Self {
        let (say, heard) = std::sync::mpsc::channel();
        let reading = move || {
            let lines = std::io::BufReader::new(reader).lines();
            // Who has heard enough lets the program go on.
            lines
                .map_while(Result::ok)
                .for_each(|line| drop(say.send(line)));
        };
        std::thread::spawn(reading);
        let story = Vec::new();
        Self { heard, story }
    }

    /// Waits until there are `count` lines with this part.
    pub async fn say(&mut self, part: &str, count: usize) {
        eventually(part, async || {
            self.story.extend(self.heard.try_iter());
            self.story.iter().filter(|line| line.contains(part)).count() >= count
        })
        .await;
    }

    /// Everything, to the end.
    pub fn into_story(mut self) -> String {
        self.story.extend(self.heard.iter());
        self.story.join("\n")
    }
}

impl Plane {
    /// The configuration's keys for it under this name; its API key is in a file below `dir`.
    pub fn declared_as(&self, name: &str, dir: &Path) -> String {
        let key = dir.join(format!("{name}-key"));
        std::fs::write(&key, &self.token).unwrap();
        format!(
            "[[hypeman]]\nname = \"{name}\"\nurl = \"http://{}\"\napi_key_file = \"{}\"\n",
            self.address,
            key.display()
        )
    }

    pub async fn start() -> Self {
        Self::start_with(DriverChoice::Process).await
    }

    pub async fn start_with(driver: DriverChoice) -> Self {
        raise_descriptors();
        let dir = Home::new();
        let server = LocalServer::bind(LocalConfig {
            address: ([127, 0, 0, 1], 0).into(),
            state_dir: dir.path().to_owned(),
            auth: true,
            hello: PathBuf::from(BINARY),
            on_exit: OnExit::Stop,
            allow_faults: true,
            driver,
        })
        .await
        .unwrap();
        let (address, token) = (server.address(), server.token().unwrap().to_owned());
        let (stop, stopped) = oneshot::channel();
        let task = spawn(async move {
            server.run(async { drop(stopped.await) }).await.unwrap();
        });
        let client = client_of(address, &token);
        Self {
            address,
            token,
            client,
            stop: Some(stop),
            task,
            dir,
        }
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap();
    }

    /// A Running instance.
    pub async fn running(&self, wanted: Wanted) -> Instance {
        let created = self.client.create_instance(&wanted.request).await.unwrap();
        let id = reference(&created.id);
        self.client
            .wait_instance(&id, &InstanceState::Running, PATIENCE)
            .await
            .unwrap();
        self.client.get_instance(&id).await.unwrap()
    }

    /// A Running instance whose port is open.
    pub async fn listening(&self, wanted: Wanted) -> Instance {
        let instance = self.running(wanted).await;
        let ip = instance.network.clone().unwrap().ip.unwrap();
        let id = reference(&instance.id);
        eventually("the instance listens", async || {
            let connected = tokio::net::TcpStream::connect((ip.as_str(), 8080)).await;
            if connected.is_err() && self.state(&instance.id).await == InstanceState::Standby {
                // On a busy machine a short idle timeout ends before its program has begun.
                self.client.restore_instance(&id).await.unwrap();
            }
            connected.is_ok()
        })
        .await;
        instance
    }

    /// An instance that was up and is asleep.
    pub async fn asleep(&self, wanted: Wanted) -> Instance {
        let instance = self.listening(wanted).await;
        self.sleep(&instance.id).await;
        instance
    }

    /// A Running instance whose application listens, and is reached at port 9000 once the test
    /// opens its door.
    pub async fn behind_a_door(&self, name: &str) -> (Instance, Door) {
        let instance = self.listening(Wanted::hello(name)).await;
        let ip = instance.network.clone().unwrap().ip.unwrap();
        (instance, Door { ip })
    }

    /// An instance whose application is the test's own, at its address.
    pub async fn own_origin(&self, name: &str) -> (InstanceRef, tokio::net::TcpListener) {
        let wanted = Wanted::hello(name).env("HELLO_LISTEN_DELAY", "never");
        let instance = self.running(wanted).await;
        let ip = instance.network.unwrap().ip.unwrap();
        let origin = tokio::net::TcpListener::bind((ip.as_str(), 8080)).await;
        (reference(&instance.id), origin.unwrap())
    }

    pub async fn sleep(&self, id: &str) {
        self.client
            .standby_instance(&reference(id), None)
            .await
            .unwrap();
    }

    /// Switches faults on, as JSON of `local::Faults`.
    pub async fn faults(&self, json: &'static str) {
        let answer = reqwest::Client::new()
            .put(format!("http://{}/_test/faults", self.address))
            .bearer_auth(&self.token)
            .header("content-type", "application/json")
            .body(json)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }

    pub async fn state(&self, id: &str) -> InstanceState {
        self.client
            .get_instance(&reference(id))
            .await
            .unwrap()
            .state
    }

    /// Where the instance's files are.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.path().join("instances").join(id)
    }

    /// Lines of the instance's log of operations that begin so after their time.
    pub async fn operations(&self, id: &str, operation: &str) -> usize {
        let path = self.folder(id).join("hypeman.log");
        let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
        text.lines()
            .filter(|line| {
                line.split_once(' ')
                    .is_some_and(|(_, op)| op.starts_with(operation))
            })
            .count()
    }
}

/// Whether this machine can run VMs. The test is skipped where it cannot.
pub fn can_run_vms() -> bool {
    let there = |places: &[&str]| places.iter().any(|place| Path::new(place).exists());
    let kernels = std::fs::read_dir("/boot").into_iter().flatten().flatten();
    let kernel = kernels
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| name.starts_with("vmlinuz-"));
    let missing: Vec<&str> = [
        ("qemu-system-x86", there(&["/usr/bin/qemu-system-x86_64"])),
        (
            "busybox-static",
            there(&["/bin/busybox", "/usr/bin/busybox"]),
        ),
        ("linux-image-cloud-amd64", kernel),
    ]
    .iter()
    .filter(|(_, there)| !there)
    .map(|(package, _)| *package)
    .collect();
    if !missing.is_empty() {
        let reason = format!("these packages are not installed: {}", missing.join(", "));
        skip(Lacking::Tool, &reason);
    }
    missing.is_empty()
}

pub fn client_of(address: SocketAddr, token: &str) -> hypeman::Client {
    let text = format!(
        "[[hypeman]]\nurl = \"http://{address}\"\n[[route]]\nhost = \"x.y\"\ninstance = \"x\"\n"
    );
    let mut config = load("test", &text, &Variables::default()).unwrap();
    config.hypeman[0].api_key = Some(Secret::new(token));
    hypeman::Client::new(&config.hypeman[0].to_client_config()).unwrap()
}

// === The gateway ===

/// A gateway in this process.
pub struct Gateway {
    /// The first listener's.
    pub address: SocketAddr,
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// The workloads' door, if there is one.
    pub door: Option<SocketAddr>,
    pub handle: AppHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<bool>,
}

impl Gateway {
    /// Routes `{instance}.test` to the plane's instances at port 8080; `extra` is more TOML.
    pub async fn start(plane: &Plane, extra: &str) -> Self {
        Self::start_with(plane.address, &plane.token, extra, AccessSink::off()).await
    }

    pub async fn start_with(
        address: SocketAddr,
        token: &str,
        extra: &str,
        access: AccessSink,
    ) -> Self {
        let app = App::bind(config(address, token, extra), access)
            .await
            .unwrap();
        let (addresses, admin, handle) = (app.addresses(), app.admin_address(), app.handle());
        let door = app.door_address();
        let (stop, stopped) = oneshot::channel();
        let task = spawn(async move { app.run(async { drop(stopped.await) }).await });
        Self {
            address: addresses[0],
            addresses,
            admin,
            door,
            handle,
            stop: Some(stop),
            task,
        }
    }
    /// Begins the drain.
    pub fn drain(&mut self) {
        drop(self.stop.take());
    }

    /// Drains to the end; whether nothing had to be cut.
    pub async fn stop(mut self) -> bool {
        self.drain();
        (&mut self.task).await.unwrap()
    }

    /// A client without a pool, so that each request has its own connection.
    pub fn client(&self) -> Client {
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Client {
            http,
            address: self.address,
        }
    }

    /// One metric's value; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("http://{}/metrics", self.admin))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0.0)
    }
}

/// A gateway's configuration file in a temporary directory, with addresses of its own for its
/// listener and its operator's.
pub struct ConfigFile {
    pub path: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    _reserved: [Reserved; 2],
    _dir: tempfile::TempDir,
}

impl ConfigFile {
    /// `admin` is more of `[admin]`; `extra` is more TOML.
    pub fn new(plane: &Plane, admin: &str, extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let reserved = [(); 2].map(|()| Reserved::new());
        let [listen, admin_address] = reserved.each_ref().map(|one| one.address);
        let (path, key) = (dir.path().join("wakegate.toml"), dir.path().join("key"));
        std::fs::write(&key, &plane.token).unwrap();
        let text = format!(
            "[admin]\naddress = \"{admin_address}\"\n{admin}\n\
             [[hypeman]]\nurl = \"http://{}\"\napi_key_file = \"{}\"\n\
             [[listener]]\naddress = \"{listen}\"\n\
             [[route]]\nhost = \"{{instance}}.test\"\ninstance = \"{{instance}}\"\n{extra}",
            plane.address,
            key.display()
        );
        std::fs::write(&path, text).unwrap();
        Self {
            path,
            listen,
            admin: admin_address,
            _reserved: reserved,
            _dir: dir,
        }
    }

    pub fn add(&self, text: &str) {
        let before = std::fs::read_to_string(&self.path).unwrap();
        std::fs::write(&self.path, format!("{before}{text}")).unwrap();
    }
}

/// A route of its own for one instance, with these keys.
pub fn route(instance: &str, keys: &str) -> String {
    format!("[[route]]\nhost = \"{instance}.test\"\ninstance = \"{instance}\"\n{keys}\n")
}

pub fn config(address: SocketAddr, token: &str, extra: &str) -> Config {
    let text = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n\
         [[hypeman]]\nurl = \"http://{address}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\nhost = \"{{instance}}.test\"\ninstance = \"{{instance}}\"\nport = 8080\n{extra}"
    );
    let mut config = load("test", &text, &Variables::default()).unwrap();
    config.hypeman[0].api_key = Some(Secret::new(token));
    // Of several, each has its own connections to instances, and which one gets a client's next
    // connection depends on what else it has to do.
    config.server.workers = config.server.workers.or(Some(NonZeroUsize::MIN));
    config
}

// === The client ===

#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub address: SocketAddr,
}

impl Client {
    pub fn request(&self, method: &str, instance: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.http
            .request(method, format!("http://{}{path}", self.address))
            .header("host", format!("{instance}.test"))
    }

    pub async fn get(&self, instance: &str, path: &str) -> reqwest::Response {
        self.request("GET", instance, path).send().await.unwrap()
    }

    /// The status and the problem's code.
    pub async fn problem(&self, instance: &str) -> (u16, String, Option<String>) {
        let response = self.get(instance, "/").await;
        let status = response.status().as_u16();
        let after = response
            .headers()
            .get("retry-after")
            .map(|v| v.to_str().unwrap().to_owned());
        let body: serde_json::Value = response.json().await.unwrap();
        (status, body["code"].as_str().unwrap().to_owned(), after)
    }
}

// === The binary ===

/// The real program, killed with its owner.
pub struct Program(pub Child);

/// The demo, killed with its owner, and where it listens.
pub struct Demo {
    pub program: Program,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    _reserved: [Reserved; 3],
}

impl Demo {
    /// Starts it, at addresses of its own; `temporary` is where it keeps its files. With an idle
    /// timeout of less than ten seconds it may find, on a busy machine, that the first instance has
    /// fallen asleep before the second is up, and give up.
    pub fn start(idle_timeout: &str, temporary: &Path) -> Self {
        let reserved = [(); 3].map(|()| Reserved::new());
        let [listen, api, admin] = reserved.each_ref().map(|one| one.address);
        let mut command = wakegate();
        command
            .args(["demo", "--idle-timeout", idle_timeout])
            .args(["--listen", &listen.to_string()])
            .args(["--api-listen", &api.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .env("TMPDIR", temporary);
        Self {
            program: Program::spawn(&mut command),
            listen,
            admin,
            _reserved: reserved,
        }
    }
}

impl Program {
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(wakegate().args(arguments))
    }

    pub fn spawn(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Kills it, and returns when it has gone.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([format!("-{signal}"), self.0.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
