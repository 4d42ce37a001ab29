//! What the engine asks of a control plane, and what the answers mean.
//!
//! Guarantees: an answer about another id is "not found", whatever it says; `hold` alone never proves
//! Running; a server without `hold` is asked for it once.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lease::LeaseTerms;
use super::line::Line;
use super::machine::{Fault, Seen};
use crate::hypeman::wire::{AutoStandbyStatus, Health, Instance as Answer, InstanceState};
use crate::hypeman::{ControlPlane, ControlPlaneError};
use crate::names::{GoDuration, InstanceId};

/// How often an Initializing instance is read, beside `wait`, which may be 5 s late (contract B.4).
const SETTLE_LOOK: Duration = Duration::from_millis(150);

/// `hold` and Get together: whether it may be used, and where it is.
pub(super) async fn ask<P: ControlPlane>(line: &Line<P>, id: &InstanceId) -> Result<Seen, Fault> {
    let asked_at = Instant::now();
    let reference = id.to_ref();
    let (held, answer) = tokio::join!(line.hold(id), line.get(&reference));
    match held {
        Some(Err(error)) if error.code() == "instance_in_standby" => Err(Fault::InStandby),
        Some(Err(error)) if error.is_unauthorized() => Err(Fault::Unauthorized),
        // An older server has no hold; another failure leaves the lease to our connections.
        Some(Err(_)) | None => see(id, &answer.map_err(|e| fault(&e))?, asked_at),
        Some(Ok(status)) => {
            let answer = answer.map_err(|e| fault(&e))?;
            Ok(Seen {
                held: proves_hold(&status),
                ..see(id, &answer, asked_at)?
            })
        }
    }
}

/// 200 alone does not prove that a hold is in force: the policy may be off, the instance Stopped.
pub(super) fn proves_hold(status: &AutoStandbyStatus) -> bool {
    status.eligible && status.hold_until.is_some()
}

/// Until the instance is no longer Initializing, or the time is up.
pub(super) async fn settle<P: ControlPlane>(
    line: &Line<P>,
    id: &InstanceId,
    until: Instant,
) -> Result<Seen, Fault> {
    let reference = id.to_ref();
    let told = async {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match line.wait(id, left).await {
                Ok(outcome) if outcome.state != InstanceState::Initializing => return,
                Ok(_) | Err(_) => sleep(SETTLE_LOOK).await,
            }
        }
    };
    tokio::pin!(told);
    let mut told_already = false;
    loop {
        tokio::select! {
            biased;
            () = &mut told, if !told_already => told_already = true,
            () = sleep(SETTLE_LOOK) => {}
        }
        let asked_at = Instant::now();
        match line.get(&reference).await {
            Ok(answer) => {
                let seen = see(id, &answer, asked_at)?;
                if seen.state != InstanceState::Initializing || asked_at >= until {
                    return Ok(seen);
                }
            }
            Err(error) if error.is_retryable() && asked_at < until => {}
            Err(error) => return Err(fault(&error)),
        }
    }
}

/// What an answer means, if it is about this instance.
pub(super) fn see(id: &InstanceId, answer: &Answer, asked_at: Instant) -> Result<Seen, Fault> {
    if answer.id != id.as_str() {
        return Err(Fault::NotFound);
    }
    let ip: Option<IpAddr> = answer
        .network
        .as_ref()
        .and_then(|network| network.ip.as_ref()?.parse().ok());
    let policy = answer.auto_standby.as_ref().filter(|policy| policy.enabled);
    let idle_timeout = policy
        .and_then(|policy| policy.idle_timeout)
        .and_then(GoDuration::to_std);
    // Any ignore list may be about us: our source address and the port are the kernel's choice and
    // the route's. Taking it so costs a hold now and then.
    let counts = policy.is_none_or(|policy| {
        policy.ignore_source_cidrs.is_empty() && policy.ignore_destination_ports.is_empty()
    });
    let terms = LeaseTerms {
        idle_timeout,
        counts,
    };
    let healthy = answer
        .health_status
        .as_ref()
        .and_then(|health| match health.status {
            Health::Healthy => Some(true),
            Health::Starting | Health::Unhealthy | Health::Unknown => Some(false),
            // The server checks nothing, or in a way that this version does not know.
            Health::Disabled | Health::Other(_) => None,
        });
    Ok(Seen {
        state: answer.state.clone(),
        ip,
        terms,
        asked_at,
        held: false,
        healthy,
    })
}

pub(super) fn fault(error: &ControlPlaneError) -> Fault {
    match (error.status(), error.code()) {
        (Some(401 | 403), _) => Fault::Unauthorized,
        (Some(404), _) => Fault::NotFound,
        (Some(409), "instance_in_standby") => Fault::InStandby,
        (Some(409), "insufficient_resources") => Fault::NoCapacity,
        (Some(409), _) => Fault::InvalidState,
        (Some(_), _) => Fault::Failed,
        (None, _) => Fault::Unreachable,
    }
}
