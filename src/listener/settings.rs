//! The settings that a listener's connections begin with.
//!
//! Guarantees: they may change while the socket is open; a connection keeps those that it began
//! with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::certificates::Certificates;
use super::challenge::challenge_config;
use super::cipher_order::CipherOrder;
use super::ticket_ring::TicketRing;
use super::tls_error::TlsError;
use crate::acme::AcmeStore;
use crate::config::{ListenerConfig, ListenerMode, TlsConfig};
use crate::fleet::identity::CallerJudge;
use crate::flow::ClientBuffers;

/// The settings of a listener's connections.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    pub(super) mode: ListenerMode,
    pub(super) proxy_protocol: bool,
    pub(super) tls: Option<Tls>,
    /// What members of the fleet are judged by, at the listener for them.
    pub(super) members: Option<Members>,
}

/// What members of the fleet are judged by: when they come, and later.
#[derive(Debug, Clone)]
pub(super) struct Members {
    pub(super) config: Arc<rustls::ServerConfig>,
    pub(super) judge: Arc<CallerJudge>,
}

/// The limits of one connection that depend on whose it is.
#[derive(Debug, Clone)]
pub(super) struct ConnectionLimits {
    /// How long it may be idle.
    pub(super) idle_timeout: Duration,
    /// Its client's side of the budget of bytes in memory.
    pub(super) buffers: ClientBuffers,
    /// Whether it carries the requests of another member's clients.
    pub(super) is_of_member: bool,
}

/// The certificates of a listener that speaks TLS, and what rustls makes of them.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) certificates: Arc<Certificates>,
    pub(super) config: CipherOrder,
    /// The same for a CA's challenges, where certificates come by ACME.
    pub(super) challenges: Option<Arc<rustls::ServerConfig>>,
}

/// What all listeners' TLS has in common.
#[derive(Debug, Clone, Default)]
pub struct TlsParts {
    /// The keys of session tickets, where they are kept.
    pub tickets: Option<Arc<TicketRing>>,
    /// The certificates that come by ACME.
    pub acme: Option<Arc<AcmeStore>>,
}

/// The settings of an open socket, which can be replaced.
#[derive(Debug)]
pub struct SettingsHandle(ArcSwap<ListenerSettings>);

// === impl ConnectionLimits ===

impl ConnectionLimits {
    /// Those of a client's connection.
    #[cfg(test)]
    pub(super) fn of_client(idle_timeout: Duration, buffers: ClientBuffers) -> Self {
        Self {
            idle_timeout,
            buffers,
            is_of_member: false,
        }
    }
}

// === impl ListenerSettings ===

impl ListenerSettings {
    /// The settings of a configuration; reads the certificates, and founds the internal CA. `parts` is
    /// what it shares with others.
    pub fn new(config: &ListenerConfig, parts: &TlsParts) -> Result<Self, TlsError> {
        Self::with(config, parts, Certificates::load)
    }

    /// Those of a listener for other members of the fleet alone, whose certificates are judged so.
    pub fn for_members(config: Arc<rustls::ServerConfig>, judge: Arc<CallerJudge>) -> Self {
        Self {
            mode: ListenerMode::Http,
            proxy_protocol: false,
            tls: None,
            members: Some(Members { config, judge }),
        }
    }

    /// As [`Self::new`], without a trace: nothing is founded, and what stands in the way of it is an error
    /// as well.
    pub fn rehearse(config: &ListenerConfig, parts: &TlsParts) -> Result<Self, TlsError> {
        Self::with(config, parts, Certificates::rehearse)
    }

    fn with(
        config: &ListenerConfig,
        parts: &TlsParts,
        load: impl Fn(TlsConfig, Option<&Arc<AcmeStore>>) -> Result<Arc<Certificates>, TlsError>,
    ) -> Result<Self, TlsError> {
        let secure = |tls: &TlsConfig| {
            let certificates = load(tls.clone(), parts.acme.as_ref())?;
            let config = CipherOrder::new(&certificates.server_config(parts.tickets.as_ref())?);
            Ok::<_, TlsError>(Tls {
                certificates,
                config,
                challenges: parts.acme.as_ref().map(challenge_config).transpose()?,
            })
        };
        Ok(Self {
            mode: config.mode.clone(),
            proxy_protocol: config.proxy_protocol,
            tls: config.tls.as_ref().map(secure).transpose()?,
            members: None,
        })
    }
}

impl ListenerSettings {
    /// The time when the first of its certificates expires, in seconds since 1970; `None` where it
    /// has none, or makes them itself.
    pub fn not_after(&self) -> Option<i64> {
        self.tls
            .as_ref()
            .and_then(|tls| tls.certificates.not_after())
    }
}

// === impl SettingsHandle ===

impl SettingsHandle {
    pub(super) fn new(settings: ListenerSettings) -> Self {
        Self(ArcSwap::from_pointee(settings))
    }

    /// The settings of a connection that begins now.
    pub(super) fn load(&self) -> Arc<ListenerSettings> {
        self.0.load_full()
    }

    /// The listener's certificates, if it has some.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        let settings = self.0.load();
        settings
            .tls
            .as_ref()
            .map(|tls| Arc::clone(&tls.certificates))
    }

    /// Connections that begin from now on have these settings.
    pub fn replace(&self, settings: ListenerSettings) {
        self.0.store(Arc::new(settings));
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.certificates)
    }
}
