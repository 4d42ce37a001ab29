//! The wake engine: is this instance awake, and if not, make it so, once, for everybody who waits.
//!
//! Guarantees: a wake belongs to its instance's task and never to a request, so a client that
//! leaves cancels nothing; at most one control-plane operation per instance is in flight beside a
//! hold; everything is keyed by the instance's id; published state may only say *yes*, a *no* comes
//! from the task in answer to your own question; the warm path ([`Instance::warm`]) is a few atomic
//! loads. This room knows no HTTP request.
//!
//! The way: [`directory`](Wakes) finds the [`Instance`], which asks its task (`driver`), which
//! carries out what the [`machine`] decides: `questions` over the `line` (within its `slots`), then
//! a `probe`; what is true for a while is the `lease`.

mod directory;
mod driver;
mod error;
mod instance;
mod keep_warm;
mod lease;
mod ledger;
mod line;
pub mod machine;
mod probe;
mod questions;
mod reach;
mod report;
mod slots;
mod waiters;
mod wake_times;

pub use directory::Wakes;
pub use error::{WakeError, WakeStage};
pub use instance::{Asker, Breaker, Instance, Progress, Ready};
pub use keep_warm::{WarmPlan, keep_warm};
pub use lease::{Endpoint, LeaseTerms, OpenConnection};
pub use ledger::{Ledger, LedgerEntry, Phases};
pub use machine::Target;
pub use reach::{Reach, Tcp};
pub use report::{WakeBegan, WakeReport};
pub use wake_times::WakeTimes;
