//! The reasons for which a gateway cannot start or go on.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use crate::config::ConfigError;
use crate::fleet::IdentityError;
use crate::listener::TlsError;

/// The gateway cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A socket cannot be bound.
    #[error("cannot listen at {address}: {source}; choose another with `{flag}` or `{key}`")]
    Bind {
        /// The address that cannot be bound.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// The key that changes it.
        key: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The workloads' door cannot be opened.
    #[error("cannot listen at {0}: {1}; choose another with `workload.address`")]
    Door(SocketAddr, #[source] std::io::Error),
    /// The socket for other members of the fleet cannot be bound.
    #[error("cannot listen at {0} for other members: {1}; choose another with `fleet.listen`")]
    Members(SocketAddr, #[source] std::io::Error),
    /// What is to be shown to other members of the fleet cannot be used.
    #[error("the identity in the fleet cannot be used: {0}")]
    Identity(#[from] IdentityError),
    /// A listener's certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The sockets that another process left to this one cannot be used.
    #[error("the sockets of LISTEN_FDS cannot be used: {0}")]
    Inherited(std::io::Error),
    /// The workers' threads cannot be started.
    #[error("cannot start {0} workers: {1}; choose fewer with `server.workers`")]
    Workers(NonZeroUsize, #[source] std::io::Error),
    /// A reload would change what needs a restart.
    #[error("`{0}` can only change with a restart, so nothing was changed")]
    NeedsRestart(&'static str),
}
