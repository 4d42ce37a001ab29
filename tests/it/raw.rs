//! Below HTTP: TLS that the instance terminates, anything at a port, and PROXY headers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::{Gateway, Plane, Wanted, eventually, route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A certificate for a name, with its key, as files; and its PEM.
fn certificate(dir: &Path, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let pem = made.cert.pem();
    std::fs::write(dir.join("cert.pem"), &pem).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    pem
}

fn trusting(pem: &str, name: &str, address: SocketAddr) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .resolve(name, address)
        .pool_max_idle_per_host(0)
        .timeout(crate::support::PATIENCE)
        .build()
        .unwrap()
}

async fn ask(stream: &mut TcpStream, host: &str) -> String {
    let request = format!("GET /headers HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_connection_wakes_the_instance_that_terminates_it() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let pem = certificate(dir.path(), "vault.test");
    let path = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let wanted = Wanted::hello("vault")
        .env("HELLO_TLS_CERT", &path("cert.pem"))
        .env("HELLO_TLS_KEY", &path("key.pem"));
    let instance = plane.asleep(wanted).await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tls-passthrough\"\n";
    let gateway = Gateway::start(&plane, listener).await;
    let address = gateway.addresses[1];
    let url = format!("https://vault.test:{}/", address.port());
    let answer = trusting(&pem, "vault.test", address).get(&url).send().await;
    let answer = answer.unwrap();
    assert!(
        !answer.headers().contains_key("x-wakegate-wake"),
        "nobody reads it on the way"
    );
    assert!(answer.text().await.unwrap().starts_with("hello from vault"));
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    let passed = "wakegate_raw_connections_total{kind=\"tls\",outcome=\"passed_on\"}";
    eventually("it is counted", async || {
        gateway.metric(passed).await >= 1.0
    })
    .await;

    // A name without a route is told so in TLS's own words.
    let stranger = trusting(&pem, "stranger.example", address);
    let url = format!("https://stranger.example:{}/", address.port());
    let error = stranger.get(&url).send().await.unwrap_err();
    let text = format!("{error:?}").to_lowercase();
    assert!(
        text.contains("unrecognisedname") || text.contains("unrecognizedname"),
        "{text}"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_connection_wakes_its_listeners_instance() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("db")).await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"db.test\"\n";
    let gateway = Gateway::start(&plane, listener).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    let answer = ask(&mut stream, "anything").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(
        !answer.contains("x-forwarded-for"),
        "nobody adds to it: {answer}"
    );
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    drop(stream);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_has_said_everything_still_hears_the_other() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("half").await;
    let listener =
        "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"half.test\"\n";
    let gateway = Gateway::start(&plane, listener).await;
    let served = crate::support::spawn(async move {
        loop {
            let (mut stream, _) = origin.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            // The gateway may look whether the port is open, and send nothing.
            if !all.is_empty() {
                let answer = format!("heard {} bytes to the end", all.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                return;
            }
        }
    });
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "heard 300000 bytes to the end");
    served.await.unwrap();
    gateway.stop().await;
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_keeps_its_instance_awake_and_is_cut_when_an_operator_puts_it_to_sleep() {
    let plane = Plane::start().await;
    let idle = Duration::from_millis(400);
    let instance = plane.asleep(Wanted::hello("line").idle(idle)).await;
    let before = plane.operations(&instance.id, "standby").await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"line.test\"\n\
                    [wake]\nstall_timeout = \"500ms\"\n";
    let gateway = Gateway::start(&plane, listener).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    let running = hypeman::wire::InstanceState::Running;
    eventually("it is woken", async || {
        plane.state(&instance.id).await == running
    })
    .await;
    tokio::time::sleep(idle * 5 / 2).await;
    let standbys = plane.operations(&instance.id, "standby").await;
    assert_eq!(standbys, before, "while somebody is connected");
    plane.sleep(&instance.id).await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(crate::support::PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(
        ended.is_ok(),
        "the client is not left with a dead connection"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_peers_proxy_header_names_the_client_and_must_be_there() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("told")).await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
                    [server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&plane, listener).await;
    let address = gateway.addresses[1];
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n")
        .await
        .unwrap();
    let answer = ask(&mut stream, "told.test").await;
    assert!(
        answer.contains("[\"x-forwarded-for\",\"192.0.2.7\"]"),
        "{answer}"
    );
    // Without one there is no answer at all: whose request would it be?
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, "told.test").await, "");
    // At the other listener nobody asks for one.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    assert!(
        ask(&mut stream, "told.test")
            .await
            .starts_with("HTTP/1.1 200")
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_peers_proxy_header_is_no_header() {
    let plane = Plane::start().await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
                    [server]\ntrusted_proxies = [\"192.0.2.0/24\"]\n";
    let gateway = Gateway::start(&plane, listener).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    stream
        .write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n")
        .await
        .unwrap();
    let answer = ask(&mut stream, "told.test").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_told_its_client_before_anything_else_where_its_route_says_so() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("asked").await;
    let gateway = Gateway::start(&plane, &route("asked", "proxy_protocol = \"v2\"")).await;
    let served = crate::support::spawn(async move {
        let mut seen = Vec::new();
        // The gateway may look whether the port is open before it sends anything.
        while seen.is_empty() {
            let (mut stream, _) = origin.accept().await.unwrap();
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.unwrap();
            seen.extend(&part[..count]);
            if count > 0 {
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
        seen
    });
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let local = client.local_addr().unwrap();
    assert!(
        ask(&mut client, "asked.test")
            .await
            .starts_with("HTTP/1.1 204")
    );
    let seen = served.await.unwrap();
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01";
    assert!(seen.starts_with(header), "{seen:?}");
    assert_eq!(&seen[24..26], local.port().to_be_bytes());
    assert_eq!(&seen[26..28], gateway.address.port().to_be_bytes());
    gateway.stop().await;
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}
