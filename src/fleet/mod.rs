//! Many gateways and many hosts: who has an instance, and how to reach whoever has it.
//!
//! Guarantees: the host of an instance is the truth about it, and what is known here is a hint where to
//! ask; nothing that a wake needs is here, so a directory that is away costs no wake.

mod copy;
pub mod directory;
pub mod engine;
pub mod etcd;
pub mod follow;
pub mod identity;
pub mod memory;
pub mod operator;
pub mod pages;
mod past;
pub mod placement;
pub mod presence;
pub mod publisher;
pub mod records;
mod rereads;
mod routes;
pub mod seal;
pub mod snapshot;
pub mod status;
mod unlisted;
pub mod vault;

pub use directory::{Directory, Own};
pub use engine::{Engine, EngineError};
pub use etcd::EtcdEngine;
pub use follow::{Sink, Step, follow, follow_keys};
pub use identity::{IdentityError, IdentityFiles, PeerIdentity, PeerName};
pub use memory::MemoryEngine;
pub use placement::{Claim, Member, Place, Placement, Role};
pub use routes::RouteLine;
pub use seal::{SealError, SealKeys};
pub use status::FleetStatus;
pub use vault::{Vault, VaultError, VaultLock};
