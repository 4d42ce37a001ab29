//! The wake engine: is this instance awake, and if not, make it so, once, for everybody who waits.
//!
//! Guarantees: a wake belongs to its instance's task and never to a request, so a client that
//! leaves cancels nothing; at most one control-plane operation per instance is in flight beside a
//! hold; everything is keyed by the instance's id; published state may only say *yes*, a *no* comes
//! from the task in answer to your own question; the warm path ([`Instance::warm`]) is a few atomic
//! loads. This room knows no HTTP request.
//!
//! [`machine`] decides, `driver` acts, `questions` asks, `directory` finds, `lease` remembers.

mod directory;
mod driver;
mod error;
mod lease;
pub mod machine;
mod probe;
mod questions;

pub use directory::Wakes;
pub use driver::{Instance, Ready, WakeReport};
pub use error::{WakeError, WakeStage};
pub use lease::{Endpoint, LeaseTerms, OpenConnection};
