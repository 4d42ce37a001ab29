//! The operator's connections.
//!
//! Guarantees: their number is bounded, a request's head has a deadline, and all of them end with
//! the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MOST_CONNECTIONS: usize = 256;
const HEAD: Duration = Duration::from_secs(30);
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
        routes.layer(DefaultBodyLimit::max(MOST_BODY_BYTES)),
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

async fn connection(stream: TcpStream, peer: SocketAddr, routes: Router) {
    // Events must not wait for more; a socket that cannot do this still works.
    let _slower = stream.set_nodelay(true);
    let routes = routes.layer(axum::Extension(ConnectInfo(peer)));
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "an operator's connection ended");
    }
}
