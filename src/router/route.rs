//! A route as the table has it.
//!
//! Guarantees: what a look-up reads of a route lies together, apart from its settings; texts are
//! shared with the configuration.

use std::sync::Arc;

use crate::config::{InstanceTemplate, RouteConfig};
use hypeman::InstanceRef;

/// One route, with what its gateway knows about it besides.
#[derive(Debug)]
pub struct Route<S = ()> {
    label: Arc<str>,
    fixed: Option<InstanceRef>,
    config: Arc<RouteConfig>,
    state: S,
}

// === impl Route ===

impl<S> Route<S> {
    /// A route of the configuration.
    pub fn new(config: Arc<RouteConfig>, state: S) -> Self {
        Self {
            label: Arc::clone(config.name.label()),
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

    /// Its host and path as configured: a name with few values, for logs and fairness.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The instance, when it is the same for every host.
    pub fn fixed_instance(&self) -> Option<&InstanceRef> {
        self.fixed.as_ref()
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
        // A host has no slash in it, and every path begins with one.
        let (label, host) = (self.label.as_bytes(), host.as_bytes());
        label.get(host.len()) == Some(&b'/') && label.starts_with(host)
    }

    /// The instance that it names for a host that it answers for.
    pub(super) fn instance_for(&self, host: &str) -> Option<InstanceRef> {
        if self.fixed.is_some() {
            return self.fixed.clone();
        }
        let InstanceTemplate::Capture(capture) = &self.config.instance else {
            return None;
        };
        let is_capture = |label: &str| {
            let name = label.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
            name == Some(capture)
        };
        let mut labels = self.host().split('.').zip(host.split('.'));
        let captured = labels.find(|(label, _)| is_capture(label));
        captured.and_then(|(_, part)| InstanceRef::parse(part).ok())
    }
}
