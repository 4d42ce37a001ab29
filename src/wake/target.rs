//! What a request needs of its instance.

use std::sync::Arc;

use crate::config::ReadyWhen;

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
}

// === impl Target ===

impl Target {
    /// The instance is Running, whatever its ports do.
    pub const AWAKE: Self = Self {
        port: 0,
        when: ReadyWhen::Running,
        is_chosen: false,
        health: None,
    };
}
