//! `wakegate hello`: the small server behind the image `wakegate/hello`.
//!
//! Guarantees: what it counts is in memory only, so a count that goes on after a sleep proves that
//! memory was kept. It listens at `HOST` and `PORT`, after `HELLO_LISTEN_DELAY` (a duration, or
//! `never`), with TLS when `HELLO_TLS_CERT` and `HELLO_TLS_KEY` name PEM files; it speaks HTTP/1.1,
//! HTTP/2 and gRPC.

mod grpc;
mod tls;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequest, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::stream;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use hypeman::GoDuration;

/// On Linux (signal(7)).
const SIGCONT: i32 = 18;
const MAX_ECHO: usize = 16 * 1024 * 1024;

/// Why the demo server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// A variable that is no address, port or duration.
    #[error("`{0}` is not valid: {1}")]
    Variable(&'static str, String),
    /// The address cannot be listened at.
    #[error("cannot listen at {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
}

struct Memory {
    name: String,
    born: Instant,
    requests: AtomicU64,
    /// How often `/deliver` was called, by the id of the call.
    deliveries: Mutex<BTreeMap<String, u64>>,
    /// The time when the process driver last woke it.
    woken: Mutex<Instant>,
}

/// A request's body, read to its end and let go.
///
/// A server that answers without having read what is under way closes the connection afterwards,
/// also where its answer says that it stays open (RFC 9112 §9.6): the next request meets the close.
struct ReadBody;

