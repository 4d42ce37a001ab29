//! 1xx responses to clients of HTTP/2, and bodies as their windows show them.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::{Door, Gateway, PATIENCE, Plane, eventually, route, spawn};

async fn client(gateway: &Gateway) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    spawn(async move { drop(connection.await) });
    sender.ready().await.unwrap()
}

fn request(method: Method, url: &str) -> Request<()> {
    Request::builder().method(method).uri(url).body(()).unwrap()
}

/// The next interim response; `None` when the final one has come.
async fn interim(response: &mut ResponseFuture) -> Option<Response<()>> {
    let next = poll_fn(|cx| response.poll_informational(cx));
    let next = timeout(PATIENCE, next).await.expect("no answer at all");
    next.map(Result::unwrap)
}

async fn text(response: Response<h2::RecvStream>) -> String {
    let mut body = response.into_body();
    let mut whole = Vec::new();
    while let Some(part) = timeout(PATIENCE, body.data()).await.unwrap() {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        whole.extend_from_slice(&part);
    }
    String::from_utf8(whole).unwrap()
}

/// A connection on which a request has come.
async fn asked(origin: &TcpListener) -> TcpStream {
    loop {
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut part = [0; 4096];
        // The gateway may look whether the port is open, and send nothing.
        if stream.read(&mut part).await.unwrap() > 0 {
            return stream;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_reach_a_client_of_http_2_while_the_answer_is_not_there_yet() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("hints").await;
    let gateway = Gateway::start(&plane, "").await;
    let mut client = client(&gateway).await;
    let get = request(Method::GET, "http://hints.test/");
    let (mut response, _) = client.send_request(get, true).unwrap();
    let mut stream = asked(&origin).await;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\
                 Connection: x\r\nx: 1\r\n\r\n";
    stream.write_all(hints.as_bytes()).await.unwrap();
    let hint = interim(&mut response).await.unwrap();
    assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
    let fields: Vec<_> = hint.headers().iter().collect();
    assert_eq!(fields.len(), 1, "{fields:?}");
    assert_eq!(hint.headers()["link"], "</a.css>; rel=preload");
    let rest = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\
                Content-Length: 2\r\nConnection: close\r\n\r\nok";
    stream.write_all(rest.as_bytes()).await.unwrap();
    let second = interim(&mut response).await.unwrap();
    assert_eq!(second.status(), StatusCode::PROCESSING);
    assert!(interim(&mut response).await.is_none());
    let answer = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "ok");
    gateway.stop().await;
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_2_is_asked_for_its_body_when_the_instance_is_ready() {
    let plane = Plane::start().await;
    let routes = route("patient", Door::ROUTE);
    let gateway = Gateway::start(&plane, &routes).await;
    let (_, door) = plane.behind_a_door("patient").await;
    let mut client = client(&gateway).await;
    let mut post = request(Method::POST, "http://patient.test/upload");
    let expects = [("expect", "100-continue"), ("content-length", "5")];
    for (name, value) in expects {
        post.headers_mut().insert(name, value.parse().unwrap());
    }
    let (mut response, mut body) = client.send_request(post, false).unwrap();
    eventually("it is held", async || {
        gateway.metric("wakegate_held_requests").await > 0.5
    })
    .await;
    let early = poll_fn(|cx| std::task::Poll::Ready(response.poll_informational(cx))).await;
    assert!(early.is_pending(), "{early:?}");
    door.open().await;
    let asked = interim(&mut response).await.unwrap();
    assert_eq!(asked.status(), StatusCode::CONTINUE);
    body.send_data("hello".into(), true).unwrap();
    assert!(interim(&mut response).await.is_none(), "it is asked once");
    let answer = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(text(answer).await, "{\"bytes\":5}");
    gateway.stop().await;
    plane.stop().await;
}

/// Sends what the windows allow, and says how much that was.
async fn send_all(body: &mut SendStream<Bytes>, most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        body.reserve_capacity(16 * 1024);
        let room = poll_fn(|cx| body.poll_capacity(cx));
        let Ok(Some(Ok(room))) = timeout(Duration::from_secs(2), room).await else {
            break;
        };
        body.send_data(vec![b'x'; room].into(), false).unwrap();
        sent += room;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_a_stream_grows_only_for_what_the_instance_takes() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("slow").await;
    let gateway = Gateway::start(&plane, "").await;
    let mut client = client(&gateway).await;
    let post = request(Method::POST, "http://slow.test/");
    let (response, mut body) = client.send_request(post, false).unwrap();
    let stream = asked(&origin).await;
    let mib = 1 << 20;
    // The kernel's buffers on the way to the instance take some of it.
    let sent = send_all(&mut body, 64 * mib).await;
    assert!((64 * 1024..64 * mib).contains(&sent), "{sent}");
    let reading = spawn(async move {
        let (mut stream, mut end) = (stream, Vec::new());
        while !end.ends_with(b"\r\n0\r\n\r\n") {
            end.drain(..end.len().saturating_sub(7));
            assert!(stream.read_buf(&mut end).await.unwrap() > 0);
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let more = send_all(&mut body, 4 * mib).await;
    assert!(more > 64 * 1024, "{more}");
    body.send_data(Bytes::new(), true).unwrap();
    reading.await.unwrap();
    let answer = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(text(answer).await, "ok");
    gateway.stop().await;
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_its_client_breaks_off_is_not_taken_for_whole_whatever_the_reason() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("strict").await;
    let gateway = Gateway::start(&plane, "").await;
    let mut client = client(&gateway).await;
    for reason in [Reason::NO_ERROR, Reason::CANCEL] {
        let post = request(Method::POST, "http://strict.test/");
        let (_response, mut body) = client.send_request(post, false).unwrap();
        body.send_data("some".into(), false).unwrap();
        let mut stream = asked(&origin).await;
        body.send_reset(reason);
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest));
        let _reset = ended.await.expect("the instance is let go");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{reason:?}");
    }
    gateway.stop().await;
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}
