//! The door of workloads: instances say themselves that they are busy, or done.
//!
//! Guarantees: an instance is known by the address that it comes from, by its control plane's word and
//! for each request; it can say something about itself alone. A hold wakes nothing, and ends at its
//! end at the latest, over a restart, a SIGKILL and a change of the clock; where the clock was set back
//! before a restart, after as long a time as it was asked for. An instance that is held is not put to
//! sleep for what its workload has said before. The door has its own socket,
//! so it answers while the data plane is full, and until the gateway has ended everything else.
//!
//! What the gateway is and does comes through [`Host`]; this room knows no engine.

mod door;
mod due;
mod hold_dir;
mod holds;
mod host;
mod identify;
mod refusal;
mod rest;
mod serve;
mod sweep;
mod task;
mod writers;

pub use self::door::Door;
pub use self::holds::{Clock, HoldDirError, HoldError, Holds, TaskHold};
pub use self::host::{
    AskError, Business, Facts, Host, Kept, LastWake, Listing, Resident, Rested, Sleep,
};
pub use self::task::{Owner, TaskName};
