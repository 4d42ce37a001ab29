//! The gateway around the tunnels of a history: as the program has it, over the simulation's parts.
//!
//! Guarantees: what wakes for a tunnel waits as any request does; who puts instances to sleep is the program's
//! own keeper, with the program's own judgement of what the control plane says.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate::app::{Judged, judge};
use wakegate::flow::ClientBuffers;
use wakegate::hold::Slot;
use wakegate::names::PlaneIndex;
use wakegate::proxy::{ProxyError, Sleeper, Slept, queues_of};
use wakegate::telemetry::WakeKind;
use wakegate::upstream::{Close, ParkHost, Reopen, Reopened, Unready, Woken};
use wakegate::wake::{Endpoint, Instance, ParkableTunnel, RestError, WakeError};

use super::super::gateway::Gateway;
use super::super::world::{PORT, Side, Stream};

/// The places of parked tunnels.
pub(super) struct Places {
    pub(super) taken: AtomicUsize,
    pub(super) most: usize,
}

/// The gateway's side of one tunnel.
pub(super) struct Host {
    pub(super) gateway: Arc<Gateway>,
    pub(super) name: String,
    pub(super) session: usize,
    pub(super) client: IpAddr,
    pub(super) instance: Arc<Instance<Stream>>,
    pub(super) slot: Option<Slot>,
    pub(super) places: Arc<Places>,
    pub(super) has_place: bool,
    pub(super) buffers: ClientBuffers,
    pub(super) reconnects: bool,
    pub(super) tasks: TaskTracker,
    pub(super) _tunnel: ParkableTunnel,
}

/// Puts instances to sleep, as the program does.
pub(super) struct Sleeping(pub(super) Arc<Gateway>);

// === impl Host ===

fn unready(error: &ProxyError) -> Unready {
    let is_gone = matches!(
        error,
        ProxyError::Wake(WakeError::Gone | WakeError::NotFound)
    );
    let close = match is_gone {
        true => Close::restart("instance gone"),
        false => Close {
            code: 1013,
            reason: "unready",
        },
    };
    Unready { close, is_gone }
}

impl Host {
    /// Waits until the instance is ready, and takes a place there.
    async fn admit(&mut self, what: &'static str) -> Result<(Endpoint, WakeKind), Unready> {
        self.slot = None;
        let known = (Some(&self.instance), Some(what));
        let admitted = self.gateway.admit(&self.name, known, self.client).await;
        let (_, ready, mut slot) = admitted.map_err(|error| {
            let world = &self.gateway.view.world;
            world.tell(&format!("session {}: {error}", self.session));
            unready(&error)
        })?;
        slot.answered();
        self.slot = Some(slot);
        Ok((ready.endpoint, ready.kind))
    }

    fn enter_now(&mut self) -> bool {
        let gate = queues_of(&self.gateway.hold, &self.instance).gate(PORT);
        let mut slot = gate.try_enter(self.client.into(), &self.gateway.limits());
        if let Some(slot) = &mut slot {
            slot.answered();
        }
        self.slot = slot;
        self.slot.is_some()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.leave_place();
    }
}

impl ParkHost for Host {
    fn buffers(&self) -> Option<&ClientBuffers> {
        Some(&self.buffers)
    }

    fn endpoint(&self) -> Option<Endpoint> {
        self.instance.endpoint()
    }

    fn epochs(&self) -> watch::Receiver<u64> {
        self.instance.parking().epochs()
    }

    fn doubt(&self) {
        self.instance.doubt();
    }

    fn gone(&self) -> CancellationToken {
        self.instance.end().clone()
    }

    fn take_place(&mut self) -> bool {
        if !self.has_place {
            let (taken, most) = (&self.places.taken, self.places.most);
            let more = |taken: usize| (taken < most).then_some(taken + 1);
            let order = Ordering::SeqCst;
            self.has_place = taken.fetch_update(order, order, more).is_ok();
        }
        self.has_place
    }

    fn leave_place(&mut self) {
        if std::mem::take(&mut self.has_place) {
            self.places.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn rest(&mut self) {
        self.slot = None;
    }

    fn enter(&mut self) {
        self.enter_now();
    }

    fn wake(&mut self, what: &'static str) -> BoxFuture<'_, Result<Woken, Unready>> {
        async move {
            let (endpoint, kind) = self.admit(what).await?;
            Ok(Woken {
                endpoint,
                is_booted: kind == WakeKind::Boot,
            })
        }
        .boxed()
    }
}

impl Reopen<Side> for Host {
    fn can_reopen(&self) -> bool {
        self.reconnects
    }

    fn reopen(
        &mut self,
        what: Option<&'static str>,
    ) -> BoxFuture<'_, Result<Option<Reopened<Side>>, Unready>> {
        async move {
            let endpoint = match what {
                Some(what) => self.admit(what).await?.0,
                None => match self.instance.endpoint() {
                    Some(endpoint) if self.enter_now() => endpoint,
                    Some(_) | None => return Ok(None),
                },
            };
            let (view, session) = (&self.gateway.view, self.session);
            let opening = view.open_flow(&endpoint, session, &self.tasks);
            match endpoint.cut().run_until_cancelled(opening).await {
                Some(Ok(instance)) => Ok(Some(Reopened { instance, endpoint })),
                Some(Err(_)) | None => {
                    self.slot = None;
                    match what {
                        Some(_) => Err(unready(&ProxyError::Wake(WakeError::Stopped))),
                        None => Ok(None),
                    }
                }
            }
        }
        .boxed()
    }
}

impl Sleeper<Stream> for Sleeping {
    fn put_to_sleep<'a>(
        &'a self,
        _plane: PlaneIndex,
        instance: &'a Arc<Instance<Stream>>,
        epoch: &'a Endpoint,
    ) -> BoxFuture<'a, Slept> {
        async move {
            let (view, id) = (&self.0.view, instance.id().as_str().to_owned());
            let seen = epoch.look_at_quiet();
            let has_ended = epoch.cut().is_cancelled();
            let Ok(status) = view.status(&id).await else {
                return Slept::Failed;
            };
            match judge(&status, seen.counted, view.world.clock()) {
                Judged::Free => {}
                Judged::Rests if has_ended => return Slept::Asleep,
                Judged::Rests => {
                    instance.doubt();
                    return Slept::Refused(None);
                }
                Judged::Needed => return Slept::Refused(None),
            }
            let queues = queues_of(&self.0.hold, instance);
            let (epoch, asked) = (epoch.clone(), Arc::clone(instance));
            let may = move || {
                let is_busy = queues.held() + queues.inside() > 0 || asked.is_asked_for();
                !is_busy
                    && match has_ended {
                        false => epoch.begin_rest(seen),
                        true => asked.endpoint().is_none(),
                    }
            };
            let (caller, whose) = (view.clone(), id.clone());
            let standby = async move { caller.standby(&whose).await };
            match instance.rest(may, standby).await {
                Ok(()) => Slept::Asleep,
                Err(RestError::Busy) => Slept::Refused(None),
                Err(_) => Slept::Failed,
            }
        }
        .boxed()
    }
}
