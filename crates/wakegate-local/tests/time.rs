//! What happens after minutes and hours, by a clock that is set forward.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate_local::{Clock, DriverChoice, LocalConfig, LocalServer, OnExit};

const MINUTE: Duration = Duration::from_secs(60);

/// A control plane whose clock the test sets.
struct Plane {
    clock: Clock,
    url: String,
    http: reqwest::Client,
    stop: CancellationToken,
    tasks: TaskTracker,
    _state: tempfile::TempDir,
}

impl Plane {
    async fn start() -> Self {
        let (clock, state) = (Clock::adjustable(), tempfile::tempdir().unwrap());
        let config = LocalConfig {
            address: ([127, 0, 0, 1], 0).into(),
            state_dir: state.path().to_owned(),
            auth: false,
            hello: env!("CARGO_BIN_EXE_wakegate-local").into(),
            on_exit: OnExit::Stop,
            allow_faults: false,
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

    async fn create(&self, instance: Value) {
        let call = self.http.post(format!("{}/instances", self.url));
        let answer = call.json(&instance).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// The instance; null when there is none.
    async fn get(&self, name: &str) -> Value {
        let call = self.http.get(format!("{}/instances/{name}", self.url));
        let answer = call.send().await.unwrap();
        match answer.status().as_u16() {
            200 => answer.json().await.unwrap(),
            404 => Value::Null,
            status => panic!("{status}"),
        }
    }

    /// Waits a few seconds at most until the instance is as it should be.
    async fn until(&self, name: &str, is_so: impl Fn(&Value) -> bool) {
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

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_falls_asleep_after_an_hour_and_not_before() {
    let plane = Plane::start().await;
    plane
        .create(json!({
            "name": "sleepy", "image": "wakegate/hello",
            "auto_standby": { "enabled": true, "idle_timeout": "1h" },
        }))
        .await;
    plane.until("sleepy", |i| i["state"] == "Running").await;
    plane.clock.advance(50 * MINUTE);
    // Longer than the reconciler's pause.
    sleep(Duration::from_millis(600)).await;
    assert_eq!(plane.get("sleepy").await["state"], "Running");
    plane.clock.advance(11 * MINUTE);
    plane.until("sleepy", |i| i["state"] == "Standby").await;
    let phases = plane.get("sleepy").await["phase_durations_ms"].clone();
    assert!(phases["running"].as_i64().unwrap() >= 3_600_000, "{phases}");
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_program_is_started_again_when_its_backoff_is_over() {
    let plane = Plane::start().await;
    plane
        .create(json!({
            "name": "again", "image": "local/exec", "cmd": ["/bin/sh", "-c", "exit 3"],
            "network": { "enabled": false },
            "restart_policy": { "policy": "always", "backoff": "10m", "max_attempts": 1 },
        }))
        .await;
    plane.until("again", |i| i["exit_code"] == 3).await;
    plane.clock.advance(9 * MINUTE);
    sleep(Duration::from_millis(600)).await;
    let status = plane.get("again").await["restart_status"].clone();
    assert_eq!(status["attempts"], 0, "{status}");
    plane.clock.advance(2 * MINUTE);
    let is_blocked = |i: &Value| i["restart_status"]["blocked_reason"] == "max_attempts_exceeded";
    plane.until("again", is_blocked).await;
    assert_eq!(plane.get("again").await["restart_status"]["attempts"], 1);
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_deleted_when_its_time_to_live_is_over() {
    let plane = Plane::start().await;
    plane
        .create(json!({
            "name": "brief", "image": "local/exec", "cmd": ["/bin/sleep", "1000"],
            "network": { "enabled": false }, "ttl": "1h",
        }))
        .await;
    plane.until("brief", |i| i["state"] == "Running").await;
    plane.clock.advance(61 * MINUTE);
    plane.until("brief", Value::is_null).await;
    plane.end().await;
}
