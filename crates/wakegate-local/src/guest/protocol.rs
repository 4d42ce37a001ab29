//! What the control plane and the agent in a VM say to each other: one JSON object a line.
//!
//! Guarantees: [`Status`] is always the whole truth and never a step, so that whoever connects late
//! or again has missed nothing; an answer carries its question's number.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::path_info::PathInfo;

/// The folder in which the image keeps what is ours, beside whatever system it holds.
pub(crate) const HOME: &str = "/.wakegate";
/// The virtio port's name.
pub(crate) const PORT_NAME: &str = "wakegate";

/// A message to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// The VM's place on its network; again when it has changed.
    Network(GuestNetwork),
    /// Run the instance's program; the first one counts.
    Run(Program),
    /// Ask the program to end.
    Stop,
    /// The time, in nanoseconds since 1970: a VM's clock stood still while it slept.
    Clock(i64),
    /// Say the status now.
    Tell,
    /// Look, or do something, and say what came of it.
    Ask {
        /// The number that comes back with the answer.
        number: u64,
        /// The question.
        question: Question,
    },
}

/// The VM's place in its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestNetwork {
    /// The address with its prefix, such as `10.0.2.15/24`.
    pub(crate) address: String,
    pub(crate) router: String,
    /// The network card's; a copy of a VM would have the one of its original.
    pub(crate) mac: String,
}

/// The instance's program.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The program and its arguments; without any, our own demo server with `arguments`.
    pub(crate) words: Vec<String>,
    /// Whether `words` are arguments of our own demo server.
    pub(crate) is_hello: bool,
    pub(crate) environment: Vec<(String, String)>,
}

/// What the agent can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// What is at a path?
    Path {
        /// A path in the VM.
        path: String,
        /// Whether links are followed.
        follow: bool,
    },
    /// What does this command come to, within so many milliseconds?
    Command {
        /// The program and its arguments.
        words: Vec<String>,
        /// The folder in which it runs.
        folder: Option<String>,
        /// The time after which it is killed.
        patience_ms: u64,
    },
}

/// A message from the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AgentMessage {
    /// The state of things in the VM.
    Status(Status),
    /// An answer to a question.
    Answer {
        /// The question's number.
        number: u64,
        /// The answer.
        answer: Answer,
    },
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What is at the path.
    Path(PathInfo),
    /// How the command ended, and the end of its output.
    Command {
        /// The exit code as a shell has it; none when it did not end in time.
        code: Option<i32>,
        /// The end of standard output and error.
        output: String,
    },
}

/// The state of things in the VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Whether the program has been started.
    pub(crate) started: bool,
    /// Ports that something in the VM listens at, reachable from outside.
    pub(crate) ports: BTreeSet<u16>,
    /// The program's exit code and how it ended.
    pub(crate) exit: Option<(i32, String)>,
}

impl std::fmt::Debug for Program {
    /// Without the environment, which holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({:?})", self.words.first())
    }
}
