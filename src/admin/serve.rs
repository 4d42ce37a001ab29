//! The operator's connections.
//!
//! Guarantees: their number is bounded, and a client network's is; whoever finds no place is still
//! told what the health paths say, so that nobody keeps a probe out; a request's head and body, and
//! the client's taking of what is ready for it, have deadlines; all of them end with the gateway.

use std::collections::VecDeque;
use std::net::SocketAddr;
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
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::flow::{ConnectionPlaces, SendTimeout};
use crate::names::ClientNetwork;

const MOST_CONNECTIONS: usize = 256;
/// Of one client network.
const MOST_OF_ONE: usize = MOST_CONNECTIONS / 2;
/// Connections beyond these, for one question about health each. The next one takes the place of
/// the oldest, which has had the time for its question.
const MOST_BRIEF: usize = 32;
const BRIEF: Duration = Duration::from_secs(5);
/// From the wait for a head to its last byte, and from there to the body's.
const HEAD: Duration = Duration::from_secs(30);
const BODY: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is ready for it.
const SEND: Duration = Duration::from_secs(60);
const MOST_BODY_BYTES: usize = 64 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often the log says that nobody can be accepted.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Serves for ever, `health` also where there is no place left; its connections end with `cut`.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    health: Router,
    tasks: TaskTracker,
    cut: CancellationToken,
) {
    let routes = routes
        .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
        .layer(from_fn(whole));
    let health = health.fallback(async || {
        let text = "too many connections; /healthz and /readyz are answered\n";
        (StatusCode::SERVICE_UNAVAILABLE, text)
    });
    let places = ConnectionPlaces::new(MOST_CONNECTIONS, MOST_OF_ONE);
    let mut brief = VecDeque::new();
    let mut said: Option<Instant> = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                let now = Instant::now();
                if said.is_none_or(|at| now - at >= SAID_AGAIN) {
                    said = Some(now);
                    tracing::warn!(%error, "cannot accept operators' connections; tries go on");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let cut = cut.clone();
        if let Some(place) = places.take(ClientNetwork::from(peer.ip())) {
            let served = connection(stream, peer, routes.clone(), true);
            tasks.spawn(async move {
                cut.run_until_cancelled(served).await.unwrap_or(());
                drop(place);
            });
            continue;
        }
        let end = begin_brief(&mut brief);
        let served = timeout(BRIEF, connection(stream, peer, health.clone(), false));
        tasks.spawn(async move {
            let served = end.run_until_cancelled(served);
            // It was answered, took too long, or made room for the next: it is over.
            let _over = cut.run_until_cancelled(served).await;
            end.cancel();
        });
    }
}

/// The end of one more brief connection, for which the oldest makes room where there is none.
fn begin_brief(brief: &mut VecDeque<CancellationToken>) -> CancellationToken {
    brief.retain(|end| !end.is_cancelled());
    if brief.len() >= MOST_BRIEF
        && let Some(oldest) = brief.pop_front()
    {
        oldest.cancel();
    }
    let end = CancellationToken::new();
    brief.push_back(end.clone());
    end
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

async fn connection(stream: TcpStream, peer: SocketAddr, routes: Router, keep_alive: bool) {
    // Events must not wait for more; a socket that cannot do this still works.
    let _slower = stream.set_nodelay(true);
    let routes = routes.layer(axum::Extension(ConnectInfo(peer)));
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(keep_alive)
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(SendTimeout::new(stream, SEND)), service);
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "an operator's connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_brief_connection_makes_room_for_the_next() {
        let mut brief = VecDeque::new();
        let ends: Vec<_> = (0..MOST_BRIEF).map(|_| begin_brief(&mut brief)).collect();
        assert!(ends.iter().all(|end| !end.is_cancelled()));
        // Whoever has gone needs no other to make room.
        ends[3].cancel();
        begin_brief(&mut brief);
        assert!(!ends[0].is_cancelled());
        begin_brief(&mut brief);
        assert!(ends[0].is_cancelled() && !ends[1].is_cancelled());
        assert_eq!(brief.len(), MOST_BRIEF);
    }
}
