//! The instances that requests have asked for, and the way from a name to one of them.
//!
//! Guarantees: an instance has one handle and one task, whatever names lead to it (the key is its
//! id); a handle that nobody has asked for in `wake.forget_after`, and to which nothing is open or
//! held, is let go of, and so is one that its control plane no longer has, at once; a name whose
//! instance is gone, or is called otherwise now, is looked up anew within the same wait.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::OwnListeners;
use super::dialer::{Dialer, Tcp};
use super::driver::{Common, instance};
use super::error::{WakeError, WakeStage};
use super::expiry::{Expiry, Key};
use super::instance::Instance;
use super::listing::Listing;
use super::lookup::{Found, LookUp, Names, Told, wait_for};
use super::plane_handle::PlaneHandle;
use super::record::{Ledger, Requester, WakeBegan, WakeLog, WakeReport};
use super::target::Target;
use crate::config::{RouteWakeConfig, WakeConfig};
use crate::names::PlaneIndex;
use crate::telemetry::Metrics;
use hypeman::wire::Instance as Description;
use hypeman::{ControlPlane, InstanceId, InstanceRef};

/// Those who hold a handle that nobody uses: the directory and the handle's own task.
const NOBODY: usize = 2;
/// How often names are looked at while a handle is remembered, and how often at most; as often is a
/// handle that is in use when its time comes.
const WALKS: u32 = 8;
const SHORTEST_WALK: Duration = Duration::from_secs(5);
/// So many handles let go of are a reason to look at the names earlier.
const MANY: usize = 1024;
/// So often an answer may not mean what was asked for.
const MAX_TURNS: usize = 3;

/// All instances that requests have asked for.
pub struct Wakes<P, R: Dialer = Tcp> {
    planes: Vec<Plane<P, R>>,
    config: Arc<WakeConfig>,
    ledger: Arc<Ledger>,
    reports: broadcast::Sender<WakeReport>,
    begins: broadcast::Sender<WakeBegan>,
    own: Arc<OwnListeners>,
    names: Names,
    instances: DashMap<(PlaneIndex, InstanceId), Arc<Instance<R::Stream>>>,
    tasks: TaskTracker,
    /// Where all tasks run, whoever asks.
    runtime: Handle,
    expiry: Arc<Expiry>,
    walk: Mutex<Walk>,
}

/// When all names are looked at next.
struct Walk {
    at: Instant,
    /// Handles let go of since the last one.
    forgotten: usize,
}

/// One control plane.
struct Plane<P, R> {
    common: Common<P, R>,
    /// What it listed last.
    listing: ArcSwapOption<Listing>,
}

// === impl Wakes ===

impl<P: ControlPlane, R: Dialer> Wakes<P, R> {
    /// Tasks go on `tasks`, run on the caller's runtime and end after `stop`.
    pub fn new(
        planes: Vec<P>,
        dialer: R,
        config: WakeConfig,
        metrics: &Arc<Metrics>,
        tasks: TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (reports, begins) = (broadcast::channel(1024).0, broadcast::channel(1024).0);
        let (ledger, config) = (Arc::new(Ledger::new(config.ledger)), Arc::new(config));
        let (dialer, own) = (Arc::new(dialer), Arc::<OwnListeners>::default());
        let expiry = Arc::<Expiry>::default();
        let plane = |(index, plane)| Plane {
            common: Common {
                index,
                plane: Arc::new(PlaneHandle::new(plane, &config)),
                dialer: Arc::clone(&dialer),
                config: Arc::clone(&config),
                wake_log: WakeLog {
                    plane: index,
                    metrics: Arc::clone(metrics),
                    reports: reports.clone(),
                    begins: begins.clone(),
                    ledger: Arc::clone(&ledger),
                    thrash_per_minute: config.thrash_per_minute,
                },
                own: Arc::clone(&own),
                expiry: Arc::clone(&expiry),
                stop: stop.clone(),
            },
            listing: ArcSwapOption::empty(),
        };
        let indices = (0..).map(PlaneIndex);
        let walk = Walk {
            at: Instant::now(),
            forgotten: 0,
        };
        Arc::new(Self {
            planes: indices.zip(planes).map(plane).collect(),
            names: Names::new(config.max_unknown, config.unknown_ttl),
            config,
            ledger,
            reports,
            begins,
            own,
            instances: DashMap::new(),
            tasks,
            runtime: Handle::current(),
            expiry,
            walk: Mutex::new(walk),
        })
    }

