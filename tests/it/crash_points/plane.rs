//! A control plane as a process of its own, on a state directory that outlives it.
//!
//! Guarantees: each start is at the same address and on the same directory; a call is sent once and
//! never again; what was started in the directory ends with it, also when a test fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::support::reserved::Reserved;
use crate::support::tools::scratch;
use crate::support::{Home, PATIENCE, Program, wakegate};

use super::world::{belongings, forget_groups};

/// What instances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Process,
    Vm,
}

/// A state directory, and where its control planes listen.
pub struct Site {
    pub kind: Kind,
    home: Home,
    /// What its control planes say; on another disk where the state's is a small one.
    log: tempfile::NamedTempFile,
    reserved: Reserved,
    /// More arguments of `wakegate local`.
    pub arguments: Vec<String>,
}

/// A control plane that runs.
pub struct ControlPlane {
    pub program: Program,
    url: String,
    http: reqwest::Client,
}

/// What was answered: the status and the body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// One call of the API.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
}

// === impl Site ===

impl Site {
    pub fn new(kind: Kind) -> Self {
        let home = Home::new();
        std::fs::create_dir(home.path().join("state")).unwrap();
        Self {
            kind,
            home,
            log: tempfile::NamedTempFile::new_in(scratch("")).unwrap(),
            reserved: Reserved::new(),
            arguments: Vec::new(),
        }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.home.path().canonicalize().unwrap().join("state")
    }

    /// What its control planes have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Starts a control plane and waits until it serves; the reason when it does not.
    pub async fn try_start(&self) -> Result<ControlPlane, String> {
        let log = File::options().append(true).open(self.log.path()).unwrap();
        let mut command = wakegate();
        command
            .args(["local", "--no-auth", "--api-listen"])
            .arg(self.reserved.address.to_string())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args((self.kind == Kind::Vm).then_some("--driver=qemu"))
            .args(&self.arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut plane = ControlPlane {
            program: Program(command.spawn().unwrap()),
            url: format!("http://{}", self.reserved.address),
            http: client(),
        };
        let end = Instant::now() + PATIENCE;
        loop {
            if plane.get("/health").await.is_ok() {
                return Ok(plane);
            }
            if let Some(status) = plane.program.0.try_wait().unwrap() {
                return Err(format!("the control plane ended: {status}\n{}", self.log()));
            }
            if Instant::now() > end {
                return Err(format!("the control plane does not serve\n{}", self.log()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn start(&self) -> ControlPlane {
        let started = self.try_start().await;
        started.unwrap_or_else(|why| panic!("{why}"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What a control plane has left behind is not left behind by its test as well.
        let folders = std::fs::read_dir(self.state_dir().join("instances"));
        let folders = folders.into_iter().flatten().flatten();
        let mut ids: BTreeSet<String> = folders
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        for process in belongings(&self.state_dir(), &[]) {
            ids.extend(process.instance.clone());
            process.kill();
        }
        forget_groups(&ids);
    }
}

/// A client that keeps no connections, so that none is of a control plane that was killed.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap()
}

// === impl ControlPlane ===

impl ControlPlane {
    pub fn pid(&self) -> u32 {
        self.program.0.id()
    }

    /// Sends a call, in the background if it is not awaited here.
    pub fn call(
        &self,
        call: &Call,
    ) -> impl Future<Output = Result<Answer, reqwest::Error>> + use<> {
        let url = format!("{}{}", self.url, call.path);
        let mut request = self.http.request(call.method.clone(), url);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let request = request.timeout(2 * PATIENCE);
        async move {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            let text = answer.text().await?;
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Ok(Answer { status, body })
        }
    }

    pub async fn get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.call(&Call::new(Method::GET, path)).await
    }

    /// A call that must be answered well.
    pub async fn must(&self, call: &Call) -> Value {
        let answer = self.call(call).await.unwrap();
        assert!(answer.is_good(), "{call:?}: {answer:?}");
        answer.body
    }
}

// === impl Call ===

impl Call {
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: None,
        }
    }

    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self {
            body: Some(body),
            ..Self::new(Method::POST, path)
        }
    }
}

impl Answer {
    pub const fn is_good(&self) -> bool {
        self.status < 300
    }
}

/// The folder of an instance.
pub fn folder(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join("instances").join(id)
}
