//! The door's connections.
//!
//! Guarantees: their number is bounded, and an address' is; one too many is told so; a request's head and body, and the
//! client's taking of what is ready for it, have deadlines; all of them end with the gateway, and not
//! before everything else has ended.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::door::{Connection, Door};
use crate::descriptors::unless_last;
use crate::flow::{ConnectionPlaces, SendTimeout};
use crate::problem::Problem;

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
/// For so long one is refused that has no place, and so many at once.
const REFUSAL: Duration = Duration::from_secs(1);
const MOST_REFUSALS: usize = 64;
/// For whoever has too many connections.
const NO_PLACE: &str = "Too many connections are open to the door, from this address or in all. Close \
                        those that are not needed, and try again.";

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
        let (no_place, refusals) = (no_place(), Arc::new(Semaphore::new(MOST_REFUSALS)));
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
                if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                    let (refused, cut) = (refuse(stream, no_place.clone()), self.cut.clone());
                    self.tasks.spawn(async move {
                        cut.run_until_cancelled(refused).await.unwrap_or(());
                        drop(turn);
                    });
                }
                // Others are told by the end of the connection.
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

/// Says it once something is asked, since some clients take no answer before, and reads what comes
/// meanwhile: a socket that is closed with something unread is reset, and whoever is at the other end may
/// not hear what was said.
async fn refuse(mut stream: TcpStream, answer: Bytes) {
    let said = async {
        stream.peek(&mut [0]).await?;
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Who breaks off, or goes on for longer, has had the time to hear it.
    let _broken = timeout(REFUSAL, said).await;
}

/// The whole answer for whoever has no place.
fn no_place() -> Bytes {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let problem = Problem::new(status, "too_many_connections", NO_PLACE);
    // Texts and a number always serialise.
    let body = serde_json::to_string(&problem).unwrap_or_default() + "\n";
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Bytes::from(head + &body)
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
