//! The composition root: from a configuration to a running gateway.
//!
//! Guarantees: every socket is bound before anything is started; tasks are on a tracker; the end is
//! a drain, after which a wake that is under way has its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::config::Config;
use crate::drain::Drain;
use crate::hold::Hold;
use crate::hypeman::{ClientBuildError, HypemanClient};
use crate::listener::{Certificates, Downstream, Listener, Service, TlsError};
use crate::proxy::{Arrival, Gateway, GatewayBody, GatewayParts};
use crate::telemetry::{AccessSink, Metrics};
use crate::upstream::Upstream;
use crate::wake::{Tcp, WakeReport, Wakes, WarmPlan, keep_warm};

const UPKEEP: Duration = Duration::from_secs(5);

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
    /// A control plane's client.
    #[error(transparent)]
    Client(#[from] ClientBuildError),
    /// A reload would change what needs a restart.
    #[error("only `route` can change without a restart; `{0}` differs, so nothing was changed")]
    NeedsRestart(&'static str),
}

/// A gateway that has its sockets.
#[derive(Debug)]
pub struct App {
    config: Config,
    listeners: Vec<Listener>,
    admin: TcpListener,
    admin_address: SocketAddr,
    gateway: Arc<Gateway<HypemanClient>>,
    plans: Arc<watch::Sender<Vec<WarmPlan>>>,
    certificates: Arc<[Arc<Certificates>]>,
    drain: Drain,
    background: TaskTracker,
    stop: CancellationToken,
}

/// Changes a running gateway.
#[derive(Debug, Clone)]
pub struct AppHandle {
    config: Config,
    gateway: Arc<Gateway<HypemanClient>>,
    plans: Arc<watch::Sender<Vec<WarmPlan>>>,
    certificates: Arc<[Arc<Certificates>]>,
}

#[derive(Clone)]
struct Front(Arc<Gateway<HypemanClient>>);

impl Service for Front {
    type Body = GatewayBody;

    fn greet(&self, sni: &str, client: IpAddr) {
        self.0.greet(sni, client);
    }

    async fn call(&self, request: Request<Incoming>, from: Downstream) -> Response<GatewayBody> {
        let covers = |host: &str| from.tls.as_ref().is_none_or(|tls| tls.covers(host));
        let arrival = Arrival {
            client: from.client,
            secure: from.tls.is_some(),
            covers: &covers,
        };
        Arc::clone(&self.0).handle(request, &arrival).await
    }
}

// === impl App ===

impl App {
    /// Binds every socket and builds everything; serves nothing yet.
    pub async fn bind(config: Config, access: AccessSink) -> Result<Self, AppError> {
        let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
        for listener in &config.listener {
            let address = listener.address;
            let tls = listener.tls.clone().map(Certificates::load).transpose()?;
            certificates.extend(tls.clone());
            let bound = Listener::bind(address, tls).map_err(|source| AppError::Bind {
                address,
                flag: "--listen",
                key: "listener.address",
                source,
            });
            listeners.push(bound?);
        }
        let address = config.admin.address;
        let failed = |source| AppError::Bind {
            address,
            flag: "--admin-listen",
            key: "admin.address",
            source,
        };
        let admin = TcpListener::bind(address).await.map_err(failed)?;
        let admin_address = admin.local_addr().map_err(failed)?;

        let metrics = Arc::new(Metrics::new());
        let planes = config
            .hypeman
            .iter()
            .map(|plane| HypemanClient::new(plane, Arc::clone(&metrics)));
        let planes = planes.collect::<Result<Vec<_>, _>>()?;
        let (drain, background, stop) = (
            Drain::default(),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        let wakes = Wakes::new(
            planes,
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
            response: config.response.clone(),
            trusted_proxies: config.server.trusted_proxies.clone(),
            metrics,
            access: Arc::new(access),
            max_hold: config.wake.max_hold,
            tunnels: drain.served().clone(),
            cut: drain.cut().clone(),
        };
        let gateway = Gateway::new(&config.route, unknown, parts);
        let plans = Arc::new(watch::Sender::new(gateway.warm_plans()));
        Ok(Self {
            config,
            listeners,
            admin,
            admin_address,
            gateway,
            plans,
            certificates: certificates.into(),
            drain,
            background,
            stop,
        })
    }

    /// Where clients reach it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Where operators reach it.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Every wake that ends from now on.
    pub fn wake_reports(&self) -> broadcast::Receiver<WakeReport> {
        self.gateway.parts().wakes.reports()
    }

    /// What changes it while it runs.
    pub fn handle(&self) -> AppHandle {
        AppHandle {
            config: self.config.clone(),
            gateway: Arc::clone(&self.gateway),
            plans: Arc::clone(&self.plans),
            certificates: Arc::clone(&self.certificates),
        }
    }

    /// Serves until `shutdown`, then drains. Returns whether everything ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> bool {
        let parts = self.gateway.parts();
        let server = Arc::new(self.config.server.clone());
        let permits = Arc::new(Semaphore::new(
            server.max_connections.min(Semaphore::MAX_PERMITS),
        ));
        for listener in self.listeners {
            let (front, server) = (Front(Arc::clone(&self.gateway)), Arc::clone(&server));
            let (permits, metrics) = (Arc::clone(&permits), Arc::clone(&parts.metrics));
            let serve = listener.serve(front, server, permits, metrics, self.drain.clone());
            self.background.spawn(serve);
        }
        let admin = Admin {
            metrics: Arc::clone(&parts.metrics),
            access: Arc::clone(&parts.access),
            ledger: parts.wakes.ledger(),
            drain: self.drain.clone(),
        };
        self.background.spawn(async move {
            if let Err(error) = admin.serve(self.admin).await {
                tracing::error!(%error, "the admin listener broke off");
            }
        });
        let (gateway, stop) = (Arc::clone(&self.gateway), self.stop.clone());
        let certificates = Arc::clone(&self.certificates);
        self.background.spawn(async move {
            let upkeep = async {
                loop {
                    tokio::time::sleep(UPKEEP).await;
                    gateway.upkeep();
                    renew(&certificates);
                }
            };
            stop.run_until_cancelled(upkeep).await.unwrap_or(());
        });
        let (wakes, draining) = (Arc::clone(&parts.wakes), self.drain.draining().clone());
        let plans = self.plans.subscribe();
        self.background.spawn(async move {
            let warm = keep_warm(wakes, plans, jiff::Timestamp::now);
            draining.run_until_cancelled(warm).await.unwrap_or(());
        });

        shutdown.await;
        tracing::info!("draining");
        let clean = self.drain.run(self.config.server.drain_timeout).await;
        self.stop.cancel();
        parts.upstream.close();
        self.background.close();
        self.background.wait().await;
        clean
    }
}

/// New connections get the certificates that are in the files now; what cannot be used is told of.
fn renew(certificates: &[Arc<Certificates>]) {
    for certificates in certificates {
        match certificates.refresh() {
            Ok(true) => tracing::info!(?certificates, "new certificates"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the old certificates stay"),
        }
    }
}

// === impl AppHandle ===

impl AppHandle {
    /// Every wake that ends from now on.
    pub fn wake_reports(&self) -> broadcast::Receiver<WakeReport> {
        self.gateway.parts().wakes.reports()
    }

    /// New connections get the certificates that are in the files now.
    pub fn refresh_certificates(&self) {
        renew(&self.certificates);
    }

    /// New requests use the routes of `config`; everything else must be as it was.
    pub fn reload(&self, config: &Config) -> Result<(), AppError> {
        let old = &self.config;
        let same = [
            ("server", old.server == config.server),
            ("wake", old.wake == config.wake),
            ("upstream", old.upstream == config.upstream),
            ("response", old.response == config.response),
            ("log", old.log == config.log),
            ("admin", old.admin == config.admin),
            ("hypeman", old.hypeman == config.hypeman),
            ("listener", old.listener == config.listener),
        ];
        if let Some((key, _)) = same.iter().find(|(_, same)| !same) {
            return Err(AppError::NeedsRestart(key));
        }
        self.refresh_certificates();
        self.gateway.set_routes(&config.route);
        self.plans.send_replace(self.gateway.warm_plans());
        Ok(())
    }
}
