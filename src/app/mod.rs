//! The composition root: from a configuration to a running gateway.
//!
//! Guarantees: every socket is bound before anything is started; clients are served on the workers'
//! threads, and all else runs on the caller's runtime; tasks are on a tracker; the end is a drain,
//! after which a wake that is under way has its answer, and no worker is left.

mod error;
mod first_answer;
mod fleet;
mod fleet_member;
mod folding;
mod handle;
mod ingress;
mod membership;
mod observer;
mod operator;
mod parking;
mod plane;
mod prepared;
mod problems;
mod published;
mod service;
mod sockets;
mod standby;
mod workload;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::AppError;
use self::fleet::FleetParts;
pub use self::fleet::engine_of;
use self::handle::Running;
pub use self::handle::{AppHandle, needs_restart};
pub use self::membership::Membership;
use self::parking::InstanceSleeper;
pub use self::parking::{Judged, judge};
use self::plane::ObservedPlane;
pub use self::prepared::{IN_USE, Prepared};
use self::sockets::{Bound, Sockets};
use crate::acme::Acme;
use crate::admin::Admin;
use crate::config::Config;
use crate::drain::Drain;
use crate::fleet::Vault;
use crate::fleet::presence::Ending;
use crate::hold::Hold;
use crate::keep_warm::keep_warm;
use crate::listener::{self, Inherited, Listener, Shared};
use crate::proxy::{Gateway, GatewayParts};
use crate::telemetry::AccessSink;
use crate::upstream::Upstream;
use crate::wake::{Tcp, WakeReport, Wakes};
use crate::workers::{self, WorkerThreads};
use crate::workload::Door;

const UPKEEP: Duration = Duration::from_secs(5);

