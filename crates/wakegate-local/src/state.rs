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

    /// Every wire text, for people.
    pub(crate) fn names() -> String {
        Self::NAMES.map(|(name, _)| name).join(", ")
    }

    /// Reads the wire text; case matters.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, state)| *state)
    }

    /// The reason why nobody knows what it really is, where that is so.
    pub(crate) fn error(self) -> Option<&'static str> {
        let text = "it is there and does not answer; it is asked again until it does";
        (self == Self::Unknown).then_some(text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_is_written_and_the_unknown_one_says_why() {
        for (name, state) in State::NAMES {
            assert_eq!(State::parse(name), Some(state));
            assert_eq!(state.as_str(), name);
            assert_eq!(state.error().is_some(), state == State::Unknown, "{name}");
        }
        assert_eq!(State::parse("running"), None);
    }
}
