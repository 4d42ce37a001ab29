//! The gateway that all connections share.
//!
//! Guarantees: a change of the routes concerns new requests only; what is remembered about clients
//! and routes is bounded by [`Gateway::upkeep`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;

use super::active_routes::{ActiveRoutes, RouteSources, RouteStates};
use super::asked_anew::AskedAnew;
use super::auth::{AuthClient, KeyFetcher};
use super::context::GatewayParts;
use super::fleet_link::{Fleet, FleetLink};
use super::https_redirect::TlsListeners;
use super::park_keeper::Sleeper;
use super::park_places::ParkPlaces;
use super::preflight::Preflights;
use super::tunnel_places::TunnelPlaces;
use super::unknown_names::UnknownNames;
use crate::config::{Rate, RouteConfig};
use crate::keep_warm::WarmPlan;
use crate::router::RouteChange;
use crate::upstream::Pseudonyms;
use hypeman::ControlPlane;

/// The gateway, as every connection sees it.
pub struct Gateway<P> {
    pub(super) active_routes: ArcSwap<ActiveRoutes>,
    /// Who has it changes the routes.
    states: Mutex<RouteStates>,
    pub(super) unknown: UnknownNames,
    pub(super) asked_anew: AskedAnew,
    pub(super) preflights: Preflights,
    pub(super) tunnel_places: TunnelPlaces,
    pub(super) park_places: ParkPlaces,
    /// Who puts instances to sleep whose tunnels are all quiet.
    pub(super) sleeper: OnceLock<Arc<dyn Sleeper>>,
    pub(super) pseudonyms: Pseudonyms,
    pub(super) tls_listeners: TlsListeners,
    pub(super) auth_client: Arc<AuthClient>,
    pub(super) key_fetcher: KeyFetcher,
    /// Its place in a fleet, if it is in one.
    pub(super) fleet: OnceLock<Fleet>,
    pub(super) parts: GatewayParts<P>,
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// A gateway for these routes; `unknown` limits how often a client may ask for names that do
    /// not exist.
    pub fn new(routes: &[Arc<RouteConfig>], unknown: Rate, parts: GatewayParts<P>) -> Arc<Self> {
        let mut states = RouteStates::default();
        let sources = RouteSources::of(&parts);
        let active_routes = states.all(routes, &ActiveRoutes::default(), sources);
        let auth_client = Arc::new(AuthClient::default());
        Arc::new(Self {
            active_routes: ArcSwap::from_pointee(active_routes),
            states: Mutex::new(states),
            unknown: UnknownNames::new(unknown),
            asked_anew: AskedAnew::default(),
            preflights: Preflights::default(),
            tunnel_places: TunnelPlaces::default(),
            park_places: ParkPlaces::default(),
            sleeper: OnceLock::new(),
            pseudonyms: Pseudonyms::default(),
            tls_listeners: TlsListeners::default(),
            key_fetcher: KeyFetcher::new(&auth_client),
            auth_client,
            fleet: OnceLock::new(),
            parts,
        })
    }

    /// Makes it a member of a fleet, before its first request.
    pub fn join(&self, link: FleetLink) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(errors) = self.parts.instance_tls.load(&link.default_routes) {
            for (_, error) in errors {
                tracing::warn!(%error, "requests of fronts' routes cannot go over TLS to instances");
            }
        }
        let default_routes = link.default_routes.iter();
        let default_routes =
            default_routes.map(|route| states.alone(route, RouteSources::of(&self.parts)));
        let default_routes = default_routes.collect();
        // It is joined once.
        let _first = self.fleet.set(Fleet {
            placement: link.placement,
            peers: link.peers,
            is_node: link.is_node,
            planes: link.planes,
            default_routes,
        });
    }

    /// Instances are put to sleep by this from now on, where their tunnels may be parked.
    pub fn set_sleeper(&self, sleeper: Arc<dyn Sleeper>) {
        // It is set once, before the first request.
        let _first = self.sleeper.set(sleeper);
    }

    /// New requests use these routes; those under way keep theirs.
    pub fn set_routes(&self, routes: &[Arc<RouteConfig>]) {
        self.replace_routes(|states, before, sources| states.all(routes, before, sources));
        self.parts.instance_tls.retain(routes);
    }

    /// New requests use the routes with this change; those under way keep theirs. It costs what the
    /// change costs, however many other routes there are.
    pub fn change_routes(&self, change: &RouteChange) {
        self.replace_routes(|states, before, sources| states.changed(change, before, sources));
    }

    fn replace_routes(
        &self,
        routes: impl FnOnce(&mut RouteStates, &ActiveRoutes, RouteSources<'_>) -> ActiveRoutes,
    ) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.active_routes.load_full();
        let active_routes = routes(&mut states, &before, RouteSources::of(&self.parts));
        self.active_routes.store(Arc::new(active_routes));
    }

    /// Clients that have to come over TLS are sent to one of these addresses.
    pub fn set_tls_listeners(&self, addresses: Vec<SocketAddr>) {
        self.tls_listeners.set(addresses);
    }

    /// The instances that are to be kept awake, with their windows of time.
    pub fn warm_plans(&self) -> Vec<WarmPlan> {
        let active_routes = self.active_routes.load();
        let mut plans = Vec::new();
        active_routes.each(|route| {
            let config = route.config();
            let instance = route.fixed_instance();
            let is_warm = !config.keep_warm.is_empty();
            plans.extend(instance.filter(|_| is_warm).map(|instance| WarmPlan {
                plane: config.plane,
                instance: instance.clone(),
                route: config.key(),
                rules: config.wake.clone(),
                windows: config.keep_warm.clone(),
            }));
        });
        plans
    }

    /// The parts that the gateway is made of.
    pub fn parts(&self) -> &GatewayParts<P> {
        &self.parts
    }

    /// Forgets what is too old to matter.
    pub fn upkeep(&self) {
        // Who changes the routes meanwhile keeps nobody waiting: this comes again.
        let limited = self.states.try_lock().map(|mut states| states.upkeep());
        let limited = limited.iter().flatten();
        limited.for_each(|admission| admission.upkeep());
        self.unknown.upkeep();
        self.preflights.upkeep();
        self.parts.wakes.upkeep();
    }
}

impl<P> fmt::Debug for Gateway<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}
