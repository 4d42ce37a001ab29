//! TLS and HTTP/2 from clients: each wakes a cold instance.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::{Gateway, Plane, Wanted, eventually, spawn};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

/// A certificate for these names, and its PEM.
fn certificate(dir: &Path, file: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let pem = made.cert.pem();
    std::fs::write(dir.join(format!("{file}.crt")), &pem).unwrap();
    let key = made.signing_key.serialize_pem();
    std::fs::write(dir.join(format!("{file}.key")), key).unwrap();
    pem
}

/// A gateway whose only listener has the certificates of a directory.
async fn secure(plane: &Plane, dir: &Path) -> Gateway {
    let listener = format!(
        "[listener.tls]\ndir = \"{}\"\n\
         [[route]]\nhost = \"{{i}}.deep.test\"\ninstance = \"{{i}}\"\n",
        dir.display()
    );
    Gateway::start(plane, &listener).await
}

/// A client that trusts `pem` and finds every name at `address`.
fn client(address: SocketAddr, pem: &str, names: &[&str]) -> reqwest::Client {
    trusting(address, pem, names).build().unwrap()
}

fn trusting(address: SocketAddr, pem: &str, names: &[&str]) -> reqwest::ClientBuilder {
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .pool_max_idle_per_host(0);
    for name in names {
        builder = builder.resolve(name, address);
    }
    builder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_client_wakes_an_instance_over_http_2_and_the_instance_hears_of_it() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    plane.asleep(Wanted::hello("sealed")).await;
    let pem = certificate(dir.path(), "a", &["sealed.test"]);
    let gateway = secure(&plane, dir.path()).await;
    let client = client(gateway.address, &pem, &["sealed.test"]);
    let url = format!("https://sealed.test:{}", gateway.address.port());
    let answer = client.get(format!("{url}/headers")).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.headers()["x-wakegate-wake"], "cold");
    let heard: Vec<(String, String)> = answer.json().await.unwrap();
    let field = |name: &str| {
        heard
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(field("x-forwarded-proto"), Some("https"));
    let host = format!("sealed.test:{}", gateway.address.port());
    assert_eq!(field("host"), Some(host.as_str()), "{heard:?}");

    let body = vec![b'x'; 3_000_000];
    let echo = client.post(format!("{url}/echo")).body(body.clone());
    assert_eq!(echo.send().await.unwrap().bytes().await.unwrap(), body);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_certificate_and_a_request_for_another_is_misdirected() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    plane.asleep(Wanted::hello("one")).await;
    plane.asleep(Wanted::hello("two")).await;
    let one = certificate(dir.path(), "a", &["one.test"]);
    let two = certificate(dir.path(), "b", &["*.deep.test"]);
    let gateway = secure(&plane, dir.path()).await;
    let port = gateway.address.port();
    for (pem, name) in [(&one, "one.test"), (&two, "two.deep.test")] {
        let client = client(gateway.address, pem, &[name]);
        let answer = client
            .get(format!("https://{name}:{port}/"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{name}");
    }
    for (http1, status) in [(true, 421), (false, 400)] {
        let client = trusting(gateway.address, &one, &["one.test"]);
        let client = if http1 { client.http1_only() } else { client };
        let request = client.build().unwrap();
        let request = request.get(format!("https://one.test:{port}/"));
        let elsewhere = request
            .header("host", "two.deep.test")
            .send()
            .await
            .unwrap();
        // In HTTP/2 the authority and Host may not differ in the first place.
        assert_eq!(elsewhere.status(), status);
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_used_without_a_restart_and_bad_ones_are_not() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    plane.asleep(Wanted::hello("renewed")).await;
    let before = certificate(dir.path(), "a", &["renewed.test"]);
    let gateway = secure(&plane, dir.path()).await;
    let url = format!("https://renewed.test:{}/", gateway.address.port());
    let get = async |pem: &str| {
        let client = client(gateway.address, pem, &["renewed.test"]);
        client
            .get(&url)
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    };
    assert!(get(&before).await);
    let kept = client(gateway.address, &before, &["renewed.test"]);
    std::fs::write(dir.path().join("a.key"), "no key").unwrap();
    gateway.handle.refresh_certificates();
    assert!(get(&before).await, "the old ones stay");
    let after = certificate(dir.path(), "a", &["renewed.test"]);
    gateway.handle.refresh_certificates();
    eventually("the new one is used", async || get(&after).await).await;
    assert!(!get(&before).await);
    drop(kept);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_served_in_clear_to_a_client_that_begins_with_it() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("prior")).await;
    let gateway = Gateway::start(&plane, "").await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("prior.test", gateway.address)
        .build()
        .unwrap();
    let url = format!("http://prior.test:{}", gateway.address.port());
    let answer = client.get(format!("{url}/")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.version()),
        (200, reqwest::Version::HTTP_2)
    );
    assert_eq!(answer.headers()["x-wakegate-wake"], "cold");
    // Many at once on one connection.
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = client.get(format!("{url}/slow?delay=50ms"));
        crowd.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert_eq!(crowd.join_all().await, [200; 50]);
    gateway.stop().await;
    plane.stop().await;
}

/// A connection whose every byte reaches the gateway alone.
async fn byte_by_byte(address: SocketAddr) -> DuplexStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut from_gateway, mut to_gateway) = stream.into_split();
    let (ours, theirs) = tokio::io::duplex(65_536);
    let (mut from_client, mut to_client) = tokio::io::split(theirs);
    spawn(async move {
        while let Ok(byte) = from_client.read_u8().await {
            if to_gateway.write_all(&[byte]).await.is_err() {
                return;
            }
            // Time enough to look at it.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    spawn(async move {
        let _ended = tokio::io::copy(&mut from_gateway, &mut to_client).await;
    });
    ours
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preface_that_comes_a_byte_at_a_time_and_http_1_beside_it_are_told_apart() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("slowly")).await;
    let gateway = Gateway::start(&plane, "").await;
    // `P` begins a POST as well as the preface.
    let of_http_1 = async {
        let mut stream = byte_by_byte(gateway.address).await;
        let request = b"POST /echo HTTP/1.1\r\nhost: slowly.test\r\ncontent-length: 2\r\n\r\nhi";
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    };
    let of_http_2 = async {
        let stream = TokioIo::new(byte_by_byte(gateway.address).await);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        let connection = spawn(connection);
        let request = http::Request::post("http://slowly.test/echo")
            .version(http::Version::HTTP_2)
            .body(Full::new(Bytes::from_static(b"hi")))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.version()),
            (200, http::Version::HTTP_2)
        );
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "hi");
        drop(sender);
        connection.await.unwrap().unwrap();
    };
    tokio::join!(of_http_1, of_http_2);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_certificate_is_a_clear_message() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let config = crate::support::config(
        plane.address,
        &plane.token,
        &format!("[listener.tls]\ndir = \"{}\"\n", dir.path().display()),
    );
    let access = wakegate::telemetry::AccessSink::off();
    let error = wakegate::app::App::bind(config, access).await.unwrap_err();
    assert!(error.to_string().contains("name.crt"), "{error}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_wakes_where_its_route_says_so_and_nowhere_else() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let eager = plane.asleep(Wanted::hello("eager")).await;
    let calm = plane.asleep(Wanted::hello("calm")).await;
    certificate(dir.path(), "a", &["eager.test", "calm.test"]);
    let keys = format!(
        "[listener.tls]\ndir = \"{}\"\n[[route]]\nhost = \"eager.test\"\ninstance = \"eager\"\n\
         wake = {{ on_tls_hello = true }}\n",
        dir.path().display()
    );
    let gateway = Gateway::start(&plane, &keys).await;
    // These clients do not trust the certificate: they say hello, and no request follows.
    for name in ["calm.test", "eager.test"] {
        let client = reqwest::Client::builder()
            .no_proxy()
            .resolve(name, gateway.address);
        let url = format!("https://{name}:{}/", gateway.address.port());
        assert!(client.build().unwrap().get(url).send().await.is_err());
    }
    let running = hypeman::wire::InstanceState::Running;
    eventually("the hello has woken it", async || {
        plane.state(&eager.id).await == running
    })
    .await;
    assert_eq!(plane.operations(&calm.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}
