//! The gateway's sockets while it runs.
//!
//! Guarantees: a reload opens every new socket before it closes an old one, and changes nothing
//! when one cannot be opened; a socket whose address stays is never closed, and its connections
//! never cut; those of a socket that goes end by themselves.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::error::AppError;
use crate::config::{ListenerConfig, ListenerMode};
use crate::listener::{
    Certificates, Inherited, Listener, ListenerSettings, Service, SettingsHandle, Shared, TlsParts,
    is_v6_only,
};
use crate::workers::Workers;

/// All sockets for clients.
#[derive(Debug)]
pub(super) struct Sockets {
    open: Mutex<Vec<Open>>,
    pub(super) shared: Shared,
    /// What the listeners' TLS shares.
    pub(super) tls: TlsParts,
    workers: Workers,
}

#[derive(Debug, Clone)]
struct Open {
    /// The address that it really listens at.
    address: SocketAddr,
    config: ListenerConfig,
    settings: Arc<SettingsHandle>,
    close: CancellationToken,
    /// Whether IPv4 has its port by another socket, or had when it was opened.
    v6_only: bool,
}

/// A socket that is bound and not served yet.
#[derive(Debug)]
pub(super) struct Bound {
    config: ListenerConfig,
    listener: Listener,
    v6_only: bool,
}

/// Binds one socket, or takes an inherited one; `all` are the addresses of all of them.
pub(super) fn bind(
    config: &ListenerConfig,
    settings: ListenerSettings,
    inherited: &mut Inherited,
    reuse_port: bool,
    all: impl IntoIterator<Item = SocketAddr>,
) -> Result<Bound, AppError> {
    let address = config.address;
    let (inherited, v6_only) = (inherited.take(address), is_v6_only(address, all));
    let listener = Listener::bind(address, settings, inherited, reuse_port, v6_only);
    let listener = listener.map_err(|source| AppError::Bind {
        address,
        flag: "--listen",
        key: "listener.address",
        source,
    })?;
    let config = config.clone();
    Ok(Bound {
        config,
        listener,
        v6_only,
    })
}

// === impl Bound ===

impl Bound {
    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The address where it speaks HTTP over TLS, if it does.
    pub(super) fn https(&self) -> Option<SocketAddr> {
        let is_https = self.config.tls.is_some() && self.config.mode == ListenerMode::Http;
        is_https.then(|| self.listener.address())
    }
}

// === impl Sockets ===

impl Sockets {
    pub(super) fn new(shared: Shared, tls: TlsParts, workers: Workers) -> Self {
        let open = Mutex::default();
        Self {
            open,
            shared,
            tls,
            workers,
        }
    }

    /// Serves a socket from now on.
    pub(super) fn serve<S: Service>(&self, bound: Bound, service: &S) {
        let Bound {
            config,
            listener,
            v6_only,
        } = bound;
        let settings = Arc::clone(listener.settings());
        let close = CancellationToken::new();
        let address = listener.address();
        listener.serve(service, &self.shared, &close, &self.workers);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(Open {
            address,
            config,
            settings,
            close,
            v6_only,
        });
    }

    /// Serves the socket for other members of the fleet, until the drain.
    pub(super) fn serve_members<S: Service>(&self, members: Listener, service: &S) {
        members.serve(
            service,
            &self.shared,
            &CancellationToken::new(),
            &self.workers,
        );
    }

    /// Every certificate store in use, with its listener's address.
    pub(super) fn certificates(&self) -> Vec<(SocketAddr, Arc<Certificates>)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = open
            .iter()
            .map(|one| (one.address, one.settings.certificates()));
        stores
            .filter_map(|(address, store)| Some((address, store?)))
            .collect()
    }

    /// The addresses that clients connect to.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|one| one.address).collect()
    }

    /// Those of them that speak HTTP over TLS.
    pub(super) fn https(&self) -> Vec<SocketAddr> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let secure = open
            .iter()
            .filter(|one| one.config.tls.is_some() && one.config.mode == ListenerMode::Http);
        secure.map(|one| one.address).collect()
    }

    /// Whether a socket is open for each of these.
    pub(super) fn has_all(&self, configs: &[ListenerConfig]) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut configs = configs.iter();
        configs.all(|config| open.iter().any(|one| one.config == *config))
    }

    /// Makes the sockets those of `configured`, and as many of `more` as can be opened; returns
    /// what keeps the others from it.
    pub(super) fn change<S: Service>(
        &self,
        configured: &[ListenerConfig],
        more: &[ListenerConfig],
        reuse_port: bool,
        service: &S,
    ) -> Result<Vec<AppError>, AppError> {
        let before = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.clone()
        };
        let all = || configured.iter().chain(more).map(|config| config.address);
        let load = |config| ListenerSettings::new(config, &self.tls);
        let (mut fresh, mut kept, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        let sources = configured.iter().map(|config| (config, true));
        for (config, needed) in sources.chain(more.iter().map(|config| (config, false))) {
            let open = before
                .iter()
                .find(|one| one.config.address == config.address);
            let done = match open {
                Some(one) if one.config == *config => {
                    kept.push((one, config, None));
                    Ok(())
                }
                Some(one) => load(config)
                    .map(|settings| kept.push((one, config, Some(settings))))
                    .map_err(AppError::from),
                None => load(config)
                    .map_err(AppError::from)
                    .and_then(|settings| {
                        let none = &mut Inherited::default();
                        bind(config, settings, none, reuse_port, all())
                    })
                    .map(|bound| fresh.push(bound)),
            };
            match done {
                Err(error) if needed => return Err(error),
                Err(error) => problems.push(error),
                Ok(()) => {}
            }
        }
        // From here on nothing can fail.
        let mut now = Vec::new();
        for (one, config, changed) in kept {
            if let Some(changed) = changed {
                one.settings.replace(changed);
            }
            if one.v6_only && !is_v6_only(one.address, all()) {
                // The kernel does not let an open socket change its mind.
                tracing::warn!(
                    address = %one.address,
                    help = "restart the gateway, or name an IPv4 address, too",
                    "serves IPv6 alone, as it was opened beside a listener of IPv4"
                );
            }
            let config = config.clone();
            now.push(Open {
                config,
                ..one.clone()
            });
        }
        for one in &before {
            if !now
                .iter()
                .any(|kept| Arc::ptr_eq(&kept.settings, &one.settings))
            {
                tracing::info!(address = %one.config.address, "closing");
                one.close.cancel();
            }
        }
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = now;
        for bound in fresh {
            tracing::info!(address = %bound.listener.address(), "serving");
            self.serve(bound, service);
        }
        Ok(problems)
    }
}
