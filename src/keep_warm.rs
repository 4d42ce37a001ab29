//! Instances that are kept awake at certain hours.
//!
//! Guarantees: within a window its instance is woken and held, again and again, whoever put it to
//! sleep; outside, nothing is done; a change of the routes takes effect at the next look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::{KeepWarm, RouteWakeConfig};
use crate::names::PlaneIndex;
use crate::wake::{Dialer, Requester, Target, Wakes};
use hypeman::ControlPlane;
use hypeman::InstanceRef;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(10);
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
    pub route: Arc<str>,
    /// How it is woken.
    pub rules: RouteWakeConfig,
    /// The hours in which it is kept awake.
    pub windows: Vec<KeepWarm>,
}

// === impl WarmPlan ===

impl WarmPlan {
    /// How long it is still to be awake at `now`.
    pub fn left(&self, now: jiff::Timestamp) -> Option<Duration> {
        self.windows
            .iter()
            .filter_map(|window| window.left(now))
            .max()
    }
}

/// Looks at the clock for as long as it is polled.
pub async fn keep_warm<P: ControlPlane, R: Dialer>(
    wakes: Arc<Wakes<P, R>>,
    plans: watch::Receiver<Vec<WarmPlan>>,
    clock: impl Fn() -> jiff::Timestamp + Send,
) {
    loop {
        let due: Vec<(WarmPlan, Duration)> = plans
            .borrow()
            .iter()
            .filter_map(|plan| Some((plan.clone(), plan.left(clock())?)))
            .collect();
        for (plan, left) in due {
            match wakes.find(plan.plane, &plan.instance, PATIENCE).await {
                Ok(instance) => {
                    let requester = Requester {
                        trace: None,
                        route: Arc::clone(&plan.route),
                        client: std::net::Ipv4Addr::UNSPECIFIED.into(),
                        user_agent: Some("keep-warm".into()),
                        since: Instant::now(),
                    };
                    if instance.warm(Target::AWAKE).is_none() {
                        instance.prewarm(Target::AWAKE, &plan.rules, requester);
                    }
                    instance.keep_awake(Instant::now() + left.min(AHEAD));
                }
                Err(error) => {
                    tracing::warn!(instance = %plan.instance, %error, "cannot keep it warm");
                }
            }
        }
        sleep(LOOK).await;
    }
}
