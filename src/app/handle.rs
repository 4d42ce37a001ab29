//! A running gateway, and what may change while it runs.
//!
//! Guarantees: a reload is done whole or not at all; requests and connections under way stay as
//! they are; what control planes declare is served as far as it can be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::AppError;
use super::fleet::{FleetParts, beside};
use super::membership::Membership;
use super::plane::ObservedPlane;
use super::prepared::tls_problem;
use super::service::GatewayService;
use super::sockets::Sockets;
use crate::acme::Acme;
use crate::admin::Timeline;
use crate::config::{
    Config, ConfigError, InstanceTemplate, ListenerConfig, RouteConfig, ServerConfig,
    address_problems,
};
use crate::drain::Drain;
use crate::keep_warm::WarmPlan;
use crate::names::PlaneIndex;
use crate::proxy::Gateway;
use crate::router::{Declared, RouteChange};
use crate::telemetry::ReloadOutcome;
use crate::wake::{Instance, WakeReport};
use crate::workload::Holds;

/// Changes a running gateway.
#[derive(Debug, Clone)]
pub struct AppHandle(pub(super) Arc<Running>);

/// What a running gateway is made of.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) config: Mutex<Config>,
    /// The routes and ports that the control planes declare.
    pub(super) declared: Mutex<Declared>,
    pub(super) gateway: Arc<Gateway<hypeman::Client>>,
    pub(super) plans: watch::Sender<Vec<WarmPlan>>,
    /// Orders certificates, where listeners want them by ACME.
    pub(super) acme: Option<Arc<Acme>>,
    pub(super) sockets: Sockets,
    /// The address at which operators reach it.
    pub(super) admin: SocketAddr,
    /// The address at which workloads reach it, if they may.
    pub(super) door: Option<SocketAddr>,
    /// The holds by which workloads keep their instances awake.
    pub(super) holds: Arc<Holds>,
    pub(super) server: Arc<ArcSwap<ServerConfig>>,
    pub(super) planes: Vec<ObservedPlane>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) started: (jiff::Timestamp, Instant),
    pub(super) drain: Drain,
    pub(super) asked_to_drain: CancellationToken,
    /// Its place in a fleet, and where it listens for other members.
    /// Its copy of the fleet's directory, if it is in a fleet.
    pub(super) fleet: OnceLock<FleetParts>,
    pub(super) membership: OnceLock<(Membership, Option<SocketAddr>)>,
    /// The source of the configuration, when it is to be loaded again.
    pub(super) source: OnceLock<Source>,
}

/// What became of what the control planes ask for.
#[derive(Debug, Default)]
pub(super) struct Declaration {
    /// It differs from what they asked for before.
    pub(super) is_new: bool,
    /// What cannot be served, and why not.
    pub(super) problems: Vec<String>,
}

/// Loads the configuration again, or says why it cannot.
type Load = dyn Fn() -> Result<Config, String> + Send + Sync;

pub(super) struct Source(Box<Load>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// The key whose change a gateway that runs with `current` cannot take over from `config`.
pub fn needs_restart(current: &Config, config: &Config) -> Option<&'static str> {
    let same = [
        ("hypeman", current.hypeman == config.hypeman),
        ("admin", current.admin == config.admin),
        ("wake", current.wake.is_like(&config.wake)),
        ("log", current.log == config.log),
        ("metrics", current.metrics == config.metrics),
        ("tickets", current.tickets == config.tickets),
        ("fleet", current.fleet == config.fleet),
        ("acme", current.acme == config.acme),
        ("acme", current.uses_acme() == config.uses_acme()),
        ("tracing", current.tracing == config.tracing),
        ("ingress", current.ingress == config.ingress),
        ("workload", current.workload == config.workload),
        (
            "server.workers",
            current.server.workers == config.server.workers,
        ),
        ("server.watch", current.server.watch == config.server.watch),
    ];
    same.iter().find(|(_, same)| !same).map(|(key, _)| *key)
}

/// The sockets that `declared` needs besides those of `config`.
fn declared_listeners(declared: &Declared, config: &Config) -> Vec<ListenerConfig> {
    let configured = |port: u16| {
        let mut ports = config
            .listener
            .iter()
            .map(|listener| listener.address.port());
        ports.any(|other| other == port)
    };
    let missing = declared
        .ports
        .iter()
        .filter(|(port, _)| !configured(**port));
    missing
        .map(|(port, tls)| ListenerConfig {
            address: SocketAddr::new(config.ingress.address, *port),
            tls: config.ingress.tls.clone().filter(|_| *tls),
            ..ListenerConfig::default()
        })
        .collect()
}

// === impl AppHandle ===

impl AppHandle {
    /// Every wake that ends from now on.
    pub fn wake_reports(&self) -> broadcast::Receiver<WakeReport> {
        self.0.gateway.parts().wakes.reports()
    }

