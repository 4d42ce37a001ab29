//! How many of the process' file descriptors clients and instances may have.
//!
//! Guarantees: neither takes the last ones, which are for operators, control planes and files;
//! clients leave as many for connections to instances as they have themselves, beside what the gateway has
//! open for itself, so that a request on a connection that is there reaches its instance.

use std::io;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit};

/// Descriptors that are kept back; a quarter of them where there are few.
const KEPT_BACK: u64 = 128;
/// What the gateway has open for itself before anybody comes; an eighth where there are few. Its sockets and those of
/// control planes are some twenty, and each thread with a runtime has three: room for a dozen of these.
const OWN: u64 = 64;

fn kept_back(limit: u64) -> u64 {
    KEPT_BACK.min(limit / 4)
}

/// The descriptors that this process may have at once; `None` when there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The connections of clients that so many descriptors are enough for.
pub fn for_clients(limit: u64) -> usize {
    let own = OWN.min(limit / 8);
    let clients = (limit - kept_back(limit) - own) / 2;
    usize::try_from(clients).unwrap_or(usize::MAX).max(1)
}

/// A connection to an instance, unless its descriptor is one of the last: the system gives out the
/// lowest that is free.
pub fn unless_last<S: AsRawFd>(connection: S) -> io::Result<S> {
    let descriptor = u64::try_from(connection.as_raw_fd()).unwrap_or_default();
    match limit().is_some_and(|limit| descriptor >= limit - kept_back(limit)) {
        true => Err(rustix::io::Errno::MFILE.into()),
        false => Ok(connection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_as_much_for_instances_and_some_for_the_gateway() {
        for (limit, clients) in [
            (0, 1),
            (4, 1),
            (64, 20),
            (256, 80),
            (1024, 416),
            (65_536, 32_672),
        ] {
            assert_eq!(for_clients(limit), clients, "{limit}");
        }
        assert!(for_clients(u64::MAX) > 1 << 40);
    }
}
