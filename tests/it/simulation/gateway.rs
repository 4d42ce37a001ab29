//! A gateway of a history: the real directory, engine, gates, admission and dispatch.
//!
//! Guarantees: a request goes through what a request of HTTP goes through; upkeep and lists come as
//! the application has them come, and more seldom only while nothing happens.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use hypeman::InstanceRef;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate::config::{LimitsConfig, Protocol};
use wakegate::hold::{Hold, Slot};
use wakegate::names::{Hostname, PlaneIndex};
use wakegate::proxy::dispatch::Dispatch;
use wakegate::proxy::{
    Admission, AskedAnew, LookUp, PathRules, PendingRequest, ProxyError, RequestHead, Resolved,
    WakeInfo, find_claimed, queues_of,
};
use wakegate::router::{PathReadings, RouteTable};
use wakegate::telemetry::Metrics;
use wakegate::upstream::Hop;
use wakegate::wake::{Endpoint, Instance, Listing, Ready, WakeReport, Wakes};

use super::script::{HOSTS, NAMES, Request, Script, Table, config};
use super::world::{Errand, PORT, Parcel, Stream, View};

const UPKEEP: Duration = Duration::from_secs(5);
const LISTS: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(2);
/// What is open is gone so soon after its epoch.
const GRACE: Duration = Duration::from_millis(1500);

/// The routes, as one version of the configuration has them.
struct Routes {
    table: RouteTable,
    admissions: HashMap<Arc<str>, Admission>,
}

/// One gateway, and everything that its requests share.
pub struct Gateway {
    pub view: View,
    pub wakes: Arc<Wakes<View, View>>,
    pub hold: Arc<Hold>,
    pub tasks: TaskTracker,
    /// The simulation's own, which watch epochs.
    watchers: TaskTracker,
    /// The names that were asked for anew, since another member meant another instance.
    asked: AskedAnew,
    /// The epochs that have a watcher.
    watched: Mutex<BTreeSet<u64>>,
    routes: Mutex<Arc<Routes>>,
    metrics: Arc<Metrics>,
    reports: Mutex<(broadcast::Receiver<WakeReport>, Vec<WakeReport>)>,
}

/// A request's answer: when its head was there, or why not.
pub type Outcome = Result<(), ProxyError>;

impl Routes {
    fn new(rules: &Table) -> Arc<Self> {
        let routes = (0..).zip(rules).flat_map(|(host, rules)| {
            let config = config(host, *rules);
            config.route.clone()
        });
        let routes: Vec<_> = routes.collect();
        let table = RouteTable::new(&routes);
        let admissions = routes.iter().zip(HOSTS).map(|(route, host)| {
            let host = host.replace("{i}", "x");
            let found = table.find(&Hostname::parse(&host).unwrap(), &PathReadings::of("/"), 80);
            let label = Arc::clone(found.unwrap().route.label());
            (label, Admission::new(route))
        });
        Arc::new(Self {
            admissions: admissions.collect(),
            table,
        })
    }
}

impl Gateway {
    pub fn new(
        script: &Script,
        view: View,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (config, tasks) = (config(0, script.table[0]), TaskTracker::new());
        let wakes = Wakes::new(
            vec![view.clone()],
            view.clone(),
            config.wake.clone(),
            metrics,
            tasks.clone(),
            stop,
        );
        Arc::new(Self {
            view,
            hold: Hold::new(&config.wake, Arc::clone(metrics)),
            tasks,
            watchers: TaskTracker::new(),
            asked: AskedAnew::default(),
            watched: Mutex::default(),
            routes: Mutex::new(Routes::new(&script.table)),
            metrics: Arc::clone(metrics),
            reports: Mutex::new((wakes.reports(), Vec::new())),
            wakes,
        })
    }

    /// Other rules from now on.
    pub fn reload(&self, table: &Table) {
        self.hold.change(&config(0, table[0]).wake);
        *self.routes.lock().unwrap() = Routes::new(table);
    }

    /// The ends of all wakes so far.
    pub fn reports(&self) -> Vec<WakeReport> {
        let mut reports = self.reports.lock().unwrap();
        while let Ok(report) = reports.0.try_recv() {
            reports.1.push(report);
        }
        reports.1.clone()
    }

