//! A route as the table has it.
//!
//! Guarantees: what a look-up reads of a route lies together, apart from its settings, since in a
//! table of a million each place in memory costs more than all else.

use std::sync::Arc;

use crate::config::{InstanceTemplate, RouteConfig};
use hypeman::InstanceRef;

/// One route, with what its gateway knows about it besides.
#[derive(Debug)]
pub struct Route<S = ()> {
    head: Head,
    fixed: Option<InstanceRef>,
    config: Arc<RouteConfig>,
    state: S,
}

/// As much of a host as most hosts have.
const HEAD: usize = 31;

/// The first bytes of a text, and how many it has in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    len: u8,
    bytes: [u8; HEAD],
}

// === impl Head ===

impl Head {
    fn of(text: &str) -> Self {
        let mut bytes = [0; HEAD];
        bytes
            .iter_mut()
            .zip(text.bytes())
            .for_each(|(to, byte)| *to = byte);
        // Longer ones are compared as a whole.
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        Self { len, bytes }
    }

    /// Whether this is all of the text.
    fn is_all(self) -> bool {
        usize::from(self.len) <= HEAD
    }
}

// === impl Route ===

impl<S> Route<S> {
    /// A route of the configuration.
    pub fn new(config: Arc<RouteConfig>, state: S) -> Self {
        Self {
            head: Head::of(config.host()),
            fixed: match &config.instance {
                InstanceTemplate::Fixed(instance) => Some(instance.clone()),
                InstanceTemplate::Capture(_) => None,
            },
            config,
            state,
        }
    }

    /// What the configuration says.
    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.config
    }

    /// Its host and path as configured: a name with few values, for logs and metrics.
    pub fn label(&self) -> &Arc<str> {
        self.config.label()
    }

    /// The instance, when it is the same for every host.
    pub fn fixed_instance(&self) -> Option<&InstanceRef> {
        self.fixed.as_ref()
    }

    /// What a capture has matched of a host that it answers for.
    pub fn capture<'h>(&self, host: &'h str, capture: &str) -> Option<&'h str> {
        self.config.name.capture(host, capture)
    }

    /// What its gateway knows about it.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Its hosts, as they are written.
    pub(super) fn host(&self) -> &str {
        self.config.host()
    }

    /// Whether its hosts are written so.
    pub(super) fn is_of(&self, host: &str) -> bool {
        let head = Head::of(host);
        head == self.head && (head.is_all() || host == self.host())
    }

    /// The instance that it names for a host that it answers for.
    pub(super) fn instance_for(&self, host: &str) -> Option<InstanceRef> {
        if self.fixed.is_some() {
            return self.fixed.clone();
        }
        let InstanceTemplate::Capture(capture) = &self.config.instance else {
            return None;
        };
        InstanceRef::parse(self.capture(host, capture)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostPattern, RoutePolicy, WakeConfig};
    use crate::names::PlaneIndex;

    #[test]
    fn hosts_that_differ_in_any_byte_are_told_apart_however_long_they_are() {
        let policy = Arc::new(RoutePolicy::new(PlaneIndex(0), &WakeConfig::default()));
        let route = |host: &str| {
            let host = HostPattern::parse(host).unwrap();
            let instance = InstanceTemplate::parse("x", &host).unwrap();
            let config = RouteConfig::new(&host, instance, 80, Arc::clone(&policy));
            Route::new(Arc::new(config), ())
        };
        let hosts: Vec<String> = (1..=62)
            .flat_map(|length| {
                let label = "a".repeat(length);
                [
                    label.clone(),
                    format!("{label}b"),
                    format!("{label}.{label}.{label}.x"),
                ]
            })
            .collect();
        for one in &hosts {
            for other in &hosts {
                assert_eq!(route(one).is_of(other), one == other, "{one} {other}");
            }
        }
    }
}
