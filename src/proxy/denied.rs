//! Why a request may not wake its instance.
//!
//! Guarantees: each reason has one label, which metrics and logs share; a refusal carries what its
//! route answers with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AsleepConfig, RoutePolicy};

/// The reason why a request may not wake its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The route's rules do not have its method.
    Method,
    /// The route's rules do not have its path.
    Path,
    /// A header field is missing.
    Header,
    /// The route's rules do not have its client's network.
    Client,
    /// The route's rules exclude its user agent.
    UserAgent,
    /// Its client has caused too many wakes; the next may come after this time.
    ClientRate(Duration),
    /// Its route has caused too many wakes; the next may come after this time.
    RouteRate(Duration),
    /// It asks for `/robots.txt`, and the gateway knows what that says.
    Robots,
    /// It asks whether the service is there.
    Health,
    /// A crawler, link preview or the like sent it.
    Bot,
    /// It looks for holes.
    Scanner,
    /// Its browser only guesses that it may be needed.
    Prefetch,
    /// A browser asks for an icon by itself.
    Icon,
}

/// A request that may not wake the instance of its route.
#[derive(Clone)]
pub struct WakeDenied {
    reason: Denied,
    policy: Arc<RoutePolicy>,
}

// === impl Denied ===

impl Denied {
    /// The metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Header => "header",
            Self::Client => "client",
            Self::UserAgent => "user_agent",
            Self::ClientRate(_) => "client_rate",
            Self::RouteRate(_) => "route_rate",
            Self::Robots => "robots",
            Self::Health => "health",
            Self::Bot => "bot",
            Self::Scanner => "scanner",
            Self::Prefetch => "prefetch",
            Self::Icon => "icon",
        }
    }
}

// === impl WakeDenied ===

impl WakeDenied {
    pub(super) fn new(reason: Denied, policy: &Arc<RoutePolicy>) -> Self {
        Self {
            reason,
            policy: Arc::clone(policy),
        }
    }

    /// The rule that denies it.
    pub fn reason(&self) -> Denied {
        self.reason
    }

    /// The route's answer while its instance sleeps.
    pub fn asleep(&self) -> &AsleepConfig {
        &self.policy.asleep
    }
}

impl fmt::Debug for WakeDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WakeDenied({:?})", self.reason)
    }
}
