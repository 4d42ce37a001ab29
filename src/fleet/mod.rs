//! Many gateways and many hosts: who has an instance, and how to reach whoever has it.
//!
//! Guarantees: the host of an instance is the truth about it, and what is known here is a hint where to
//! ask; nothing that a wake needs is here, so a directory that is away costs no wake.

pub mod identity;
pub mod placement;

pub use identity::{IdentityError, IdentityFiles, PeerIdentity, PeerName};
pub use placement::{Claim, Member, Place, Placement, Role};
