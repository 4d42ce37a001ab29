//! The verdict of a route's rules about a path.
//!
//! Guarantees: it is all that later phases look at of a path, so that none of them compares one.

/// The verdict of a route's rules about a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathVerdict {
    /// Requests for it may not wake: it is not below an allowed path, or it is below a denied one.
    pub(super) is_denied: bool,
    /// It is that of the robots file that the gateway knows.
    pub(super) is_robots: bool,
    /// It is one for health checks.
    pub(super) is_health: bool,
    /// It is that of the waiting page's events.
    pub(super) is_wake_status: bool,
    /// It is that of a hook, which the gateway alone calls.
    pub(super) is_hook: bool,
    /// The preset knows that it is a scanner's guess.
    pub(super) is_guess: bool,
    /// The preset knows that it is an icon's.
    pub(super) is_icon: bool,
    /// The positions of the prewarm rules that it meets.
    pub(super) prewarm: Vec<usize>,
}
