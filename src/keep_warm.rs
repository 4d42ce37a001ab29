//! Instances that are kept awake at certain hours.
//!
//! Guarantees: within a window its instance is woken and held, again and again, whoever put it to
//! sleep; windows that touch or overlap are one; each instance is looked after by itself, with at
//! most one look under way, so that a name that cannot be reached delays no other; outside its
//! windows nothing is done; a change of the routes takes effect at once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{KeepWarm, RouteKey, RouteWakeConfig};
use crate::names::PlaneIndex;
use crate::wake::{Dialer, Endpoint, Requester, Target, WakeError, Wakes};
use hypeman::ControlPlane;
use hypeman::InstanceRef;

/// The longest time between two looks at an instance.
const LOOK: Duration = Duration::from_secs(10);
/// The shortest, however short its idle timeout is and however often it falls asleep.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);
/// How long one look keeps an instance awake: until after the next one.
const AHEAD: Duration = Duration::from_secs(25);
/// The most that a look waits for one name's look-up.
const PATIENCE: Duration = Duration::from_secs(5);

/// One route's windows.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmPlan {
    /// The control plane of the instance.
    pub plane: PlaneIndex,
    /// The instance that is kept awake.
    pub instance: InstanceRef,
    /// The route, for the ledger.
    pub route: RouteKey,
    /// How it is woken.
    pub rules: RouteWakeConfig,
    /// The hours in which it is kept awake.
    pub windows: Vec<KeepWarm>,
}

// === impl WarmPlan ===

impl WarmPlan {
    /// How long it is still to be awake at `now`, as far as a look needs to know.
    pub fn left(&self, now: jiff::Timestamp) -> Option<Duration> {
        let mut left = Duration::ZERO;
        while left < AHEAD {
            let Ok(end) = now.checked_add(left) else {
                break;
            };
            // Where one window ends, another may have begun.
            let windows = self.windows.iter().filter_map(|window| window.left(end));
            let Some(more) = windows.max() else { break };
            left += more;
        }
        (!left.is_zero()).then_some(left)
    }

    /// How long nothing is to be done at `now`, outside its windows.
    fn pause(&self, now: jiff::Timestamp) -> Duration {
        let begins = self
            .windows
            .iter()
            .filter_map(|window| window.begins_in(now));
        // Not longer: the machine's clock may be set.
        begins.min().map_or(LOOK, |begins| begins.min(LOOK))
    }

    fn requester(&self) -> Requester {
        Requester {
            unparked_by: None,
            trace: None,
            route: self.route.clone(),
            client: Ipv4Addr::UNSPECIFIED.into(),
            user_agent: Some("keep-warm".into()),
            since: Instant::now(),
        }
    }
}

/// Keeps the instances of `plans` awake for as long as it is polled.
pub async fn keep_warm<P: ControlPlane, R: Dialer>(
    wakes: Arc<Wakes<P, R>>,
    mut plans: watch::Receiver<Vec<WarmPlan>>,
    clock: impl Fn() -> jiff::Timestamp + Send + Sync,
) {
    let mut kept: Vec<(WarmPlan, DropGuard)> = Vec::new();
    let mut keeping = FuturesUnordered::new();
    let mut may_change = true;
    loop {
        if may_change {
            let current = plans.borrow_and_update().clone();
            kept.retain(|(plan, _)| current.contains(plan));
            for plan in current {
                if kept.iter().all(|(other, _)| *other != plan) {
                    let end = CancellationToken::new();
                    kept.push((plan.clone(), end.clone().drop_guard()));
                    let looks = keep(&wakes, plan, &clock);
                    keeping.push(async move { end.run_until_cancelled(looks).await });
                }
            }
        }
        loop {
            tokio::select! {
                changed = plans.changed(), if may_change => {
                    may_change = changed.is_ok();
                    break;
                }
                Some(_) = keeping.next() => {}
                else => return,
            }
        }
    }
}

/// Keeps one instance awake in its windows, for ever.
async fn keep<P: ControlPlane, R: Dialer>(
    wakes: &Arc<Wakes<P, R>>,
    plan: WarmPlan,
    clock: &(impl Fn() -> jiff::Timestamp + Sync),
) {
    let mut trouble: Option<String> = None;
    loop {
        let now = clock();
        let Some(left) = plan.left(now) else {
            sleep(plan.pause(now)).await;
            continue;
        };
        let began = Instant::now();
        let looked = look(wakes, &plan, left).await;
        let problem = looked.as_ref().err().map(ToString::to_string);
        if problem != trouble {
            match &problem {
                Some(error) => {
                    tracing::warn!(instance = %plan.instance, %error, "cannot keep it warm");
                }
                None => tracing::info!(instance = %plan.instance, "kept warm again"),
            }
            trouble = problem;
        }
        match looked {
            Ok(endpoint) => {
                let pause = endpoint.idle_timeout().map_or(LOOK, |idle| idle / 3);
                tokio::select! {
                    () = sleep(pause.clamp(SHORTEST_LOOK, LOOK)) => {}
                    // It has fallen asleep, is gone or elsewhere.
                    () = endpoint.cut().cancelled() => sleep_until(began + SHORTEST_LOOK).await,
                }
            }
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Wakes the instance if it sleeps, and keeps it awake until after the next look.
async fn look<P: ControlPlane, R: Dialer>(
    wakes: &Arc<Wakes<P, R>>,
    plan: &WarmPlan,
    left: Duration,
) -> Result<Endpoint, WakeError> {
    let until = Instant::now() + left;
    let nobody = Ipv4Addr::UNSPECIFIED.into();
    let finding = wakes.find(plan.plane, &plan.instance, PATIENCE, nobody);
    let instance = finding.await?;
    let endpoint = match instance.warm(&Target::AWAKE) {
        Some(endpoint) => endpoint,
        None => {
            let (rules, requester) = (&plan.rules, plan.requester());
            let ready = instance.ready(Target::AWAKE, rules, rules.timeout, requester);
            ready.await?.endpoint
        }
    };
    // Only now: a wish of before the wake ends with the epoch of before.
    instance.keep_awake(until.min(Instant::now() + AHEAD));
    Ok(endpoint)
}

#[cfg(test)]
mod tests;
