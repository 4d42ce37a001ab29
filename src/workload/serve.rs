//! The door's connections.
//!
//! Guarantees: their number is bounded, and an address' is; a request's head and body, and the
//! client's taking of what is ready for it, have deadlines; all of them end with the gateway, and not
//! before everything else has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::door::{Connection, Door};
use crate::descriptors::unless_last;
use crate::flow::{ConnectionPlaces, SendTimeout};

const MOST_CONNECTIONS: usize = 1024;
/// Of one address.
const MOST_OF_ONE: usize = 16;
/// From the wait for a head to its last byte.
const HEAD: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is ready for it.
const SEND: Duration = Duration::from_secs(30);
/// The bytes of a head.
const MOST_HEAD_BYTES: usize = 16 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often the log says that nobody can be accepted.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// For whoever has too many connections. There is always room for it in a new socket.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

// === impl Door ===

impl Door {
    /// Serves until the gateway has cut everything else.
    pub async fn serve(self, listener: TcpListener) {
        let (cut, routes) = (self.cut.clone(), self.routes());
        cut.run_until_cancelled(self.accept(listener, routes))
            .await
            .unwrap_or(());
    }

    async fn accept(&self, listener: TcpListener, routes: Router) {
        let places = ConnectionPlaces::new(MOST_CONNECTIONS, MOST_OF_ONE);
        let mut said: Option<Instant> = None;
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    let now = Instant::now();
                    if said.is_none_or(|at| now - at >= SAID_AGAIN) {
                        said = Some(now);
                        tracing::warn!(%error, "cannot accept workloads' connections; tries go on");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // The last descriptors are for control planes, operators and files.
            let Ok(stream) = unless_last(stream) else {
                continue;
            };
            let Some(place) = places.take(peer.ip().to_canonical()) else {
                // Who does not take it is told by the end of the connection.
                let _sent = stream.try_write(NO_PLACE);
                continue;
            };
            let served = connection(stream, peer, routes.clone());
            let cut = self.cut.clone();
            self.tasks.spawn(async move {
                cut.run_until_cancelled(served).await.unwrap_or(());
                drop(place);
            });
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, routes: Router) {
    // Clients that came by a socket of both families are those of IPv4 all the same.
    let connection = Arc::new(Connection::new(peer.ip().to_canonical()));
    let ended = connection.ended.clone().drop_guard();
    let routes = routes.layer(Extension(connection));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(SendTimeout::new(stream, SEND)),
            TowerToHyperService::new(routes),
        );
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "a workload's connection ended");
    }
    drop(ended);
}
