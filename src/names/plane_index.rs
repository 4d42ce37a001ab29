//! Which control plane is meant.

/// Which of the configured control planes, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaneIndex(pub u16);
