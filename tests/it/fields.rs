//! Fields on their way: what an instance and a client are sent of them, what is added, and what
//! the gateway answers by itself because of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::scripted_plane::{Operation, Scripted, ScriptedPlane};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, route, spawn};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wakegate::telemetry::AccessSink;

/// An address that is this test's alone, with somebody who listens at the usual port.
async fn own_address() -> (IpAddr, TcpListener) {
    loop {
        let noise = [(); 3].map(|()| fastrand::u8(1..255));
        let ip = Ipv4Addr::new(127, 200 + noise[0] % 50, noise[1], noise[2]);
        if let Ok(listener) = TcpListener::bind((ip, 8080)).await {
            return (ip.into(), listener);
        }
    }
}

/// An application that writes down each request as it comes, and answers all in the same way.
pub struct Recorder {
    ip: IpAddr,
    requests: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub async fn start(answer: &'static str) -> Self {
        let (ip, listener) = own_address().await;
        let (say, requests) = mpsc::channel(1000);
        let task = spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = whole_request(&mut stream).await;
                // The gateway may look whether the port is open.
                if request.is_empty() || say.try_send(request).is_err() {
                    continue;
                }
                let _left = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { ip, requests, task }
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The next request.
    pub async fn request(&mut self) -> String {
        let request = tokio::time::timeout(PATIENCE, self.requests.recv());
        request.await.unwrap().unwrap()
    }

    /// Whether there was one more.
    fn has_more(&mut self) -> bool {
        self.requests.try_recv().is_ok()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request to its end, or to the connection's.
async fn whole_request(stream: &mut TcpStream) -> String {
    let (mut text, mut part) = (String::new(), [0; 4096]);
    loop {
        let head = text.to_lowercase();
        if let Some((head, rest)) = head.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|length| length.split("\r\n").next()?.parse().ok());
            let whole = match head.contains("transfer-encoding: chunked") {
                true => rest.contains("0\r\n") && rest.ends_with("\r\n\r\n"),
                false => rest.len() >= length.unwrap_or(0),
            };
            if whole {
                return text;
            }
        }
        match stream.read(&mut part).await {
            Ok(count @ 1..) => text.push_str(&String::from_utf8_lossy(&part[..count])),
            Ok(0) | Err(_) => return text,
        }
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A control plane with one awake instance `app`, a gateway before it, and what the instance hears.
async fn recorded(extra: &str, answer: &'static str) -> (ScriptedPlane, Gateway, Recorder) {
    let (plane, app) = (ScriptedPlane::start().await, Recorder::start(answer).await);
    plane.add(Scripted::running("app", app.ip));
    let gateway = gateway_before(&plane, extra).await;
    (plane, gateway, app)
}

async fn gateway_before(plane: &ScriptedPlane, extra: &str) -> Gateway {
    let token = ScriptedPlane::TOKEN;
    Gateway::start_with(plane.address, token, extra, AccessSink::off()).await
}

/// Everything that comes back for these bytes, until the gateway closes.
pub async fn raw(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

/// A request for `host` with these fields, after which the connection ends.
async fn ask(gateway: &Gateway, line: &str, host: &str, fields: &str) -> String {
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n");
    raw(gateway.address, &request).await
}

/// The values of a field in a message, in its order.
fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap();
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let lines = lines.filter(|(one, _)| one.eq_ignore_ascii_case(name));
    lines.map(|(_, value)| value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_name_reaches_an_instance_in_no_other_spelling_and_as_no_trailer() {
    let (_plane, gateway, mut app) = recorded("", ANSWER).await;
    let request = "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\
        X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX.Forwarded.Host: 6.6.6.6\r\n\
        X_Forwarded_Port: 6666\r\nClient_Cert: 6.6.6.6\r\nClient_Cert-Chain: 6.6.6.6\r\n\
        X_Request_Id: 6.6.6.6\r\nX_Real_Ip: 6.6.6.6\r\nX-Real-Ip: 6.6.6.6\r\nTransfer_Encoding: 6.6.6.6\r\n\
        Content_Length: 6666\r\nX-Forwarded-Port: 6666\r\nX-Forwarded-Prefix: /6666\r\n\
        X_Own: kept\r\nX-Own.Too: kept\r\nTransfer-Encoding: chunked\r\n\
        Trailer: X-Forwarded-For, X_Forwarded_Proto, Forwarded, Client-Cert, X-Request-Id, Via\r\n\
        Trailer: X-Real-Ip, Host, Cookie, Content-Type, If-Match, X-Sum\r\n\r\n3\r\nabc\r\n0\r\n\
        X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_Proto: 6666\r\nForwarded: for=6.6.6.6\r\n\
        Client-Cert: 6.6.6.6\r\nX-Request-Id: 6666\r\nVia: 6666\r\nX-Real-Ip: 6.6.6.6\r\n\
        Host: 6.6.6.6\r\nCookie: 6666\r\nContent-Type: 6666\r\nIf-Match: 6666\r\nX-Sum: 42\r\n\r\n";
    let answer = raw(gateway.address, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let request = app.request().await;
    let lower = request.to_lowercase();
    assert!(
        !lower.contains("6.6.6.6") && !lower.contains("6666"),
        "{request}"
    );
    assert_eq!(values(&request, "x-forwarded-for"), ["127.0.0.1"]);
    assert!(lower.contains("\r\nx_own: kept\r\n"), "{request}");
    assert!(lower.contains("\r\nx-own.too: kept\r\n"), "{request}");
    assert!(lower.ends_with("\r\nx-sum: 42\r\n\r\n"), "{request}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_peers_other_forwarding_fields_reach_the_instance() {
    let extra = "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let (_plane, gateway, mut app) = recorded(extra, ANSWER).await;
    let fields = "X-Forwarded-Port: 8443\r\nX-Real-Ip: 192.0.2.1\r\nX_Forwarded_For: 6.6.6.6\r\n\
                  X-Forwarded-For: 192.0.2.1:4000\r\n";
    ask(&gateway, "GET /", "app.test", fields).await;
    let request = app.request().await;
    assert_eq!(values(&request, "x-forwarded-port"), ["8443"]);
    assert_eq!(values(&request, "x-real-ip"), ["192.0.2.1"]);
    let list = values(&request, "x-forwarded-for");
    assert_eq!(list, ["192.0.2.1:4000, 127.0.0.1"]);
    assert!(!request.contains("6.6.6.6"), "{request}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_sets_or_takes_away_comes_in_no_other_spelling_and_as_no_trailer() {
    let secret = "0123456789abcdef0123456789abcdef";
    let keys = format!(
        "port = 8080\n[route.auth]\nheader = \"x-key\"\nvalue = \"{secret}\"\n\
         [route.request_headers]\nset = [\"x-tenant: blue\"]\nremove = [\"x-admin\"]\n"
    );
    let (_plane, gateway, mut app) = recorded(&route("app", &keys), ANSWER).await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nX-Key: {secret}\r\n\
         X_Tenant: red\r\nX-Tenant: red\r\nX_Admin: red\r\nX-Admin: red\r\nX_Key: red\r\nX_Own: kept\r\n\
         Trailer: X-Tenant, X_Tenant, X-Admin, X-Key, X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\
         X-Tenant: red\r\nX_Tenant: red\r\nX-Admin: red\r\nX-Key: red\r\nX-Sum: 42\r\n\r\n"
    );
    let answer = raw(gateway.address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let request = app.request().await;
    assert!(
        !request.contains("red") && !request.contains(secret),
        "{request}"
    );
    assert_eq!(values(&request, "x-tenant"), ["blue"]);
    assert_eq!(values(&request, "x_own"), ["kept"]);
    assert!(
        request.to_lowercase().ends_with("\r\nx-sum: 42\r\n\r\n"),
        "{request}"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_sent_no_trailer_that_is_the_gateways_word() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\nok\r\n0\r\nX-Request-Id: 6666\r\nX-Wakegate-Wake: 6666\r\nX-Wakegate-Hold: 10m\r\n\
        Set-Cookie: a=6666\r\nX-Secret: 6666\r\nX-Sum: 42\r\n\r\n";
    let keys = "port = 8080\n[route.response_headers]\nremove = [\"x-secret\"]\n";
    let (_plane, gateway, _app) = recorded(&route("app", keys), answer).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = spawn(connection);
    let request = http::Request::get("http://app.test/").body(Full::<Bytes>::default());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers["x-sum"], "42");
    assert_eq!(trailers.len(), 1, "{trailers:?}");
    drop(sender);
    connection.await.unwrap().unwrap();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_trailers_is_named_as_an_option_of_the_connection() {
    let (_plane, gateway, mut app) = recorded("", ANSWER).await;
    ask(
        &gateway,
        "GET /",
        "app.test",
        "TE: trailers, deflate\r\nConnection: TE\r\n",
    )
    .await;
    let request = app.request().await;
    assert_eq!(values(&request, "te"), ["trailers"]);
    assert_eq!(values(&request, "connection"), ["TE"]);
    ask(
        &gateway,
        "GET /",
        "app.test",
        "TE: deflate\r\nConnection: TE\r\n",
    )
    .await;
    let request = app.request().await;
    assert!(values(&request, "te").is_empty() && values(&request, "connection").is_empty());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_the_gateway_in_via_behind_those_that_it_has_passed() {
    let (_plane, gateway, mut app) = recorded("", ANSWER).await;
    let answer = ask(&gateway, "GET /", "app.test", "").await;
    assert!(
        values(&answer, "via").is_empty(),
        "a gateway need not: {answer}"
    );
    let plain = app.request().await;
    let [via] = values(&plain, "via")[..] else {
        panic!("{plain}");
    };
    assert!(via.starts_with("1.1 wakegate-"), "{via}");
    ask(
        &gateway,
        "GET /",
        "app.test",
        "Via: 1.0 fred, 1.1 p.example\r\nVia: 2 edge\r\n",
    )
    .await;
    let request = app.request().await;
    assert_eq!(
        values(&request, "via").join(", "),
        format!("1.0 fred, 1.1 p.example, 2 edge, {via}")
    );
    // What counts is the version that the client speaks.
    raw(gateway.address, "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n").await;
    let request = app.request().await;
    assert_eq!(values(&request, "via"), [via.replacen("1.1", "1.0", 1)]);
    gateway.stop().await;

    let (_plane, gateway, mut app) = recorded("[server]\nvia = \"both\"\n", ANSWER).await;
    let answer = ask(&gateway, "GET /", "app.test", "").await;
    assert!(
        values(&answer, "via")[0].starts_with("1.1 wakegate-"),
        "{answer}"
    );
    assert_eq!(values(&app.request().await, "via").len(), 1);
    gateway.stop().await;
    let (_plane, gateway, mut app) = recorded("[server]\nvia = \"off\"\n", ANSWER).await;
    ask(&gateway, "GET /", "app.test", "Via: 1.1 fred\r\n").await;
    assert_eq!(values(&app.request().await, "via"), ["1.1 fred"]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_here_already_is_refused_and_wakes_nobody() {
    let (plane, gateway, mut app) = recorded("", ANSWER).await;
    ask(&gateway, "GET /", "app.test", "").await;
    let seen = app.request().await;
    let via = format!("Via: 1.1 edge, {}, 1.1 inside\r\n", values(&seen, "via")[0]);
    plane.add(Scripted::asleep("other", app.ip));
    plane.all_sleep();
    let answer = ask(&gateway, "GET /", "app.test", &via).await;
    assert!(answer.starts_with("HTTP/1.1 508"), "{answer}");
    assert!(answer.contains("\"code\":\"forward_loop\""), "{answer}");
    assert_eq!(plane.calls(Operation::Restore, "*"), 0);
    // One instance may ask the gateway for another, and say what it was asked by.
    let answer = ask(&gateway, "GET /", "other.test", &via).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    gateway.stop().await;
}

/// Passes bytes on to `to`, as an instance that is a proxy; says how many connections it had.
async fn tunnel_to(to: SocketAddr) -> (IpAddr, mpsc::Receiver<()>) {
    let (ip, listener) = own_address().await;
    let (count, connections) = mpsc::channel(1000);
    spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            if count.try_send(()).is_err() {
                return;
            }
            spawn(async move {
                let mut inside = TcpStream::connect(to).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (ip, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_ends_at_its_second_turn_and_two_gateways_in_a_row_are_none() {
    let plane = ScriptedPlane::start().await;
    let gateway = gateway_before(&plane, "").await;
    let (ip, mut turns) = tunnel_to(gateway.address).await;
    plane.add(Scripted::running("ring", ip));
    // What a client says of its own way hides nothing.
    for via in ["", "Via: 1.1 caf\u{e9}\r\n"] {
        let answer = ask(&gateway, "GET /", "ring.test", via).await;
        assert!(answer.starts_with("HTTP/1.1 508"), "{answer}");
        let mut count = 0;
        while turns.try_recv().is_ok() {
            count += 1;
        }
        assert!(count <= 2, "{count} connections");
    }
    gateway.stop().await;

    let (plane, inner, mut app) = recorded("", ANSWER).await;
    let (ip, _turns) = tunnel_to(inner.address).await;
    let outer_plane = ScriptedPlane::start().await;
    outer_plane.add(Scripted::running("app", ip));
    let outer = gateway_before(&outer_plane, "").await;
    let answer = ask(&outer, "GET /", "app.test", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let request = app.request().await;
    let via = values(&request, "via").join(", ");
    assert_eq!(via.matches("wakegate-").count(), 2, "{via}");
    drop(plane);
    outer.stop().await;
    inner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_and_trace_go_as_far_as_their_client_wants() {
    let (plane, gateway, mut app) = recorded("", ANSWER).await;
    for (method, sent, expected) in [
        ("OPTIONS", "5", "4"),
        ("TRACE", "1", "0"),
        // Of other methods it means nothing, and what is no number is nobody's business.
        ("GET", "0", "0"),
        ("OPTIONS", "some", "some"),
    ] {
        let fields = format!("Max-Forwards: {sent}\r\n");
        ask(&gateway, &format!("{method} /"), "app.test", &fields).await;
        let request = app.request().await;
        assert_eq!(values(&request, "max-forwards"), [expected], "{method}");
    }
    plane.all_sleep();
    let answer = ask(&gateway, "OPTIONS /", "app.test", "Max-Forwards: 0\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(values(&answer, "content-length"), ["0"]);
    let fields = "Max-Forwards: 0\r\nCookie: secret=1\r\nAuthorization: secret\r\nX-Own: kept\r\n";
    let answer = ask(&gateway, "TRACE /a?b=c", "app.test", fields).await;
    assert_eq!(values(&answer, "content-type"), ["message/http"]);
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.starts_with("TRACE /a?b=c HTTP/1.1\r\n"), "{body}");
    assert!(
        body.to_lowercase().contains("\r\nx-own: kept\r\n"),
        "{body}"
    );
    assert!(!body.contains("secret"), "{body}");
    assert!(!app.has_more());
    assert_eq!(plane.calls(Operation::Restore, "*"), 0);
    gateway.stop().await;
}

fn certificate(dir: &std::path::Path) {
    let made = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_https_keeps_the_method_and_names_the_port_where_tls_is_served() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let path = |file: &str| dir.path().join(file).display().to_string();
    let listener = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\n",
        path("cert.pem"),
        path("key.pem")
    );
    let keys = route("app", "redirect_http = true");
    let (_plane, gateway, mut app) = recorded(&format!("{keys}{listener}"), ANSWER).await;
    let port = gateway.addresses[1].port();
    for (method, status) in [("GET", 301), ("HEAD", 301), ("POST", 308), ("DELETE", 308)] {
        let answer = ask(&gateway, &format!("{method} /a?b=c"), "app.test:80", "").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let to = format!("https://app.test:{port}/a?b=c");
        assert_eq!(values(&answer, "location"), [&*to]);
        if method != "HEAD" {
            assert_eq!(
                values(&answer, "content-type"),
                ["text/html; charset=utf-8"]
            );
            assert!(answer.contains(&format!("<a href=\"{to}\">")), "{answer}");
        }
    }
    assert!(!app.has_more());
    gateway.stop().await;
    // Where clients reach it at another port than the gateway opens, its operator says so.
    let extra = format!("[server]\nhttps_port = 443\n{keys}{listener}");
    let (_plane, gateway, _app) = recorded(&extra, ANSWER).await;
    let answer = ask(&gateway, "GET /\"<a>", "app.test", "").await;
    if answer.starts_with("HTTP/1.1 301") {
        assert!(!answer.contains("<a>"), "{answer}");
    }
    let answer = ask(&gateway, "GET /a", "app.test", "").await;
    assert_eq!(values(&answer, "location"), ["https://app.test/a"]);
    gateway.stop().await;
    // A route's word comes before that.
    let keys = route("app", "redirect_http = { port = 8443 }");
    let extra = format!("[server]\nhttps_port = 443\n{keys}{listener}");
    let (_plane, gateway, _app) = recorded(&extra, ANSWER).await;
    let answer = ask(&gateway, "GET /a", "app.test", "").await;
    assert_eq!(values(&answer, "location"), ["https://app.test:8443/a"]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_usually_has_a_body_says_that_it_has_none() {
    let (_plane, gateway, mut app) = recorded("", ANSWER).await;
    for (method, expected) in [
        ("POST", &["0"][..]),
        ("PUT", &["0"]),
        ("PATCH", &["0"]),
        ("GET", &[]),
        ("DELETE", &[]),
    ] {
        ask(&gateway, &format!("{method} /"), "app.test", "").await;
        let request = app.request().await;
        assert_eq!(values(&request, "content-length"), expected, "{request}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_answer_has_no_field_of_framing_of_the_hop_or_of_the_gateway() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nContent-Length: 5\r\n\
        Transfer-Encoding: chunked\r\nTrailer: x\r\nConnection: x-hop, close\r\nX-Hop: 6666\r\n\
        Upgrade: 6666\r\nKeep-Alive: 6666\r\nX-Request-Id: 6666\r\nX-Wakegate-Hold: 10m\r\n\
        X-Secret: 6666\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let keys =
        "port = 8080\n[route.response_headers]\nremove = [\"x-secret\"]\nset = [\"x-own: 6666\"]\n";
    let (_plane, gateway, _app) = recorded(&route("app", keys), answer).await;
    let answer = ask(&gateway, "GET /", "app.test", "").await;
    let (interim, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let lines: Vec<_> = interim.lines().map(str::to_lowercase).collect();
    assert_eq!(
        lines,
        ["http/1.1 103 early hints", "link: </a.css>; rel=preload"]
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_nothing_of_its_hop_however_that_is_spelled_and_however_many_fields_it_has() {
    for hop in [
        "CONNECTION:close , \t X-SECRET,\r\nx-Secret: 6666\r\n",
        "Connection: \u{e9}, x-secret\r\nconnection:close\r\nX-Secret:6666\r\n",
        "Connection: close\r\nkeep-ALIVE: 6666\r\nPROXY-authenticate:6666\r\nte: 6666\r\n",
        "Connection: close\r\nX-REQUEST-ID: 6666\r\nx-Wakegate-PEER-code:6666\r\nUpgrade:6666\r\n",
    ] {
        for more in [0, 60, 200] {
            let more: Vec<_> = (0..more).map(|n| format!("X-More-{n}: {n}\r\n")).collect();
            let lines = more.concat();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-Empty:\r\n{hop}{lines}content-LENGTH:2\r\n\
                 SET-COOKIE:\tb=2 \r\n\r\nok"
            );
            let (_plane, gateway, _app) = recorded("", answer.leak()).await;
            let answer = ask(&gateway, "GET /", "app.test", "").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(
                answer.ends_with("\r\n\r\nok") && !answer.contains("6666"),
                "{answer}"
            );
            assert_eq!(values(&answer, "set-cookie"), ["a=1", "b=2"]);
            assert_eq!(values(&answer, "content-length"), ["2"]);
            for (name, expected) in [("x-empty", ""), ("connection", "close")] {
                assert_eq!(values(&answer, name), [expected], "{answer}");
            }
            assert_eq!(answer.matches("x-more-").count(), more.len());
            gateway.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_nothing_of_the_one_before_it_nor_of_its_hop() {
    let (_plane, gateway, mut app) = recorded("", ANSWER).await;
    let long = "6666".repeat(3000);
    let first = format!(
        "GET /6666 HTTP/1.1\r\nHost: app.test\r\nX-First: {long}\r\nAuthorization: Basic 6666\r\n\
         Cookie: a=6666\r\nCookie: b=6666\r\n\r\n"
    );
    let second = "GET /second HTTP/1.1\r\nhOST:app.test \r\nCookie:a=b\r\nX-Empty:\r\n\
        CONNECTION:\tkeep-ALIVE\r\nKEEP-alive: 7777\r\nProxy-AUTHORIZATION:7777\r\n\r\n";
    let third = "GET /third HTTP/1.1\r\nHost: app.test\r\nX-Hop: 7777\r\n\
        Connection: x-HOP ,close,\r\n\r\n";
    // All at once: the later ones wait behind the first one's head.
    raw(gateway.address, &[&*first, second, third].concat()).await;
    assert_eq!(values(&app.request().await, "x-first"), [&*long]);
    let heard = app.request().await;
    assert!(heard.starts_with("GET /second HTTP/1.1\r\n"), "{heard}");
    assert!(
        !heard.contains("6666") && !heard.contains("7777"),
        "{heard}"
    );
    for (name, expected) in [("host", "app.test"), ("cookie", "a=b"), ("x-empty", "")] {
        assert_eq!(values(&heard, name), [expected], "{heard}");
    }
    let heard = app.request().await;
    assert!(heard.starts_with("GET /third HTTP/1.1\r\n"), "{heard}");
    assert!(
        !heard.contains("6666") && !heard.contains("7777"),
        "{heard}"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_the_gateways_own_is_what_its_type_says() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("nap")).await;
    let extra = [
        route(
            "nap",
            "admission = { methods = [\"POST\"] }\nasleep = { health_paths = [\"/up\"] }",
        ),
        route("page", "waiting_page = true\nport = 9000"),
        route("moved", "redirect_http = true"),
    ]
    .concat();
    let (_page, door) = plane.behind_a_door("page").await;
    let gateway = Gateway::start(&plane, &extra).await;
    let html = "Accept: text/html\r\n";
    for (line, host, fields, status) in [
        ("GET /", "nowhere.example", "", 404),
        ("GET /", "nowhere.example", html, 404),
        (
            "POST /",
            "nowhere.example",
            "Content-Type: application/grpc\r\n",
            200,
        ),
        ("GET /", "nap.test", "", 503),
        ("GET /up", "nap.test", "", 200),
        ("GET /", "moved.test", "", 301),
        ("OPTIONS /", "nap.test", "Max-Forwards: 0\r\n", 200),
        ("GET /", "page.test", html, 503),
    ] {
        let answer = ask(&gateway, line, host, fields).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let said = values(&answer, "x-content-type-options");
        assert_eq!(said, ["nosniff"], "{line} {host}: {answer}");
    }
    door.open().await;
    // An application says so itself.
    eventually("the application answers", async || {
        let answer = ask(&gateway, "GET /", "page.test", "").await;
        answer.starts_with("HTTP/1.1 200") && values(&answer, "x-content-type-options").is_empty()
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_keep_the_letters_of_names_or_capitalise_them() {
    for (rule, expected) in [
        (
            "lower",
            [
                "host: ",
                "soapaction: ",
                "x-forwarded-for: ",
                "content-length: ",
            ],
        ),
        (
            "title",
            [
                "Host: ",
                "Soapaction: ",
                "X-Forwarded-For: ",
                "Content-Length: ",
            ],
        ),
        (
            "original",
            [
                "HOST: ",
                "SOAPAction: ",
                "X-Forwarded-For: ",
                "Content-length: ",
            ],
        ),
    ] {
        let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        let keys = format!("port = 8080\nfield_names = \"{rule}\"");
        let (plane, gateway, mut app) = recorded(&route("app", &keys), answer).await;
        let request = "POST / HTTP/1.1\r\nHOST: app.test\r\nSOAPAction: a\r\nContent-length: 0\r\n\
            Connection: close\r\n\r\n";
        let heard = raw(gateway.address, request).await;
        assert!(heard.starts_with("HTTP/1.1 204 "), "{rule}: {heard}");
        let request = app.request().await;
        for name in expected {
            assert!(
                request.contains(&format!("\r\n{name}")),
                "{rule}: {request}"
            );
        }
        assert_eq!(
            request
                .to_lowercase()
                .matches("\r\nx-forwarded-for: ")
                .count(),
            1
        );
        gateway.stop().await;
        drop(plane);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_frames_a_body_is_spelled_as_the_other_fields_are() {
    for (rule, expected) in [
        ("lower", "\r\ntransfer-encoding: chunked\r\n"),
        ("title", "\r\nTransfer-Encoding: chunked\r\n"),
        ("original", "\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        let keys = format!("port = 8080\nfield_names = \"{rule}\"");
        let (plane, gateway, mut app) = recorded(&route("app", &keys), answer).await;
        let request = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\
            Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let heard = raw(gateway.address, request).await;
        assert!(heard.starts_with("HTTP/1.1 204 "), "{rule}: {heard}");
        let request = app.request().await;
        assert!(request.contains(expected), "{rule}: {request}");
        let framings = request.to_lowercase().matches("transfer-encoding").count();
        assert_eq!(framings, 1, "{rule}: {request}");
        gateway.stop().await;
        drop(plane);
    }
}
