//! Epochs: nothing that is open outlives the stretch of being awake that it began in, on any
//! protocol, whatever broke before.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::{LIMIT, Stage, ask, end_of, is_open};
use crate::support::eventually;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Operation, Scripted};

const WATCHFUL: &str = "[wake]\nverify_interval = \"200ms\"\nstall_timeout = \"400ms\"\n";

fn watchful_h2c() -> String {
    let h2c = "[[route]]\nhost = \"h2c.test\"\ninstance = \"h2c\"\nport = 8080\n\
               protocol = \"h2c\"\n";
    format!("{h2c}{WATCHFUL}")
}

/// Reads a response that was given its head and its first bytes, to its end.
async fn end_of_body(response: reqwest::Response) -> Result<(), reqwest::Error> {
    let mut chunks = response.bytes_stream();
    let first = timeout(LIMIT, chunks.next()).await.unwrap().unwrap()?;
    assert_eq!(&first[..], b"first\n");
    let rest = async {
        while let Some(chunk) = chunks.next().await {
            chunk?;
        }
        Ok(())
    };
    timeout(LIMIT, rest)
        .await
        .expect("the response is cut when its epoch ends")
}

/// A request without an answer and a response without an end, when their instance falls asleep.
async fn ends_with_its_instance(name: &str, extra: &str, app: Application) {
    let stage = Stage::set(extra).await;
    let id = stage.plane.add(Scripted::running(name, app.ip));
    let client = stage.gateway.client();
    let streaming = client.get(name, "/stream").await;
    assert_eq!(streaming.status(), 200);
    // Not idempotent, so that it is not sent again.
    let waiting = ask(&client, "POST", name, "/hang", &[]);
    let falling_asleep = async {
        eventually("the instance has the request", async || {
            app.requests("/hang") == 1
        })
        .await;
        stage.plane.sleep(&id);
    };
    let (waiting, streaming, ()) = tokio::join!(waiting, end_of_body(streaming), falling_asleep);
    assert!(waiting.is(502, "upstream_broke"), "{waiting:?}");
    assert!(
        streaming.is_err(),
        "the client is told that it is not whole"
    );
    assert_eq!(stage.plane.calls(Operation::Restore, &id), 0);
    eventually("no connection is left", async || app.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_over_http_1_ends_when_its_instance_falls_asleep() {
    let app = Application::start("app").await;
    ends_with_its_instance("h1", WATCHFUL, app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_over_h2c_ends_when_its_instance_falls_asleep() {
    let app = Application::start_h2c("app").await;
    ends_with_its_instance("h2c", &watchful_h2c(), app).await;
}

/// A request whose body is still coming, when its instance falls asleep.
async fn upload_ends_with_its_instance(name: &str, app: Application) {
    let stage = Stage::set(&watchful_h2c()).await;
    let id = stage.plane.add(Scripted::running(name, app.ip));
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>("x")]);
    let body = reqwest::Body::wrap_stream(first.chain(futures_util::stream::pending()));
    let request = stage.gateway.client().request("POST", name, "/hang");
    let sent = timeout(LIMIT, request.body(body).send());
    let falling_asleep = async {
        eventually("the instance has the request", async || {
            app.requests("/hang") == 1
        })
        .await;
        stage.plane.sleep(&id);
    };
    let (sent, ()) = tokio::join!(sent, falling_asleep);
    let response = sent.expect("the upload is cut when its epoch ends");
    assert_eq!(response.unwrap().status(), 502);
    eventually("no connection is left", async || app.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_http_1_ends_when_its_instance_falls_asleep() {
    upload_ends_with_its_instance("h1", Application::start("app").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_h2c_ends_when_its_instance_falls_asleep() {
    upload_ends_with_its_instance("h2c", Application::start_h2c("app").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_ends_with_its_instance_s_sleep_although_another_connection_broke_before() {
    let stage = Stage::set(WATCHFUL).await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let mut socket = stage.websocket("chat").await;
    assert!(is_open(&mut socket).await);
    let broken = stage.ask("POST", "chat", "/reset").await;
    assert!(broken.is(502, "upstream_broke"), "{broken:?}");
    assert_eq!(stage.get("chat").await.body, "app");
    assert!(
        is_open(&mut socket).await,
        "it belongs to nobody else's trouble"
    );

    stage.plane.sleep(&id);
    end_of(socket).await;
    eventually("no connection is left", async || app.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_ends_when_its_instance_sleeps_and_is_woken_between_two_looks() {
    let stage = Stage::set("[wake]\nverify_interval = \"200ms\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let mut socket = stage.websocket("chat").await;
    assert!(is_open(&mut socket).await);
    let broken = stage.ask("POST", "chat", "/reset").await;
    assert!(broken.is(502, "upstream_broke"), "{broken:?}");
    assert_eq!(stage.get("chat").await.body, "app");

    stage.plane.sleep(&id);
    eventually("a request wakes it", async || {
        assert_eq!(stage.get("chat").await.body, "app");
        stage.plane.calls(Operation::Restore, &id) == 1
    })
    .await;
    end_of(socket).await;
}

/// What is open, when the control plane says that its instance is elsewhere now.
async fn ends_when_the_address_changes(breaks_first: bool) {
    let stage = Stage::set(WATCHFUL).await;
    let (here, there) = tokio::join!(Application::start("here"), Application::start("there"));
    let id = stage.plane.add(Scripted::running("chat", here.ip));
    let mut socket = stage.websocket("chat").await;
    assert!(is_open(&mut socket).await);
    let streaming = stage.gateway.client().get("chat", "/stream").await;
    if breaks_first {
        let broken = stage.ask("POST", "chat", "/reset").await;
        assert!(broken.is(502, "upstream_broke"), "{broken:?}");
    }

    let address = json!(there.ip.to_string());
    stage
        .plane
        .change(&id, |part| part.set("/network/ip", Some(address)));
    eventually("requests go to its new address", async || {
        stage.get("chat").await.body == "there"
    })
    .await;
    end_of(socket).await;
    assert!(end_of_body(streaming).await.is_err());
    eventually("no connection is left", async || here.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_when_its_instance_has_another_address() {
    ends_when_the_address_changes(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_with_a_change_of_address_although_another_connection_broke_before() {
    ends_when_the_address_changes(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_when_its_instance_is_deleted() {
    let stage = Stage::set(WATCHFUL).await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let socket = stage.websocket("chat").await;
    let broken = stage.ask("POST", "chat", "/reset").await;
    assert!(broken.is(502, "upstream_broke"), "{broken:?}");
    stage.plane.delete(&id);
    end_of(socket).await;
    eventually("no connection is left", async || app.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_websocket_outlives_many_looks_while_its_instance_is_awake() {
    let stage = Stage::set(WATCHFUL).await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let mut socket = stage.websocket("chat").await;
    let before = stage.plane.calls(Operation::Get, &id);
    eventually("it was looked after several times", async || {
        stage.plane.calls(Operation::Get, &id) >= before + 4
    })
    .await;
    assert!(is_open(&mut socket).await);
    // And in all this time there was no crowd of questions.
    let questions = stage.plane.times(Operation::Get, &id);
    let quickest = questions.windows(5).map(|five| five[4] - five[0]).min();
    assert!(
        quickest.unwrap() > Duration::from_millis(200),
        "{quickest:?}"
    );
}
