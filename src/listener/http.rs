//! Requests on a connection of HTTP/1.
//!
//! Guarantees: see [`super`].

use tokio::task::yield_now;

use super::client_stream::ClientStream;
use super::h1;
use super::service::{Downstream, Service};
use super::serving::Serving;
use super::settings::ConnectionLimits;
use crate::config::ServerConfig;
use crate::drain::Drain;

/// HTTP/1.1 and HTTP/1.0.
pub(super) fn serve_h1<'a, S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &'a ServerConfig,
    own: ConnectionLimits,
    drain: &'a Drain,
) -> Serving<'a>
where
    I: ClientStream,
{
    let serving = h1::serve(stream, from, service, config, own, drain);
    Serving::of(serving).until(async move {
        drain.begin().await;
        // It may have begun after the connection looked whether it had: once more.
        yield_now().await;
        drain.cut().cancelled().await;
    })
}

#[cfg(test)]
mod tests;
