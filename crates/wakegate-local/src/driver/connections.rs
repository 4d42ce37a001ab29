//! The kernel's own table of TCP connections.
//!
//! Guarantees: counts what the contract counts (B.5): every connection to the address but those in
//! `TIME_WAIT` and CLOSE; a half-open handshake counts. Listening sockets are told apart.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

const ESTABLISHED: u8 = 0x01;
const SYN_SENT: u8 = 0x02;
const TIME_WAIT: u8 = 0x06;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;
/// The time for which tracked connections are remembered, in seconds (the kernel's
/// `nf_conntrack_tcp_timeout_time_wait` and `…_close`, by default).
const TIME_WAIT_LASTS: u64 = 120;
const CLOSE_LASTS: u64 = 10;

/// One line of `/proc/net/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) local: (Ipv4Addr, u16),
    pub(crate) remote: (Ipv4Addr, u16),
    state: u8,
    /// The time for which it is over, if that is known.
    ended: Option<Duration>,
}

/// The table as it was at one moment.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable(Vec<Connection>);

// === impl ConnectionTable ===

impl ConnectionTable {
    /// Reads the table now.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/net/tcp")?))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().skip(1).filter_map(parse_line).collect())
    }

    /// Reads the kernel's table of tracked connections, which needs root.
    pub(crate) fn read_tracked() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/net/nf_conntrack")?;
        Ok(Self::parse_tracked(&text))
    }

    fn parse_tracked(text: &str) -> Self {
        Self(text.lines().filter_map(parse_tracked_line).collect())
    }

    /// The time for which the youngest of the connections to `address` is over, of those
    /// that have ended and that `counts` holds for. Only tracked ones are remembered.
    pub(crate) fn last_ended(
        &self,
        address: Ipv4Addr,
        counts: impl Fn(&Connection) -> bool,
    ) -> Option<Duration> {
        let here = self.0.iter();
        let here = here.filter(|c| c.local.0 == address && counts(c));
        here.filter_map(|connection| connection.ended).min()
    }

    /// The connections to `address` that are alive.
    pub(crate) fn inbound(&self, address: Ipv4Addr) -> impl Iterator<Item = &Connection> {
        self.0.iter().filter(move |connection| {
            connection.local.0 == address
                && !matches!(connection.state, SYN_SENT | TIME_WAIT | CLOSE | LISTEN)
        })
    }

    /// The ports that something at `address` listens at.
    pub(crate) fn listening(&self, address: Ipv4Addr) -> impl Iterator<Item = u16> {
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
        ended: None,
    })
}

/// `ipv4 2 tcp 6 <seconds left> <state> src= dst= sport= dport= …`, the original direction first.
fn parse_tracked_line(line: &str) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "ipv4" || words.nth(1)? != "tcp" {
        return None;
    }
    let left: u64 = words.nth(1)?.parse().ok()?;
    let state = words.next()?;
    let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let (source, destination) = (field("src")?.parse().ok()?, field("dst")?.parse().ok()?);
    let (from, to) = (field("sport")?.parse().ok()?, field("dport")?.parse().ok()?);
    let over = |lasts: u64| Some(Duration::from_secs(lasts.saturating_sub(left)));
    let (state, ended) = match state {
        "TIME_WAIT" => (TIME_WAIT, over(TIME_WAIT_LASTS)),
        "CLOSE" => (CLOSE, over(CLOSE_LASTS)),
        "NONE" => (CLOSE, None),
        _ => (ESTABLISHED, None),
    };
    Some(Connection {
        local: (destination, to),
        remote: (source, from),
        state,
        ended,
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
    fn tracked_connections_count_as_the_contract_says_and_ended_ones_are_remembered() {
        let line = |state: &str, left: u64| {
            format!(
                "ipv4     2 tcp      6 {left} {state} src=10.177.0.1 dst=10.177.3.4 sport=40000 \
                 dport=8080 src=10.177.3.4 dst=10.177.0.1 sport=8080 dport=40000 [ASSURED] use=1\n"
            )
        };
        let guest = Ipv4Addr::new(10, 177, 3, 4);
        for (state, counts) in [
            ("SYN_SENT", 1),
            ("SYN_RECV", 1),
            ("ESTABLISHED", 1),
            ("FIN_WAIT", 1),
            ("CLOSE_WAIT", 1),
            ("LAST_ACK", 1),
            ("TIME_WAIT", 0),
            ("CLOSE", 0),
            ("NONE", 0),
        ] {
            let table = ConnectionTable::parse_tracked(&line(state, 5));
            assert_eq!(table.inbound(guest).count(), counts, "{state}");
            let host = Ipv4Addr::new(10, 177, 0, 1);
            assert_eq!(table.inbound(host).count(), 0, "the other direction");
        }
        let text = line("TIME_WAIT", 100) + &line("TIME_WAIT", 117) + "ipv4 2 udp 17 29 src=x\n";
        let table = ConnectionTable::parse_tracked(&text);
        let ended = |port| table.last_ended(guest, |connection| connection.local.1 == port);
        assert_eq!(ended(8080), Some(Duration::from_secs(3)));
        assert_eq!(ended(22), None);
    }

    #[test]
    fn lines_that_are_not_connections_are_skipped() {
        assert_eq!(
            ConnectionTable::parse("head\n\n x\n 0: zz:1 0:0 01\n").0,
            []
        );
    }
}
