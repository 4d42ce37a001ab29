//! Requests on a connection of HTTP/1.
//!
//! Guarantees: see [`super`].

use std::io;
use std::pin::Pin;

use tokio::task::yield_now;

use super::client_stream::ClientStream;
use super::h1::{self, HandedOver};
use super::service::{Downstream, Service};
use super::settings::ConnectionLimits;
use crate::config::ServerConfig;
use crate::drain::Drain;

/// HTTP/1.1 and HTTP/1.0. In a box, which is written to at once.
pub(super) fn serve_h1<'a, S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &'a ServerConfig,
    own: ConnectionLimits,
    drain: &'a Drain,
) -> Pin<Box<dyn Future<Output = io::Result<Option<HandedOver>>> + Send + 'a>>
where
    I: ClientStream,
{
    let serving = h1::serve(stream, from, service, config, own, drain);
    let serving = Box::into_pin(Box::write(Box::new_uninit(), serving));
    Box::pin(async move {
        tokio::select! {
            biased;
            served = serving => served,
            () = async {
                drain.begin().await;
                // It may have begun after the connection looked whether it had: once more.
                yield_now().await;
                Box::pin(drain.cut().cancelled()).await;
            } => Ok(None),
        }
    })
}

#[cfg(test)]
mod tests;
