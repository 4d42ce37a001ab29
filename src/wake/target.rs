//! What a request needs of its instance.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::config::ReadyWhen;
use crate::instance_tls::TlsHop;

/// What a request waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The port; 0 when it is enough that the instance is Running.
    pub port: u16,
    /// The sign that it is ready.
    pub when: ReadyWhen,
    /// Whether a request has chosen the port: that nothing listens there says nothing about the
    /// instance.
    pub is_chosen: bool,
    /// The request target that must be answered with success where the sign is health and the
    /// server has no check of its own. Two of them at one port are two checks.
    pub health: Option<Arc<str>>,
    /// The TLS that the port must answer.
    pub tls: Option<TargetTls>,
}

/// The TLS of a target. Two names are one target: whether the instance answers does not depend on
/// the name that it is asked for by, and clients may choose any number of names.
#[derive(Debug, Clone)]
pub struct TargetTls(pub TlsHop);

// === impl Target ===

impl Target {
    /// The instance is Running, whatever its ports do.
    pub const AWAKE: Self = Self {
        port: 0,
        when: ReadyWhen::Running,
        is_chosen: false,
        health: None,
        tls: None,
    };

    /// The TLS that its connections begin with.
    pub(super) fn tls(&self) -> Option<&TlsHop> {
        self.tls.as_ref().map(|tls| &tls.0)
    }
}

// === impl TargetTls ===

impl PartialEq for TargetTls {
    fn eq(&self, other: &Self) -> bool {
        self.0.has_same_profile(&other.0)
    }
}

impl Eq for TargetTls {}

impl Hash for TargetTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.profile_address().hash(state);
    }
}
