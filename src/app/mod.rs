//! The composition root: from a configuration to a running gateway.
//!
//! Guarantees: every socket is bound before anything is started; tasks are on a tracker; the end is
//! a drain, after which a wake that is under way has its answer.

mod ingress;
mod observer;
mod operator;
mod sockets;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::observer::ObservedPlane;
use self::sockets::{Bound, Sockets};
use crate::admin::{Admin, Timeline};
use crate::config::{Config, RouteConfig, ServerConfig};
use crate::drain::Drain;
use crate::hold::Hold;
use crate::keep_warm::{WarmPlan, keep_warm};
use crate::listener::{
    self, Downstream, ExtraHeaders, Inherited, RawConnection, Service, Shared, TlsError, TlsSession,
};
use crate::proxy::{Arrival, ConnectionCache, Gateway, GatewayBody, GatewayParts, RawKind};
use crate::router::Declared;
use crate::telemetry::{AccessSink, Metrics, ReloadOutcome, Tracer, TracerError};
use crate::upstream::Upstream;
use crate::wake::{Tcp, WakeReport, Wakes};
use hypeman::{ClientBuildError, HypemanClient};

const UPKEEP: Duration = Duration::from_secs(5);
/// Samples of a busy quarter of a second are folded in a millisecond or two.
const FOLDING: Duration = Duration::from_millis(250);

