//! The gateway as the workloads' door sees it.
//!
//! Guarantees: whose an address is, is asked of the control planes themselves; a hold wakes nothing; an
//! instance is put to sleep by its own task, once its workload has been told and nobody needs it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use tokio::time::{Instant, timeout};

use super::handle::{AppHandle, Running};
use crate::names::PlaneIndex;
use crate::proxy::queues_of;
use crate::telemetry::InstanceCondition;
use crate::wake::{HookOutcome, Instance, RestError, WakeError};
use crate::workload::{
    AskError, Business, Facts, Host, Kept, LastWake, Listing, Owner, Resident, Rested, Sleep,
};
use hypeman::wire::{Address, Idle, Instance as Description, InstanceState, ListInstances};
use hypeman::{Error as ControlPlaneError, InstanceId};

/// How long an instance is looked up for.
const PATIENCE: Duration = Duration::from_secs(5);

fn failed(error: &ControlPlaneError) -> AskError {
    AskError(error.to_string())
}

/// Whether another try may go better: not where the control plane has answered that it cannot be.
fn passes(error: &ControlPlaneError) -> bool {
    let status = error.status();
    status.is_none_or(|status| matches!(status, 408 | 429 | 500..=599))
}

/// Whether an instance in this state has its address. One that is still being started has said nothing
/// yet: what comes from its address is of somebody who had it before.
fn runs(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Running)
}

/// The instance, if it is this one and runs at this address.
fn resident(owner: &Owner, address: IpAddr, described: &Description) -> Option<Resident> {
    let is_it = described.id == owner.id.as_str() && runs(&described.state);
    let is_there = match described.address() {
        Address::At(ip) => ip.to_canonical() == address,
        Address::Off | Address::Missing | Address::Unreadable => false,
    };
    (is_it && is_there).then(|| Resident {
        owner: owner.clone(),
        name: described.name.as_str().into(),
        state: described.state.to_string(),
        since: described.created_at.max(described.started_at),
        idle_timeout: match described.idle() {
            Idle::After(idle) => Some(idle),
            Idle::Never | Idle::Unreadable => None,
        },
    })
}

// === impl Running ===

impl Running {
    /// The instance of an owner, if the engine has it.
    fn owned(&self, owner: &Owner) -> Option<(PlaneIndex, Arc<Instance>)> {
        let plane = self.plane_called(&owner.hypeman)?;
        let instance = self.gateway.parts().wakes.handle(plane, &owner.id)?;
        Some((plane, instance))
    }

    fn plane_called(&self, name: &str) -> Option<PlaneIndex> {
        let mut planes = (0..).map(PlaneIndex).zip(&self.planes);
        planes
            .find(|(_, plane)| plane.name == name)
            .map(|(index, _)| index)
    }

    pub(super) fn owner(&self, plane: PlaneIndex, id: InstanceId) -> Owner {
        Owner {
            hypeman: self.plane_name(plane).into(),
            id,
        }
    }

    /// The same; one that the engine does not have yet is looked up.
    async fn find_owned(&self, owner: &Owner) -> Result<(PlaneIndex, Arc<Instance>), Kept> {
        if let Some(found) = self.owned(owner) {
            return Ok(found);
        }
        let plane = self.plane_called(&owner.hypeman).ok_or(Kept::Unknown)?;
        let wakes = &self.gateway.parts().wakes;
        let nobody = Ipv4Addr::UNSPECIFIED.into();
        let id = owner.id.to_ref();
        match wakes.find(plane, &id, PATIENCE, nobody).await {
            Ok(instance) if *instance.id() == owner.id => Ok((plane, instance)),
            Ok(_) | Err(WakeError::NotFound | WakeError::Gone) => Err(Kept::Gone),
            Err(_) => Err(Kept::Unknown),
        }
    }