    /// Every wake that ends from now on.
    pub fn reports(&self) -> broadcast::Receiver<WakeReport> {
        self.reports.subscribe()
    }

    /// Every wake that begins from now on.
    pub fn begins(&self) -> broadcast::Receiver<WakeBegan> {
        self.begins.subscribe()
    }

    /// The last wakes.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// The gateway's own listeners, to which no request is sent.
    pub fn own_listeners(&self) -> &OwnListeners {
        &self.own
    }

    /// Every instance that the gateway has a handle of.
    pub fn all(&self) -> Vec<(PlaneIndex, Arc<Instance<R::Stream>>)> {
        let all = self.instances.iter();
        let all = all.map(|entry| (entry.key().0, Arc::clone(entry.value())));
        all.filter(|(_, instance)| !instance.is_forgotten())
            .collect()
    }

    /// An instance whose epoch, as far as is known, is at this address.
    pub fn at(&self, address: IpAddr) -> Option<(PlaneIndex, InstanceId)> {
        let is_there = |instance: &Instance<R::Stream>| {
            let endpoint = instance.endpoint();
            endpoint.is_some_and(|endpoint| endpoint.ip().to_canonical() == address)
        };
        let mut all = self.instances.iter();
        let found = all.find(|entry| !entry.is_forgotten() && is_there(entry.value()))?;
        Some(found.key().clone())
    }

    /// An instance that requests have asked for.
    pub fn by_id(&self, id: &InstanceId) -> Option<Arc<Instance<R::Stream>>> {
        self.with_plane(id).map(|(_, instance)| instance)
    }

    /// The same, with the index of its control plane.
    pub fn with_plane(&self, id: &InstanceId) -> Option<(PlaneIndex, Arc<Instance<R::Stream>>)> {
        let mut indices = (0..).map(PlaneIndex).take(self.planes.len());
        indices.find_map(|plane| Some((plane, self.handle(plane, id)?)))
    }

    /// The instance of this control plane and id, if the gateway has a handle of it.
    pub fn handle(&self, plane: PlaneIndex, id: &InstanceId) -> Option<Arc<Instance<R::Stream>>> {
        let entry = self.instances.get(&(plane, id.clone()))?;
        Some(Arc::clone(entry.value())).filter(|instance| !instance.is_forgotten())
    }

    /// The instance that a name means, if an earlier look-up found it and it means it still.
    pub fn cached(
        &self,
        plane: PlaneIndex,
        name: &InstanceRef,
    ) -> Option<Arc<Instance<R::Stream>>> {
        let id = self.names.instance(&(plane, name.clone()))?;
        let instance = self.handle(plane, &id)?;
        instance.is_meant_by(name).then_some(instance)
    }

    /// Lets go of what a name meant, if it was this instance: it is asked for anew.
    pub fn forget_meaning(&self, plane: PlaneIndex, name: &InstanceRef, instance: &InstanceId) {
        self.names.forget(&(plane, name.clone()), instance);
    }

    /// Whether the last list of a control plane has an instance of this exact name or id.
    pub fn is_listed(&self, plane: PlaneIndex, name: &InstanceRef) -> bool {
        let listing = self
            .plane(plane)
            .and_then(|plane| plane.listing.load_full());
        listing.is_some_and(|listing| listing.has(name))
    }

