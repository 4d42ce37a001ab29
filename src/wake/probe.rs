//! Does the instance answer? The connection that finds out carries the first request.
//!
//! Guarantees: a closed port is tried every few milliseconds (a refusal is answered at once and
//! costs a packet), so that an application that opens its port waits at most ten of them; the
//! connect timeout has nothing to do with that pause. A port that refuses TLS, or whose TLS is
//! refused, is not tried again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::dialer::Dialer;
use super::hooks::{Hook, call_hook};
use crate::backoff::Backoff;
use crate::instance_tls::{TlsHop, Verdict, verdict};
use crate::telemetry::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const PORT_PAUSE: Duration = Duration::from_millis(10);
/// A handshake that a waking guest left unanswered is not worth more.
const CONNECT: Duration = Duration::from_millis(250);
/// A health check or a warm-up may take this long; it is asked seldom.
const EXCHANGE: Duration = Duration::from_secs(5);
const HEALTH_PAUSE: Duration = Duration::from_millis(50);

/// What to ask beyond an open port.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadinessCheck {
    /// Must answer with a status from 200 to 399.
    pub(super) health: Option<Arc<str>>,
    /// Goes once, before the first request; its answer does not matter.
    pub(super) warmup: Option<Arc<str>>,
    /// Must be agreed on.
    pub(super) tls: Option<TlsHop>,
    /// Goes once before that: the workload is told that it has slept.
    pub(super) resumed: Option<Resumed>,
}

/// The call of a workload's hook after a wake.
#[derive(Debug, Clone)]
pub(super) struct Resumed {
    pub(super) path: Arc<str>,
    pub(super) slept: Option<Duration>,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// What a probe has found.
#[derive(Debug)]
pub(super) enum Probed<S> {
    /// A connection that the first request can use.
    Open(S),
    /// The port answers, and not with the protocol that requests go over: they find out.
    OtherProtocol,
    /// The port answers, and TLS is refused by one side for good, for this reason.
    Refused(Arc<str>),
    /// Nothing yet.
    Closed,
}

/// A connection as soon as the port accepts one, TLS is agreed on and the health check passes;
/// [`Probed::Closed`] when that has not happened until `until`.
pub(super) async fn probe<R: Dialer>(
    dialer: &R,
    address: SocketAddr,
    check: &ReadinessCheck,
    until: Instant,
) -> Probed<R::Stream> {
    let limit = match check.health {
        Some(_) => HEALTH_PAUSE,
        None => PORT_PAUSE,
    };
    let mut pauses = Backoff::new(FIRST_PAUSE, limit).with_jitter(0.25).pauses();
    loop {
        let connected = timeout(CONNECT, dialer.connect(address)).await;
        if let Ok(Ok(stream)) = connected {
            let found = secure(dialer, stream, check).await;
            match found {
                Probed::Open(_) | Probed::OtherProtocol => {
                    if is_healthy(dialer, address, check).await {
                        tell(dialer, address, check).await;
                        warm_up(dialer, address, check).await;
                        return found;
                    }
                }
                Probed::Refused(_) => return found,
                Probed::Closed => {}
            }
            pauses.raise_to(HEALTH_PAUSE);
        }
        let pause = pauses.advance(fastrand::f64);
        if Instant::now() + pause >= until {
            return Probed::Closed;
        }
        sleep(pause).await;
    }
}

/// Agrees on TLS, where the target has it. An application that is not ready yet may well close a
/// connection before it has said anything.
async fn secure<R: Dialer>(
    dialer: &R,
    stream: R::Stream,
    check: &ReadinessCheck,
) -> Probed<R::Stream> {
    let Some(tls) = &check.tls else {
        return Probed::Open(stream);
    };
    match timeout(EXCHANGE, dialer.secure(stream, tls)).await {
        Ok(Ok(stream)) => Probed::Open(stream),
        Ok(Err(error)) => match verdict(&error) {
            Some(Verdict::Refused(reason)) => Probed::Refused(reason),
            Some(Verdict::WrongProtocol) => Probed::OtherProtocol,
            None => Probed::Closed,
        },
        Err(_) => Probed::Closed,
    }
}

async fn ask<R: Dialer>(
    dialer: &R,
    address: SocketAddr,
    target: &str,
    check: &ReadinessCheck,
) -> io::Result<u16> {
    timeout(EXCHANGE, dialer.get(address, target, check.tls.as_ref()))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn is_healthy<R: Dialer>(dialer: &R, address: SocketAddr, check: &ReadinessCheck) -> bool {
    let Some(path) = &check.health else {
        return true;
    };
    matches!(ask(dialer, address, path, check).await, Ok(200..400))
}

/// Tells the workload that it has slept.
async fn tell<R: Dialer>(dialer: &R, address: SocketAddr, check: &ReadinessCheck) {
    if let Some(resumed) = &check.resumed {
        let place = (address, &*resumed.path, check.tls.as_ref());
        let hook = Hook::Resumed(resumed.slept);
        call_hook(dialer, place, hook, resumed.timeout, &resumed.metrics).await;
    }
}

async fn warm_up<R: Dialer>(dialer: &R, address: SocketAddr, check: &ReadinessCheck) {
    if let Some(path) = &check.warmup {
        // A restored guest's first request finds dead database connections and a clock that jumped
        // (source: Fly's notes on suspend); this one may fail for them.
        if let Err(error) = ask(dialer, address, path, check).await {
            tracing::debug!(%error, "the warm-up request failed");
        }
    }
}
