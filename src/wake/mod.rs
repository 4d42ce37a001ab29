//! The wake engine: is this instance awake, and if not, make it so, once, for everybody who waits.
//!
//! Guarantees: a wake belongs to its instance's task and never to a request, so a client that
//! leaves cancels nothing; at most one control-plane operation per instance is in flight beside a
//! hold; everything is keyed by the instance's id and ends with its handle, which the directory
//! lets go of; published state may only say *yes*, a *no* comes from the task in answer to your own
//! question, and only on `evidence`; the warm path ([`Instance::warm`]) is a few atomic loads. This
//! room knows no HTTP request.
//!
//! The way: the `directory` ([`Wakes`]) finds the [`Instance`] by what names mean (`lookup`); the
//! instance sends commands to its task (`driver`), which carries out what the [`machine`] decides:
//! `plane_calls` over the `plane_handle` (restores within its `slots`), then a `probe`; what is true
//! for a while is the `lease`; what is kept of a wake is the `record`.

mod addresses;
mod belongings;
mod claims;
mod dialer;
mod directory;
mod driver;
mod error;
mod evidence;
mod expiry;
mod hooks;
mod instance;
mod lease;
mod listing;
mod lookup;
pub mod machine;
mod parking;
mod plane_calls;
mod plane_handle;
mod probe;
mod record;
mod rest;
mod slots;
mod target;
mod waiters;

pub use addresses::OwnListeners;
pub use belongings::Belongings;
pub use dialer::{Answered, Dialer, Tcp};
pub use directory::Wakes;
pub use error::{WakeError, WakeStage};
pub use evidence::{Doubt, Evidence, Observation, Rest};
pub use hooks::{Hook, HookOutcome, call_hook};
pub use instance::{Breaker, Instance, Ready, Suspicion};
pub use lease::{Endpoint, LeaseTerms, OpenConnection, QuietLook};
pub use listing::{Listed, Listing};
pub use parking::{ParkableTunnel, Parking};
pub use record::{
    Ledger, LedgerEntry, Phases, PlaneAnswer, Progress, Requester, WakeBegan, WakeFailure,
    WakeReport, WakeTimes,
};
pub use rest::RestError;
pub use target::{Target, TargetTls};
