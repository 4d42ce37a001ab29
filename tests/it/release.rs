//! What happens between a wake and a response: readiness, order, limits, retries, staying awake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Gateway, Plane, Wanted, eventually, route, spawn};
use hypeman::GoDuration;
use hypeman::wire::{HealthCheck, HttpCheck, InstanceState};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_let_in_no_more_at_once_than_the_limit_and_all_are_answered() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("crowded").await;
    let (inside, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, peak, three) = (
        Arc::clone(&inside),
        Arc::clone(&most),
        Arc::new(Barrier::new(3)),
    );
    // Nobody is answered before three are there; then there is time for a fourth to come.
    let answer = async move || {
        peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        three.wait().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        counted.fetch_sub(1, Ordering::SeqCst);
        "done"
    };
    let routes = axum::Router::new().fallback(answer);
    let serving = spawn(axum::serve(origin, routes).into_future());
    let keys = "limits = { max_inflight = 3 }";
    let gateway = Gateway::start(&plane, &route("crowded", keys)).await;
    let mut crowd = JoinSet::new();
    for _ in 0..12 {
        let client = gateway.client();
        crowd.spawn(async move { client.get("crowded", "/").await.status().as_u16() });
    }
    assert_eq!(crowd.join_all().await, [200; 12]);
    assert_eq!(most.load(Ordering::SeqCst), 3);
    serving.abort();
    assert_eq!(gateway.metric("wakegate_held_requests").await, 0.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_zero_sheds_everything_and_wakes_nobody() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("shut")).await;
    let keys = "limits = { max_inflight = 0 }";
    let gateway = Gateway::start(&plane, &route("shut", keys)).await;
    let (status, code, _) = gateway.client().problem("shut").await;
    assert_eq!((status, code.as_str()), (503, "route_closed"));
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_says_not_yet_after_a_wake_is_asked_again_until_it_is_ready() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("drowsy")).await;
    // So long asleep that it notices.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let keys = "retry = { on_wake = [503] }";
    let gateway = Gateway::start(&plane, &route("drowsy", keys)).await;
    let client = gateway.client();
    let post = client.request("POST", "drowsy", "/drowsy?for=1s").body("x");
    assert_eq!(
        post.send().await.unwrap().status(),
        503,
        "a POST is not repeated"
    );
    let answer = client.get("drowsy", "/drowsy?for=1s").await;
    assert_eq!(answer.text().await.unwrap(), "wide awake\n");
    drop(instance);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_wants_health_waits_for_it() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("healthy")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let keys = "wake = { ready = \"health\", health_path = \"/drowsy?for=500ms\" }";
    let gateway = Gateway::start(&plane, &route("healthy", keys)).await;
    let answer = gateway.client().get("healthy", "/drowsy?for=450ms").await;
    assert_eq!(answer.text().await.unwrap(), "wide awake\n");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_never_becomes_healthy_is_told_apart_from_one_that_does_not_listen() {
    let plane = Plane::start().await;
    // `/early` answers 403 as long as the application lives.
    let check = HealthCheck {
        http: Some(HttpCheck {
            port: 8080,
            path: Some("/early".to_owned()),
            expected_status: Some(200),
            ..HttpCheck::default()
        }),
        start_period: Some(GoDuration::from_nanos(0)),
        ..HealthCheck::default()
    };
    let mut ill = Wanted::hello("ill");
    ill.request.health_check = Some(check);
    plane.listening(ill).await;
    plane.listening(Wanted::hello("refusing")).await;
    let deaf = Wanted::hello("deaf").env("HELLO_LISTEN_DELAY", "never");
    plane.running(deaf).await;
    let checked = "wake = { ready = \"health\", timeout = \"1s\" }";
    let asked = "wake = { ready = \"health\", health_path = \"/early\", timeout = \"5s\" }";
    let routes = [
        route("ill", checked),
        route("refusing", asked),
        route("deaf", asked),
    ];
    let gateway = Gateway::start(&plane, &routes.concat()).await;
    let client = gateway.client();
    // The control plane says that it is not healthy. What is so today, and not what should be: a
    // request whose time is up while the gateway asks once more hears that nobody listens.
    eventually("the ill one is told apart", async || {
        let (status, code, _) = client.problem("ill").await;
        (status, code.as_str()) == (504, "app_unhealthy")
    })
    .await;
    // Nor is an application told apart that answers the gateway's own question badly.
    for name in ["refusing", "deaf"] {
        let (status, code, _) = client.problem(name).await;
        assert_eq!(
            (status, code.as_str()),
            (504, "app_not_listening"),
            "{name}"
        );
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_up_request_goes_before_the_first_one_and_only_then() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("warmup")).await;
    let keys = "wake = { warmup = \"/deliver?id=warmup\" }";
    let gateway = Gateway::start(&plane, &route("warmup", keys)).await;
    let client = gateway.client();
    for _ in 0..3 {
        assert_eq!(client.get("warmup", "/").await.status(), 200);
    }
    let counts = client.get("warmup", "/deliveries").await;
    let counts: BTreeMap<String, u64> = counts.json().await.unwrap();
    assert_eq!(counts, BTreeMap::from([("warmup".to_owned(), 1)]));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_that_was_read_beforehand_is_sent_again_when_its_instance_falls_asleep() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("buffered")).await;
    let keys = "retry = { buffer = \"64KiB\" }";
    let gateway = Gateway::start(&plane, &route("buffered", keys)).await;
    let put = |path: &'static str, body: Vec<u8>| {
        let request = gateway.client().request("PUT", "buffered", path).body(body);
        spawn(async move { request.send().await.unwrap().status().as_u16() })
    };
    let arrived = async |id: &str| {
        let counts = gateway.client().get("buffered", "/deliveries").await;
        let counts: BTreeMap<String, u64> = counts.json().await.unwrap();
        counts.get(id).copied().unwrap_or(0)
    };
    // Long enough to be put to sleep meanwhile, on a busy machine, too.
    let small = put("/deliver?id=small&delay=8s", vec![b'x'; 1000]);
    eventually("it has arrived", async || arrived("small").await == 1).await;
    plane.sleep(&instance.id).await;
    assert_eq!(small.await.unwrap(), 200);
    assert_eq!(
        arrived("small").await,
        2,
        "once before and once after the sleep"
    );

    let large = put("/deliver?id=large&delay=1m", vec![b'x'; 100_000]);
    eventually("it has arrived", async || arrived("large").await == 1).await;
    plane.sleep(&instance.id).await;
    assert_eq!(
        large.await.unwrap(),
        502,
        "too large to be kept, so it is not sent again"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_not_sent_again_even_where_small_bodies_are_kept() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("posted")).await;
    let keys = "retry = { buffer = \"64KiB\" }";
    let gateway = Gateway::start(&plane, &route("posted", keys)).await;
    let client = gateway.client();
    let post = client
        .request("POST", "posted", "/deliver?id=post&delay=1m")
        .body("x");
    let post = spawn(async move { post.send().await.unwrap().status().as_u16() });
    let counts = async || -> BTreeMap<String, u64> {
        let counts = gateway.client().get("posted", "/deliveries").await;
        counts.json().await.unwrap()
    };
    eventually("it has arrived", async || {
        counts().await.contains_key("post")
    })
    .await;
    plane.sleep(&instance.id).await;
    assert_eq!(post.await.unwrap(), 502);
    assert_eq!(counts().await["post"], 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_may_ask_to_stay_awake_after_its_response() {
    let plane = Plane::start().await;
    let idle = Duration::from_millis(300);
    let instance = plane.asleep(Wanted::hello("busy").idle(idle)).await;
    let gateway = Gateway::start(&plane, "").await;
    let answer = gateway.client().get("busy", "/hold?for=1500ms").await;
    assert!(
        !answer.headers().contains_key("x-wakegate-hold"),
        "it is the gateway's"
    );
    assert_eq!(answer.text().await.unwrap(), "hold me\n");
    let asked = Instant::now();
    eventually("it falls asleep in the end", async || {
        plane.state(&instance.id).await == InstanceState::Standby
    })
    .await;
    assert!(
        asked.elapsed() >= Duration::from_millis(1400),
        "{:?}",
        asked.elapsed()
    );
    gateway.stop().await;
    plane.stop().await;
}
