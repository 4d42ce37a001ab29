//! The operator's connections.
//!
//! Guarantees: their number is bounded; a request's head and body, and the client's taking of what
//! is ready for it, have deadlines; all of them end with the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{HttpBody as _, to_bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::flow::SendTimeout;

const MOST_CONNECTIONS: usize = 256;
/// From the wait for a head to its last byte, and from there to the body's.
const HEAD: Duration = Duration::from_secs(30);
const BODY: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is ready for it.
const SEND: Duration = Duration::from_secs(60);
const MOST_BODY_BYTES: usize = 64 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves for ever; its connections end with `cut`.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    tasks: TaskTracker,
    cut: CancellationToken,
) {
    let (routes, permits) = (
        routes
            .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
            .layer(from_fn(whole)),
        Arc::new(Semaphore::new(MOST_CONNECTIONS)),
    );
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (routes, cut) = (routes.clone(), cut.clone());
                tasks.spawn(async move {
                    let served = connection(stream, peer, routes);
                    cut.run_until_cancelled(served).await.unwrap_or(());
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an operator's connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Reads a request's body before anything is done about it.
async fn whole(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    match timeout(BODY, to_bytes(body, MOST_BODY_BYTES)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, bytes.into())).await,
        Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, routes: Router) {
    // Events must not wait for more; a socket that cannot do this still works.
    let _slower = stream.set_nodelay(true);
    let routes = routes.layer(axum::Extension(ConnectInfo(peer)));
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(SendTimeout::new(stream, SEND)), service);
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "an operator's connection ended");
    }
}
