//! What a request needs of its instance.

use crate::config::ReadyWhen;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The port; 0 when it is enough that the instance is Running.
    pub port: u16,
    /// The sign that it is ready.
    pub when: ReadyWhen,
}

// === impl Target ===

impl Target {
    /// The instance is Running, whatever its ports do.
    pub const AWAKE: Self = Self {
        port: 0,
        when: ReadyWhen::Running,
    };
}
