//! The sockets of this machine that listen for TCP.
//!
//! Guarantees: one look asks the kernel for listeners alone (`sock_diag(7)`), so that it costs what
//! they cost and not what connections or the kernel's tables do; both families are in it. Where the
//! kernel has no `sock_diag`, its tables of text are read.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

/// `AF_NETLINK` and its family `NETLINK_SOCK_DIAG`; the families of addresses; `IPPROTO_TCP`.
const AF_NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// The type of a question by family, and those of the messages that end an answer.
const BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// The state of a socket that listens, also as the kernel's tables have it.
const LISTEN: u8 = 10;
/// The attribute that says whether a socket of IPv6 takes nothing of IPv4.
const ONLY_IPV6: u16 = 11;
const HEADER: usize = 16;
const ANSWER: usize = 72;
/// What one read of an answer takes in at most.
const READ: usize = 64 << 10;

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Listener {
    /// Its address, IPv4 where it is mapped into IPv6.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Whether it takes nothing of IPv4 although its address is that of any.
    pub(super) only_ipv6: bool,
    /// The number by which `/proc/<pid>/fd` names it.
    pub(super) inode: u64,
}

/// Looks at every listener of this machine (of this network namespace).
pub(super) fn read() -> io::Result<Vec<Listener>> {
    match ask(AF_INET).and_then(|four| Ok((four, ask(AF_INET6)?))) {
        Ok((mut all, six)) => {
            all.extend(six);
            Ok(all)
        }
        Err(_) => read_tables(),
    }
}

