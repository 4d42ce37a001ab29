//! The connections that the kernel tracks for instances on a bridge.
//!
//! Guarantees: counts what the contract counts (B.5): every connection to the address but those in
//! `TIME_WAIT` and CLOSE; a half-open handshake counts.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The time for which tracked connections are remembered, in seconds (the kernel's
/// `nf_conntrack_tcp_timeout_time_wait` and `…_close`, by default).
const TIME_WAIT_LASTS: u64 = 120;
const CLOSE_LASTS: u64 = 10;

/// One tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) local: (Ipv4Addr, u16),
    pub(crate) remote: (Ipv4Addr, u16),
    is_alive: bool,
    /// The time for which it is over, if that is known.
    ended: Option<Duration>,
}

/// The table as it was at one moment.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable(Vec<Connection>);

// === impl ConnectionTable ===

impl ConnectionTable {
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
        let here = move |connection: &&Connection| connection.local.0 == address;
        self.0.iter().filter(here).filter(|c| c.is_alive)
    }
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
    let (is_alive, ended) = match state {
        "TIME_WAIT" => (false, over(TIME_WAIT_LASTS)),
        "CLOSE" => (false, over(CLOSE_LASTS)),
        "NONE" => (false, None),
        _ => (true, None),
    };
    Some(Connection {
        local: (destination, to),
        remote: (source, from),
        is_alive,
        ended,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = "\n\nx\nipv4 2 tcp 6 x ESTABLISHED\nipv6 10 tcp 6 5 ESTABLISHED src=::1\n";
        assert_eq!(ConnectionTable::parse_tracked(text).0, []);
    }
}
