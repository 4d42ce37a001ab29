//! The kernel's own table of TCP connections.
//!
//! Guarantees: counts what the contract counts (B.5): every connection to the address but those in
//! `TIME_WAIT` and CLOSE; a half-open handshake counts. Listening sockets are told apart.

use std::io;
use std::net::Ipv4Addr;

const SYN_SENT: u8 = 0x02;
const TIME_WAIT: u8 = 0x06;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

/// One line of `/proc/net/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) local: (Ipv4Addr, u16),
    pub(super) remote: (Ipv4Addr, u16),
    state: u8,
}

/// A picture of the table.
#[derive(Debug, Default)]
pub(super) struct ConnectionTable(Vec<Connection>);

// === impl ConnectionTable ===

impl ConnectionTable {
    /// Reads the table now.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/net/tcp")?))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().skip(1).filter_map(parse_line).collect())
    }

    /// Connections to `address` that are alive.
    pub(super) fn inbound(&self, address: Ipv4Addr) -> impl Iterator<Item = &Connection> {
        self.0.iter().filter(move |connection| {
            connection.local.0 == address
                && !matches!(connection.state, SYN_SENT | TIME_WAIT | CLOSE | LISTEN)
        })
    }

    /// Ports that something at `address` listens at.
    pub(super) fn listening(&self, address: Ipv4Addr) -> impl Iterator<Item = u16> {
        self.0
            .iter()
            .filter(move |connection| connection.local.0 == address && connection.state == LISTEN)
            .map(|connection| connection.local.1)
    }
}

/// `sl local remote st …`, addresses as the hexadecimal of their bytes in memory.
fn parse_line(line: &str) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = parse_endpoint(words.next()?)?;
    let remote = parse_endpoint(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    Some(Connection {
        local,
        remote,
        state,
    })
}

fn parse_endpoint(text: &str) -> Option<(Ipv4Addr, u16)> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Ipv4Addr::from(address.to_ne_bytes()), port))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernels_table_shows_a_listener_and_its_connection() {
        let listener = TcpListener::bind("127.77.255.254:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("not IPv4")
        };
        let client = TcpStream::connect(address).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let table = ConnectionTable::read().unwrap();
        assert!(
            table
                .listening(*address.ip())
                .any(|port| port == address.port())
        );
        let source = client.local_addr().unwrap().port();
        assert_eq!(
            table
                .inbound(*address.ip())
                .filter(|c| c.remote.1 == source)
                .count(),
            1
        );
    }

    #[test]
    fn a_connection_in_time_wait_does_not_count() {
        let line = |state: &str| format!("head\n   0: 0100007F:1F90 0100007F:C000 {state} x\n");
        let address = Ipv4Addr::from(0x0100_007f_u32.to_ne_bytes());
        for (state, counts) in [
            ("01", 1),
            ("03", 1),
            ("04", 1),
            ("08", 1),
            ("06", 0),
            ("07", 0),
            ("0A", 0),
        ] {
            assert_eq!(
                ConnectionTable::parse(&line(state))
                    .inbound(address)
                    .count(),
                counts,
                "{state}"
            );
        }
    }

    #[test]
    fn lines_that_are_not_connections_are_skipped() {
        assert_eq!(
            ConnectionTable::parse("head\n\n x\n 0: zz:1 0:0 01\n").0,
            []
        );
    }
}
