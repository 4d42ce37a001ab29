//! What happens after minutes and hours, by a clock that is set forward.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

mod plane;
use plane::Plane;

const MINUTE: Duration = Duration::from_secs(60);

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
async fn a_policy_that_comes_late_gives_its_instance_a_whole_idle_timeout() {
    let plane = Plane::start().await;
    plane
        .create(json!({ "name": "late", "image": "wakegate/hello" }))
        .await;
    plane.until("late", |i| i["state"] == "Running").await;
    let set = async |policy: Value| {
        let change = json!({ "auto_standby": policy });
        let (status, answer) = plane.call("PATCH", "/instances/late", Some(change)).await;
        assert_eq!(status, 200, "{answer}");
    };
    let (on, off) = (
        json!({ "enabled": true, "idle_timeout": "30m" }),
        json!({ "enabled": false }),
    );
    for _ in 0..2 {
        // Nobody counted what it did meanwhile.
        plane.clock.advance(60 * MINUTE);
        set(on.clone()).await;
        plane.clock.advance(20 * MINUTE);
        // Longer than the reconciler's pause.
        sleep(Duration::from_millis(600)).await;
        assert_eq!(plane.get("late").await["state"], "Running");
        set(off.clone()).await;
    }
    set(on).await;
    plane.clock.advance(31 * MINUTE);
    plane.until("late", |i| i["state"] == "Standby").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_runs_on_its_grid_however_often_it_is_set_and_however_late_it_is() {
    let plane = Plane::start().await;
    plane
        .create(json!({
            "name": "kept", "image": "local/exec", "cmd": ["/bin/sleep", "1000"],
            "network": { "enabled": false },
        }))
        .await;
    let path = "/instances/kept/snapshot-schedule";
    let set = async |interval: &str, count: i64| {
        let schedule = json!({ "interval": interval, "retention": { "max_count": count } });
        let (status, schedule) = plane.call("PUT", path, Some(schedule)).await;
        assert_eq!(status, 200, "{schedule}");
        schedule
    };
    let time = |schedule: &Value, field: &str| -> jiff::Timestamp {
        schedule[field].as_str().unwrap().parse().unwrap()
    };
    let planned = time(&set("10m", 3).await, "next_run_at");
    // Whoever reconciles more often than the interval gets its snapshots all the same.
    for count in 1..=4 {
        plane.clock.advance(2 * MINUTE);
        let again = set("10m0s", count).await;
        assert_eq!(time(&again, "next_run_at"), planned, "{again}");
        assert_eq!(again["last_run_at"], Value::Null, "{again}");
    }
    // Late by three and a half intervals: one run, and the next one on the grid.
    plane.clock.advance(38 * MINUTE);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let ran = loop {
        let (_, schedule) = plane.call("GET", path, None).await;
        // Processes have no snapshots, and the schedule says so.
        if schedule["last_error"].is_string() {
            break schedule;
        }
        assert!(tokio::time::Instant::now() < deadline, "{schedule}");
        sleep(Duration::from_millis(10)).await;
    };
    let (ran_at, next) = (time(&ran, "last_run_at"), time(&ran, "next_run_at"));
    let interval = 600_000;
    let off = next.duration_since(planned).as_millis();
    assert_eq!(off % interval, 0, "{planned} {ran}");
    let left = next.duration_since(ran_at).as_millis();
    assert!((1..=interval).contains(&left), "{ran}");
    // Another interval begins another grid.
    let other = set("1h", 1).await;
    assert!(time(&other, "next_run_at") > next, "{other}");
    assert_eq!(other["last_run_at"], ran["last_run_at"], "{other}");
    plane.end().await;
}
