//! hyper's two sides, fed with bytes in parts and without a runtime.
//!
//! Guarantees: the same bytes give the same answer; nothing waits for time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;

/// How often a future is asked before it counts as one that waits for bytes.
const ROUNDS: usize = 2000;

/// A connection's other end: so many parts come, and then its end or nothing.
struct Wire {
    parts: VecDeque<Vec<u8>>,
    ends: bool,
    /// The parts come once a request was written.
    is_answer: bool,
    written: usize,
}

impl Wire {
    fn of(parts: &[&[u8]], ends: bool, is_answer: bool) -> Self {
        Self {
            parts: parts.iter().map(|part| part.to_vec()).collect(),
            ends,
            is_answer,
            written: 0,
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_answer && self.written == 0 {
            return Poll::Pending;
        }
        let Some(mut part) = self.parts.pop_front() else {
            return match self.ends {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        };
        let rest = part.split_off(buffer.remaining().min(part.len()));
        buffer.put_slice(&part);
        if !rest.is_empty() {
            self.parts.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A body as far as it came.
async fn collected<B: Body<Data = Bytes, Error = hyper::Error>>(
    body: B,
) -> (Vec<u8>, HeaderMap, bool) {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Err(_) => return (data, trailers, false),
            Ok(Ok(part)) => data.extend_from_slice(&part),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    (data, trailers, true)
}

/// A request as hyper's server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) is_whole: bool,
}

/// The requests that hyper's server reads, and whether the connection ended well.
pub(crate) fn requests(parts: &[&[u8]]) -> (Vec<Request>, bool) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: http::Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let (body, trailers, is_whole) = collected(body).await;
            let is_connect = head.method == Method::CONNECT;
            seen.borrow_mut().push(Request {
                method: head.method,
                uri: head.uri,
                version: head.version,
                fields: head.headers,
                body,
                trailers,
                is_whole,
            });
            let mut answer = http::Response::new(Empty::<Bytes>::new());
            if is_connect {
                *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut serving = pin!(
        hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(Wire::of(parts, true, false), service)
    );
    let mut context = Context::from_waker(Waker::noop());
    let served = (0..ROUNDS).find_map(|_| match serving.as_mut().poll(&mut context) {
        Poll::Ready(served) => Some(served),
        Poll::Pending => None,
    });
    let served = served.expect("hyper comes to an end");
    let requests = seen.borrow().clone();
    let is_clean = served.is_ok() && requests.iter().all(|one| one.is_whole);
    (requests, is_clean)
}

/// A response as hyper's client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
    pub(crate) version: Version,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) is_whole: bool,
    pub(crate) is_persistent: bool,
}

/// The final response that hyper's client reads, if it does; the connection ends after the bytes,
/// or stays silent.
pub(crate) fn response(parts: &[&[u8]], ends: bool, method: &Method) -> Option<Response> {
    let mut context = Context::from_waker(Waker::noop());
    let wire = Wire::of(parts, ends, true);
    let Poll::Ready(Ok((mut sender, connection))) =
        pin!(hyper::client::conn::http1::handshake(wire)).poll(&mut context)
    else {
        panic!("a handshake has nothing to wait for");
    };
    let mut connection = pin!(connection);
    let request = http::Request::builder().method(method).uri("/");
    let request = request.header("host", "a.test").body(Empty::<Bytes>::new());
    let mut is_connected = true;
    let answer = {
        let mut asking = pin!(async {
            let answer = sender.send_request(request.unwrap()).await.ok()?;
            let (head, body) = answer.into_parts();
            Some((head, collected(body).await))
        });
        (0..ROUNDS).find_map(|_| {
            if let Poll::Ready(answer) = asking.as_mut().poll(&mut context) {
                return Some(answer);
            }
            is_connected = is_connected && connection.as_mut().poll(&mut context).is_pending();
            None
        })
    };
    for _ in 0..10 {
        is_connected = is_connected && connection.as_mut().poll(&mut context).is_pending();
    }
    let answer = answer.flatten();
    let (head, (body, trailers, is_whole)) = answer?;
    let reason = head.extensions.get::<hyper::ext::ReasonPhrase>();
    let usual = head.status.canonical_reason().unwrap_or_default();
    Some(Response {
        status: head.status,
        reason: reason.map_or(usual.into(), |reason| {
            String::from_utf8_lossy(reason.as_bytes()).into_owned()
        }),
        version: head.version,
        fields: head.headers,
        body,
        trailers,
        is_whole,
        is_persistent: is_connected && sender.is_ready(),
    })
}
