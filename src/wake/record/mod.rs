//! The record of wakes: what is kept once they are over, and what is published meanwhile.
//!
//! Guarantees: nothing here decides about a wake; each wake that somebody asked for is counted,
//! logged and entered in the ledger once; memory is bounded.

mod failure;
mod history;
mod requester;
mod wake_log;
mod wake_times;

pub use failure::{PlaneAnswer, WakeFailure};
pub use history::{Ledger, LedgerEntry, Phases};
pub use requester::Requester;
pub use wake_log::{Progress, WakeBegan, WakeReport};
pub(super) use wake_log::{Reporter, WakeLog};
pub use wake_times::WakeTimes;
