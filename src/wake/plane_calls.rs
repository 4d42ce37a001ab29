//! The calls of the engine to a control plane, as evidence about one instance.
//!
//! Guarantees: an answer about another id proves nothing; `hold` alone never proves Running; a
//! restore that has begun is given up only when there is evidence that it is not going
//! on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::claims::Claims;
use super::evidence::{Doubt, Evidence, Rest, Seen};
use super::plane_handle::PlaneHandle;
use hypeman::wire::{self, AutoStandbyStatus, InstanceState};
use hypeman::{ControlPlane, Error as ControlPlaneError, InstanceId};

/// How long an answer about the state waits for one about the hold.
const HOLD_PATIENCE: Duration = Duration::from_millis(250);
/// How often a restore that takes long is looked after.
const OVERTAKE_LOOK: Duration = Duration::from_secs(2);
/// When a restore may be called lost at the earliest, and where the server is known to answer Gets
/// during one.
const LOST: Duration = Duration::from_secs(10);
const LOST_AT_SUCH: Duration = Duration::from_secs(60);
/// How often an Initializing instance is read, beside `wait`, which may be 5 s late (contract B.4).
const SETTLE_LOOK: Duration = Duration::from_millis(150);

/// `hold` and Get together: whether it may be used, and where it is.
pub(super) async fn ask<P: ControlPlane>(
    plane: &PlaneHandle<P>,
    id: &InstanceId,
    mut claims: Claims,
) -> Seen {
    let seen = plane.question(&mut claims, hold_and_get(plane, id)).await;
    seen.unwrap_or_else(|| Evidence::Unsure(Doubt::NoSlot).into())
}

async fn hold_and_get<P: ControlPlane>(plane: &PlaneHandle<P>, id: &InstanceId) -> Seen {
    let asked_at = Instant::now();
    let reference = id.to_ref();
    let (hold, get) = (plane.hold(id), plane.get_surely(&reference));
    tokio::pin!(hold, get);
    // Either may say "asleep" at once; else the caller needs both, but no hold is worth much
    // waiting for: without one the lease rests on our connections.
    let (held, answer) = tokio::select! {
        biased;
        held = hold.as_mut() => match refusal(held.as_ref()) {
            // Whether it has its memory, only the other knows.
            Some(seen) if seen.evidence == Evidence::Asleep(Rest::Standby) => {
                let answer = timeout(HOLD_PATIENCE, get).await.ok();
                return standing_by(id, seen, answer.and_then(Result::ok).as_deref(), asked_at);
            }
            Some(seen) => return seen,
            None => (held, get.await),
        },
        answer = get.as_mut() => match answer {
            Ok(answer) if answer.state == InstanceState::Standby => (None, Ok(answer)),
            answer => (timeout(HOLD_PATIENCE, hold).await.ok().flatten(), answer),
        },
    };
    let mut seen = Seen::of(id, answer.as_deref(), asked_at);
    if seen.evidence != Evidence::Gone
        && let Some(refusal) = refusal(held.as_ref())
    {
        // What it is called was said all the same.
        return Seen {
            name: seen.name,
            ..refusal
        };
    }
    if let (Evidence::Awake(observation), Some(Ok(status))) = (&mut seen.evidence, &held) {
        observation.held = proves_hold(status);
    }
    seen
}

/// What is known of an instance whose `hold` was refused since it stands by.
fn standing_by(
    id: &InstanceId,
    refused: Seen,
    described: Option<&wire::Instance>,
    asked_at: Instant,
) -> Seen {
    let seen = described.map(|described| Seen::described(id, described, asked_at));
    match seen {
        Some(seen) if seen.evidence == Evidence::Asleep(Rest::WithoutMemory) => seen,
        Some(Seen {
            name, asleep_since, ..
        }) => Seen {
            name,
            asleep_since,
            ..refused
        },
        None => refused,
    }
}

