//! Is the instance's port open? The connection that finds out carries the first request.
//!
//! Guarantees: a closed port is tried every few milliseconds (a refusal is answered at once and
//! costs a packet), so that an application that opens its port waits at most ten of them; the
//! connect timeout has nothing to do with that pause.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// A handshake that a waking guest left unanswered is not worth more.
const CONNECT: Duration = Duration::from_millis(250);

/// A connection as soon as the port accepts one; `None` when it has not until `until`.
pub(super) async fn probe(address: SocketAddr, until: Instant) -> Option<TcpStream> {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(address)).await {
            return Some(stream);
        }
        let jittered = pause.mul_f64(0.75 + fastrand::f64() / 4.0);
        if Instant::now() + jittered >= until {
            return None;
        }
        sleep(jittered).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