    fn plane(&self, plane: PlaneIndex) -> Option<&Plane<P, R>> {
        self.planes.get(usize::from(plane.0))
    }

    /// The instance that a name means now, within `patience`. Cheap once it is known. `client` is
    /// who asks, for fairness.
    pub async fn find(
        self: &Arc<Self>,
        plane: PlaneIndex,
        name: &InstanceRef,
        patience: Duration,
        client: IpAddr,
    ) -> Result<Arc<Instance<R::Stream>>, WakeError> {
        let now = Instant::now();
        let (key, deadline) = ((plane, name.clone()), now + patience);
        let is_guess = !client.is_unspecified() && !self.is_listed(plane, name);
        let mut turns = 0;
        while turns < MAX_TURNS {
            let (told, look_up) =
                self.names
                    .ask(&key, self.instances.len(), client.into(), is_guess);
            if let Some(look_up) = look_up {
                self.spawn_look_up(look_up);
            }
            let found = match told {
                Told::Found(found) => Some(found),
                Told::Asking(progress) => wait_for(progress, deadline).await,
            };
            let Some(id) = found.transpose()? else {
                // It took so long that it was given up: once more, for those who still wait.
                if Instant::now() >= deadline {
                    return Err(WakeError::TimedOut(WakeStage::Asking));
                }
                continue;
            };
            turns += 1;
            let instance = self.handle(plane, &id);
            if let Some(instance) = instance.filter(|instance| instance.is_meant_by(name)) {
                instance.ask_for(now);
                return Ok(instance);
            }
            self.names.forget(&key, &id);
        }
        Err(WakeError::NotFound)
    }

    fn spawn_look_up(self: &Arc<Self>, look_up: LookUp) {
        let wakes = Arc::clone(self);
        let looking = async move {
            let index = look_up.name.0;
            let Some(plane) = wakes.plane(index) else {
                return;
            };
            let admit =
                |described: &Description, asked_at| wakes.admit(index, plane, described, asked_at);
            let looking = wakes.names.carry_out(look_up, &plane.common.plane, admit);
            let _stopped = plane.common.stop.run_until_cancelled(looking).await;
        };
        self.tasks.spawn_on(looking, &self.runtime);
    }

    /// The handle of an instance, which is made if there is none.
    fn admit(
        &self,
        index: PlaneIndex,
        plane: &Plane<P, R>,
        described: &Description,
        asked_at: Instant,
    ) -> Found {
        let id = InstanceId::parse(&described.id).map_err(|_| WakeError::Unreadable)?;
        let make = || {
            let (instance, task) = instance(described, id.clone(), plane.common.clone());
            self.tasks.spawn_on(task, &self.runtime);
            let at = Instant::now() + self.config.forget_after;
            self.expiry.look_at((index, id.clone()), at);
            instance
        };
        let mut entry = self
            .instances
            .entry((index, id.clone()))
            .or_insert_with(make);
        if entry.is_forgotten() {
            // The server has it again (a snapshot of its state was restored, say): begin anew.
            *entry = make();
        }
        let name = described.name.as_str().into();
        entry.set_name(&name, asked_at);
        entry.ask_for(Instant::now());
        Ok(id)
    }

    /// Wakes instances for later, each in its own time. Nobody waits for them.
    pub fn prewarm(
        self: &Arc<Self>,
        plane: PlaneIndex,
        names: &[InstanceRef],
        rules: &RouteWakeConfig,
        requester: &Requester,
    ) {
        for name in names {
            let (wakes, name) = (Arc::clone(self), name.clone());
            let (rules, requester) = (rules.clone(), requester.clone());
            let waking = async move {
                let finding = wakes.find(plane, &name, rules.timeout, requester.client);
                match finding.await {
                    Ok(instance) => {
                        if instance.warm(&Target::AWAKE).is_none() {
                            instance.prewarm(Target::AWAKE, &rules, requester);
                        }
                    }
                    Err(error) => tracing::warn!(instance = %name, %error, "cannot wake it, too"),
                }
            };
            self.tasks.spawn_on(waking, &self.runtime);
        }
    }

