//! The gateway that all connections share.
//!
//! Guarantees: a change of the routes concerns new requests only; what is remembered about clients
//! and routes is bounded by [`Gateway::upkeep`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::active_routes::ActiveRoutes;
use super::auth::{AuthClient, KeyFetcher};
use super::context::GatewayParts;
use super::https_redirect::TlsListeners;
use super::preflight::Preflights;
use super::unknown_names::UnknownNames;
use crate::config::{Rate, RouteConfig};
use crate::keep_warm::WarmPlan;
use crate::names::PlaneIndex;
use crate::upstream::Pseudonyms;
use crate::wake::Instance;
use hypeman::ControlPlane;

/// The gateway, as every connection sees it.
pub struct Gateway<P> {
    pub(super) active_routes: ArcSwap<ActiveRoutes>,
    pub(super) unknown: UnknownNames,
    pub(super) preflights: Preflights,
    pub(super) pseudonyms: Pseudonyms,
    pub(super) tls_listeners: TlsListeners,
    pub(super) auth_client: Arc<AuthClient>,
    pub(super) key_fetcher: KeyFetcher,
    pub(super) parts: GatewayParts<P>,
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// A gateway for these routes; `unknown` limits how often a client may ask for names that do
    /// not exist.
    pub fn new(routes: &[Arc<RouteConfig>], unknown: Rate, parts: GatewayParts<P>) -> Arc<Self> {
        let auth_client = Arc::new(AuthClient::default());
        Arc::new(Self {
            active_routes: ArcSwap::from_pointee(ActiveRoutes::new(
                routes,
                None,
                &parts.instance_tls,
                &parts.metrics,
            )),
            unknown: UnknownNames::new(unknown),
            preflights: Preflights::default(),
            pseudonyms: Pseudonyms::default(),
            tls_listeners: TlsListeners::default(),
            key_fetcher: KeyFetcher::new(&auth_client),
            auth_client,
            parts,
        })
    }

    /// New requests use these routes; those under way keep theirs.
    pub fn set_routes(&self, routes: &[Arc<RouteConfig>]) {
        let before = self.active_routes.load();
        let (profiles, metrics) = (&self.parts.instance_tls, &self.parts.metrics);
        let active_routes = ActiveRoutes::new(routes, Some(&before), profiles, metrics);
        self.active_routes.store(Arc::new(active_routes));
        profiles.retain(routes);
    }

    /// Clients that have to come over TLS are sent to one of these addresses.
    pub fn set_tls_listeners(&self, addresses: Vec<SocketAddr>) {
        self.tls_listeners.set(addresses);
    }

    /// The instances that are to be kept awake, with their windows of time.
    pub fn warm_plans(&self) -> Vec<WarmPlan> {
        let active_routes = self.active_routes.load();
        let plans = active_routes.table.all().filter_map(|route| {
            let config = route.config();
            Some(WarmPlan {
                plane: config.plane,
                instance: route.fixed_instance()?.clone(),
                route: Arc::clone(route.label()),
                rules: config.wake.clone(),
                windows: config.keep_warm.clone(),
            })
        });
        plans.filter(|plan| !plan.windows.is_empty()).collect()
    }

    /// The route whose workload is told before its instance is put to sleep: one of this instance
    /// alone before one of many.
    pub fn standby_hook<S>(
        &self,
        plane: PlaneIndex,
        instance: &Instance<S>,
    ) -> Option<Arc<RouteConfig>> {
        let active_routes = self.active_routes.load();
        let routes = active_routes.table.all().filter(|route| {
            let config = route.config();
            let is_own = route
                .fixed_instance()
                .is_none_or(|name| instance.is_meant_by(name));
            config.plane == plane && config.wake.hooks.before_standby.is_some() && is_own
        });
        let route = routes.min_by_key(|route| (route.fixed_instance().is_none(), route.index));
        route.map(|route| Arc::clone(route.config()))
    }

    /// The parts that the gateway is made of.
    pub fn parts(&self) -> &GatewayParts<P> {
        &self.parts
    }

    /// Forgets what is too old to matter.
    pub fn upkeep(&self) {
        self.active_routes.load().upkeep();
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