/// The gateway cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A socket.
    #[error("cannot listen at {address}: {source}; choose another with `{flag}` or `{key}`")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// The key that changes it.
        key: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A listener's certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A control plane's client cannot be made.
    #[error("[[hypeman]] `{name}`: {source}")]
    Client {
        /// The control plane's configured name.
        name: String,
        /// What is wrong with its configuration.
        source: ClientBuildError,
    },
    /// Sockets that another process left to this one.
    #[error("the sockets of LISTEN_FDS cannot be used: {0}")]
    Inherited(std::io::Error),
    /// Spans.
    #[error(transparent)]
    Tracer(#[from] TracerError),
    /// A reload would change what needs a restart.
    #[error("`{0}` can only change with a restart, so nothing was changed")]
    NeedsRestart(&'static str),
}

/// A gateway that has its sockets.
#[derive(Debug)]
pub struct App {
    running: AppHandle,
    bound: Vec<Bound>,
    admin: TcpListener,
    admin_address: SocketAddr,
    drain: Drain,
    background: TaskTracker,
    stop: CancellationToken,
}

/// Changes a running gateway.
#[derive(Debug, Clone)]
pub struct AppHandle(Arc<Running>);

#[derive(Debug)]
struct Running {
    config: Mutex<Config>,
    /// What the control planes ask for besides.
    declared: Mutex<Declared>,
    gateway: Arc<Gateway<HypemanClient>>,
    plans: watch::Sender<Vec<WarmPlan>>,
    sockets: Sockets,
    server: Arc<ArcSwap<ServerConfig>>,
    planes: Vec<ObservedPlane>,
    timeline: Arc<Timeline>,
    started: (jiff::Timestamp, Instant),
    drain: Drain,
    asked_to_drain: CancellationToken,
    /// Where the configuration comes from when it is to be loaded again.
    source: OnceLock<Source>,
}

/// Loads the configuration again; says why it cannot.
type Load = dyn Fn() -> Result<Config, String> + Send + Sync;

struct Source(Box<Load>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

#[derive(Clone)]
struct Front(Arc<Gateway<HypemanClient>>);

impl ExtraHeaders for GatewayBody {
    fn extra_headers(&self, say: impl FnMut(&HeaderName, &HeaderValue)) {
        self.extra_headers(say);
    }
}

impl Service for Front {
    type ConnectionCache = ConnectionCache;
    type Body = GatewayBody;

    fn on_client_hello(&self, sni: &str, client: IpAddr, port: u16) {
        self.0.on_client_hello(sni, client, port);
    }

    async fn call(
        &self,
        request: Request<Option<Incoming>>,
        (from, cache): &(Downstream, ConnectionCache),
    ) -> Response<GatewayBody> {
        let covers = |host: &str| from.tls.as_ref().is_none_or(|tls| tls.covers(host));
        let arrival = Arrival {
            client: from.client,
            local: from.local,
            secure: from.tls.is_some(),
            covers: &covers,
            certificate: from.tls.as_ref().and_then(TlsSession::client_certificate),
            interim: from.interim.as_ref(),
            cache,
        };
        Arc::clone(&self.0).handle(request, &arrival).await
    }

    async fn proxy_tcp(&self, connection: RawConnection) {
        let RawConnection {
            stream,
            host,
            tls,
            from,
        } = connection;
        let kind = if tls { RawKind::Tls } else { RawKind::Tcp };
        let arrival = Arrival {
            client: from.client,
            local: from.local,
            secure: tls,
            covers: &|_| true,
            certificate: None,
            interim: None,
            cache: &ConnectionCache::default(),
        };
        self.0.proxy_tcp(stream, &host, kind, &arrival).await;
    }
}

// === impl App ===

impl App {
    /// Binds every socket and builds everything; serves nothing yet.
    pub async fn bind(config: Config, access: AccessSink) -> Result<Self, AppError> {
        Self::bind_with(config, access, Inherited::default()).await
    }

    /// The same, with sockets that another process left to this one.
    pub async fn bind_with(
        config: Config,
        access: AccessSink,
        mut inherited: Inherited,
    ) -> Result<Self, AppError> {
        let reuse_port = config.server.reuse_port;
        let bound = config
            .listener
            .iter()
            .map(|listener| sockets::bind(listener, &mut inherited, reuse_port));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let (admin, admin_address) = bind_admin(&config, &mut inherited).await?;
        for address in inherited.left() {
            tracing::warn!(%address, "no `listener.address` is that of this socket of LISTEN_FDS");
        }

        let metrics = Arc::new(Metrics::with_max_routes(config.metrics.max_routes));
        metrics.set_loaded(jiff::Timestamp::now());
        let tracer = Tracer::new(&config.tracing, &metrics)?;
        let planes = config.hypeman.iter().map(|plane| {
            let observer = Arc::clone(&metrics);
            let client = HypemanClient::with_observer(&plane.to_client_config(), observer);
            Ok::<_, AppError>(ObservedPlane {
                name: plane.name.clone(),
                url: plane.url.clone(),
                client: client.map_err(|source| AppError::Client {
                    name: plane.name.clone(),
                    source,
                })?,
                seen: ArcSwap::default(),
            })
        });
        let planes = planes.collect::<Result<Vec<_>, _>>()?;
        let (drain, background, stop) = (
            Drain::default(),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        let server = Arc::new(ArcSwap::from_pointee(config.server.clone()));
        let shared = Shared::new(Arc::clone(&server), Arc::clone(&metrics), drain.clone());
        let wakes = Wakes::new(
            planes.iter().map(|plane| plane.client.clone()).collect(),
            Tcp,
            config.wake.clone(),
            &metrics,
            background.clone(),
            &stop,
        );
        let unknown = config.wake.unknown_per_client;
        let parts = GatewayParts {
            wakes,
            hold: Hold::new(&config.wake, Arc::clone(&metrics)),
            upstream: Upstream::new(
                config.upstream.clone(),
                TaskTracker::new(),
                Arc::clone(&metrics),
            ),
            response: ArcSwap::from_pointee(config.response.clone()),
            server: Arc::clone(&server),
            metrics,
            access: Arc::new(access),
            tracer,
            max_hold: config.wake.max_hold,
            tunnels: drain.served().clone(),
            cut: drain.cut().clone(),
        };
        let gateway = Gateway::new(&config.route, unknown, parts);
        let running = Running {
            plans: watch::Sender::new(gateway.warm_plans()),
            sockets: Sockets::new(shared, background.clone()),
            config: Mutex::new(config),
            declared: Mutex::default(),
            gateway,
            server,
            planes,
            timeline: Arc::default(),
            started: (jiff::Timestamp::now(), Instant::now()),
            drain: drain.clone(),
            asked_to_drain: CancellationToken::new(),
            source: OnceLock::new(),
        };
        Ok(Self {
            running: AppHandle(Arc::new(running)),
            bound,
            admin,
            admin_address,
            drain,
            background,
            stop,
        })
    }

    /// Where clients reach it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound
            .iter()
            .map(|bound| bound.listener().address())
            .collect()
    }

    /// Where operators reach it.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Every wake that ends from now on.
    pub fn wake_reports(&self) -> broadcast::Receiver<WakeReport> {
        self.running.wake_reports()
    }

    /// What changes it while it runs.
    pub fn handle(&self) -> AppHandle {
        self.running.clone()
    }

    /// Serves until `shutdown`, then drains. Returns whether everything ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> bool {
        let running = &self.running.0;
        let parts = running.gateway.parts();
        for bound in self.bound {
            let front = Front(Arc::clone(&running.gateway));
            running.sockets.serve(bound, front);
        }
        let config = self.running.config();
        let admin = Admin::new(
            &config.admin,
            self.admin_address,
            Arc::new(self.running.clone()),
            Arc::clone(&parts.metrics),
            Arc::clone(&running.timeline),
            self.drain.clone(),
        );
        let watchers = admin.watchers();
        let serving = admin.serve(self.admin, self.background.clone());
        self.background.spawn(serving);
        let (handle, draining) = (self.running.clone(), self.drain.draining().clone());
        self.background.spawn(async move {
            let following = observer::follow(handle);
            draining.run_until_cancelled(following).await.unwrap_or(());
        });
        if config.admin.observe {
            let (handle, draining) = (self.running.clone(), self.drain.draining().clone());
            self.background.spawn(async move {
                let observing = observer::observe(handle, watchers);
                draining.run_until_cancelled(observing).await.unwrap_or(());
            });
        }
        let (handle, stop) = (self.running.clone(), self.stop.clone());
        self.background.spawn(async move {
            let upkeep = async {
                loop {
                    tokio::time::sleep(UPKEEP).await;
                    handle.0.gateway.upkeep();
                    let certificates = handle.clone();
                    let looking = spawn_blocking(move || certificates.refresh_certificates());
                    if let Err(error) = looking.await {
                        tracing::error!(%error, "the old certificates stay");
                    }
                }
            };
            stop.run_until_cancelled(upkeep).await.unwrap_or(());
        });
        let (metrics, stop) = (Arc::clone(&parts.metrics), self.stop.clone());
        self.background.spawn(async move {
            let folding = async {
                loop {
                    tokio::time::sleep(FOLDING).await;
                    let metrics = Arc::clone(&metrics);
                    // Beside the requests, not between two of them.
                    if spawn_blocking(move || metrics.upkeep()).await.is_err() {
                        return;
                    }
                }
            };
            stop.run_until_cancelled(folding).await.unwrap_or(());
        });
        let (wakes, draining) = (Arc::clone(&parts.wakes), self.drain.draining().clone());
        let plans = running.plans.subscribe();
        self.background.spawn(async move {
            let warm = keep_warm(wakes, plans, jiff::Timestamp::now);
            draining.run_until_cancelled(warm).await.unwrap_or(());
        });

        if config.ingress.watch {
            let draining = self.drain.draining().clone();
            let watch = ingress::watch(self.running.clone());
            self.background.spawn(async move {
                draining.run_until_cancelled(watch).await.unwrap_or(());
            });
        }

        self.running.refresh_certificates();
        tokio::select! {
            () = shutdown => {}
            () = running.asked_to_drain.cancelled() => {}
        }
        tracing::info!("draining");
        let limit = running.server.load().drain_timeout;
        let clean = self.drain.run(limit).await;
        self.stop.cancel();
        parts.upstream.close();
        self.background.close();
        self.background.wait().await;
        let tracer = parts.tracer.clone();
        if let Err(error) = spawn_blocking(move || tracer.shut_down()).await {
            tracing::warn!(%error, "the last spans were not sent");
        }
        clean
    }
}

async fn bind_admin(
    config: &Config,
    inherited: &mut Inherited,
) -> Result<(TcpListener, SocketAddr), AppError> {
    let address = config.admin.address;
    let failed = |source| AppError::Bind {
        address,
        flag: "--admin-listen",
        key: "admin.address",
        source,
    };
    let admin = match inherited.take(address) {
        Some(socket) => {
            socket.set_nonblocking(true).map_err(failed)?;
            TcpListener::from_std(socket).map_err(failed)?
        }
        None if config.server.reuse_port => listener::bind(address, true).map_err(failed)?,
        None => TcpListener::bind(address).await.map_err(failed)?,
    };
    let address = admin.local_addr().map_err(failed)?;
    Ok((admin, address))
}

// === impl AppHandle ===

impl AppHandle {
    /// Every wake that ends from now on.
    pub fn wake_reports(&self) -> broadcast::Receiver<WakeReport> {
        self.0.gateway.parts().wakes.reports()
    }

    /// New connections get the certificates that are in the files now; what cannot be used is told
    /// of.
    pub fn refresh_certificates(&self) {
        for (address, certificates) in self.0.sockets.certificates() {
            if let Some(not_after) = certificates.not_after() {
                let metrics = &self.0.gateway.parts().metrics;
                metrics.set_certificate_expiry(address, not_after);
            }
            match certificates.refresh() {
                Ok(true) => tracing::info!(?certificates, "new certificates"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the old certificates stay"),
            }
        }
    }

    /// The gateway does as `config` says from now on; requests and connections under way stay as
    /// they are. All of it is done, or nothing.
    pub fn reload(&self, config: &Config) -> Result<(), AppError> {
        let running = &*self.0;
        let mut current = running
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let same = [
            ("hypeman", current.hypeman == config.hypeman),
            ("admin", current.admin == config.admin),
            ("wake", current.wake.is_like(&config.wake)),
            ("log", current.log == config.log),
            ("metrics", current.metrics == config.metrics),
            ("tracing", current.tracing == config.tracing),
            ("ingress", current.ingress == config.ingress),
        ];
        if let Some((key, _)) = same.iter().find(|(_, same)| !same) {
            return Err(AppError::NeedsRestart(key));
        }
        let declared = running
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let front = Front(Arc::clone(&running.gateway));
        let more = ingress::listeners(&declared, config);
        let reuse_port = config.server.reuse_port;
        let sockets = &running.sockets;
        sockets.change(&config.listener, &more, reuse_port, &front)?;
        self.refresh_certificates();
        sockets.shared.resize(config.server.max_connections);
        running.server.store(Arc::new(config.server.clone()));
        let parts = running.gateway.parts();
        parts.upstream.change(&config.upstream);
        parts.hold.change(&config.wake);
        parts.response.store(Arc::new(config.response.clone()));
        running.use_routes(config, &declared);
        *current = config.clone();
        Ok(())
    }

    /// Where the configuration is loaded from, whoever asks for it to be loaded again.
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

    fn declared_routes(&self) -> Vec<Arc<RouteConfig>> {
        let declared = self.0.declared.lock();
        let declared = declared.unwrap_or_else(PoisonError::into_inner);
        declared.routes.clone()
    }

    /// What is in force.
    fn config(&self) -> Config {
        let config = self.0.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves what the control planes ask for, as far as it can; returns what it cannot.
    fn declare(&self, wanted: Declared) -> Vec<String> {
        let running = &*self.0;
        let config = running
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut declared = running
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *declared = wanted;
        let front = Front(Arc::clone(&running.gateway));
        let more = ingress::listeners(&declared, &config);
        let reuse_port = config.server.reuse_port;
        let changed = running
            .sockets
            .change(&config.listener, &more, reuse_port, &front);
        running.use_routes(&config, &declared);
        match changed {
            Ok(problems) => problems.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        }
    }
}

// === impl Running ===

impl Running {
    fn use_routes(&self, config: &Config, declared: &Declared) {
        let routes = config.route.iter().chain(&declared.routes);
        let routes: Vec<Arc<RouteConfig>> = routes.cloned().collect();
        self.gateway.set_routes(&routes);
        self.plans.send_replace(self.gateway.warm_plans());
    }
}
