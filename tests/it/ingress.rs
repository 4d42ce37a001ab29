//! What `POST /ingresses` declares on the control plane is served, and wakes.

use std::net::SocketAddr;

use crate::support::reserved::Reserved;
use crate::support::{Gateway, Plane, Wanted, eventually, reference};
use http::StatusCode;
use serde_json::{Value, json};

use hypeman::wire::{CreateIngress, IngressRule};
use wakegate::telemetry::AccessSink;

fn resource(name: &str, rules: Value) -> CreateIngress {
    let rules: Vec<IngressRule> = serde_json::from_value(rules).unwrap();
    CreateIngress {
        name: name.to_owned(),
        rules,
        ..CreateIngress::default()
    }
}

/// The status of a GET, and nothing when nobody listens.
async fn status(port: u16, host: &str, key: &str) -> Option<u16> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let asked = client.get(format!("http://127.0.0.1:{port}/"));
    let asked = asked.header("host", host).header("x-key", key);
    Some(asked.send().await.ok()?.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_host_is_served_at_its_port_until_it_is_deleted() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("declared")).await;
    let extra = "[ingress]\nwatch = true\ninterval = \"50ms\"\naddress = \"127.0.0.1\"\n";
    let gateway = Gateway::start(&plane, extra).await;
    let reserved = [(); 2].map(|()| Reserved::new());
    let [port, other] = reserved.each_ref().map(Reserved::port);
    let secret = "0123456789abcdef0123456789abcdef";
    let rules = json!([
        {"match": {"hostname": "app.example.com", "port": port},
         "target": {"instance": "declared", "port": 8080}},
        {"match": {"hostname": "{name}.guarded.example.com", "port": other},
         "target": {"instance": "{name}", "port": 8080},
         "request_header_auth": {"header": "x-key", "value": secret}},
    ]);
    assert_eq!(
        status(port, "app.example.com", "").await,
        None,
        "nobody is there yet"
    );
    let made = plane
        .client
        .create_ingress(&resource("shop", rules))
        .await
        .unwrap();
    eventually("it is served", async || {
        status(port, "app.example.com", "").await == Some(200)
    })
    .await;
    assert_eq!(
        plane.operations(&instance.id, "restore").await,
        1,
        "and has woken"
    );
    assert_eq!(status(port, "other.example.com", "").await, Some(404));
    let guarded = "declared.guarded.example.com";
    assert_eq!(
        status(port, guarded, secret).await,
        Some(404),
        "not at this port"
    );
    assert_eq!(status(other, guarded, "wrong").await, Some(403));
    assert_eq!(status(other, guarded, secret).await, Some(200));
    // The file's own routes stay.
    assert_eq!(gateway.client().get("declared", "/").await.status(), 200);
    plane
        .client
        .delete_ingress(&reference(&made.id))
        .await
        .unwrap();
    eventually("its port is closed", async || {
        status(port, "app.example.com", "").await.is_none()
    })
    .await;
    assert_eq!(gateway.client().get("declared", "/").await.status(), 200);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_keeps_nothing_else_from_being_served() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("lucky")).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reserved = Reserved::new();
    let (taken_port, port) = (taken.local_addr().unwrap().port(), reserved.port());
    let rule = |port: u16| {
        json!({"match": {"hostname": "lucky.example.com", "port": port},
               "target": {"instance": "lucky", "port": 8080}})
    };
    let rules = json!([rule(taken_port), rule(port)]);
    plane
        .client
        .create_ingress(&resource("two", rules))
        .await
        .unwrap();
    let extra = "[ingress]\nwatch = true\ninterval = \"50ms\"\naddress = \"127.0.0.1\"\n";
    let gateway = Gateway::start(&plane, extra).await;
    eventually("the other is served", async || {
        status(port, "lucky.example.com", "").await == Some(200)
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_port_that_was_busy_is_opened_once_it_is_free() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("patient")).await;
    let (busy, reserved) = (
        std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        Reserved::new(),
    );
    let (busy_port, port) = (busy.local_addr().unwrap().port(), reserved.port());
    let rule = |port: u16| {
        json!({"match": {"hostname": "patient.example.com", "port": port},
               "target": {"instance": "patient", "port": 8080}})
    };
    let rules = json!([rule(busy_port), rule(port)]);
    plane
        .client
        .create_ingress(&resource("patient", rules))
        .await
        .unwrap();
    let extra = "[ingress]\nwatch = true\ninterval = \"50ms\"\naddress = \"127.0.0.1\"\n";
    let gateway = Gateway::start(&plane, extra).await;
    eventually("what can be served is", async || {
        status(port, "patient.example.com", "").await == Some(200)
    })
    .await;
    drop(busy);
    eventually("the port is served that was busy", async || {
        status(busy_port, "patient.example.com", "").await == Some(200)
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

/// The series of a control plane that has answered no list yet.
const UNANSWERED: &str = "wakegate_controlplane_up{hypeman=\"default\"}";

/// A gateway of two control planes: the first takes connections and never answers.
async fn beside_one_that_hangs(
    plane: &Plane,
    key: &std::path::Path,
    more: &str,
) -> (Gateway, tokio::net::TcpListener) {
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    std::fs::write(key, &plane.token).unwrap();
    let extra = format!(
        "[[hypeman]]\nname = \"second\"\nurl = \"http://{}\"\napi_key_file = \"{}\"\n{more}",
        plane.address,
        key.display()
    );
    let address = hanging.local_addr().unwrap();
    let gateway = Gateway::start_with(address, "t", &extra, AccessSink::off()).await;
    (gateway, hanging)
}

async fn metrics(gateway: &Gateway) -> String {
    let page = reqwest::get(format!("http://{}/metrics", gateway.admin)).await;
    page.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_delays_nothing_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let (plane, reserved) = (Plane::start().await, Reserved::new());
    plane.listening(Wanted::hello("prompt")).await;
    let rules = json!([{"match": {"hostname": "prompt.example.com", "port": reserved.port()},
                        "target": {"instance": "prompt", "port": 8080}}]);
    plane
        .client
        .create_ingress(&resource("prompt", rules))
        .await
        .unwrap();
    let watch = "[ingress]\nwatch = true\naddress = \"127.0.0.1\"\n";
    let (gateway, _hanging) = beside_one_that_hangs(&plane, &dir.path().join("key"), watch).await;
    eventually("its ingress is served", async || {
        status(reserved.port(), "prompt.example.com", "").await == Some(200)
    })
    .await;
    eventually("its instances are seen", async || {
        let up = "wakegate_controlplane_up{hypeman=\"second\"}";
        gateway.metric(up).await == 1.0
    })
    .await;
    let text = metrics(&gateway).await;
    assert!(
        !text.contains(UNANSWERED),
        "the first look at the other is not over yet"
    );
    gateway.stop().await;
    plane.stop().await;
}

/// A control plane that declares one rule with TLS and has no instances.
async fn declaring(port: u16) -> SocketAddr {
    let rules = json!([{"match": {"hostname": "safe.example.com", "port": port}, "tls": true,
                        "target": {"instance": "safe", "port": 8080}}]);
    let list = json!([{"id": "i1", "name": "tls", "created_at": "2026-01-01T00:00:00Z",
                       "rules": rules}]);
    let missing = json!({"code": "not_found", "message": "there is no such instance"});
    let app = axum::Router::new()
        .route("/ingresses", axum::routing::get(async || axum::Json(list)))
        .fallback(async || (StatusCode::NOT_FOUND, axum::Json(missing)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    crate::support::spawn(axum::serve(listener, app).into_future());
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_with_tls_is_served_with_tls_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let reserved = Reserved::new();
    let port = reserved.port();
    let plane = declaring(port).await;
    let watch = "[ingress]\nwatch = true\ninterval = \"50ms\"\naddress = \"127.0.0.1\"\n";
    let off = || AccessSink::off();
    let bare = Gateway::start_with(plane, "t", watch, off()).await;
    eventually("it has looked", async || {
        let calls = "wakegate_controlplane_requests_total{op=\"ingress_list\",code=\"200\"}";
        bare.metric(calls).await > 1.5
    })
    .await;
    assert_eq!(
        status(port, "safe.example.com", "").await,
        None,
        "never in clear"
    );
    bare.stop().await;

    let extra = format!(
        "{watch}tls = {{ internal = \"{}\" }}\n",
        dir.path().display()
    );
    let gateway = Gateway::start_with(plane, "t", &extra, off()).await;
    let ca = dir.path().join("ca.crt");
    eventually("it is served with TLS", async || {
        let Ok(pem) = std::fs::read(&ca) else {
            return false;
        };
        let root = reqwest::Certificate::from_pem(&pem).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([root])
            .resolve("safe.example.com", SocketAddr::from(([127, 0, 0, 1], port)))
            .build()
            .unwrap();
        let asked = client.get(format!("https://safe.example.com:{port}/"));
        let Ok(answer) = asked.send().await else {
            return false;
        };
        // Its control plane has no such instance: the route was found.
        answer.text().await.unwrap().contains("instance_not_found")
    })
    .await;
    gateway.stop().await;
}
