//! Requests that choose a port of their instance.

use std::time::Duration;

use http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Gateway, PATIENCE, Plane, Wanted, spawn};

const BY_HOST: &str = "[[route]]\nhost = \"{port}-{instance}.apps.test\"\n\
                       instance = \"{instance}\"\nport = \"{port}\"\nports = \"8000-8100, 9000\"\n\
                       [[route]]\nhost = \"{instance}-{port}.back.test\"\n\
                       instance = \"{instance}\"\nports = \"8080\"\n";
const BY_FIELD: &str = "[[route]]\nhost = \"{instance}.fields.test\"\n\
                        instance = \"{instance}\"\nport = 8080\nports = \"8000-8100, 9000\"\n\
                        port_from = { header = \"x-target-port\", subprotocol = \"port.\" }\n";

/// The status and the body of an answer.
async fn ask(gateway: &Gateway, host: &str, path: &str, fields: &[&str]) -> (u16, String) {
    let url = format!("http://{}{path}", gateway.address);
    let mut request = gateway.client().http.get(url).header("host", host);
    for port in fields {
        request = request.header("x-target-port", *port);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_not_allowed_is_a_404_and_wakes_nobody() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let gateway = Gateway::start(&plane, &[BY_HOST, BY_FIELD].concat()).await;
    for host in [
        "22-blue.apps.test",
        "0-blue.apps.test",
        "08080-blue.apps.test",
        "65536-blue.apps.test",
        "99999-nobody.apps.test",
        "8101-blue.apps.test",
        "blue-8081.back.test",
    ] {
        let (status, body) = ask(&gateway, host, "/", &[]).await;
        assert!(
            status == 404 && body.contains("\"port_not_allowed\""),
            "{host}: {body}"
        );
    }
    for fields in [
        &["22"][..],
        &["8080", "8080"],
        &["+8080"],
        &[""],
        &["8080, 8080"],
        &["x"],
    ] {
        let (status, body) = ask(&gateway, "blue.fields.test", "/", fields).await;
        assert!(
            status == 404 && body.contains("\"port_not_allowed\""),
            "{fields:?}: {body}"
        );
    }
    let (status, body) = ask(&gateway, "blue.apps.test", "/", &[]).await;
    assert!(status == 404 && body.contains("\"no_route\""), "{body}");
    assert_eq!(plane.operations(&blue.id, "restore").await, 0);
    for host in [
        "8080-blue.apps.test",
        "blue-8080.back.test",
        "blue.fields.test",
    ] {
        assert_eq!(ask(&gateway, host, "/", &[]).await.0, 200, "{host}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wake_serves_every_port_and_each_is_ready_by_itself() {
    let plane = Plane::start().await;
    let (blue, door) = plane.behind_a_door("my-blue").await;
    plane.sleep(&blue.id).await;
    let gateway = Gateway::start(&plane, &[BY_HOST, BY_FIELD].concat()).await;
    let url = format!("http://{}/", gateway.address);
    let behind = gateway
        .client()
        .http
        .get(url)
        .header("host", "9000-my-blue.apps.test");
    let behind = spawn(behind.send());
    let open = ask(&gateway, "8080-my-blue.apps.test", "/", &[]);
    let open = tokio::time::timeout(PATIENCE, open).await.unwrap();
    assert_eq!(open.0, 200);
    assert!(!behind.is_finished(), "nobody listens there yet");
    door.open().await;
    assert_eq!(behind.await.unwrap().unwrap().status(), 200);
    let (status, seen) = ask(&gateway, "my-blue.fields.test", "/headers", &["9000"]).await;
    assert_eq!(status, 200);
    assert!(!seen.contains("x-target-port"), "{seen}");
    assert_eq!(plane.operations(&blue.id, "restore").await, 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_websocket_chooses_a_port_by_a_subprotocol_and_is_answered_with_it() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("blue")).await;
    let gateway = Gateway::start(&plane, BY_FIELD).await;
    let open = async |offered: &str| {
        let url = format!("ws://{}/ws", gateway.address);
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("host", "blue.fields.test".parse().unwrap());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    for wrong in ["port.22", "port.", "port.8080, port.8080", "chat, port.x"] {
        assert!(open(wrong).await.is_err(), "{wrong}");
    }
    let (socket, answer) = open("chat, port.8080").await.unwrap();
    assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "port.8080");
    drop(socket);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_at_which_nobody_listens_keeps_nobody_from_the_others() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let wake = "wake = { timeout = \"3s\" }\n[wake]\nbreaker_failures = 1\n";
    let route = BY_HOST.split("[[route]]").nth(1).unwrap();
    let gateway = Gateway::start(&plane, &format!("[[route]]{route}{wake}")).await;
    for _ in 0..2 {
        let (status, body) = ask(&gateway, "8081-blue.apps.test", "/", &[]).await;
        assert!(
            status == 504 && body.contains("app_not_listening"),
            "{body}"
        );
    }
    plane.sleep(&blue.id).await;
    let later = async {
        loop {
            let (status, body) = ask(&gateway, "8080-blue.apps.test", "/", &[]).await;
            assert!(!body.contains("wake_failing"), "{body}");
            if status == 200 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE.max(Duration::from_secs(1)), later)
        .await
        .unwrap();
    gateway.stop().await;
    plane.stop().await;
}
