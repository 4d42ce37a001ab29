//! gRPC on instances that sleep: messages, streams, statuses.

use std::time::Duration;

use crate::support::{Gateway, Plane, Wanted, eventually, reference, route};
use futures_util::{StreamExt as _, stream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

type Echo = ProstCodec<String, String>;

async fn client(gateway: &Gateway, instance: &str) -> Grpc<Channel> {
    let endpoint = Endpoint::try_from(format!("http://{}", gateway.address)).unwrap();
    let origin = format!("http://{instance}.test").parse().unwrap();
    let channel = endpoint.origin(origin).connect().await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    client
}

fn method(name: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_wakes_its_instance_and_the_status_comes_in_the_trailers() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("unary")).await;
    let gateway = Gateway::start(&plane, &route("unary", "protocol = \"h2c\"")).await;
    let mut client = client(&gateway, "unary").await;
    let request = Request::new("are you there?".to_owned());
    let answer = client.unary(request, method("/wakegate.Hello/Say"), Echo::default());
    let answer = answer.await.unwrap();
    assert_eq!(answer.metadata().get("x-wakegate-wake").unwrap(), "cold");
    assert_eq!(answer.into_inner(), "are you there?");
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    // Many calls share one connection.
    for number in 0..50 {
        client.ready().await.unwrap();
        let request = Request::new(number.to_string());
        let answer = client.unary(request, method("/wakegate.Hello/Say"), Echo::default());
        assert_eq!(answer.await.unwrap().into_inner(), number.to_string());
    }
    assert_eq!(gateway.metric("wakegate_upstream_connections").await, 1.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_both_ways_wakes_its_instance_and_keeps_it_awake_while_nothing_is_said() {
    let plane = Plane::start().await;
    let idle = Duration::from_millis(400);
    let instance = plane.asleep(Wanted::hello("chat").idle(idle)).await;
    let before = plane.operations(&instance.id, "standby").await;
    let gateway = Gateway::start(&plane, &route("chat", "protocol = \"h2c\"")).await;
    let mut client = client(&gateway, "chat").await;
    let (said, saying) = tokio::sync::mpsc::channel::<String>(4);
    let saying = stream::unfold(saying, async |mut saying| {
        saying.recv().await.map(|text| (text, saying))
    });
    let call = client.streaming(
        Request::new(saying),
        method("/wakegate.Hello/Chat"),
        Echo::default(),
    );
    said.send("one".to_owned()).await.unwrap();
    let mut heard = call.await.unwrap().into_inner();
    assert_eq!(heard.next().await.unwrap().unwrap(), "one");
    tokio::time::sleep(idle * 5 / 2).await;
    said.send("two".to_owned()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap(), "two");
    let standbys = plane.operations(&instance.id, "standby").await;
    assert_eq!(standbys, before, "it did not sleep meanwhile");
    drop(said);
    assert!(heard.next().await.is_none(), "the end is a clean one");
    drop((client, heard));
    let standby = hypeman::wire::InstanceState::Standby;
    eventually("it falls asleep afterwards", async || {
        plane.state(&instance.id).await == standby
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_a_status_that_grpc_knows() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("stopped")).await;
    plane
        .client
        .stop_instance(&reference(&instance.id))
        .await
        .unwrap();
    let gateway = Gateway::start(&plane, &route("stopped", "protocol = \"h2c\"")).await;
    for (name, code, text) in [
        ("stopped", Code::Unavailable, "instance_stopped"),
        ("nobody", Code::Unimplemented, "instance_not_found"),
    ] {
        let mut client = client(&gateway, name).await;
        let request = Request::new(String::new());
        let answer = client.unary(request, method("/wakegate.Hello/Say"), Echo::default());
        let status = answer.await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().starts_with(text), "{status}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_speaks_http_2_upstream_serves_clients_of_http_1() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("mixed")).await;
    let gateway = Gateway::start(&plane, &route("mixed", "protocol = \"h2c\"")).await;
    let client = gateway.client();
    let answer = client.get("mixed", "/headers").await;
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    let heard: Vec<(String, String)> = answer.json().await.unwrap();
    assert!(
        !heard.iter().any(|(name, _)| name == "connection"),
        "{heard:?}"
    );
    let body = vec![b'x'; 3 * 1024 * 1024];
    let answer = client
        .request("POST", "mixed", "/upload")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), "{\"bytes\":3145728}");
    // An upgrade goes as HTTP/1.1.
    let url = format!("ws://{}/ws", gateway.address);
    let mut request = url.into_client_request().unwrap();
    let host = "mixed.test".parse().unwrap();
    request.headers_mut().insert("host", host);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    futures_util::SinkExt::send(&mut socket, "hi".into())
        .await
        .unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap().into_text().unwrap(),
        "hi"
    );
    drop(socket);
    gateway.stop().await;
    plane.stop().await;
}