/// Serves until the process ends. `variable` reads the environment.
pub async fn run(variable: impl Fn(&'static str) -> Option<String>) -> Result<(), HelloError> {
    if variable("HELLO_EXIT_WITH_PARENT").is_some() {
        // Best effort: without it a killed parent leaves this process behind.
        let _stays =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
    let host = variable("HOST")
        .filter(|host| !host.is_empty())
        .unwrap_or("127.0.0.1".to_owned());
    let port = variable("PORT").unwrap_or("8080".to_owned());
    let address: SocketAddr = format!("{host}:{port}")
        .parse()
        .map_err(|_| HelloError::Variable("HOST, PORT", format!("{host}:{port}")))?;
    match variable("HELLO_LISTEN_DELAY").as_deref() {
        None => {}
        Some("never") => std::future::pending().await,
        Some(text) => {
            let bad = |why| HelloError::Variable("HELLO_LISTEN_DELAY", why);
            let delay: GoDuration = text.parse().map_err(|_| bad(text.to_owned()))?;
            sleep(delay.to_std().unwrap_or_default()).await;
        }
    }
    let failed = |error| HelloError::Bind(address, error);
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    let listener = socket.listen(4096).map_err(failed)?;
    let secure = tls::from_environment(&variable).map_err(failed)?;
    let memory = Memory {
        name: variable("INSTANCE_NAME").unwrap_or("hello".to_owned()),
        born: Instant::now(),
        requests: AtomicU64::new(0),
        deliveries: Mutex::default(),
        woken: Mutex::new(Instant::now()),
    };
    let memory = Arc::new(memory);
    let mut continued = signal(SignalKind::from_raw(SIGCONT)).map_err(failed)?;
    let waking = async {
        while continued.recv().await.is_some() {
            *memory.woken.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    };
    let app = routes(Arc::clone(&memory));
    let serving = async {
        match secure {
            None => axum::serve(listener, app).await,
            Some(config) => axum::serve(tls::Secured::new(listener, config), app).await,
        }
    };
    tokio::select! {
        served = serving => served.map_err(failed),
        () = waking => Ok(()),
    }
}

// === impl ReadBody, Memory ===

impl<S: Send + Sync> FromRequest<S> for ReadBody {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        Ok(Self)
    }
}

impl Memory {
    /// How long the instance has been awake.
    fn since_wake(&self) -> Duration {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.elapsed()
    }
}

fn routes(memory: Arc<Memory>) -> Router {
    Router::new()
        .route("/", any(hello))
        .route("/count", get(count))
        .route("/headers", any(headers))
        .route("/echo", any(echo))
        .route("/upload", any(upload))
        .route("/bytes", get(bytes))
        .route("/sse", get(events))
        .route("/slow", any(slow))
        .route("/deliver", any(deliver))
        .route("/deliveries", get(deliveries))
        .route("/cors", any(cors))
        .route("/drowsy", any(drowsy))
        .route("/hold", any(hold))
        .route("/ws", any(websocket))
        .route("/early", any(early))
        .route("/trailers", any(trailers))
        .route("/wakegate.Hello/{method}", post(grpc::echo))
        .fallback(hello)
        .with_state(memory)
}

fn duration(query: Option<&str>, name: &str, default: Duration) -> Duration {
    value(query, name)
        .and_then(|text| text.parse::<GoDuration>().ok())
        .and_then(GoDuration::to_std)
        .unwrap_or(default)
}

fn value(query: Option<&str>, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

async fn hello(State(memory): State<Arc<Memory>>, _body: ReadBody) -> String {
    let count = memory.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let up = GoDuration::from(Duration::from_millis(
        u64::try_from(memory.born.elapsed().as_millis()).unwrap_or(u64::MAX),
    ));
    format!(
        "hello from {}: request {count} of this memory, born {up} ago\n",
        memory.name
    )
}

/// The counter without counting this request.
async fn count(State(memory): State<Arc<Memory>>) -> String {
    memory.requests.load(Ordering::Relaxed).to_string()
}

async fn headers(headers: HeaderMap, _body: ReadBody) -> Json<Vec<(String, String)>> {
    let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Json(
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
    )
}

async fn echo(request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    match axum::body::to_bytes(request.into_body(), MAX_ECHO).await {
        Ok(bytes) => match kind {
            Some(kind) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
            None => bytes.into_response(),
        },
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
    }
}

/// Reads everything and answers how much that was.
async fn upload(State(memory): State<Arc<Memory>>, request: Request) -> Response {
    memory.requests.fetch_add(1, Ordering::Relaxed);
    let (mut body, mut length) = (request.into_body(), 0_u64);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => length += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return StatusCode::BAD_REQUEST.into_response(),
        }
    }
    Json(json!({ "bytes": length })).into_response()
}

/// `?size=` bytes, made as they are sent.
async fn bytes(RawQuery(query): RawQuery) -> Response {
    let size: u64 = value(query.as_deref(), "size")
        .and_then(|size| size.parse().ok())
        .unwrap_or(1024);
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let chunks = stream::unfold((size, chunk), async |(left, chunk)| {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.slice(..length);
        (length > 0).then(|| (Ok::<_, Infallible>(part), (left - length as u64, chunk)))
    });
    ([(header::CONTENT_LENGTH, size)], Body::from_stream(chunks)).into_response()
}

/// `?count=` events, one each `?interval=`.
async fn events(RawQuery(query): RawQuery) -> Response {
    let interval = duration(query.as_deref(), "interval", Duration::from_secs(1));
    let count: u64 = value(query.as_deref(), "count")
        .and_then(|count| count.parse().ok())
        .unwrap_or(10);
    let events = stream::unfold(0_u64, move |index| async move {
        if index >= count {
            return None;
        }
        if index > 0 {
            sleep(interval).await;
        }
        Some((
            Ok::<_, Infallible>(format!("data: event {index}\n\n")),
            index + 1,
        ))
    });
    let kind = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (kind, Body::from_stream(events)).into_response()
}

/// Answers after `?delay=`.
async fn slow(
    State(memory): State<Arc<Memory>>,
    RawQuery(query): RawQuery,
    _body: ReadBody,
) -> String {
    memory.requests.fetch_add(1, Ordering::Relaxed);
    let delay = duration(query.as_deref(), "delay", Duration::from_secs(2));
    sleep(delay).await;
    format!("slept for {}\n", GoDuration::from(delay))
}

/// Counts `?id=`, reads the body, and answers how often this id has come, after `?delay=`.
async fn deliver(
    State(memory): State<Arc<Memory>>,
    RawQuery(query): RawQuery,
    request: Request,
) -> String {
    let id = value(query.as_deref(), "id").unwrap_or_default();
    let count = {
        let mut deliveries = memory
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = deliveries.entry(id).or_default();
        *count += 1;
        *count
    };
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    sleep(duration(query.as_deref(), "delay", Duration::ZERO)).await;
    count.to_string()
}

/// What `/deliver` has counted.
async fn deliveries(State(memory): State<Arc<Memory>>) -> Json<BTreeMap<String, u64>> {
    let deliveries = memory.deliveries.lock();
    Json(deliveries.unwrap_or_else(PoisonError::into_inner).clone())
}

/// 503 for `?for=` after each sleep, as of an application that is not itself yet.
async fn drowsy(State(memory): State<Arc<Memory>>, RawQuery(query): RawQuery) -> Response {
    let long = duration(query.as_deref(), "for", Duration::from_millis(300));
    if memory.since_wake() < long {
        return (StatusCode::SERVICE_UNAVAILABLE, "not yet\n").into_response();
    }
    "wide awake\n".into_response()
}

/// Lets every origin in for a minute, as a CORS preflight asks.
async fn cors(headers: HeaderMap) -> Response {
    let origin = headers.get(header::ORIGIN).cloned();
    let origin = origin.unwrap_or(header::HeaderValue::from_static("*"));
    let methods = header::HeaderValue::from_static("GET, PUT, DELETE");
    let age = header::HeaderValue::from_static("60");
    [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_MAX_AGE, age),
    ]
    .into_response()
}

