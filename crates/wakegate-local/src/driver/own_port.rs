//! A port for one program alone, which it learns as `PORT`.
//!
//! Guarantees: nobody listened at it on any address when it was chosen, and the kernel gives it to
//! no connection that goes out, so that a program may listen at it on every address. Whoever looks
//! whether somebody listens never listens itself: it takes up nobody's connection, and a copy of its
//! socket, which a program that is being started has for a moment, keeps nobody from the port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use socket2::{Domain, Socket, Type};

/// The first port that is chosen: below it are those that people know.
const LOWEST: u16 = 10240;
/// The range that Linux gives to connections unless it is told another.
const USUAL: RangeInclusive<u16> = 32768..=60999;
/// Fewer than this are too few to choose from.
const ENOUGH: usize = 1000;
const ATTEMPTS: usize = 1000;

/// Chooses a port at which nobody listens and that is not `used` otherwise.
pub(super) fn free_port(used: impl Fn(u16) -> bool) -> Option<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = text.ok().and_then(|text| parse(&text)).unwrap_or(USUAL);
    let choice = choice(&range);
    (0..ATTEMPTS)
        .map(|_| fastrand::u16(choice.clone()))
        .find(|port| !used(*port) && is_free(*port))
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once('\t')?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

/// The ports to choose from, beside those that connections get.
fn choice(connections: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let below = LOWEST..=connections.start().saturating_sub(1);
    let above = connections.end().saturating_add(1).max(LOWEST)..=u16::MAX;
    let beside = [below, above].into_iter();
    let beside = beside.filter(|range| range.len() >= ENOUGH);
    // Where connections may get nearly all, one of theirs is better than none.
    let longest = beside.max_by_key(RangeInclusive::len);
    longest.unwrap_or(LOWEST..=u16::MAX)
}

/// Whether a program could listen at it on every address.
fn is_free(port: u16) -> bool {
    if bound((Ipv4Addr::UNSPECIFIED, port)).is_err() {
        return false;
    }
    // A machine without IPv6 has nobody who listens there.
    match bound((Ipv6Addr::UNSPECIFIED, port)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrInUse,
    }
}

/// A socket at an address, which an error says to be somebody's. It does not listen.
pub(super) fn bound(address: impl Into<SocketAddr>) -> io::Result<Socket> {
    let address = address.into();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Also where connections of an earlier listener are not over yet, and so that it can be listened
    // at while this one, or a copy of it, is there.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn whoever_looks_whether_a_port_is_free_takes_nobodys_connection_and_keeps_nobody_from_it() {
        // As long as a program that is being started has a copy of it.
        let looking = bound((Ipv4Addr::new(127, 78, 255, 253), 0)).unwrap();
        let address = looking.local_addr().unwrap().as_socket().unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = TcpListener::bind(address).unwrap();
        let taken = bound(address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(!is_free(address.port()));
        drop((looking, listener));
    }

    #[test]
    fn a_port_is_chosen_beside_those_of_connections_where_there_is_room() {
        for (connections, expected) in [
            (32768..=60999, 10240..=32767),
            (1024..=40000, 40001..=65535),
            (1024..=65535, 10240..=65535),
            (20000..=65535, 10240..=19999),
        ] {
            assert_eq!(choice(&connections), expected, "{connections:?}");
        }
        assert_eq!(parse("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn a_port_that_somebody_listens_at_or_has_been_given_is_not_chosen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
        let first = free_port(|_| false).unwrap();
        assert!(is_free(first));
        assert_eq!(free_port(|_| true), None);
        assert_ne!(free_port(|port| port == first), Some(first));
    }
}
