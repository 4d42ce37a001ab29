//! Instances that have no memory to be restored.

use serde_json::json;
use wakegate::telemetry::AccessSink;

use crate::support::Gateway;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Operation, Scripted, ScriptedPlane};

/// The status, the kind of wake and the body.
async fn ask(gateway: &Gateway, instance: &str) -> (u16, String, String) {
    let answer = gateway.client().get(instance, "/").await;
    let kind = answer.headers().get("x-wakegate-wake");
    let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
    (answer.status().as_u16(), kind, answer.text().await.unwrap())
}

/// A control plane with an instance that is Stopped, one that stands by without a snapshot, and one
/// that has its memory; and their ids.
async fn plane(apps: &[Application; 3]) -> (ScriptedPlane, [String; 3]) {
    let plane = ScriptedPlane::start().await;
    let [stopped, empty, full] = apps;
    let ids = [
        plane.add(Scripted::of("Stopped", "stopped", stopped)),
        plane.add(Scripted::of("Standby", "empty", empty).with("/has_snapshot", json!(false))),
        plane.add(Scripted::of("Standby", "full", full).with("/has_snapshot", json!(true))),
    ];
    (plane, ids)
}

async fn apps() -> [Application; 3] {
    [
        Application::start("stopped").await,
        Application::start("empty").await,
        Application::start("full").await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_was_a_boot_is_told_apart() {
    let apps = apps().await;
    let (plane, _) = plane(&apps).await;
    let extra = "wake = { start_stopped = true }\n";
    let (address, token) = (plane.address, ScriptedPlane::TOKEN);
    let gateway = Gateway::start_with(address, token, extra, AccessSink::off()).await;
    for (instance, expected) in [("stopped", "boot"), ("empty", "boot"), ("full", "cold")] {
        let (status, kind, body) = ask(&gateway, instance).await;
        assert_eq!(
            (status, kind.as_str()),
            (200, expected),
            "{instance}: {body}"
        );
        assert_eq!(ask(&gateway, instance).await.1, "warm");
    }
    assert_eq!(gateway.metric("wakegate_boots_total").await, 2.0);
    let booted = "wakegate_wakes_total{outcome=\"booted\"}";
    assert_eq!(gateway.metric(booted).await, 2.0);
    let page = reqwest::get(format!("http://{}/api/wakes", gateway.admin)).await;
    let wakes: serde_json::Value = page.unwrap().json().await.unwrap();
    let outcomes: Vec<_> = wakes
        .as_array()
        .unwrap()
        .iter()
        .map(|wake| &wake["outcome"])
        .collect();
    for (outcome, count) in [("booted", 2), ("woken", 1)] {
        let found = outcomes.iter().filter(|one| **one == outcome).count();
        assert_eq!(found, count, "{outcomes:?}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_memory_is_required_nothing_is_booted_and_no_breaker_opens() {
    let apps = apps().await;
    let (plane, [stopped, empty, _]) = plane(&apps).await;
    let extra =
        "wake = { start_stopped = true, require_memory = true }\n[wake]\nbreaker_failures = 1\n";
    let (address, token) = (plane.address, ScriptedPlane::TOKEN);
    let gateway = Gateway::start_with(address, token, extra, AccessSink::off()).await;
    for _ in 0..3 {
        for instance in ["stopped", "empty"] {
            let (status, _, body) = ask(&gateway, instance).await;
            assert!(
                status == 503 && body.contains("\"cold_boot_refused\""),
                "{instance}: {body}"
            );
        }
    }
    for operation in [Operation::Restore, Operation::Start] {
        assert_eq!(
            plane.calls(operation, &stopped) + plane.calls(operation, &empty),
            0
        );
    }
    assert_eq!(ask(&gateway, "full").await.0, 200);
    // Whoever has started it takes the responsibility.
    plane.change(&stopped, |part| part.state = "Running");
    apps[0].power.send_replace(true);
    assert_eq!(ask(&gateway, "stopped").await.0, 200);
    gateway.stop().await;
}
