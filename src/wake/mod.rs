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

mod dialer;
mod directory;
mod driver;
mod error;
mod history;
mod instance;
mod keep_warm;
mod lease;
pub mod machine;
mod plane_calls;
mod plane_handle;
mod probe;
mod slots;
mod waiters;
mod wake_log;
mod wake_times;

pub use dialer::{Dialer, Tcp};
pub use directory::Wakes;
pub use error::{WakeError, WakeStage};
pub use history::{Ledger, LedgerEntry, Phases};
pub use instance::{Breaker, Instance, Progress, Ready, Requester};
pub use keep_warm::{WarmPlan, keep_warm};
pub use lease::{Endpoint, LeaseTerms, OpenConnection};
pub use machine::Target;
pub use wake_log::{WakeBegan, WakeReport};
pub use wake_times::WakeTimes;
