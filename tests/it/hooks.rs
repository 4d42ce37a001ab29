//! What a workload is told of its wakes, and asked before it is put to sleep.

use std::time::Duration;

use hypeman::wire::InstanceState;
use serde_json::Value;

use crate::identity::server::{Server, answer};
use crate::support::{Gateway, Plane};

const HOOKS: &str = "[route.wake.hooks]\nresumed = \"/_woken\"\nbefore_standby = \"/_going\"\n\
                     timeout = \"500ms\"\n";

async fn ask_standby(gateway: &Gateway, query: &str) -> reqwest::Response {
    let url = format!("http://{}/api/instances/blue/standby{query}", gateway.admin);
    reqwest::Client::new().post(url).send().await.unwrap()
}

/// The status of an operator's standby, and its code.
async fn standby(gateway: &Gateway, query: &str) -> (u16, Value) {
    let answer = ask_standby(gateway, query).await;
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_told_once_of_each_wake_before_the_first_request() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("blue").await;
    let app = Server::at(listener, |_| Some(answer(200, &[])));
    let under = "[[route]]\nhost = \"under.test\"\npath = \"/app\"\nstrip_path = true\n\
                 instance = \"blue\"\nport = 8080\n";
    let gateway = Gateway::start(&plane, &[HOOKS, under, HOOKS].concat()).await;
    let client = gateway.client();
    for wake in 0..2 {
        assert_eq!(standby(&gateway, "").await.0, 200);
        let before = app.asked();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let crowd = (0..3).map(|_| client.get("blue", "/"));
        for response in futures_util::future::join_all(crowd).await {
            assert_eq!(response.status(), 200);
        }
        let lines = app.lines().split_off(before);
        assert_eq!(lines[0], "POST /_woken", "{lines:?}");
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("POST")).count(),
            1,
            "{lines:?}"
        );
        let field = |name: &str| app.field(before, name);
        let slept: u64 = field("x-wakegate-slept-ms").unwrap().parse().unwrap();
        assert!((1..60_000).contains(&slept), "{slept}");
        let time: jiff::Timestamp = field("x-wakegate-time").unwrap().parse().unwrap();
        let ago = jiff::Timestamp::now().duration_since(time);
        assert!(ago.abs() < jiff::SignedDuration::from_secs(60), "{ago:?}");
        assert_eq!(field("content-length").as_deref(), Some("0"), "{wake}");
    }
    let before = app.asked();
    for path in [
        "/_woken",
        "/_going",
        "//_woken",
        "/%5fwoken",
        "/x/../_going",
    ] {
        let status = client
            .request("POST", "blue", path)
            .send()
            .await
            .unwrap()
            .status();
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    assert_eq!(app.asked(), before, "a client cannot call a hook");
    // What the route takes off is no way around that.
    for path in [
        "/app/_woken",
        "/app//_going",
        "/app/%5Fwoken",
        "/%61pp/_woken",
    ] {
        let asked = client.request("POST", "under", path).send().await.unwrap();
        let status = asked.status();
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    assert_eq!(app.asked(), before, "nor below a path that is taken off");
    assert_eq!(client.get("under", "/app/other").await.status(), 200);
    assert_eq!(app.lines().last().unwrap(), "GET /other");
    let told = "wakegate_hooks_total{hook=\"resumed\",outcome=\"ok\"}";
    assert_eq!(gateway.metric(told).await, 2.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_or_fails_costs_its_timeout_and_no_request() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("blue").await;
    let hangs = std::sync::atomic::AtomicBool::new(true);
    let app = Server::at(listener, move |head| match head.uri.path() {
        "/_woken" if hangs.swap(false, std::sync::atomic::Ordering::SeqCst) => None,
        "/_woken" => Some(answer(500, &[])),
        _ => Some(answer(200, &[])),
    });
    let gateway = Gateway::start(&plane, HOOKS).await;
    for outcome in ["timeout", "failed"] {
        assert_eq!(standby(&gateway, "").await.0, 200);
        let response = gateway.client().get("blue", "/").await;
        assert_eq!(response.status(), 200, "{outcome}");
        let name = format!("wakegate_hooks_total{{hook=\"resumed\",outcome=\"{outcome}\"}}");
        assert_eq!(gateway.metric(&name).await, 1.0, "{outcome}");
    }
    assert!(app.asked() >= 3);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_wants_to_go_on_is_put_to_sleep_by_force_alone() {
    let plane = Plane::start().await;
    let (id, listener) = plane.own_origin("blue").await;
    let app = Server::at(listener, |head| {
        Some(match head.uri.path() {
            "/_going" => answer(409, &[("retry-after", "30")]),
            _ => answer(200, &[]),
        })
    });
    let gateway = Gateway::start(&plane, HOOKS).await;
    // At first no request has ever gone to it, so the engine has not found it awake.
    for is_known in [false, true] {
        if is_known {
            assert_eq!(gateway.client().get("blue", "/").await.status(), 200);
        }
        let answer = ask_standby(&gateway, "").await;
        assert_eq!(answer.status(), 409, "{is_known}");
        assert_eq!(answer.headers()["retry-after"], "30");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], "standby_refused");
        assert!(body["detail"].as_str().unwrap().contains("30s"), "{body}");
        assert_eq!(plane.state(id.as_str()).await, InstanceState::Running);
        assert_eq!(app.lines().last().unwrap(), "POST /_going");
    }
    let (status, body) = standby(&gateway, "?force=true").await;
    assert_eq!(
        (status, &body["outcome"]),
        (200, &"asleep".into()),
        "{body}"
    );
    assert_eq!(plane.state(id.as_str()).await, InstanceState::Standby);
    let refused = "wakegate_hooks_total{hook=\"before_standby\",outcome=\"refused\"}";
    assert_eq!(gateway.metric(refused).await, 3.0);
    gateway.stop().await;
    plane.stop().await;
}
