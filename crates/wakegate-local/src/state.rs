//! The states of an instance.
//!
//! Guarantees: the words are the contract's, and a word that it does not have is no state.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The states of an instance (seed: `InstanceState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Recorded, not begun.
    Created,
    /// Coming up.
    Initializing,
    /// The program runs.
    Running,
    /// Between Running and Standby.
    Paused,
    /// Going down.
    Shutdown,
    /// No process.
    Stopped,
    /// A frozen process without an address.
    Standby,
    /// Its state cannot be determined.
    Unknown,
}

// === impl State ===

impl State {
    const NAMES: [(&'static str, Self); 8] = [
        ("Created", Self::Created),
        ("Initializing", Self::Initializing),
        ("Running", Self::Running),
        ("Paused", Self::Paused),
        ("Shutdown", Self::Shutdown),
        ("Stopped", Self::Stopped),
        ("Standby", Self::Standby),
        ("Unknown", Self::Unknown),
    ];

    /// Reads the wire text; case matters.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, state)| *state)
    }

    /// The wire text.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, state)| *state == self)
            .map_or("Unknown", |(name, _)| name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