/// One question to the kernel.
fn ask(family: u8) -> io::Result<Vec<Listener>> {
    let socket = Socket::new(
        Domain::from(AF_NETLINK),
        Type::RAW.cloexec(),
        Some(Protocol::from(SOCK_DIAG)),
    )?;
    // Of `inet_diag_req_v2`: family, protocol, what to add, padding, states, and no one socket.
    let mut question = vec![family, TCP, 0, 0];
    question.extend((1_u32 << LISTEN).to_ne_bytes());
    question.resize(HEADER + 40, 0);
    let length = u32::try_from(HEADER + question.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(question);
    (&socket).write_all(&message)?;
    let (mut all, mut buffer) = (Vec::new(), vec![0; READ]);
    loop {
        let length = (&socket).read(&mut buffer)?;
        if take_in(buffer.get(..length).unwrap_or_default(), &mut all)? {
            return Ok(all);
        }
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Takes in the messages of one read; whether the answer is whole.
fn take_in(mut bytes: &[u8], all: &mut Vec<Listener>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (number(bytes, 0), number(bytes, 4)) {
        let length = u32::from_ne_bytes(length) as usize;
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let body = bytes.get(HEADER..length).ok_or_else(broken)?;
        match u16::from_ne_bytes(kind) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(io::ErrorKind::Unsupported.into()),
            BY_FAMILY => all.extend(listener(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// An `inet_diag_msg`.
fn listener(body: &[u8]) -> Option<Listener> {
    let [family, state] = number(body, 0)?;
    let address = match family {
        AF_INET => IpAddr::from(Ipv4Addr::from(number(body, 8)?)),
        AF_INET6 => IpAddr::from(Ipv6Addr::from(number(body, 8)?)).to_canonical(),
        _ => return None,
    };
    let inode = u32::from_ne_bytes(number(body, ANSWER - 4)?);
    let listener = Listener {
        address,
        port: u16::from_be_bytes(number(body, 4)?),
        only_ipv6: is_only_ipv6(body.get(ANSWER..).unwrap_or_default()),
        inode: inode.into(),
    };
    (state == LISTEN).then_some(listener)
}

/// Looks through the attributes behind an `inet_diag_msg`.
fn is_only_ipv6(mut attributes: &[u8]) -> bool {
    while let (Some(length), Some(kind)) = (number(attributes, 0), number(attributes, 2)) {
        let length = usize::from(u16::from_ne_bytes(length));
        if u16::from_ne_bytes(kind) == ONLY_IPV6 {
            return attributes.get(4).is_some_and(|value| *value != 0);
        }
        if length < 4 {
            return false;
        }
        let next = attributes.get(length.next_multiple_of(4)..);
        attributes = next.unwrap_or_default();
    }
    false
}

/// Reads the kernel's tables, which hold every connection, too.
fn read_tables() -> io::Result<Vec<Listener>> {
    let four = std::fs::read_to_string("/proc/net/tcp")?;
    // A kernel without IPv6 has no such table.
    let six = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let lines = four.lines().chain(six.lines());
    Ok(lines.filter_map(parse_line).collect())
}

/// `sl local remote st queues timer retransmits uid timeout inode`, addresses as the hexadecimal of
/// their words in memory.
fn parse_line(line: &str) -> Option<Listener> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    let word = |at: usize| {
        let text = address.get(at..at + 8)?;
        Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    let listener = Listener {
        address,
        port: u16::from_str_radix(port, 16).ok()?,
        only_ipv6: false,
        inode,
    };
    (u8::from_str_radix(state, 16) == Ok(LISTEN)).then_some(listener)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn bound(domain: Domain, address: SocketAddr, only_ipv6: bool) -> (Socket, u16) {
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        if domain == Domain::IPV6 {
            socket.set_only_v6(only_ipv6).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address.port())
    }

    /// What is listening, as the question of sock_diag and the tables have it.
    fn both() -> [Vec<Listener>; 2] {
        let mut asked = ask(AF_INET).unwrap();
        asked.extend(ask(AF_INET6).unwrap());
        [asked, read_tables().unwrap()]
    }

    #[test]
    fn listeners_of_both_families_are_seen_and_connections_are_not() {
        let four = TcpListener::bind("127.77.255.254:0").unwrap();
        let address = four.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let mapped: SocketAddr = "[::ffff:127.77.255.253]:0".parse().unwrap();
        let (_mapped, mapped_port) = bound(Domain::IPV6, mapped, false);
        let any: SocketAddr = "[::]:0".parse().unwrap();
        let (_any, any_port) = bound(Domain::IPV6, any, false);
        let (_only, only_port) = bound(Domain::IPV6, any, true);
        for all in both() {
            let at = |port: u16| {
                let found = all.iter().filter(|listener| listener.port == port);
                found.map(|listener| listener.address).collect::<Vec<_>>()
            };
            assert!(at(address.port()).contains(&address.ip()));
            let mapped = IpAddr::from([127, 77, 255, 253]);
            assert!(at(mapped_port).contains(&mapped), "IPv4 in IPv6");
            assert!(at(any_port).contains(&any.ip()));
            assert!(at(only_port).contains(&any.ip()));
            let connection = client.local_addr().unwrap();
            assert!(!at(connection.port()).contains(&connection.ip()));
            assert!(all.iter().all(|listener| listener.inode > 0));
        }
        let asked = ask(AF_INET6).unwrap();
        let only = |port| asked.iter().any(|l| l.port == port && l.only_ipv6);
        assert!(only(only_port) && !only(any_port));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error_and_never_a_panic() {
        let (_socket, _) = bound(Domain::IPV4, "127.0.0.1:0".parse().unwrap(), false);
        let mut message = vec![0; HEADER + ANSWER];
        message[..4].copy_from_slice(&200_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        let mut all = Vec::new();
        assert!(take_in(&message, &mut all).is_err());
        assert!(take_in(&message[..3], &mut all).is_ok_and(|whole| !whole));
        assert_eq!(all, []);
        for line in [
            "",
            "x",
            " 0: zz:1 0:0 0A",
            " 0: 00000000:0050 0:0 01 a b c d e 7",
        ] {
            assert_eq!(parse_line(line), None, "{line}");
        }
    }
}
