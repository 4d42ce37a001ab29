//! Does the instance answer? The connection that finds out carries the first request.
//!
//! Guarantees: a closed port is tried every few milliseconds (a refusal is answered at once and
//! costs a packet), so that an application that opens its port waits at most ten of them; the
//! connect timeout has nothing to do with that pause.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::dialer::Dialer;
use super::hooks::{Hook, call_hook};
use crate::backoff::Backoff;
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

/// A connection as soon as the port accepts one and the health check passes; `None` when that has
/// not happened until `until`.
pub(super) async fn probe<R: Dialer>(
    dialer: &R,
    address: SocketAddr,
    check: &ReadinessCheck,
    until: Instant,
) -> Option<R::Stream> {
    let limit = match check.health {
        Some(_) => HEALTH_PAUSE,
        None => PORT_PAUSE,
    };
    let mut pauses = Backoff::new(FIRST_PAUSE, limit).with_jitter(0.25).pauses();
    loop {
        let connected = timeout(CONNECT, dialer.connect(address)).await;
        if let Ok(Ok(stream)) = connected {
            if is_healthy(dialer, address, check).await {
                if let Some(resumed) = &check.resumed {
                    let (place, hook) = ((address, &*resumed.path), Hook::Resumed(resumed.slept));
                    call_hook(dialer, place, hook, resumed.timeout, &resumed.metrics).await;
                }
                warm_up(dialer, address, check).await;
                return Some(stream);
            }
            pauses.raise_to(HEALTH_PAUSE);
        }
        let pause = pauses.advance(fastrand::f64);
        if Instant::now() + pause >= until {
            return None;
        }
        sleep(pause).await;
    }
}

async fn ask<R: Dialer>(dialer: &R, address: SocketAddr, target: &str) -> io::Result<u16> {
    timeout(EXCHANGE, dialer.get(address, target))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn is_healthy<R: Dialer>(dialer: &R, address: SocketAddr, check: &ReadinessCheck) -> bool {
    let Some(path) = &check.health else {
        return true;
    };
    matches!(ask(dialer, address, path).await, Ok(200..400))
}

async fn warm_up<R: Dialer>(dialer: &R, address: SocketAddr, check: &ReadinessCheck) {
    if let Some(path) = &check.warmup {
        // A restored guest's first request finds dead database connections and a clock that jumped
        // (source: Fly's notes on suspend); this one may fail for them.
        if let Err(error) = ask(dialer, address, path).await {
            tracing::debug!(%error, "the warm-up request failed");
        }
    }
}