    /// Whether its control plane, asked now, says that there is no such instance.
    async fn is_gone(&self, owner: &Owner) -> Kept {
        let plane = self.plane_called(&owner.hypeman);
        let plane = plane.and_then(|plane| self.planes.get(usize::from(plane.0)));
        let Some(plane) = plane else {
            return Kept::Unknown;
        };
        let id = owner.id.to_ref();
        match timeout(PATIENCE, plane.client.get_instance(&id)).await {
            Ok(Err(error)) if error.is_not_found() => Kept::Gone,
            _ => Kept::Unknown,
        }
    }

    async fn rest(&self, owner: &Owner, sleep: Sleep) -> Rested {
        let (index, instance) = match self.find_owned(owner).await {
            Ok(found) => found,
            Err(Kept::Gone) => return Rested::Failed("it is gone".to_owned()),
            Err(_) => return Rested::Later("it cannot be found".to_owned()),
        };
        self.rest_if(index, &instance, sleep, || true).await
    }

    /// Puts an instance to sleep, if nobody needs it and `may` says so at the last moment.
    pub(super) async fn rest_if(
        &self,
        index: PlaneIndex,
        instance: &Arc<Instance>,
        sleep: Sleep,
        may_also: impl FnOnce() -> bool + Send + 'static,
    ) -> Rested {
        if sleep.asks_hook
            && let HookOutcome::Refused(pause) = self.before_standby(index, instance).await
        {
            return Rested::Refused(pause);
        }
        let Some(plane) = self.planes.get(usize::from(index.0)) else {
            return Rested::Failed("its control plane has gone".to_owned());
        };
        if !sleep.is_allowed().await {
            return Rested::Held;
        }
        let (client, id) = (plane.client.clone(), instance.id().to_ref());
        // No hold is placed while the call goes on.
        let under_way = sleep.clone();
        let standby = async move {
            let answer = client.standby_instance(&id, None).await;
            drop(under_way);
            answer.map(drop)
        };
        let queues = queues_of(&self.gateway.parts().hold, instance);
        let (asked, beginning) = (Arc::clone(instance), sleep.clone());
        let may = move || {
            let is_busy = queues.held() + queues.inside() > 0 || asked.is_asked_for();
            !is_busy && beginning.begin() && may_also()
        };
        match instance.rest(may, standby).await {
            Ok(()) => {
                let (at, timeline) = (jiff::Timestamp::now().as_millisecond(), &self.timeline);
                let condition = InstanceCondition::Asleep;
                timeline.note(
                    instance.id().as_str(),
                    &instance.name(),
                    &plane.name,
                    condition,
                    at,
                );
                Rested::Asleep
            }
            Err(RestError::Busy) => Rested::Busy,
            Err(RestError::ControlPlane(error)) if passes(&error) => {
                Rested::Later(error.to_string())
            }
            Err(error) => Rested::Failed(error.to_string()),
        }
    }
}

impl Host for AppHandle {
    fn planes(&self) -> usize {
        self.0.planes.len()
    }

    fn last_seen_at(&self, address: IpAddr) -> Option<Owner> {
        let running = &*self.0;
        if let Some((plane, id)) = running.gateway.parts().wakes.at(address) {
            return Some(running.owner(plane, id));
        }
        let mut planes = (0..).map(PlaneIndex).zip(&running.planes);
        planes.find_map(|(index, plane)| {
            let last = plane.last.load();
            let mut listed = last.listing.instances().iter();
            let is_there = |ip: IpAddr| ip.to_canonical() == address;
            let found = listed.find(|(_, listed)| listed.runs_at.is_some_and(is_there));
            found.map(|(id, _)| running.owner(index, id.clone()))
        })
    }