    /// A control plane has listed its instances.
    pub fn note_list(&self, index: PlaneIndex, listing: Arc<Listing>) {
        let Some(plane) = self.plane(index) else {
            return;
        };
        let now = Instant::now();
        for entry in &self.instances {
            let ((plane, id), instance) = entry.pair();
            if *plane == index && !note_listed(instance, id, &listing, now) {
                self.expiry.note_gone((index, id.clone()));
            }
        }
        plane.listing.store(Some(listing));
    }

    /// Lets go of what nobody uses. To be called every few seconds; thousands that sleep are no work.
    pub fn upkeep(&self) {
        let now = Instant::now();
        let mut forgotten = 0;
        for key in self.expiry.take_gone() {
            let gone = self
                .instances
                .remove_if(&key, |_, instance| instance.is_forgotten());
            forgotten += usize::from(gone.is_some());
        }
        while let Some(key) = self.expiry.next_due(now) {
            match self.let_go(&key, now) {
                Some(again) => self.expiry.look_at(key, again),
                None => forgotten += 1,
            }
        }
        if self.is_walk_due(now, forgotten) {
            self.names
                .upkeep(|plane, id| self.instances.contains_key(&(plane, id.clone())));
            self.expiry
                .tidy(self.instances.len(), |key| self.instances.contains_key(key));
            if self.instances.capacity() > 4 * self.instances.len() + 1024 {
                self.instances.shrink_to_fit();
            }
        }
    }

    /// Lets go of a handle if nobody uses it; else, when it is to be looked at again.
    fn let_go(&self, key: &Key, now: Instant) -> Option<Instant> {
        let mut again = None;
        // Under the lock of its part of the map nobody gets a handle that nobody has.
        self.instances.remove_if(key, |_, instance| {
            let since = instance.unused_since(now);
            again = match since.filter(|_| Arc::strong_count(instance) <= NOBODY) {
                None => Some(now + self.pause()),
                Some(since) => Some(since + self.config.forget_after).filter(|at| *at > now),
            };
            if again.is_none() {
                instance.forget();
            }
            again.is_none()
        });
        again
    }

    fn pause(&self) -> Duration {
        (self.config.forget_after / WALKS).max(SHORTEST_WALK)
    }

    fn is_walk_due(&self, now: Instant, forgotten: usize) -> bool {
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        walk.forgotten += forgotten;
        let is_due = now >= walk.at || walk.forgotten >= MANY;
        if is_due {
            *walk = Walk {
                at: now + self.pause(),
                forgotten: 0,
            };
        }
        is_due
    }
}

/// What a list says about an instance that the gateway has a handle of. Returns whether it is kept.
fn note_listed<S>(
    instance: &Instance<S>,
    id: &InstanceId,
    listing: &Listing,
    now: Instant,
) -> bool {
    let Some(listed) = listing.instances.get(id) else {
        if !listing.is_complete || instance.since() >= listing.asked_at {
            return true;
        }
        let is_at_rest = instance.is_at_rest(now);
        match is_at_rest {
            // Who asks for it is looked up anew, and told the truth.
            true => instance.forget(),
            false => instance.doubt(),
        }
        return !is_at_rest;
    };
    instance.set_name(&listed.name, listing.asked_at);
    // Of thousands that sleep there is no more to say.
    if let Some(ip) = listed.runs_at {
        match instance.endpoint().filter(|e| e.ip() == ip) {
            Some(endpoint) => endpoint.confirm(listing.asked_at),
            // Somebody else has woken it, and its workload wants it to stay awake.
            None if instance.is_held(now) => instance.doubt(),
            None => {}
        }
    }
    true
}

impl<P, R: Dialer> fmt::Debug for Wakes<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wakes({} instances)", self.instances.len())
    }
}