/// A gateway that has its sockets.
#[derive(Debug)]
pub struct App {
    running: AppHandle,
    bound: Vec<Bound>,
    admin: TcpListener,
    admin_address: SocketAddr,
    /// The socket of the workloads' door, if there is to be one.
    door: Option<TcpListener>,
    drain: Drain,
    background: TaskTracker,
    stop: CancellationToken,
    threads: WorkerThreads,
    /// The socket for other members of the fleet.
    members: Option<Listener>,
    /// What it shares with the other fronts of its fleet.
    vault: Option<Arc<Vault>>,
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
        inherited: Inherited,
    ) -> Result<Self, AppError> {
        let prepared = Prepared::new(&config)?;
        Self::bind_prepared(config, prepared, access, inherited).await
    }

    /// The same, of what this configuration was prepared to.
    pub async fn bind_prepared(
        config: Config,
        prepared: Prepared,
        access: AccessSink,
        mut inherited: Inherited,
    ) -> Result<Self, AppError> {
        let Prepared {
            listeners,
            clients,
            instance_tls,
            tls,
            holds,
            metrics,
            tracer,
            vault,
            ..
        } = prepared;
        let reuse_port = config.server.reuse_port;
        let all = || config.listener.iter().map(|listener| listener.address);
        let bound = config.listener.iter().zip(listeners);
        let bound = bound.map(|(listener, settings)| {
            sockets::bind(listener, settings, &mut inherited, reuse_port, all())
        });
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let (admin, admin_address) = bind_admin(&config, &mut inherited).await?;
        let door = bind_door(&config, &mut inherited)?;
        let fleet = config.fleet.clone();
        let parts_of_fleet = match &fleet {
            Some(fleet) => Some(FleetParts::new(&config, fleet)?),
            None => None,
        };
        let count = config.server.workers;
        let count = count.unwrap_or_else(workers::default_count);
        let threads = WorkerThreads::start(count);
        let threads = threads.map_err(|source| AppError::Workers(count, source))?;
        metrics.set_loaded(jiff::Timestamp::now());
        let planes = config.hypeman.iter().zip(clients);
        let planes = planes.map(|(plane, client)| ObservedPlane {
            name: plane.name.clone(),
            url: plane.url.clone(),
            client,
            last: ArcSwap::default(),
        });
        let planes: Vec<ObservedPlane> = planes.collect();
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
        let challenges = tls.acme.clone();
        let acme = challenges.clone().map(|store| {
            let metrics = Arc::clone(&metrics);
            Acme::new(config.acme.clone(), store, metrics)
        });
        let parts = GatewayParts {
            wakes,
            hold: Hold::new(&config.wake, Arc::clone(&metrics)),
            instance_tls: Arc::new(instance_tls),
            challenges,
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
            acme,
            sockets: Sockets::new(shared, tls, threads.workers().clone()),
            admin: admin_address,
            door: door.as_ref().map(|(_, address)| *address),
            holds,
            config: Mutex::new(config),
            declared: Mutex::default(),
            gateway,
            server,
            planes,
            timeline: Arc::default(),
            started: (jiff::Timestamp::now(), Instant::now()),
            drain: drain.clone(),
            asked_to_drain: CancellationToken::new(),
            membership: OnceLock::new(),
            fleet: OnceLock::new(),
            source: OnceLock::new(),
        };
        let running = Arc::new(running);
        running
            .gateway
            .set_sleeper(Arc::new(InstanceSleeper::of(&running)));
        let mut app = Self {
            running: AppHandle(running),
            bound,
            admin,
            admin_address,
            door: door.map(|(listener, _)| listener),
            drain,
            background,
            stop,
            threads,
            members: None,
            vault,
        };
        if let Some((fleet, parts)) = fleet.zip(parts_of_fleet) {
            app.join(parts.membership(&fleet), &mut inherited)?;
            let running = &app.running.0;
            // It is joined once.
            let _first = running.fleet.set(parts);
            app.running.use_fleet_routes();
        }
        for address in inherited.left() {
            tracing::warn!(%address, "no `listener.address` is that of this socket of LISTEN_FDS");
        }
        Ok(app)
    }

    /// Makes it a member of a fleet, with the socket for other members, before it serves anything;
    /// returns where that listens.
    pub fn join(
        &mut self,
        membership: Membership,
        inherited: &mut Inherited,
    ) -> Result<Option<SocketAddr>, AppError> {
        let running = &self.running.0;
        let config = self.running.config();
        self.members = membership.bind(config.server.reuse_port, inherited)?;
        running.gateway.join(membership.link(&config));
        let address = self.members.as_ref().map(Listener::address);
        // It is joined once.
        let _first = running.membership.set((membership, address));
        Ok(address)
    }

    /// The addresses at which clients reach it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound
            .iter()
            .map(|bound| bound.listener().address())
            .collect()
    }

    /// The address at which operators reach it.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The address at which workloads reach it, if they may.
    pub fn door_address(&self) -> Option<SocketAddr> {
        self.running.0.door
    }

    /// Every wake that ends from now on.
    pub fn wake_reports(&self) -> broadcast::Receiver<WakeReport> {
        self.running.wake_reports()
    }

    /// The handle that changes it while it runs.
    pub fn handle(&self) -> AppHandle {
        self.running.clone()
    }

    /// Serves until `shutdown`, then drains. Returns whether everything ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> bool {
        let running = &self.running.0;
        let parts = running.gateway.parts();
        // Before the first handshake, which would find no certificate.
        let config = self.running.config();
        running.set_acme_names(&config, &running.fleet_routes(&config, &[]));
        // Before the first request, which may be one to redirect.
        let https = self.bound.iter().filter_map(Bound::https).collect();
        running.gateway.set_tls_listeners(https);
        for bound in self.bound {
            let service = running.service();
            running.sockets.serve(bound, &service);
        }
        if let Some(members) = self.members {
            running.sockets.serve_members(members, &running.service());
        }
        running.note_own_listeners();
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
        if let Some(listener) = self.door {
            let door = Door::new(
                Arc::new(self.running.clone()),
                Arc::clone(&running.holds),
                Arc::clone(&parts.metrics),
                self.background.clone(),
                self.drain.cut().clone(),
            );
            self.background.spawn(door.clone().keep());
            self.background.spawn(door.serve(listener));
        }
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
        } else {
            let (handle, draining) = (self.running.clone(), self.drain.draining().clone());
            self.background.spawn(async move {
                let asking = first_answer::ask_once(handle);
                draining.run_until_cancelled(asking).await.unwrap_or(());
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
            stop.run_until_cancelled(folding::fold(metrics))
                .await
                .unwrap_or(());
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

        if let (Some(parts), Some(fleet)) = (running.fleet.get(), &config.fleet) {
            let listening = running.membership.get().and_then(|(_, address)| *address);
            let ending = Ending {
                draining: self.drain.draining().clone(),
                ended: self.stop.clone(),
            };
            let background = &self.background;
            fleet_member::run(parts, &self.running, fleet, listening, background, &ending);
        }

        if let Some(vault) = &self.vault {
            // An order may be under way while it drains.
            let sharing = fleet_member::share(Arc::clone(vault), self.running.clone());
            let (stop, vault) = (self.stop.clone(), Arc::clone(vault));
            self.background.spawn(async move {
                stop.run_until_cancelled(sharing).await.unwrap_or(());
                vault.let_go().await;
            });
        }

        if let Some(acme) = &running.acme {
            let (orders, draining) = (Arc::clone(acme).run(), self.drain.draining().clone());
            self.background.spawn(async move {
                draining.run_until_cancelled(orders).await.unwrap_or(());
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
        let (threads, tracer) = (self.threads, parts.tracer.clone());
        let ending = spawn_blocking(move || {
            // Of what was being served nothing is left, but for the ends of connections.
            drop(threads);
            tracer.shut_down();
        });
        if let Err(error) = ending.await {
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
        None if config.server.reuse_port => listener::bind(address, true, false).map_err(failed)?,
        None => TcpListener::bind(address).await.map_err(failed)?,
    };
    let address = admin.local_addr().map_err(failed)?;
    Ok((admin, address))
}

/// The socket of the workloads' door, if there is to be one.
fn bind_door(
    config: &Config,
    inherited: &mut Inherited,
) -> Result<Option<(TcpListener, SocketAddr)>, AppError> {
    let Some(address) = config.workload.address else {
        return Ok(None);
    };
    let failed = |source| AppError::Door(address, source);
    let door = match inherited.take(address) {
        Some(socket) => {
            socket.set_nonblocking(true).map_err(failed)?;
            TcpListener::from_std(socket).map_err(failed)?
        }
        None => listener::bind(address, config.server.reuse_port, false).map_err(failed)?,
    };
    let address = door.local_addr().map_err(failed)?;
    Ok(Some((door, address)))
}
