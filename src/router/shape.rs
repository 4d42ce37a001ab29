//! The shapes of host patterns: which labels are captured, whatever the others are.
//!
//! Guarantees: a host fits a pattern if it fits the pattern's shape and the pattern's other labels
//! are its own; then the hashes of both are equal.

use std::sync::Arc;

use super::host_map::hash_of_parts;
use crate::config::{Captured, split_port};

/// What a pattern captures of each label of a host, from the left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape(Arc<[Kind]>);

/// What a pattern captures of a label; the later, the less is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: it is what it is.
    Literal,
    /// A port and a name.
    WithPort { is_first: bool },
    /// All of it.
    Capture,
}

/// Whether a pattern's labels that are not captured are those of a host of its shape, or those of
/// another pattern of its shape.
pub(super) fn fits(pattern: &str, host: &str) -> bool {
    let mut labels = pattern.split('.').zip(host.split('.'));
    labels.all(|(label, other)| label == other || Captured::of(label) != Captured::Nothing)
}

// === impl Shape ===

impl Shape {
    /// Of a pattern with captures.
    pub(super) fn of(pattern: &str) -> Self {
        let kind = |label| match Captured::of(label) {
            Captured::Nothing => Kind::Literal,
            Captured::Port { is_first, .. } => Kind::WithPort { is_first },
            Captured::Label(_) => Kind::Capture,
        };
        Self(pattern.split('.').map(kind).collect())
    }

    /// How little is known of a host that has this shape.
    pub(super) fn captures(&self) -> usize {
        let weights = self.0.iter().map(|kind| match kind {
            Kind::Literal => 0,
            Kind::WithPort { .. } => 1,
            Kind::Capture => 2,
        });
        weights.sum()
    }

    /// Whether a host has as many labels, and a port wherever this shape has one.
    pub(super) fn fits(&self, host: &str) -> bool {
        let mut labels = host.split('.');
        let all = self.0.iter().all(|kind| {
            labels.next().is_some_and(|label| match kind {
                Kind::WithPort { is_first } => split_port(label, *is_first).is_some(),
                Kind::Literal | Kind::Capture => true,
            })
        });
        all && labels.next().is_none()
    }

    /// The hash of what this shape does not capture of a host that fits, or of a pattern of this
    /// shape.
    pub(super) fn hash_of(&self, host: &str) -> u32 {
        let labels = self.0.iter().zip(host.split('.'));
        hash_of_parts(labels.map(|(kind, label)| match kind {
            Kind::Literal => label,
            Kind::WithPort { .. } | Kind::Capture => "*",
        }))
    }
}
