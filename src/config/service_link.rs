//! The variables that Kubernetes gives to every pod for each Service of its namespace.
//!
//! Guarantees: what Kubernetes wrote is never taken for a setting of ours, although a Service may
//! have a name such as `wakegate` or `wakegate-upstream`; `*_PORT` counts only with a value that no
//! port of ours can have. A variable of these shapes without its Service's address beside it may be
//! somebody's mistake: it is not read either, but `check` and the start say so.
//!
//! A Service called `a-b` with port 80, named `http`, makes `A_B_SERVICE_HOST`,
//! `A_B_SERVICE_PORT`, `A_B_SERVICE_PORT_HTTP`, `A_B_PORT=tcp://10.0.0.1:80`, `A_B_PORT_80_TCP`,
//! and the latter with `_PROTO`, `_PORT` and `_ADDR` behind it.

use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Whether a variable is a link to a Service.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let ends = |end: &str| name.len() > end.len() && name.ends_with(end);
    ends("_SERVICE_HOST")
        || ends("_SERVICE_PORT")
        || name
            .split_once("_SERVICE_PORT_")
            .is_some_and(|(service, port)| !service.is_empty() && !port.is_empty())
        || (ends("_PORT") && is_link(value))
        || is_numbered_port(name)
}

/// Whether Kubernetes may have written this link: the Service's address is there, too, as it always
/// is. `address` gives a variable's value.
pub(super) fn has_service<'v>(name: &str, address: impl Fn(&str) -> Option<&'v str>) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    (1..words.len()).any(|count| {
        let service = words.get(..count).unwrap_or_default().join("_");
        let address = address(&format!("{service}_SERVICE_HOST"));
        address.is_some_and(|address| address.parse::<IpAddr>().is_ok())
    })
}

/// Whether a value is one that Kubernetes gives to `*_PORT`, such as `tcp://10.0.0.1:80`.
fn is_link(value: &str) -> bool {
    value.split_once("://").is_some_and(|(scheme, _)| {
        PROTOCOLS
            .iter()
            .any(|protocol| scheme.eq_ignore_ascii_case(protocol))
    })
}

/// `*_PORT_<number>_<protocol>`, and the three that have more behind it.
fn is_numbered_port(name: &str) -> bool {
    let mut words = name.rsplit('_').peekable();
    words.next_if(|word| matches!(*word, "PROTO" | "PORT" | "ADDR"));
    let is_protocol = words.next().is_some_and(|word| PROTOCOLS.contains(&word));
    let is_number = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
    is_protocol && is_number && words.next() == Some("PORT") && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::{has_service, is_service_link};

    #[test]
    fn a_link_is_kubernetes_only_beside_its_services_address() {
        let address = |name: &str| (name == "WAKEGATE_PROD_SERVICE_HOST").then_some("10.0.0.1");
        assert!(has_service("WAKEGATE_PROD_SERVICE_PORT_HTTP", address));
        assert!(has_service("WAKEGATE_PROD_PORT_80_TCP", address));
        assert!(has_service("WAKEGATE_PROD_SERVICE_HOST", address));
        assert!(!has_service("WAKEGATE_UPSTREAM_SERVICE_PORT", address));
        assert!(!has_service("WAKEGATE_PROD_SERVICE_PORT", |_| Some("app")));
    }

    #[test]
    fn each_shape_is_a_link_whatever_the_service_is_called() {
        for service in ["WAKEGATE", "WAKEGATE_PROD", "WAKEGATE_UPSTREAM"] {
            for (end, value) in [
                ("SERVICE_HOST", "10.0.0.1"),
                ("SERVICE_HOST", "fd00::1"),
                ("SERVICE_PORT", "80"),
                ("SERVICE_PORT_HTTP", "80"),
                ("SERVICE_PORT_HTTP_ADMIN", "9900"),
                ("PORT", "tcp://10.0.0.1:80"),
                ("PORT", "udp://10.0.0.1:53"),
                ("PORT", "sctp://[fd00::1]:80"),
                ("PORT_80_TCP", "tcp://10.0.0.1:80"),
                ("PORT_53_UDP", "udp://10.0.0.1:53"),
                ("PORT_7_SCTP", "sctp://10.0.0.1:7"),
                ("PORT_80_TCP_PROTO", "tcp"),
                ("PORT_80_TCP_PORT", "80"),
                ("PORT_80_TCP_ADDR", "10.0.0.1"),
            ] {
                let name = format!("{service}_{end}");
                assert!(is_service_link(&name, value), "{name}={value}");
            }
        }
    }

    #[test]
    fn what_a_person_may_have_written_is_no_link() {
        for (name, value) in [
            ("WAKEGATE_UPSTREAM_PORT", "8080"),
            ("WAKEGATE_UPSTREAM_PORT", "http://10.0.0.1:80"),
            ("WAKEGATE_UPSTREM_PORT", "8080"),
            ("WAKEGATE_ROUTE_0_PORT", "8080"),
            ("WAKEGATE_PORT_80", "80"),
            ("WAKEGATE_PORT_HTTP_TCP", "80"),
            ("WAKEGATE_PORT_99999_TCP", "80"),
            ("WAKEGATE_PORT_80_HTTP", "80"),
            ("WAKEGATE_PORT_80_TCP_HOST", "80"),
            ("WAKEGATE_80_TCP", "80"),
            ("WAKEGATE_SERVICE_PORT_", "80"),
            ("WAKEGATE_HOST", "10.0.0.1"),
            ("WAKEGATE_TRACING_SERVICE_NAME", "edge"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