    /// Watches what is open on an endpoint, from the first time on.
    fn meet(&self, endpoint: Option<Endpoint>) {
        let Some(endpoint) = endpoint else {
            return;
        };
        self.view.note_epoch(&endpoint);
        if !self.watched.lock().unwrap().insert(endpoint.epoch()) {
            return;
        }
        let view = self.view.clone();
        self.watchers.spawn(async move {
            endpoint.cut().cancelled().await;
            sleep(GRACE).await;
            let (open, id) = (endpoint.open_connections(), endpoint.instance());
            if open > 0 {
                view.world
                    .wrong(format!("{open} connections to {id} outlive their epoch"));
            }
        });
    }

    /// One look of the upkeep.
    pub fn keep_up(&self) {
        self.wakes.upkeep();
    }

    /// One list.
    pub async fn list(&self) {
        if let Some((all, is_whole, asked_at)) = self.view.list().await {
            let listing = Listing::new(all, is_whole, asked_at);
            self.wakes.note_list(PlaneIndex(0), Arc::new(listing));
        }
    }

    /// Upkeep and lists, for ever.
    pub async fn go_on(&self, script: &Script, began: Instant) {
        let pause = |usual: Duration| {
            let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
            match script.quiet_from(now_ms) {
                None => usual,
                Some(quiet) => (quiet / 12).max(Duration::from_secs(60)).min(quiet),
            }
        };
        let upkeep = async {
            loop {
                self.keep_up();
                sleep(pause(UPKEEP)).await;
            }
        };
        let usual = if script.watched { WATCHED } else { LISTS };
        let lists = async {
            loop {
                self.list().await;
                sleep(pause(usual)).await;
            }
        };
        tokio::join!(upkeep, lists);
    }

    /// Serves a request to its end. The time that it may take beyond its answer is its own.
    pub async fn serve(&self, number: u32, request: Request, name: &str) -> Outcome {
        self.serve_claimed(number, request, name, None).await
    }

    /// The same for one that another member of a fleet says is for the instance of this id.
    pub async fn serve_claimed(
        &self,
        number: u32,
        request: Request,
        name: &str,
        claimed: Option<&str>,
    ) -> Outcome {
        let began = Instant::now();
        let routes = Arc::clone(&self.routes.lock().unwrap());
        let host = HOSTS[request.host].replace("{i}", name);
        let host = Hostname::parse(&host).unwrap();
        let path = if request.forbidden { "/no" } else { "/" };
        let path = PathReadings::of(path);
        let found = routes.table.find(&host, &path, 80)?;
        let admission = &routes.admissions[found.route.label()];
        let patience = Duration::from_millis(request.patience_ms);
        let deadline = began + patience.min(found.route.config().wake.timeout);
        let plane = found.route.config().plane;
        let client = [10, 0, 0, u8::try_from(number % 200).unwrap()].into();
        let look_up = NameLookUp {
            gateway: self,
            plane,
            name: &found.instance,
            claimed,
            client,
            deadline,
        };
        let resolved = look_up.look_up().await?;
        let method = match request.errand.may_repeat() {
            true => Method::GET,
            false => Method::POST,
        };
        let may_wake = admission.check(&RequestHead {
            method: &method,
            path: &PathRules::new(found.route.config()).judge(&path).unwrap(),
            headers: &HeaderMap::new(),
            client,
        });
        let mut pending = PendingRequest {
            unparked_by: None,
            trace: None,
            resolved,
            look_up: &look_up,
            renewals: 0,
            route: found.route.config(),
            port: PORT,
            admission,
            may_wake,
            hold: &self.hold,
            metrics: &self.metrics,
            tls: None,
            client,
            user_agent: None,
            head_bytes: 100,
            deadline,
        };
        let mut wake = WakeInfo::default();
        let admitted = pending.admit(&mut wake).await?;
        self.meet(pending.resolved.instance.endpoint());
        let mut parcel = Parcel {
            number,
            errand: request.errand,
            name: name.to_owned(),
            began,
        };
        let mut dispatch = Dispatch {
            pending: &mut pending,
            hop: Hop {
                port: PORT,
                protocol: match request.errand {
                    Errand::Stream(_) => Protocol::H2c,
                    _ => Protocol::H1,
                },
                tls: None,
                proxy_header: None,
            },
        };
        let sent = dispatch.send(&self.view, admitted, &mut parcel, &mut wake);
        let sent = sent.await?;
        self.meet(Some(sent.endpoint.clone()));
        let world = &self.view.world;
        world.tell(&format!("request {number} has its head"));
        let limit = request.errand.takes() + Duration::from_secs(300);
        let mut going_on = pin!(sent.response.go_on(&self.view));
        if timeout(limit, going_on.as_mut()).await.is_ok() {
            return Ok(());
        }
        // A gateway that no question tells anything cuts nothing. Once they are answered, it does.
        world.calm_down();
        if timeout(limit, going_on).await.is_err() {
            world.wrong(format!(
                "request {number} hung at an instance that is not there"
            ));
        }
        Ok(())
    }

