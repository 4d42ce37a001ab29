//! Addresses that cannot go together.
//!
//! Guarantees: two sockets of one gateway are never opened at the same address, also where
//! `server.reuse_port` would let them: clients would come to one or the other by chance, and to the
//! operator's listener.

use std::net::{IpAddr, SocketAddr};

use super::model::Config;
use super::problem::Problem;

/// Every listener, the operator's and the workloads' last, whose address one before it has.
pub fn address_problems(config: &Config) -> Vec<Problem> {
    let listeners = config.listener.iter().enumerate();
    let listeners =
        listeners.map(|(index, one)| (format!("listener[{index}].address"), one.address));
    let admin = ("admin.address".to_owned(), config.admin.address);
    let workload = config.workload.address;
    let workload = workload.map(|address| ("workload.address".to_owned(), address));
    let peers = config.fleet.as_ref().and_then(|fleet| fleet.listen);
    let peers = peers.map(|address| ("fleet.listen".to_owned(), address));
    let own = [admin].into_iter().chain(workload).chain(peers);
    let all: Vec<(String, SocketAddr)> = listeners.chain(own).collect();
    let mut problems = Vec::new();
    for (index, (key, address)) in all.iter().enumerate() {
        let is_own = index >= config.listener.len();
        let mut earlier = all.iter().take(index);
        let taken =
            earlier.find(|(_, other)| collide(*other, *address, is_own, config.server.reuse_port));
        if let Some((other_key, other)) = taken {
            let message = match other == address {
                true => format!("{address} is the address of `{other_key}`, too"),
                false => format!("{address} is among the addresses of `{other_key}`, {other}"),
            };
            let problem = Problem::of("address_conflict", key, message);
            problems.push(problem.with_mend("give each listener an address or port of its own"));
        }
    }
    problems
}

/// Whether sockets at both addresses would be one too many.
fn collide(one: SocketAddr, other: SocketAddr, is_own: bool, reuse_port: bool) -> bool {
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let [one, other] = [one, other].map(|address| address.ip().to_canonical());
    if one == other {
        return true;
    }
    // The kernel prefers the exact address where it lets both be open.
    if reuse_port {
        return false;
    }
    let is_all = |ip: IpAddr| ip.is_unspecified();
    match one.is_ipv4() == other.is_ipv4() {
        true => is_all(one) || is_all(other),
        // One at [::] leaves IPv4 to another listener of clients at its port, and to none else.
        false => {
            is_own
                && [one, other]
                    .into_iter()
                    .any(|ip| ip.is_ipv6() && is_all(ip))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    const ROUTE: &str = "[[route]]\nhost = \"a.example.com\"\ninstance = \"a\"\n";

    fn keys(listeners: &[&str], admin: &str, reuse_port: bool) -> Vec<String> {
        let listeners = listeners.iter();
        let listeners: Vec<String> = listeners
            .map(|address| format!("[[listener]]\naddress = \"{address}\"\n"))
            .collect();
        let text = format!(
            "[server]\nreuse_port = {reuse_port}\n[admin]\naddress = \"{admin}\"\n{}{ROUTE}",
            listeners.concat()
        );
        let config = load("w.toml", &text, &Variables::default()).unwrap();
        let problems = address_problems(&config).into_iter();
        problems.map(|problem| problem.key).collect()
    }

    #[test]
    fn an_address_is_one_listeners() {
        let admin = "127.0.0.1:9900";
        for (listeners, admin, expected) in [
            (&["127.0.0.1:80", "127.0.0.1:81"][..], admin, &[][..]),
            (
                &["127.0.0.1:80", "127.0.0.1:80"],
                admin,
                &["listener[1].address"],
            ),
            (&["0.0.0.0:80", "[::]:80"], admin, &[]),
            (
                &["[::ffff:127.0.0.1]:80", "127.0.0.1:80"],
                admin,
                &["listener[1].address"],
            ),
            (&["127.0.0.1:0", "127.0.0.1:0"], "127.0.0.1:0", &[]),
            (&["127.0.0.1:9900"], admin, &["admin.address"]),
        ] {
            for reuse_port in [false, true] {
                assert_eq!(
                    keys(listeners, admin, reuse_port),
                    expected,
                    "{listeners:?}"
                );
            }
        }
    }

    #[test]
    fn an_address_among_anothers_is_its_own_only_where_the_kernel_tells_them_apart() {
        for (listeners, admin, expected) in [
            (
                &["0.0.0.0:80", "127.0.0.1:80"][..],
                "127.0.0.1:9900",
                "listener[1].address",
            ),
            (&["0.0.0.0:9900"], "127.0.0.1:9900", "admin.address"),
            (&["[::]:9900"], "[::1]:9900", "admin.address"),
            (&["127.0.0.1:9900"], "[::]:9900", "admin.address"),
            (&["[::]:9900"], "127.0.0.1:9900", "admin.address"),
        ] {
            assert_eq!(keys(listeners, admin, false), [expected], "{listeners:?}");
            assert_eq!(keys(listeners, admin, true), [""; 0], "{listeners:?}");
        }
    }
}
