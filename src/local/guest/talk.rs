//! What the control plane and the agent in a VM say to each other: one JSON object a line.
//!
//! Guarantees: [`Status`] is always the whole truth and never a step, so that whoever connects late
//! or again has missed nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// To the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::local) enum Order {
    /// Run the instance's program; the first one counts.
    Run(Program),
    /// Ask the program to end.
    Stop,
    /// The time, in nanoseconds since 1970: a VM's clock stood still while it slept.
    Clock(i64),
    /// Say the status now.
    Tell,
}

/// The instance's program.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::local) struct Program {
    /// The program and its arguments; without any, our own demo server with `arguments`.
    pub(in crate::local) words: Vec<String>,
    /// Whether `words` are arguments of our own demo server.
    pub(in crate::local) is_hello: bool,
    pub(in crate::local) environment: Vec<(String, String)>,
}

/// From the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::local) struct Status {
    /// Whether the program has been started.
    pub(in crate::local) started: bool,
    /// Ports that something in the VM listens at, reachable from outside.
    pub(in crate::local) ports: BTreeSet<u16>,
    /// How the program ended.
    pub(in crate::local) exit: Option<(i32, String)>,
}

impl std::fmt::Debug for Program {
    /// Without the environment, which holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({:?})", self.words.first())
    }
}
