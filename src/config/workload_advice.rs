//! What to think about where workloads have a door.
//!
//! Guarantees: it is named where others than instances can come to it.

use std::net::IpAddr;

use super::say::Say;
use super::{Config, WorkloadConfig};

/// Calls `say` for each thing.
pub(super) fn of_workload(config: &Config, say: &mut impl Say) {
    let workload = &config.workload;
    let Some(address) = workload.address else {
        if *workload != WorkloadConfig::default() {
            say(
                "no_effect",
                "workload",
                "has no effect without `workload.address`".to_owned(),
                "set it to the address of the instances' bridge, or leave the section out",
            );
        }
        return;
    };
    if matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        say(
            "link_local_door",
            "workload.address",
            format!(
                "{address} is link-local: such an address does not say which instance comes, so all are refused"
            ),
            "bind it to another address that the host has on the instances' own network",
        );
    }
    if is_for_all(address.ip()) {
        say(
            "open_door",
            "workload.address",
            format!(
                "{address} can be reached by others than instances: each of them that comes makes the gateway \
                 list all instances, once in two seconds at most, before it is refused"
            ),
            "bind it to the address that the host has on the instances' own network, such as 10.100.0.1",
        );
    }
}

/// Whether an address is every network's, or one of the internet's.
fn is_for_all(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // 100.64.0.0/10 is between providers and their customers (RFC 6598).
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Problem, Variables, advice, load};

    #[test]
    fn a_door_that_the_outside_reaches_and_one_that_is_none_are_told_of() {
        let near = [
            "127.0.0.1",
            "10.100.0.1",
            "192.168.1.1",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
        ];
        let near = near.map(|ip| (format!("address = \"{ip}:9911\""), None));
        let far = ["0.0.0.0", "[::]", "203.0.113.5", "[2001:db8::1]"];
        let far = far.map(|ip| (format!("address = \"{ip}:9911\""), Some("open_door")));
        let link = [(
            "address = \"[fe80::1]:9911\"".to_owned(),
            Some("link_local_door"),
        )];
        let without = ("max_holds = 5".to_owned(), Some("no_effect"));
        for (keys, rule) in near.into_iter().chain(far).chain(link).chain([without]) {
            let text = format!("[workload]\n{keys}\n[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n");
            let key = [("HYPEMAN_API_KEY".to_owned(), "k".to_owned())];
            let config = load("w.toml", &text, &key.into_iter().collect::<Variables>()).unwrap();
            let found: Vec<Problem> = advice(&config, None);
            let rules: Vec<_> = found.iter().map(|one| one.rule).collect();
            assert_eq!(rules, rule.into_iter().collect::<Vec<_>>(), "{keys}");
        }
    }
}
