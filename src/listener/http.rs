//! Requests on a connection of HTTP/1.
//!
//! Guarantees: see [`super`].

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use ::http::header::CONNECTION;
use ::http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::h1;
use super::h2::{unless_empty, with_extra_headers};
use super::header_read_timer::HeaderReadTimer;
use super::informational::{Interim, WithInformational};
use super::peek::PeekStream;
use super::service::{Downstream, Service};
use crate::config::ServerConfig;
use crate::drain::Drain;

/// HTTP/1.1 and HTTP/1.0: our own server side for heads alone, and hyper's from the first other
/// request on.
pub(super) async fn serve_h1<S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &ServerConfig,
    drain: &Drain,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let interim = Interim::default();
    let stream = WithInformational::new(stream, interim.clone());
    let from = Downstream {
        interim: Some(interim.sink()),
        ..from
    };
    let from = (from, S::ConnectionCache::default());
    let heads = h1::serve(stream, &from, &service, &interim, config, drain);
    let handover = tokio::select! {
        biased;
        handover = heads => handover?,
        () = async {
            drain.begin().await;
            // It may have begun after `heads` looked whether it had: once more.
            yield_now().await;
            drain.cut().cancelled().await;
        } => return Ok(()),
    };
    match handover {
        None => Ok(()),
        Some((stream, peeked)) => {
            let stream = PeekStream::of(stream, peeked);
            let rest = serve_any_h1(stream, from, service, interim, config, drain);
            Box::pin(rest).await.map_err(io::Error::other)
        }
    }
}

/// Serves all of HTTP/1.1 and HTTP/1.0 by hyper.
async fn serve_any_h1<S: Service, I>(
    stream: PeekStream<WithInformational<I>>,
    from: (Downstream, S::ConnectionCache),
    service: S,
    interim: Interim,
    config: &ServerConfig,
    drain: &Drain,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::new((service, from, interim, drain.clone()));
    let answer = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (service, from, interim, drain) = &*shared;
            let request = request.map(unless_empty);
            // In a box, which is written to at once: it is large, and hyper moves it several times
            // before it is polled.
            let answer = Box::write(Box::new_uninit(), service.call(request, from));
            let mut response = with_extra_headers(interim.before(Box::into_pin(answer)).await);
            if drain.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let timer = HeaderReadTimer::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(timer.clone())
        .header_read_timeout(config.header_timeout)
        .max_headers(config.max_headers)
        .max_header_size(config.max_header_bytes);
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection.with_upgrades());
    let served = async {
        tokio::select! {
            // A request that is there already comes before the drain.
            biased;
            result = connection.as_mut() => return result,
            () = drain.begin() => {}
        }
        // Closing an idle connection at once would cross with a request that is on its way: such a
        // request is answered, with `Connection: close`.
        tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            () = sleep(config.drain_idle_timeout) => connection.as_mut().graceful_shutdown(),
            () = drain.cut().cancelled() => return Ok(()),
        }
        tokio::select! {
            result = connection.as_mut() => result,
            () = drain.cut().cancelled() => Ok(()),
        }
    };
    timer.during(served).await
}

#[cfg(test)]
mod tests;
