//! Certificates by ACME (RFC 8555): kept in a directory, ordered, renewed, and the challenges
//! answered.
//!
//! Guarantees: of gateways on one directory, which may be a fleet's, one orders a name at a time, and all answer for it; a
//! challenge is answered by its token or name alone, before anything else is looked at; a failure
//! leaves the certificate of before in force, and is tried again more and more seldom; whatever
//! holds a key is its owner's alone, and written whole; no key is in any message.

mod account;
mod chains;
mod challenges;
mod failure;
mod fleet_shelf;
mod http_client;
mod manager;
mod new_account;
mod on_demand;
mod renewal_info;
mod schedule;
mod shelf;
mod store;

pub use challenges::{is_challenge_path, token_of};
pub use manager::{Acme, CertificateState};
pub use store::{ACME_TLS, AcmeError, AcmeStore};
