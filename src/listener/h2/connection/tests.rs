//! A connection with clients that are there, and with some that are not.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::SendRequest;
use http_body_util::{BodyExt as _, Full};
use http1::InterimSink;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::*;
use crate::client::{ClientBody, Refusal};
use crate::flow::BufferBudget;
use crate::listener::service::{Backlog, RawConnection};

const HOUR: Duration = Duration::from_secs(3600);

/// Answers by a request's path.
#[derive(Clone, Default)]
struct Answers(Arc<Seen>);

#[derive(Default)]
struct Seen {
    begun: AtomicUsize,
    /// Something was dropped before it was answered.
    dropped: Notify,
    hanging: Notify,
}

struct Hanging(Arc<Seen>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

impl Backlog for Full<Bytes> {}

impl Service for Answers {
    type ConnectionCache = ();
    type Body = Full<Bytes>;

    fn on_client_hello(&self, _sni: &str, _client: IpAddr, _port: u16) {}

    async fn call(
        &self,
        request: Request<Option<ClientBody>>,
        _from: &(Downstream, ()),
        interim: &InterimSink,
    ) -> Response<Full<Bytes>> {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        match head.uri.path() {
            "/hang" => {
                let _hanging = Hanging(Arc::clone(&self.0));
                self.0.hanging.notify_one();
                pending::<()>().await;
            }
            "/hints" => {
                let mut fields = HeaderMap::new();
                fields.insert("link", HeaderValue::from_static("</a.css>"));
                interim(StatusCode::EARLY_HINTS, &fields);
            }
            _ => {}
        }
        let read = match body {
            Some(body) => body.collect().await.unwrap().to_bytes(),
            None => Bytes::from_static(b"nothing"),
        };
        Response::new(Full::from(read))
    }

    fn refuse(&self, _refusal: Refusal, _from: &Downstream) -> Response<Full<Bytes>> {
        unreachable!("no head of HTTP/1.1 comes here")
    }

    async fn proxy_tcp(&self, _connection: RawConnection) {}
}

async fn served(stream: DuplexStream, service: Answers, idle_timeout: Duration) -> io::Result<()> {
    let from = Downstream {
        client: ([127, 0, 0, 1], 1).into(),
        local: ([127, 0, 0, 1], 2).into(),
        tls: None,
    };
    let buffers = BufferBudget::new(1 << 30).of(Ipv4Addr::LOCALHOST.into());
    let own = ConnectionLimits {
        idle_timeout,
        buffers,
    };
    let (config, drain) = (ServerConfig::default(), Drain::default());
    serve(stream, from, service, &config, own, &drain).await
}

/// A client, whose connection is served meanwhile.
async fn client(service: &Answers) -> SendRequest<Bytes> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let tasks = TaskTracker::new();
    tasks.spawn(served(far, service.clone(), HOUR));
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://a.b{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

async fn text(response: Response<RecvStream>) -> Bytes {
    let (mut body, mut whole) = (response.into_body(), Vec::new());
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        whole.extend_from_slice(&part);
    }
    whole.into()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_ping_is_given_up() {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let began = Instant::now();
    let silence = async {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        near.write_all(preface).await.unwrap();
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
    };
    let (served, ()) = tokio::join!(served(far, Answers::default(), HOUR), silence);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(40), "{took:?} {served:?}");
    assert!(took < Duration::from_secs(41), "{took:?} {served:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_for_as_long_as_it_likes() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let (_client, connection) = h2::client::handshake(near).await.unwrap();
        connection.await.unwrap();
    };
    let both = async { tokio::join!(served(far, Answers::default(), HOUR), client) };
    let ended = timeout(Duration::from_secs(1000), both).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn what_answers_a_request_is_dropped_when_its_client_resets_it() {
    let service = Answers::default();
    let mut client = client(&service).await;
    let (_response, mut stream) = client
        .send_request(request(Method::POST, "/hang"), false)
        .unwrap();
    service.0.hanging.notified().await;
    stream.send_reset(Reason::CANCEL);
    let dropped = timeout(Duration::from_secs(10), service.0.dropped.notified());
    dropped.await.expect("it goes on");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_reset_before_it_is_looked_at_is_not_answered() {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let service = Answers::default();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A GET, and its RST_STREAM.
    let head = b"\0\0\x07\x01\x05\0\0\0\x01\x82\x86\x84\x01\x02ab";
    let reset = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";
    let all = [&preface[..], head, reset].concat();
    near.write_all(&all).await.unwrap();
    let serving = served(far, service.clone(), HOUR);
    let ended = timeout(Duration::from_secs(10), serving).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(service.0.begun.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn interim_responses_go_before_a_final_one_that_is_there_at_once() {
    let mut client = client(&Answers::default()).await;
    let (mut response, _) = client
        .send_request(request(Method::GET, "/hints"), true)
        .unwrap();
    let hint = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
    let hint = hint.expect("no hint").unwrap();
    assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
    assert_eq!(hint.headers()["link"], "</a.css>");
    let response = response.await.unwrap();
    assert!(response.headers().contains_key("date"));
    assert_eq!(response.headers()["x-extra"], "1");
    assert_eq!(response.headers()["content-length"], "7");
    assert_eq!(text(response).await, "nothing");
}

#[tokio::test(start_paused = true)]
async fn many_requests_at_once_are_all_answered_beside_one_that_is_not() {
    let service = Answers::default();
    let client = client(&service).await;
    let mut hanging = client.clone();
    let hanging = hanging.send_request(request(Method::GET, "/hang"), true);
    let asking = (0..100).map(|index: usize| {
        let client = client.clone();
        async move {
            let mut client = client.ready().await.unwrap();
            let post = request(Method::POST, "/");
            let (response, mut body) = client.send_request(post, false).unwrap();
            let sent = Bytes::from(vec![b'x'; index * 1000]);
            let mut rest = sent.clone();
            while !rest.is_empty() {
                body.reserve_capacity(rest.len());
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                let part = rest.split_to(room.unwrap().unwrap());
                body.send_data(part, false).unwrap();
            }
            body.send_data(Bytes::new(), true).unwrap();
            assert_eq!(text(response.await.unwrap()).await, sent);
        }
    });
    let all = timeout(Duration::from_secs(10), join_all(asking)).await;
    assert_eq!(all.expect("some wait for ever").len(), 100);
    assert_eq!(service.0.begun.load(Ordering::Relaxed), 101);
    drop(hanging);
}