    /// New connections get the certificates, and the keys of tickets, that are in the files now; an
    /// error is logged for those that cannot be used.
    pub fn refresh_certificates(&self) {
        if let Some(tickets) = &self.0.sockets.tls.tickets {
            tickets.refresh();
        }
        if let Some(acme) = &self.0.acme {
            acme.refresh();
        }
        let membership = self.0.membership.get();
        if let Some(identity) = membership.and_then(|(membership, _)| membership.identity.as_ref())
        {
            match identity.refresh() {
                Ok(true) => tracing::info!(?identity, "a new identity in the fleet"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the old identity in the fleet stays"),
            }
        }
        let mut expiries = BTreeMap::new();
        for (address, certificates) in self.0.sockets.certificates() {
            match certificates.refresh() {
                Ok(true) => tracing::info!(%address, ?certificates, "new certificates"),
                Ok(false) => {}
                Err(error) => tracing::error!(%address, %error, "the old certificates stay"),
            }
            let not_after = certificates.not_after();
            expiries.extend(not_after.map(|not_after| (address, not_after)));
        }
        let (changed, errors) = self.0.gateway.parts().instance_tls.refresh();
        if changed > 0 {
            tracing::info!(changed, "new certificates for TLS to instances");
        }
        for error in errors {
            let key = error.key;
            tracing::error!(key, %error, "the old certificates for TLS to instances stay");
        }
        // Of the listeners that there are now: those of before have no certificate to expire.
        let metrics = &self.0.gateway.parts().metrics;
        metrics.set_certificate_expiries(expiries);
    }

    /// The gateway does as `config` says from now on; requests and connections under way stay as
    /// they are. All of it is done, or nothing.
    pub fn reload(&self, config: &Config) -> Result<(), AppError> {
        let running = &*self.0;
        let mut current = running
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = needs_restart(&current, config) {
            return Err(AppError::NeedsRestart(key));
        }
        let mut problems = address_problems(config);
        let profiles = &running.gateway.parts().instance_tls;
        if let Err(errors) = profiles.load(&config.route) {
            problems.extend(errors.into_iter().map(tls_problem));
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems }.into());
        }
        let declared = running
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let service = running.service();
        let more = declared_listeners(&declared, config);
        let reuse_port = config.server.reuse_port;
        let sockets = &running.sockets;
        sockets.change(&config.listener, &more, reuse_port, &service)?;
        self.refresh_certificates();
        sockets.shared.resize(config.server.max_connections);
        let buffers = config.server.max_buffered_bytes.0;
        sockets.shared.buffers.set_limit(buffers);
        running.server.store(Arc::new(config.server.clone()));
        let parts = running.gateway.parts();
        parts.upstream.change(&config.upstream);
        parts.hold.change(&config.wake);
        parts.response.store(Arc::new(config.response.clone()));
        running.use_routes(config, &declared);
        *current = config.clone();
        Ok(())
    }

    /// What was known of the fleet last is in force.
    pub(super) fn use_fleet_routes(&self) {
        let running = &*self.0;
        let config = running
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let declared = running
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.use_routes(&config, &declared);
    }

    /// Sets the source of the configuration, for whoever asks for it to be loaded again.
    pub fn set_source(&self, load: impl Fn() -> Result<Config, String> + Send + Sync + 'static) {
        // It is set once, when the gateway is started.
        let _first = self.0.source.set(Source(Box::new(load)));
    }

    /// Loads the configuration again and takes it: all of it, or nothing. Blocks while it reads.
    pub fn reload_from_source(&self) -> Result<(), String> {
        let Some(Source(load)) = self.0.source.get() else {
            return Err("this gateway was started without a configuration to load".to_owned());
        };
        let result = load().and_then(|config| {
            let reloaded = self.reload(&config);
            reloaded.map_err(|error| error.to_string())
        });
        let metrics = &self.0.gateway.parts().metrics;
        match &result {
            Ok(()) => {
                metrics.count_reload(ReloadOutcome::Ok);
                tracing::info!("reloaded");
            }
            Err(problem) => {
                metrics.count_reload(ReloadOutcome::Failed);
                tracing::error!(%problem, "not reloaded; the old configuration stays");
            }
        }
        result
    }

    pub(super) fn declared_routes(&self) -> Vec<Arc<RouteConfig>> {
        let declared = self.0.declared.lock();
        let declared = declared.unwrap_or_else(PoisonError::into_inner);
        declared.routes.clone()
    }

    /// The configuration that is in force.
    pub(super) fn config(&self) -> Config {
        let config = self.0.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves what the control planes ask for, as far as it can, unless all of it is served
    /// already.
    pub(super) fn declare(&self, requested: Declared) -> Declaration {
        let running = &*self.0;
        let config = running
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut declared = running
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = *declared != requested;
        let more = declared_listeners(&requested, &config);
        if !is_new && running.sockets.has_all(&more) {
            return Declaration::default();
        }
        let change = RouteChange::between(&declared.routes, &requested.routes);
        // A route of the directory that one of these stands before may come, or go, with it.
        let change = change.filter(|change| !running.is_in_fleet(change));
        *declared = requested;
        let service = running.service();
        let reuse_port = config.server.reuse_port;
        let changed = running
            .sockets
            .change(&config.listener, &more, reuse_port, &service);
        running.note_own_listeners();
        match change {
            // No resource says when an instance is kept awake, so there is nothing else to tell.
            Some(change) if is_new => running.gateway.change_routes(&change),
            None if is_new => running.use_routes(&config, &declared),
            Some(_) | None => {}
        }
        let problems = match changed {
            Ok(problems) => problems.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        Declaration { is_new, problems }
    }
}

// === impl Running ===

impl Running {
    /// Tells the engine where the gateway itself listens, and redirects where it does so with TLS.
    pub(super) fn note_own_listeners(&self) {
        self.gateway.set_tls_listeners(self.sockets.https());
        let mut addresses = self.sockets.addresses();
        addresses.push(self.admin);
        addresses.extend(self.door);
        let members = self.membership.get();
        addresses.extend(members.and_then(|(_, address)| *address));
        let wakes = &self.gateway.parts().wakes;
        wakes.own_listeners().set(addresses);
    }

    /// Whether there is an API key for a control plane.
    pub(super) fn has_key(&self, plane: PlaneIndex) -> bool {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let plane = config.hypeman.get(usize::from(plane.0));
        plane.is_some_and(|plane| plane.api_key.is_some() || plane.api_key_file.is_some())
    }

    /// What answers the listeners' clients.
    pub(super) fn service(&self) -> GatewayService {
        GatewayService {
            gateway: Arc::clone(&self.gateway),
            acme: self.acme.clone(),
        }
    }

    /// Certificates are for these routes' names from now on.
    pub(super) fn set_acme_names(&self, config: &Config, declared: &[Arc<RouteConfig>]) {
        let Some(acme) = &self.acme else { return };
        let routes = config.route.iter().chain(declared);
        let names = routes.filter_map(|route| route.acme_name().map(str::to_owned));
        acme.set_names(names.collect());
    }

    /// The route whose workload is told before its instance is put to sleep: one of this instance
    /// alone before one of many.
    pub(super) fn standby_hook<S>(
        &self,
        plane: PlaneIndex,
        instance: &Instance<S>,
    ) -> Option<Arc<RouteConfig>> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let declared = self.declared.lock();
        let declared = declared.unwrap_or_else(PoisonError::into_inner);
        let routes = config.route.iter().chain(&declared.routes);
        let routes = routes.filter(|route| {
            let is_its = match &route.instance {
                InstanceTemplate::Fixed(name) => instance.is_meant_by(name),
                InstanceTemplate::Capture(_) => true,
            };
            route.plane == plane && route.wake.hooks.before_standby.is_some() && is_its
        });
        let first =
            routes.min_by_key(|route| !matches!(route.instance, InstanceTemplate::Fixed(_)));
        first.cloned()
    }

    /// Whether the directory has one of these routes, too, for the same port.
    fn is_in_fleet(&self, change: &RouteChange) -> bool {
        let mut all = change.removed.iter().chain(&change.added);
        let fleet = self.fleet.get();
        fleet.is_some_and(|fleet| all.any(|route| fleet.directory.serves(&route.key())))
    }

    /// The directory's routes that none of the file, and none of these that are declared, goes before.
    pub(super) fn fleet_routes(
        &self,
        config: &Config,
        declared: &[Arc<RouteConfig>],
    ) -> Vec<Arc<RouteConfig>> {
        let Some(fleet) = self.fleet.get() else {
            return Vec::new();
        };
        let change = RouteChange {
            added: fleet.directory.routes(),
            ..RouteChange::default()
        };
        beside(change, config, declared).added
    }

    pub(super) fn use_routes(&self, config: &Config, declared: &Declared) {
        let of_fleet = self.fleet_routes(config, &declared.routes);
        let routes = config.route.iter().chain(&of_fleet).chain(&declared.routes);
        let routes: Vec<Arc<RouteConfig>> = routes.cloned().collect();
        self.gateway.set_routes(&routes);
        let named: Vec<_> = of_fleet.iter().chain(&declared.routes).cloned().collect();
        self.set_acme_names(config, &named);
        self.plans.send_replace(self.gateway.warm_plans());
        self.note_own_listeners();
    }
}
