//! What one client leaves to others, over real sockets. Clients differ by the address that a
//! trusted proxy names.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use tokio::task::JoinSet;

use crate::support::{Client, Gateway, Plane, Wanted, eventually, route, spawn};

const TRUST: &str = "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
const GREEDY: &str = "192.0.2.7";
/// Of the same network.
const ITS_NEIGHBOUR: &str = "192.0.2.200";
const HONEST: &str = "198.51.100.1";

/// The status of a client's request, and its problem's code.
async fn ask(client: Client, of: &str, instance: &str, path: &str) -> (u16, String) {
    let request = client.request("GET", instance, path);
    let response = request.header("x-forwarded-for", of).send().await.unwrap();
    let status = response.status().as_u16();
    let body: serde_json::Value = response.json().await.unwrap_or_default();
    let code = body["code"].as_str().unwrap_or_default();
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_that_never_ends_its_requests_leaves_places_at_the_instance_to_others() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("busy").await;
    let hanging = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&hanging);
    let answer = async move |request: Request| {
        if request.uri().path() == "/hang" {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        "done"
    };
    let routes = axum::Router::new().fallback(answer);
    let serving = spawn(axum::serve(origin, routes).into_future());
    let keys = format!("limits = {{ max_inflight = 8 }}\nwake = {{ timeout = \"2s\" }}\n{TRUST}");
    let gateway = Gateway::start(&plane, &route("busy", &keys)).await;
    // The ramp after the wake ends with this.
    assert_eq!(ask(gateway.client(), HONEST, "busy", "/").await.0, 200);
    let mut greedy = JoinSet::new();
    for _ in 0..6 {
        greedy.spawn(ask(gateway.client(), GREEDY, "busy", "/hang"));
    }
    eventually("its share is taken", async || {
        hanging.load(Ordering::SeqCst) == 6
    })
    .await;
    let more = spawn(ask(gateway.client(), ITS_NEIGHBOUR, "busy", "/hang"));
    eventually("one more waits", async || {
        gateway.metric("wakegate_held_requests").await == 1.0
    })
    .await;
    for _ in 0..5 {
        assert_eq!(ask(gateway.client(), HONEST, "busy", "/").await.0, 200);
    }
    assert_eq!(more.await.unwrap(), (503, "instance_share".to_owned()));
    assert_eq!(hanging.load(Ordering::SeqCst), 6);
    greedy.shutdown().await;
    eventually("its places are free", async || {
        ask(gateway.client(), GREEDY, "busy", "/").await.0 == 200
    })
    .await;
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_that_fills_a_hold_queue_leaves_places_to_others() {
    let plane = Plane::start().await;
    plane
        .running(Wanted::hello("deaf").env("HELLO_LISTEN_DELAY", "never"))
        .await;
    let wake = "[wake]\nmax_held_per_instance = 8\ntimeout = \"20s\"\n";
    let gateway = Gateway::start(&plane, &format!("{wake}{TRUST}")).await;
    let mut held = JoinSet::new();
    let are_held = async |count: f64| {
        eventually("so many are held", async || {
            gateway.metric("wakegate_held_requests").await == count
        })
        .await;
    };
    for _ in 0..6 {
        held.spawn(ask(gateway.client(), GREEDY, "deaf", "/"));
    }
    are_held(6.0).await;
    let refused = ask(gateway.client(), ITS_NEIGHBOUR, "deaf", "/").await;
    assert_eq!(refused, (503, "hold_queue_share".to_owned()));
    let shed = "wakegate_shed_total{reason=\"client_share\"}";
    assert_eq!(gateway.metric(shed).await, 1.0);
    held.spawn(ask(gateway.client(), HONEST, "deaf", "/"));
    are_held(7.0).await;
    held.shutdown().await;
    are_held(0.0).await;
    gateway.stop().await;
    plane.stop().await;
}
