//! The calls of the engine to a control plane, and the meaning of the answers.
//!
//! Guarantees: an answer about another id is "not found", whatever it says; `hold` alone never
//! proves Running; a server without `hold` is asked for it once.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::lease::LeaseTerms;
use super::machine::{Fault, Observation};
use super::plane_handle::PlaneHandle;
use hypeman::wire::{self, AutoStandbyStatus, Health, InstanceState};
use hypeman::{ControlPlane, Error as ControlPlaneError};
use hypeman::{GoDuration, InstanceId};

/// How long an answer about the state waits for one about the hold.
const HOLD_PATIENCE: Duration = Duration::from_millis(250);
/// How often a restore that takes long is looked after.
const OVERTAKE_LOOK: Duration = Duration::from_secs(2);
/// How often an Initializing instance is read, beside `wait`, which may be 5 s late (contract B.4).
const SETTLE_LOOK: Duration = Duration::from_millis(150);

/// `hold` and Get together: whether it may be used, and where it is.
pub(super) async fn ask<P: ControlPlane>(
    plane: &PlaneHandle<P>,
    id: &InstanceId,
) -> Result<Observation, Fault> {
    let asked_at = Instant::now();
    let reference = id.to_ref();
    let (hold, get) = (plane.hold(id), plane.get_surely(&reference));
    tokio::pin!(hold, get);
    // Either may say "asleep" at once; else the caller needs both, but no hold is worth much
    // waiting for: without one the lease rests on our connections.
    let (held, answer) = tokio::select! {
        biased;
        held = hold.as_mut() => match held {
            Some(Err(error)) if error.code() == "instance_in_standby" => {
                return Err(Fault::InStandby);
            }
            Some(Err(error)) if error.is_unauthorized() => return Err(Fault::Unauthorized),
            held => (held, get.await),
        },
        answer = get.as_mut() => match answer {
            Ok(answer) if answer.state == InstanceState::Standby => (None, Ok(answer)),
            answer => (timeout(HOLD_PATIENCE, hold).await.ok().flatten(), answer),
        },
    };
    let seen = observe(id, &answer.map_err(|error| classify(&error))?, asked_at)?;
    match held {
        Some(Err(error)) if error.code() == "instance_in_standby" => Err(Fault::InStandby),
        Some(Err(error)) if error.is_unauthorized() => Err(Fault::Unauthorized),
        // An older server has no hold.
        Some(Err(_)) | None => Ok(seen),
        Some(Ok(status)) => Ok(Observation {
            held: proves_hold(&status),
            ..seen
        }),
    }
}

/// Watches a restore that takes long. The server answers no Get behind a running restore (contract
/// B.4), so an answer means that there is none: the call, or its answer, was lost.
pub(super) async fn overtake<P: ControlPlane>(
    plane: &PlaneHandle<P>,
    id: &InstanceId,
) -> Result<Observation, Fault> {
    let reference = id.to_ref();
    let mut asleep = 0;
    loop {
        sleep(OVERTAKE_LOOK).await;
        let asked_at = Instant::now();
        let Ok(answer) = plane.get(&reference).await else {
            continue;
        };
        match observe(id, &answer, asked_at)? {
            // The second time, so that it was not merely about to begin.
            seen if seen.state == InstanceState::Standby => asleep += 1,
            seen => return Ok(seen),
        }
        if asleep == 2 {
            return Err(Fault::Failed);
        }
    }
}

/// 200 alone does not prove that a hold is in force: the policy may be off, the instance Stopped.
pub(super) fn proves_hold(status: &AutoStandbyStatus) -> bool {
    status.eligible && status.hold_until.is_some()
}

/// Until the instance is no longer Initializing, or the time is up.
pub(super) async fn settle<P: ControlPlane>(
    plane: &PlaneHandle<P>,
    id: &InstanceId,
    until: Instant,
) -> Result<Observation, Fault> {
    let reference = id.to_ref();
    let settled = async {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match plane.wait(id, left).await {
                Ok(outcome) if outcome.state != InstanceState::Initializing => return,
                Ok(_) | Err(_) => sleep(SETTLE_LOOK).await,
            }
        }
    };
    tokio::pin!(settled);
    let mut is_settled = false;
    loop {
        tokio::select! {
            biased;
            () = &mut settled, if !is_settled => is_settled = true,
            () = sleep(SETTLE_LOOK) => {}
        }
        let asked_at = Instant::now();
        match plane.get_surely(&reference).await {
            Ok(answer) => {
                let seen = observe(id, &answer, asked_at)?;
                if seen.state != InstanceState::Initializing || asked_at >= until {
                    return Ok(seen);
                }
            }
            Err(error) if error.is_retryable() && asked_at < until => {}
            Err(error) => return Err(classify(&error)),
        }
    }
}

/// What an answer means, if it is about this instance.
pub(super) fn observe(
    id: &InstanceId,
    answer: &wire::Instance,
    asked_at: Instant,
) -> Result<Observation, Fault> {
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
    Ok(Observation {
        name: answer.name.as_str().into(),
        state: answer.state.clone(),
        ip,
        terms,
        asked_at,
        held: false,
        healthy,
    })
}

/// The fault that an error of the control plane is.
pub(super) fn classify(error: &ControlPlaneError) -> Fault {
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
