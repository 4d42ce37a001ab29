//! The ports of a VM that can be reached from outside.
//!
//! Guarantees: a port is told within a few milliseconds of its opening while the program comes up,
//! and within a second later; what listens at the VM's loopback only is not told.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const COMING_UP: Duration = Duration::from_secs(20);
const LOOK_COMING_UP: Duration = Duration::from_millis(5);
/// A look costs a millisecond where processors are emulated, and would often meet a wake's first
/// request.
const LOOK_LATER: Duration = Duration::from_secs(1);

/// Tells the ports at each look, for ever.
pub(super) fn watch(mut tell: impl FnMut(BTreeSet<u16>)) {
    let began = Instant::now();
    loop {
        let table = |name| std::fs::read_to_string(name).unwrap_or_default();
        let mut ports = listening(&table("/proc/net/tcp"));
        ports.append(&mut listening(&table("/proc/net/tcp6")));
        let coming_up = ports.is_empty() && began.elapsed() < COMING_UP;
        tell(ports);
        std::thread::sleep(if coming_up {
            LOOK_COMING_UP
        } else {
            LOOK_LATER
        });
    }
}

/// Listening sockets of a table of `/proc/net/tcp`'s form, but those of the loopback.
fn listening(table: &str) -> BTreeSet<u16> {
    let listener = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let listens = words.nth(1)? == "0A";
        // 127.x.x.x in the order of this machine's bytes, also as ::ffff:127.x.x.x; ::1.
        let four = address
            .strip_prefix("0000000000000000FFFF0000")
            .unwrap_or(address);
        let ends = if cfg!(target_endian = "little") {
            four.ends_with("7F") && four.len() == 8
        } else {
            four.starts_with("7F") && four.len() == 8
        };
        let loopback = ends || address == "00000000000000000000000001000000";
        let port = u16::from_str_radix(port, 16).ok()?;
        (listens && !loopback).then_some(port)
    };
    table.lines().filter_map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_and_connections_and_the_loopbacks_own_are_not() {
        let table = "  sl  local_address rem_address   st\n\
            0: 00000000:1F90 00000000:0000 0A 0\n\
            1: 0100007F:1F91 00000000:0000 0A 0\n\
            2: 0F02000A:1F92 00000000:0000 0A 0\n\
            3: 0F02000A:1F93 0202000A:C000 01 0\n";
        assert_eq!(listening(table), BTreeSet::from([0x1f90, 0x1f92]));
        let six = "  sl\n\
            0: 00000000000000000000000000000000:0050 0:0 0A 0\n\
            1: 00000000000000000000000001000000:0051 0:0 0A 0\n\
            2: 0000000000000000FFFF00000100007F:0052 0:0 0A 0\n\
            3: 0000000000000000FFFF00000F02000A:0053 0:0 0A 0\n";
        assert_eq!(listening(six), BTreeSet::from([0x50, 0x53]));
    }
}
