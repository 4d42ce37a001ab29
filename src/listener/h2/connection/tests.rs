//! A connection with clients that are there, and with some that are not.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::SendRequest;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use http1::InterimSink;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::*;
use crate::client::{ClientRequest, Refusal, RefusalReason};
use crate::flow::BufferBudget;
use crate::listener::service::{Backlog, RawConnection};

const HOUR: Duration = Duration::from_secs(3600);

/// Answers by a request's path.
#[derive(Clone, Default)]
struct Answers(Arc<Seen>);

#[derive(Default)]
struct Seen {
    begun: AtomicUsize,
    refused: Mutex<Vec<RefusalReason>>,
    /// Something was dropped before it was answered.
    dropped: Notify,
    hanging: Notify,
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::from(bytes).map_err(|never| match never {}).boxed()
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
    type Body = BoxBody<Bytes, io::Error>;

    fn on_client_hello(&self, _sni: &str, _client: IpAddr, _port: u16) {}

    async fn call(
        &self,
        request: ClientRequest,
        _from: &(Downstream, ()),
        interim: &InterimSink,
    ) -> Response<Self::Body> {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_http().into_parts();
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
            "/breaks" => {
                let parts = [Ok(Frame::data(Bytes::from(vec![b'x'; 3000])))];
                let broken = [Err(io::ErrorKind::BrokenPipe.into())];
                let parts = parts.into_iter().chain(broken);
                let body = StreamBody::new(futures_util::stream::iter(parts));
                let mut response = Response::new(BoxBody::new(body));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            }
            "/refused" => return Response::new(whole("no".into())),
            _ => {}
        }
        let read = match body {
            Some(body) => body.collect().await.unwrap().to_bytes(),
            None => Bytes::from_static(b"nothing"),
        };
        Response::new(whole(read))
    }

    fn refuse(&self, refusal: Refusal, _from: &Downstream) -> Response<Self::Body> {
        self.0.refused.lock().unwrap().push(refusal.reason);
        let mut response = Response::new(whole("refused".into()));
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        response
    }

    async fn proxy_tcp(&self, _: RawConnection, _: crate::flow::ClientBuffers) {}
}

async fn served(stream: DuplexStream, service: Answers, idle_timeout: Duration) -> io::Result<()> {
    let from = Downstream::in_clear(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
    let buffers = BufferBudget::new(1 << 30).of(Ipv4Addr::LOCALHOST.into());
    let own = ConnectionLimits::of_client(idle_timeout, buffers);
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let accepted = Instant::now();
    serve((stream, accepted), from, service, &config, own, &drain).await
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
    // And it has a moment to read that.
    assert!(took < Duration::from_secs(42), "{took:?} {served:?}");
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

#[tokio::test(start_paused = true)]
async fn a_small_response_that_its_client_does_not_take_is_given_up_in_its_time() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let tasks = TaskTracker::new();
    tasks.spawn(served(far, Answers::default(), HOUR));
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_window_size(0).handshake::<_, Bytes>(near);
    let (client, connection) = handshake.await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    let (mut client, began) = (client.ready().await.unwrap(), Instant::now());
    let get = request(Method::GET, "/");
    let (response, _) = client.send_request(get, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let broken = body.data().await.unwrap().unwrap_err();
    assert!(broken.is_reset(), "{broken}");
    let limit = ServerConfig::default().send_timeout;
    let took = began.elapsed();
    assert!(
        took >= limit && took < limit + Duration::from_secs(1),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_takes_nothing_with_it_that_came_before() {
    let mut client = client(&Answers::default()).await;
    let get = request(Method::GET, "/breaks");
    let (response, _) = client.send_request(get, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = response.into_body();
    let first = body.data().await.unwrap().unwrap();
    assert_eq!(first.len(), 3000);
    let broken = body.data().await.unwrap().unwrap_err();
    assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_told_to_whoever_logs_it_and_too_many_fields_to_the_client() {
    let service = Answers::default();
    let mut client = client(&service).await;
    let mut odd = request(Method::GET, "/");
    odd.headers_mut()
        .insert("x-a", HeaderValue::from_static(" a"));
    let (response, _) = client.send_request(odd, true).unwrap();
    let error = response.await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
    let mut large = request(Method::GET, "/");
    for _ in 0..=ServerConfig::default().max_headers {
        large
            .headers_mut()
            .append("x-a", HeaderValue::from_static("1"));
    }
    let mut client = client.ready().await.unwrap();
    let (response, _) = client.send_request(large, true).unwrap();
    let status = response.await.unwrap().status();
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let refused = service.0.refused.lock().unwrap().clone();
    assert_eq!(
        refused,
        [RefusalReason::Malformed, RefusalReason::LargeHead]
    );
    assert_eq!(service.0.begun.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_something_is_there_although_its_answer_to_a_ping_is_late() {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let (said, began) = (10, Instant::now());
    let talking = async {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        near.write_all(preface).await.unwrap();
        // The first 20 seconds are silent, so that there is a PING.
        sleep(Duration::from_secs(25)).await;
        for _ in 0..said {
            let more = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
            near.write_all(more).await.unwrap();
            sleep(Duration::from_secs(15)).await;
        }
        near.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let (served, ()) = tokio::join!(served(far, Answers::default(), HOUR), talking);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(25 + 15 * said),
        "{took:?} {served:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_well_waits_a_moment_for_its_client_to_read() {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let idle = Duration::from_secs(5);
    let began = Instant::now();
    let reading = async {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        near.write_all(preface).await.unwrap();
        // The answer to the PING that comes with the GOAWAY ends the wait for late requests.
        let mut frames = Vec::new();
        let pong = loop {
            frames.push(near.read_u8().await.unwrap());
            let ping = frames
                .windows(9)
                .position(|head| head == b"\0\0\x08\x06\0\0\0\0\0");
            if let Some(at) = ping.filter(|at| frames.len() == at + 17) {
                break [b"\0\0\x08\x06\x01\0\0\0\0", &frames[at + 9..]].concat();
            }
        };
        near.write_all(&pong).await.unwrap();
        near.read_to_end(&mut frames).await.unwrap();
        let ended = began.elapsed();
        // It is still there.
        near.write_all(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01")
            .await
            .unwrap();
        ended
    };
    let (served, ended) = tokio::join!(served(far, Answers::default(), idle), reading);
    served.unwrap();
    assert_eq!(ended.as_secs(), 5);
    assert_eq!(began.elapsed().as_secs(), 6);
}
