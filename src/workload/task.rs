//! What a workload calls its tasks, and whose they are.
//!
//! Guarantees: a name is short and can be shown anywhere; tasks of two instances never meet, however
//! they are called.

use std::fmt;
use std::sync::Arc;

use hypeman::InstanceId;

/// The longest name.
const LONGEST: usize = 128;

/// A task that keeps its instance awake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskName(Arc<str>);

/// An instance, for whatever belongs to it: an id alone may be that of another at another control
/// plane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Its control plane, as the configuration calls it.
    pub hypeman: Arc<str>,
    /// Its full id.
    pub id: InstanceId,
}

// === impl TaskName ===

impl TaskName {
    /// A name of 1 to 128 visible ASCII characters; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let is_fine =
            (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        is_fine.then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_a_short_visible_name() {
        for fine in ["a", "build/42", "ci:run#7", &"x".repeat(LONGEST)] {
            assert!(TaskName::parse(fine).is_some(), "{fine}");
        }
        for wrong in ["", "a b", "a\n", "ä", "a\u{7f}", &"x".repeat(LONGEST + 1)] {
            assert!(TaskName::parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
