//! Builders for tests over real sockets: a control plane, a gateway, a client.
//!
//! Every port is free, every directory temporary, and what is started ends with its owner.

pub mod browser;
pub mod tools;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
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

pub const BINARY: &str = env!("CARGO_BIN_EXE_wakegate");
pub const PATIENCE: Duration = Duration::from_secs(20);

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

/// An address that was free a moment ago, for a program that is told where to listen.
pub fn free_address() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

pub fn reference(text: &str) -> InstanceRef {
    InstanceRef::parse(text).unwrap()
}

/// A number that the environment variable `name` gives a long test; `None` when it is not set.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    Some(text.to_str().unwrap().parse().unwrap())
}

/// Waits until `check` says so; fails when it has not for a long time.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < end, "not so after {PATIENCE:?}: {what}");
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
    dir: tempfile::TempDir,
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

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(DriverChoice::Process).await
    }

    pub async fn start_with(driver: DriverChoice) -> Self {
        let dir = tempfile::tempdir().unwrap();
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

/// Whether this machine can run VMs; says what it lacks. Where tests must not be skipped, it must.
pub fn can_run_vms() -> bool {
    let there = |places: &[&str]| {
        places
            .iter()
            .any(|place| std::path::Path::new(place).exists())
    };
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
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(std::env::var_os("CI").is_none(), "not installed: {missing}");
    println!("SKIPPED, since this is not installed: {missing}");
    false
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
        let (stop, stopped) = oneshot::channel();
        let task = spawn(async move { app.run(async { drop(stopped.await) }).await });
        Self {
            address: addresses[0],
            addresses,
            admin,
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

/// A gateway's configuration file in a temporary directory, with its listener and its operator's at free
/// addresses.
pub struct ConfigFile {
    pub path: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    _dir: tempfile::TempDir,
}

impl ConfigFile {
    /// `admin` is more of `[admin]`; `extra` is more TOML.
    pub fn new(plane: &Plane, admin: &str, extra: &str) -> Self {
        let (dir, [listen, admin_address]) = (
            tempfile::tempdir().unwrap(),
            [(); 2].map(|()| free_address()),
        );
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

impl Program {
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The demo, at free addresses: the gateway's and the operator's.
    pub fn demo(idle_timeout: &str) -> (Self, SocketAddr, SocketAddr) {
        let [listen, api, admin] = [(); 3].map(|()| free_address());
        let demo = Self::start(&[
            "demo",
            "--listen",
            &listen.to_string(),
            "--api-listen",
            &api.to_string(),
            "--admin-listen",
            &admin.to_string(),
            "--idle-timeout",
            idle_timeout,
        ]);
        (demo, listen, admin)
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
