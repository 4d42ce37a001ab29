//! What fronts share in the directory and nobody else may read: certificates with their keys, the account
//! at the CA, the keys of session tickets, and who orders what.
//!
//! Guarantees: a value is sealed before it leaves the process, for its own name, and one that is not sealed
//! is not believed; a front has a copy of all, which it reads without waiting; the copy is in a file, too,
//! as it is in the directory, for a start without it; a lock ends with its holder, half a minute later at
//! most, and whoever has one has read all that was written before.

mod copy;
mod follow;
mod lock;
mod locking;
#[cfg(test)]
mod tests;

pub use self::copy::{PREFIX, Vault, VaultError, Version};
pub use self::lock::VaultLock;
