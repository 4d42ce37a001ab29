//! Who a client is, however its address is written and whatever it came over.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::fields::{Recorder, raw};
use crate::support::reserved::Reserved;
use crate::support::scripted_plane::{ALL, Operation, Reaction, Scripted, ScriptedPlane};
use crate::support::{Gateway, eventually, route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wakegate::app::App;
use wakegate::config::LogConfig;
use wakegate::telemetry::AccessSink;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const ASK: &str = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

async fn gateway_before(plane: &ScriptedPlane, extra: &str) -> Gateway {
    let token = ScriptedPlane::TOKEN;
    Gateway::start_with(plane.address, token, extra, AccessSink::off()).await
}

/// What the access log has got.
#[derive(Clone, Default)]
struct AccessLog(Arc<Mutex<Vec<u8>>>);

impl Write for AccessLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AccessLog {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A listener's configuration.
fn listener(address: &str, more: &str) -> String {
    format!("[[listener]]\naddress = \"{address}\"\n{more}")
}

/// A port that is free for both families, and stays this test's.
fn port_of_both_families() -> (u16, Reserved) {
    loop {
        let reserved = Reserved::new();
        let port = reserved.port();
        if std::net::TcpListener::bind(("::1", port)).is_ok() {
            return (port, reserved);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_that_a_trusted_proxy_names_is_known_in_every_notation() {
    let plane = ScriptedPlane::start().await;
    // It never wakes: who may wake it hears another status than who may not.
    let app = Recorder::start(ANSWER).await;
    plane.add(Scripted::asleep("app", app.ip()));
    plane.on(Operation::Restore, ALL, Reaction::Hang);
    let extra = [
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n",
        &route(
            "app",
            "wake = { timeout = \"50ms\" }\nasleep = { status = 418 }\n\
             admission = { clients = [\"192.0.2.0/24\", \"2001:db8::/32\"] }",
        ),
    ]
    .concat();
    let gateway = gateway_before(&plane, &extra).await;
    let status = async |fields: &str| {
        let request =
            format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}Connection: close\r\n\r\n");
        let answer = raw(gateway.address, &request).await;
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    for known in [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 192.0.2.1:4000\r\n",
        "X-Forwarded-For: 2001:db8::1\r\n",
        "X-Forwarded-For: [2001:db8::1]\r\n",
        "X-Forwarded-For: [2001:db8::1]:443\r\n",
        "X-Forwarded-For: ::ffff:192.0.2.1\r\n",
        "X-Forwarded-For: [::ffff:192.0.2.1]:4000\r\n",
        "X-Forwarded-For: 198.51.100.1, 192.0.2.1:4000, 10.0.0.1:80\r\n",
        "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: [2001:db8::1]:1,10.0.0.1\r\nX-Forwarded-For: ::ffff:10.0.0.2\r\n",
        "Forwarded: for=192.0.2.1\r\n",
        "Forwarded: for=198.51.100.1, For=\"192.0.2.1:4000\";proto=https\r\nForwarded: by=_x;for=10.0.0.1\r\n",
        "Forwarded: for=\"[2001:db8::1]:443\"\r\n",
        "Forwarded: host=\"a,b;for=6.6.6.6\" ; for=\"[2001:db8::1]\"\r\n",
        // What nearly every proxy maintains wins over what it may only have passed on.
        "Forwarded: for=198.51.100.1\r\nX-Forwarded-For: 192.0.2.1\r\n",
    ] {
        assert_ne!(status(known).await, "418", "{known}");
    }
    for other in [
        "X-Forwarded-For: 198.51.100.1:4000\r\n",
        "X-Forwarded-For: 192.0.2.1, 198.51.100.1\r\n",
        "X-Forwarded-For: 192.0.2.1, unknown\r\n",
        "X-Forwarded-For: 192.0.2.1, _hidden, 10.0.0.1\r\n",
        "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: [2001:db9::1]:443\r\n",
        "Forwarded: for=192.0.2.1, for=unknown\r\n",
        "Forwarded: for=192.0.2.1, for=_hidden\r\n",
        "Forwarded: for=192.0.2.1, proto=https\r\n",
        "Forwarded: for=192.0.2.1, for=\"[2001:db9::1]:443\"\r\n",
        "Forwarded: by=192.0.2.1;for=198.51.100.1\r\n",
        "",
    ] {
        assert_eq!(status(other).await, "418", "{other}");
    }
    plane.heal(Operation::Restore, ALL);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_can_have_one_port_in_either_order() {
    let (plane, mut app) = (ScriptedPlane::start().await, Recorder::start(ANSWER).await);
    plane.add(Scripted::running("app", app.ip()));
    for order in [
        ["0.0.0.0", "[::]"],
        ["[::]", "0.0.0.0"],
        ["[::]", "127.0.0.1"],
    ] {
        let (port, _reserved) = port_of_both_families();
        let listeners = order
            .map(|ip| listener(&format!("{ip}:{port}"), ""))
            .concat();
        let gateway = gateway_before(&plane, &listeners).await;
        for (address, client) in [
            (format!("127.0.0.1:{port}"), "127.0.0.1"),
            (format!("[::1]:{port}"), "::1"),
        ] {
            let answer = raw(address.parse().unwrap(), ASK).await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{order:?} {address}: {answer}"
            );
            let request = app.request().await.to_lowercase();
            assert!(
                request.contains(&format!("\r\nx-forwarded-for: {client}\r\n")),
                "{request}"
            );
        }
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_opens_ipv6_beside_ipv4() {
    let (plane, mut app) = (ScriptedPlane::start().await, Recorder::start(ANSWER).await);
    plane.add(Scripted::running("app", app.ip()));
    let (port, _reserved) = port_of_both_families();
    let v4 = listener(&format!("0.0.0.0:{port}"), "");
    let gateway = gateway_before(&plane, &v4).await;
    // It serves.
    raw(([127, 0, 0, 1], port).into(), ASK).await;
    app.request().await;
    let both = format!("{v4}{}", listener(&format!("[::]:{port}"), ""));
    let config = crate::support::config(plane.address, ScriptedPlane::TOKEN, &both);
    gateway.handle.reload(&config).unwrap();
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let answer = raw(address.parse().unwrap(), ASK).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer}");
        app.request().await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_ipv4_is_one_at_a_socket_of_both_families() {
    let (plane, mut app) = (ScriptedPlane::start().await, Recorder::start(ANSWER).await);
    plane.add(Scripted::running("app", app.ip()));
    plane.add(Scripted::running("told", app.ip()));
    plane.add(Scripted::asleep("open", app.ip()));
    let extra = [
        // As a careful operator of such a socket has written it before.
        "[server]\ntrusted_proxies = [\"::ffff:127.0.0.0/104\"]\n",
        &listener("[::]:0", ""),
        &route("told", "proxy_protocol = \"v1\""),
        &route("open", "admission = { clients = [\"127.0.0.0/8\"] }"),
    ]
    .concat();
    let log = AccessLog::default();
    let access = AccessSink::to(log.clone(), &LogConfig::default());
    let token = ScriptedPlane::TOKEN;
    let gateway = Gateway::start_with(plane.address, token, &extra, access).await;
    let port = gateway.addresses[1].port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let request = ASK.replace("\r\n\r\n", "\r\nX-Forwarded-For: ::ffff:192.0.2.1\r\n\r\n");
    raw(address, &request).await;
    let head = app.request().await.to_lowercase();
    assert!(
        head.contains("\r\nx-forwarded-for: ::ffff:192.0.2.1, 127.0.0.1\r\n"),
        "a trusted proxy: {head}"
    );
    assert!(head.contains("for=127.0.0.1;"), "{head}");
    assert!(!head.contains("::ffff:127"), "{head}");
    raw(address, &ASK.replace("app", "told")).await;
    let head = app.request().await;
    assert!(
        head.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
        "{head}"
    );
    let answer = raw(address, &ASK.replace("app", "open")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "its network may wake: {answer}"
    );
    eventually("each request has its line", async || {
        log.text().lines().count() == 3
    })
    .await;
    gateway.stop().await;
    assert!(!log.text().contains("::ffff:127"), "{}", log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_may_come_in_pieces_and_name_a_mapped_address() {
    let (plane, mut app) = (ScriptedPlane::start().await, Recorder::start(ANSWER).await);
    plane.add(Scripted::running("app", app.ip()));
    let extra = [
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n",
        &listener("127.0.0.1:0", "proxy_protocol = true\n"),
    ]
    .concat();
    let gateway = gateway_before(&plane, &extra).await;
    let v1 = "PROXY TCP4 192.0.2.7 127.0.0.1 1 80\r\n";
    let mapped = "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:127.0.0.1 1 80\r\n";
    let in_the_middle = v1.len() - 4;
    for (header, cut) in [
        (v1, in_the_middle),
        (v1, 1),
        (v1, v1.len() - 1),
        (mapped, 20),
    ] {
        let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (start, end) = header.split_at(cut);
        stream.write_all(start.as_bytes()).await.unwrap();
        // Two segments, most of the time; the unit tests make each cut for certain.
        tokio::task::yield_now().await;
        stream.write_all(end.as_bytes()).await.unwrap();
        stream.write_all(ASK.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "{header:?} {cut}: {answer}"
        );
        let request = app.request().await.to_lowercase();
        assert!(
            request.contains("\r\nx-forwarded-for: 192.0.2.7\r\n"),
            "{request}"
        );
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_else_has_is_still_an_error() {
    let other = TcpListener::bind("[::]:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let text = listener(&format!("[::]:{port}"), "");
    let config = crate::support::config(([127, 0, 0, 1], 9).into(), "t", &text);
    let error = App::bind(config, AccessSink::off()).await.unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
