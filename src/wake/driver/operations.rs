//! The operations of an instance's task: each runs until its answer, which the task then takes.
//!
//! Guarantees: an operation ends in exactly one [`Done`]; a restore or start that has begun runs to
//! its answer, unless it is certainly lost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, sleep};

use super::state::{Claimed, Done, Driver, Verb};
use crate::names::ClientNetwork;
use crate::wake::claims::{Claims, MAX_CLAIMS};
use crate::wake::dialer::Dialer;
use crate::wake::evidence::{Doubt, Evidence, Seen};
use crate::wake::machine::{Event, PAUSES};
use crate::wake::plane_calls::{ask, restore, settle};
use crate::wake::probe::{Probed, ReadinessCheck, Resumed, probe};
use crate::wake::record::Requester;
use crate::wake::slots::{Claim, FairSlot};
use crate::wake::target::Target;
use hypeman::ControlPlane;

/// The longest pause of the engine's own.
const OWN_PAUSE: Duration = Duration::from_millis(500);
/// What a request has to say for itself when budgets are shared out.
fn claim_of(requester: &Requester) -> Claim {
    Claim {
        route: requester.route.clone(),
        client: ClientNetwork::from(requester.client),
        since: requester.since,
    }
}

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    /// One more waits for what the attempt is for: the claims are those of all who wait, since the
    /// turn of any of them will do.
    pub(super) fn join(&mut self, requester: &Requester) {
        let claim = claim_of(requester);
        let has_claim = |other: &Claim| other.client == claim.client;
        if self.claims.len() >= MAX_CLAIMS || self.claims.iter().any(has_claim) {
            return;
        }
        self.claims.push(claim.clone());
        if let Some(claimants) = &self.claimants {
            claimants.join(claim.clone(), self.deadline);
        }
        if self.verb.is_some() {
            self.push_claim(claim, self.deadline);
        }
    }

    pub(super) fn ask(&mut self) {
        let (claimants, claims) = match self.reporter.requester() {
            Some(_) => Claims::of(&self.claims, self.deadline),
            None => Claims::to_come(),
        };
        self.claimants = Some(claimants);
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        let asking = async move { Done::Seen(ask(&plane, &id, claims).await) };
        self.operations.push(asking.boxed());
    }

    pub(super) fn settle(&mut self, until: Instant) {
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        let (claimants, claims) = Claims::of(&self.claims, until);
        self.claimants = Some(claimants);
        let settling = async move { Done::Seen(settle(&plane, &id, claims, until).await) };
        self.operations.push(settling.boxed());
    }

    pub(super) fn pause(&mut self, pause: Duration) {
        // A pause of the engine's own is a little shorter now and then; one that the control plane
        // asks for is not.
        let jittered = match pause > OWN_PAUSE {
            true => pause,
            false => PAUSES.jittered(pause, fastrand::f64()),
        };
        let paused = sleep(jittered).map(|()| Done::Event(Event::PauseOver));
        self.operations.push(paused.boxed());
    }

    /// Waits for the control plane's turn for this instance.
    pub(super) fn queue(&mut self, verb: Verb, until: Instant) {
        self.verb = Some(verb);
        self.queues += 1;
        self.claimed.clear();
        for claim in self.claims.clone() {
            self.push_claim(claim, until);
        }
    }

    fn push_claim(&mut self, claim: Claim, until: Instant) {
        self.claimed.push(claim.client);
        let claimed = Claimed {
            queue: self.queues,
            client: claim.client,
        };
        let (plane, stop) = (Arc::clone(&self.common.plane), self.common.stop.clone());
        let counted = self.common.wake_log.metrics.queued();
        self.operations.push(
            async move {
                let _counted = counted;
                let slot = stop.run_until_cancelled(plane.slot(claim, until)).await;
                Done::Slot(claimed, slot.flatten())
            }
            .boxed(),
        );
    }

    /// A claim has been granted, or was not in time. The first that is granted is used; the others'
    /// slots go back.
    pub(super) fn slot(&mut self, claimed: Claimed, slot: Option<FairSlot>) {
        let Some(verb) = self.verb.filter(|_| claimed.queue == self.queues) else {
            return;
        };
        self.claimed.retain(|client| *client != claimed.client);
        match slot {
            Some(slot) => {
                self.verb = None;
                self.call(verb, slot);
            }
            None if self.claimed.is_empty() => {
                self.verb = None;
                self.seen(Evidence::Unsure(Doubt::NoSlot).into());
            }
            None => {}
        }
    }

    pub(super) fn call(&mut self, verb: Verb, slot: FairSlot) {
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        let usual = self.instance.times().usual();
        self.calling = true;
        let counted = self.common.wake_log.metrics.restoring();
        self.operations.push(
            async move {
                let _counted = counted;
                let (seen, rest) = match verb {
                    Verb::Restore => restore(plane, id, usual).await,
                    Verb::Start => {
                        let asked_at = Instant::now();
                        let answer = plane.start(&id).await;
                        (Seen::of(&id, answer.as_deref(), asked_at), None)
                    }
                };
                drop(slot);
                Done::Verb(seen, rest)
            }
            .boxed(),
        );
    }

    /// A call that its own success has overtaken is not dropped: some servers would undo it.
    pub(super) fn wait_for_rest(&mut self, rest: BoxFuture<'static, ()>) {
        self.rests += 1;
        self.operations.push(rest.map(|()| Done::Rest).boxed());
    }

    pub(super) fn probe(&mut self, target: &Target, http: bool, until: Instant) {
        let Some(endpoint) = self.endpoint.clone() else {
            let closed = Done::Probed(target.clone(), Probed::Closed);
            self.operations.push(async { closed }.boxed());
            return;
        };
        let address = endpoint.address(target.port);
        if self.common.own.include(address) && target.port != 0 {
            let refused = Evidence::Unsure(Doubt::AddressRefused);
            self.operations
                .push(async { Done::Seen(refused.into()) }.boxed());
            return;
        }
        let mut check = ReadinessCheck {
            health: target.health.clone().filter(|_| http),
            warmup: self.warmup.clone(),
            tls: target.tls().cloned(),
            resumed: self.resumed.clone().map(|(path, timeout)| Resumed {
                path,
                slept: self.slept,
                timeout,
                metrics: Arc::clone(&self.common.wake_log.metrics),
            }),
        };
        if endpoint.woken_since(Instant::now()).is_none() || endpoint.is_warmed_up() {
            check.warmup = None;
        }
        self.warmed_up = check.warmup.is_some();
        if endpoint.woken_since(Instant::now()).is_none() || endpoint.is_resumed() {
            check.resumed = None;
        }
        self.tells = check.resumed.is_some();
        let (dialer, target) = (Arc::clone(&self.common.dialer), target.clone());
        self.operations.push(
            async move {
                // Counted from before the handshake, which the server counts, too.
                let open = endpoint.open_connection();
                let found = match probe(&*dialer, address, &check, until).await {
                    Probed::Open(stream) => Probed::Open((stream, open)),
                    Probed::OtherProtocol => Probed::OtherProtocol,
                    Probed::Refused(reason) => Probed::Refused(reason),
                    Probed::Closed => Probed::Closed,
                };
                Done::Probed(target, found)
            }
            .boxed(),
        );
    }
}