/// Asks the gateway to keep it awake `?for=`.
async fn hold(RawQuery(query): RawQuery) -> Response {
    let long = value(query.as_deref(), "for").unwrap_or("1m".to_owned());
    ([("x-wakegate-hold", long)], "hold me\n").into_response()
}

/// Refuses an upload before it has come.
async fn early() -> Response {
    (StatusCode::FORBIDDEN, "not so fast\n").into_response()
}

/// Says in a trailer which trailer came: `x-sum`.
async fn trailers(request: Request) -> Response {
    let mut received = String::from("none");
    let mut body = request.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(sum) = frame.trailers_ref().and_then(|fields| fields.get("x-sum")) {
            sum.to_str().unwrap_or_default().clone_into(&mut received);
        }
    }
    let mut fields = HeaderMap::new();
    let received = header::HeaderValue::try_from(received);
    fields.insert(
        "x-heard",
        received.unwrap_or(header::HeaderValue::from_static("?")),
    );
    // Without a length, since HTTP/1.1 has trailers after chunks only.
    let text = stream::iter([Ok::<_, Infallible>("see the trailer\n")]);
    let body = Body::from_stream(text);
    let body = body.with_trailers(std::future::ready(Some(Ok(fields))));
    ([(header::TRAILER, "x-heard")], Body::new(body)).into_response()
}

/// Echoes; with `?count` each message is answered with how many requests and messages this memory has had.
async fn websocket(
    State(memory): State<Arc<Memory>>,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Response {
    let counts = value(query.as_deref(), "count").is_some();
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            let is_counted = counts && matches!(message, Message::Text(_) | Message::Binary(_));
            let answer = if is_counted {
                let count = memory.requests.fetch_add(1, Ordering::Relaxed) + 1;
                Message::text(count.to_string())
            } else {
                message
            };
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_stays_open_when_the_body_comes_behind_the_head() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let memory = Memory {
            name: "test".to_owned(),
            born: Instant::now(),
            requests: AtomicU64::new(0),
            deliveries: Mutex::default(),
            woken: Mutex::new(Instant::now()),
        };
        let server = axum::serve(listener, routes(Arc::new(memory)));
        tokio::select! {
            served = server => panic!("it ends: {served:?}"),
            () = post_twice(address) => {}
        }
    }

    async fn post_twice(address: SocketAddr) {
        let mut client = TcpStream::connect(address).await.unwrap();
        for number in 1..=2 {
            let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n";
            client.write_all(head).await.unwrap();
            // It must not answer yet.
            let early = tokio::time::timeout(Duration::from_millis(20), client.readable()).await;
            assert!(early.is_err(), "it waits for the body");
            client.write_all(b"x").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"ago\n") {
                assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
            }
            let text = String::from_utf8(answer).unwrap();
            assert!(text.contains(&format!("request {number} ")), "{text}");
        }
    }

    #[test]
    fn query_values_are_read_or_defaulted() {
        let query = Some("delay=250ms&size=7");
        assert_eq!(
            duration(query, "delay", Duration::ZERO),
            Duration::from_millis(250)
        );
        assert_eq!(
            duration(query, "none", Duration::from_secs(1)),
            Duration::from_secs(1)
        );
        assert_eq!(value(query, "size").as_deref(), Some("7"));
    }
}