    fn confirm<'a>(
        &'a self,
        owner: &'a Owner,
        address: IpAddr,
    ) -> BoxFuture<'a, Result<Option<Resident>, AskError>> {
        async move {
            let plane = self.0.plane_called(&owner.hypeman);
            let plane = plane.and_then(|plane| self.0.planes.get(usize::from(plane.0)));
            let Some(plane) = plane else { return Ok(None) };
            match plane.client.get_instance(&owner.id.to_ref()).await {
                Ok(described) => Ok(resident(owner, address, &described)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(failed(&error)),
            }
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Listing> {
        async move {
            let running = &*self.0;
            let all = ListInstances::default();
            let lists = running.planes.iter().map(async |plane| {
                let listing = plane.client.list_instance_summaries(&all);
                let listed = timeout(PATIENCE, listing).await;
                let late = |_| AskError("it takes too long to list its instances".to_owned());
                listed.map_err(late)?.map_err(|error| failed(&error))
            });
            let mut listing = Listing::default();
            let lists = running.planes.iter().zip(join_all(lists).await);
            for (index, (plane, listed)) in (0..).map(PlaneIndex).zip(lists) {
                let mut note = |ip: IpAddr, id: InstanceId| {
                    let at = listing.at.entry(ip.to_canonical()).or_default();
                    at.push(running.owner(index, id));
                };
                match listed {
                    Ok(listed) => {
                        for one in listed.items.iter().filter(|one| runs(&one.state)) {
                            if let (Address::At(ip), Ok(id)) =
                                (&one.address, InstanceId::parse(&one.id))
                            {
                                note(*ip, id);
                            }
                        }
                    }
                    Err(error) => {
                        let last = plane.last.load();
                        for (id, one) in last.listing.instances() {
                            if let Some(ip) = one.runs_at {
                                note(ip, id.clone());
                            }
                        }
                        listing.missing = Some(error);
                    }
                }
            }
            listing
        }
        .boxed()
    }

    fn hold<'a>(&'a self, owner: &'a Owner, until: Option<Instant>) -> BoxFuture<'a, Kept> {
        async move {
            if until.is_none() {
                if let Some((_, instance)) = self.0.owned(owner) {
                    instance.hold_awake(None);
                }
                return Kept::Yes;
            }
            match self.0.find_owned(owner).await {
                Ok((_, instance)) => {
                    instance.hold_awake(until);
                    Kept::Yes
                }
                Err(Kept::Gone) => self.0.is_gone(owner).await,
                Err(kept) => kept,
            }
        }
        .boxed()
    }

    fn facts(&self, owner: &Owner) -> Facts {
        let running = &*self.0;
        let parts = running.gateway.parts();
        let ledger = parts.wakes.ledger();
        let plane = running.plane_called(&owner.hypeman);
        let last_wake = plane.and_then(|plane| ledger.last_wake(plane, &owner.id));
        let last_wake = last_wake.map(|wake| LastWake {
            time: wake.time,
            outcome: wake.outcome,
            took_ms: wake.took_ms,
        });
        let found = running.owned(owner);
        let queues = found.as_ref().map(|(_, one)| queues_of(&parts.hold, one));
        Facts {
            epoch: found
                .and_then(|(_, instance)| instance.endpoint())
                .map(|endpoint| endpoint.epoch()),
            last_wake,
            held: queues.as_ref().map_or(0, |queues| queues.held()),
            inflight: queues.map_or(0, |queues| queues.inside()),
        }
    }

    fn business(&self, owner: &Owner) -> Business {
        let Some((_, instance)) = self.0.owned(owner) else {
            return Business {
                is_busy: false,
                epoch: None,
            };
        };
        let queues = queues_of(&self.0.gateway.parts().hold, &instance);
        Business {
            is_busy: queues.held() + queues.inside() > 0 || instance.is_asked_for(),
            epoch: instance.endpoint().map(|endpoint| endpoint.epoch()),
        }
    }

    fn rest<'a>(&'a self, owner: &'a Owner, sleep: Sleep) -> BoxFuture<'a, Rested> {
        self.0.rest(owner, sleep).boxed()
    }

    fn note_held(&self, resident: &Resident, address: IpAddr, reason: &str) {
        let ledger = self.0.gateway.parts().wakes.ledger();
        let Owner { hypeman, id } = &resident.owner;
        if let Some(plane) = self.0.plane_called(hypeman) {
            ledger.note_held((plane, id), &resident.name, address, reason);
        }
    }
}
