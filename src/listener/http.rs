//! Requests on a connection of HTTP/1.
//!
//! Guarantees: see [`super`].

use std::io;

use tokio::task::yield_now;

use super::client_stream::ClientStream;
use super::h1;
use super::service::{Downstream, Service};
use super::settings::ConnectionLimits;
use crate::config::ServerConfig;
use crate::drain::Drain;

/// HTTP/1.1 and HTTP/1.0.
pub(super) async fn serve_h1<S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &ServerConfig,
    own: ConnectionLimits,
    drain: &Drain,
) -> io::Result<()>
where
    I: ClientStream,
{
    let serving = h1::serve(stream, from, service, config, own, drain);
    tokio::select! {
        biased;
        served = serving => served,
        () = async {
            drain.begin().await;
            // It may have begun after the connection looked whether it had: once more.
            yield_now().await;
            drain.cut().cancelled().await;
        } => Ok(()),
    }
}

#[cfg(test)]
mod tests;
