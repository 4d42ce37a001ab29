//! What the owner of an instance asks for, and what follows from it, as values without IO.
//!
//! Guarantees: time is an argument everywhere; what is kept is complete and normalised, so that it
//! reads the same from the API and from the disk.

pub(crate) mod auto_standby;
pub(crate) mod compression;
pub(crate) mod countdown;
pub(crate) mod health_check;
pub(crate) mod restart;
pub(crate) mod schedule;
