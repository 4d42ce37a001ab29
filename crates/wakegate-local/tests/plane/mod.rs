//! A control plane in this process, for the tests of this crate.

#![allow(dead_code, unreachable_pub, reason = "no test needs all of it")]

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate_local::{Clock, DriverChoice, LocalConfig, LocalServer, OnExit};

/// A control plane whose clock the test sets.
pub struct Plane {
    pub clock: Clock,
    pub url: String,
    pub http: reqwest::Client,
    stop: CancellationToken,
    tasks: TaskTracker,
    _state: tempfile::TempDir,
}

impl Plane {
    /// One that asks for no token.
    pub async fn start() -> Self {
        let (clock, state) = (Clock::adjustable(), tempfile::tempdir().unwrap());
        let config = LocalConfig {
            address: ([127, 0, 0, 1], 0).into(),
            state_dir: state.path().to_owned(),
            auth: false,
            hello: env!("CARGO_BIN_EXE_wakegate-local").into(),
            on_exit: OnExit::Stop,
            allow_faults: true,
            driver: DriverChoice::Process,
        };
        let server = LocalServer::bind_with(config, clock.clone()).await.unwrap();
        let url = format!("http://{}", server.address());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let end = stop.clone().cancelled_owned();
        tasks.spawn(async move { server.run(end).await.unwrap() });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            clock,
            url,
            http,
            stop,
            tasks,
            _state: state,
        }
    }

    /// Makes an instance.
    pub async fn create(&self, instance: Value) {
        let call = self.http.post(format!("{}/instances", self.url));
        let answer = call.json(&instance).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// The instance; null when there is none.
    pub async fn get(&self, name: &str) -> Value {
        let call = self.http.get(format!("{}/instances/{name}", self.url));
        let answer = call.send().await.unwrap();
        match answer.status().as_u16() {
            200 => answer.json().await.unwrap(),
            404 => Value::Null,
            status => panic!("{status}"),
        }
    }

    /// Waits a few seconds at most until the instance is as it should be.
    pub async fn until(&self, name: &str, is_so: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let instance = self.get(name).await;
            if is_so(&instance) {
                return;
            }
            assert!(Instant::now() < deadline, "{instance}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Calls a method of the API; the status, and what was answered (null when that is no JSON).
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        let mut call = self.http.request(method.parse().unwrap(), url);
        if let Some(body) = body {
            call = call.json(&body);
        }
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