    /// Waits until the instance of a name, or this one, is ready for a tunnel, and takes a place there; `what` has
    /// come over a parked one.
    pub async fn admit(
        &self,
        name: &str,
        (known, what): (Option<&Arc<Instance<Stream>>>, Option<&'static str>),
        client: IpAddr,
    ) -> Result<(Arc<Instance<Stream>>, Ready<Stream>, Slot), ProxyError> {
        let routes = Arc::clone(&self.routes.lock().unwrap());
        let host = Hostname::parse(&HOSTS[0].replace("{i}", name)).unwrap();
        let found = routes.table.find(&host, &PathReadings::of("/"), 80)?;
        let admission = &routes.admissions[found.route.label()];
        let deadline = Instant::now() + found.route.config().wake.timeout;
        let look_up = NameLookUp {
            gateway: self,
            plane: found.route.config().plane,
            name: &found.instance,
            claimed: None,
            client,
            deadline,
        };
        let (resolved, renewals) = match known {
            None => (look_up.look_up().await?, 0),
            Some(instance) => {
                let instance = Arc::clone(instance);
                let gate = queues_of(&self.hold, &instance).gate(PORT);
                // No other one is looked up.
                (Resolved { instance, gate }, u32::MAX - 1)
            }
        };
        let mut pending = PendingRequest {
            unparked_by: what,
            trace: None,
            resolved,
            look_up: &look_up,
            renewals,
            route: found.route.config(),
            port: PORT,
            admission,
            may_wake: Ok(()),
            hold: &self.hold,
            metrics: &self.metrics,
            tls: None,
            client,
            user_agent: None,
            head_bytes: 100,
            deadline,
        };
        let admitted = pending.admit(&mut WakeInfo::default()).await?;
        let instance = Arc::clone(&pending.resolved.instance);
        let (ready, slot) = admitted.into_parts();
        self.meet(Some(ready.endpoint.clone()));
        Ok((instance, ready, slot))
    }

    /// The limits of the first route.
    pub fn limits(&self) -> LimitsConfig {
        let host = Hostname::parse(&HOSTS[0].replace("{i}", "x")).unwrap();
        let routes = Arc::clone(&self.routes.lock().unwrap());
        let found = routes.table.find(&host, &PathReadings::of("/"), 80);
        found.unwrap().route.config().limits.clone()
    }

    /// What a request of the script asks for, by name or by id.
    pub fn name_of(&self, request: Request) -> String {
        let name = NAMES[request.name];
        let id = request.by_id.then(|| self.view.world.id_of(name));
        id.flatten().unwrap_or_else(|| name.to_owned())
    }
}

/// What a request's name means now.
struct NameLookUp<'a> {
    gateway: &'a Gateway,
    plane: PlaneIndex,
    name: &'a InstanceRef,
    claimed: Option<&'a str>,
    client: IpAddr,
    deadline: Instant,
}

impl LookUp<Stream> for NameLookUp<'_> {
    fn means(&self, instance: &Instance<Stream>) -> bool {
        instance.is_meant_by(self.name)
    }

    fn look_up(&self) -> BoxFuture<'_, Result<Resolved<Stream>, ProxyError>> {
        Box::pin(async {
            let left = self.deadline - Instant::now();
            let (wakes, place) = (&self.gateway.wakes, (self.plane, self.name));
            let instance = match self.claimed {
                None => wakes.find(self.plane, self.name, left, self.client).await?,
                Some(_) => {
                    let (asked, asking) = (&self.gateway.asked, (left, self.client));
                    find_claimed(wakes, asked, place, self.claimed, asking).await?
                }
            };
            self.gateway.meet(instance.endpoint());
            let gate = queues_of(&self.gateway.hold, &instance).gate(PORT);
            Ok(Resolved { instance, gate })
        })
    }
}

impl fmt::Debug for NameLookUp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameLookUp({})", self.name)
    }
}