/// What the answer to a `hold` says for certain.
fn refusal(held: Option<&Result<AutoStandbyStatus, ControlPlaneError>>) -> Option<Seen> {
    let error = held?.as_ref().err()?;
    let seen = Seen::from(error);
    matches!(
        seen.evidence,
        Evidence::Asleep(Rest::Standby) | Evidence::Unsure(Doubt::Unauthorized)
    )
    .then_some(seen)
}

/// Restores an instance. The call is dropped only on evidence that it is not going on any more; what
/// is left of one that has been overtaken by its own success is returned, to be waited for.
pub(super) async fn restore<P: ControlPlane>(
    plane: Arc<PlaneHandle<P>>,
    id: InstanceId,
    usual: Option<Duration>,
) -> (Seen, Option<BoxFuture<'static, ()>>) {
    let asked_at = Instant::now();
    let mut call = {
        let (plane, id) = (Arc::clone(&plane), id.clone());
        async move { plane.restore(&id).await }.boxed()
    };
    let stood_by = AtomicBool::new(false);
    let overtaken = tokio::select! {
        biased;
        answer = call.as_mut() => {
            if answer.is_ok() && stood_by.load(Ordering::Relaxed) {
                plane.note_answers_during_restore();
            }
            return (Seen::of(&id, answer.as_deref(), asked_at), None);
        }
        seen = overtake(&plane, &id, usual, &stood_by) => seen,
    };
    let rest = matches!(overtaken.evidence, Evidence::Awake(_)).then(|| call.map(drop).boxed());
    (overtaken, rest)
}

/// Watches a restore. Most servers answer no Get behind a running restore (contract B.4), so an
/// answer means that there is none: the call, or its answer, was lost. Since others answer all the
/// same, `Standby` is believed only after several times the usual time, and more than once;
/// `stood_by` says whether it was heard before.
async fn overtake<P: ControlPlane>(
    plane: &PlaneHandle<P>,
    id: &InstanceId,
    usual: Option<Duration>,
    stood_by: &AtomicBool,
) -> Seen {
    let (reference, began) = (id.to_ref(), Instant::now());
    let least = match plane.answers_during_restore() {
        true => LOST_AT_SUCH,
        false => LOST,
    };
    let believed = began + usual.unwrap_or_default().saturating_mul(4).max(least);
    let mut asleep = 0;
    loop {
        sleep(OVERTAKE_LOOK).await;
        let asked_at = Instant::now();
        let mut nobody = Claims::none();
        let asking = plane.question(&mut nobody, plane.get(&reference));
        let Some(Ok(answer)) = asking.await else {
            continue;
        };
        let seen = Seen::described(id, &answer, asked_at);
        match &seen.evidence {
            Evidence::Asleep(Rest::Standby | Rest::WithoutMemory | Rest::Stopped) => {
                stood_by.store(true, Ordering::Relaxed);
                asleep += u32::from(asked_at >= believed);
            }
            // It may be on its way (contract B.1).
            Evidence::Asleep(Rest::Passing) | Evidence::Unsure(_) => {}
            Evidence::Awake(_) | Evidence::Gone => return seen,
        }
        if asleep == 2 {
            return Evidence::Unsure(Doubt::Failed).into();
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
    mut claims: Claims,
    until: Instant,
) -> Seen {
    let reference = id.to_ref();
    let settled = async {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match plane.wait(id, left).await {
                Some(Ok(outcome)) if outcome.state != InstanceState::Initializing => return,
                Some(_) | None => sleep(SETTLE_LOOK).await,
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
        let asking = plane.question(&mut claims, plane.get_surely(&reference));
        let Some(answer) = asking.await else {
            return Evidence::Unsure(Doubt::NoSlot).into();
        };
        let mut pause = Duration::ZERO;
        match &answer {
            Ok(described) if described.state == InstanceState::Initializing => {}
            Err(error) if error.is_retryable() => pause = error.retry_after().unwrap_or_default(),
            Ok(_) | Err(_) => return Seen::of(id, answer.as_deref(), asked_at),
        }
        if asked_at + pause >= until {
            return Seen::of(id, answer.as_deref(), asked_at);
        }
        sleep(pause).await;
    }
}
