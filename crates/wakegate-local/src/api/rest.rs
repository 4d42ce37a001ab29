//! What a handler leaves of a request's body.
//!
//! Guarantees: an answer that does not depend on the body costs the client no connection. The rest
//! of the body is read, within a bound of bytes and of time, before the answer goes; a server that
//! answers in the middle of a request has to close the connection behind it, at the moment at which
//! the client sends the next request on it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

/// More than a body that is taken, so that one which is too long hears so (413).
const MOST: usize = 4 * 1024 * 1024;
const LONGEST: Duration = Duration::from_secs(1);

/// A body of which somebody else may read the rest.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Body>>);

/// Answers a request, and reads what is left of it.
pub(super) async fn read_rest(request: Request, next: Next) -> Response {
    // Who waits to be asked for the body has sent none, and takes the answer instead.
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let mut body = SharedBody(Arc::new(Mutex::new(body)));
    let request = Request::from_parts(head, Body::new(body.clone()));
    let response = next.run(request).await;
    let reading = async {
        let mut read = 0;
        while read < MOST {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => return,
            }
        }
    };
    // Whoever sends more, or more slowly, is cut off.
    let _slow = timeout(LONGEST, reading).await;
    response
}

// === impl SharedBody ===

impl SharedBody {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
