//! What to think about where routes ask requests to show something.
//!
//! Guarantees: every listener at which such a route can be reached, and cannot be served, is named.

use super::model::{Config, ListenerConfig, ListenerMode};
use super::pattern::HostPattern;
use super::route::RouteConfig;
use super::say::Say;

/// Calls `say` for each thing.
pub(super) fn of_auth(config: &Config, say: &mut impl Say) {
    for (index, route) in config.route.iter().enumerate() {
        let Some(auth) = &route.forwarding.auth else {
            continue;
        };
        let key = format!("route[{index}].auth");
        if auth.needs_certificate() {
            let unasked = without_question(config, route);
            if !unasked.is_empty() {
                say(
                    "closed_listener",
                    &key,
                    format!(
                        "needs a client's certificate, for which clients are not asked at {}: there the route \
                         refuses every request",
                        unasked.join(", ")
                    ),
                    "set `tls.client_ca` there, or keep the route's clients away from there",
                );
            }
        }
        let unread: Vec<String> = config
            .listener
            .iter()
            .filter(|listener| is_unread(config, listener, route))
            .map(|listener| listener.address.to_string())
            .collect();
        if !unread.is_empty() {
            say(
                "closed_listener",
                &key,
                format!(
                    "cannot be asked for at {}, where connections are passed on unread: those for `{}` are \
                     refused there",
                    unread.join(", "),
                    route.host
                ),
                "let the listener terminate TLS, or give such connections a host of their own",
            );
        }
    }
}

/// Where a client cannot show a certificate although its request reaches the route.
fn without_question(config: &Config, route: &RouteConfig) -> Vec<String> {
    // In clear it is redirected, to where it can.
    let is_redirected = route.forwarding.redirect_http.enabled;
    let of_file = config.listener.iter().filter(|listener| {
        let asks = |listener: &ListenerConfig| match &listener.tls {
            Some(tls) => tls.clients.is_some(),
            None => is_redirected,
        };
        listener.mode == ListenerMode::Http && !asks(listener)
    });
    let mut all: Vec<String> = of_file
        .map(|listener| listener.address.to_string())
        .collect();
    let of_ingress = config.ingress.tls.as_ref();
    let asks = of_ingress.is_some_and(|tls| tls.clients.is_some());
    if config.ingress.watch && !(asks && is_redirected) {
        all.push("the ports that [ingress] opens".to_owned());
    }
    all
}

/// Whether connections for the route's host are passed on unread by this listener.
fn is_unread(config: &Config, listener: &ListenerConfig, route: &RouteConfig) -> bool {
    match &listener.mode {
        ListenerMode::Http | ListenerMode::Wake => false,
        ListenerMode::TlsPassthrough => true,
        ListenerMode::Tcp { host } => {
            let fitting = config.route.iter().map(|route| &route.host);
            let best = fitting
                .filter(|pattern| pattern.fits(host))
                .min_by_key(|pattern| rank(pattern));
            best.is_some_and(|best| *best == route.host)
        }
    }
}

/// The lower, the earlier a host is looked for among such patterns.
fn rank(pattern: &HostPattern) -> (u8, usize) {
    match pattern {
        HostPattern::Exact(_) => (0, 0),
        HostPattern::Labels(_) => (1, 0),
        HostPattern::Wildcard(suffix) => (2, usize::MAX - suffix.as_str().len()),
        HostPattern::Any => (3, 0),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Variables, advice, load};

    const CLEAR: &str = "[[listener]]\naddress = \"127.0.0.1:80\"\n";
    const SECURE: &str = "[[listener]]\naddress = \"127.0.0.1:443\"\n\
                          tls = { internal = \"ca\" }\n";
    const ASKS: &str = "[[listener]]\naddress = \"127.0.0.1:8443\"\n\
                        tls = { internal = \"ca\", client_ca = \"ca.pem\", client_auth = \"optional\" }\n";
    const PASSES: &str = "[[listener]]\naddress = \"127.0.0.1:9443\"\nmode = \"tls-passthrough\"\n";
    const TCP: &str = "[[listener]]\naddress = \"127.0.0.1:5432\"\nmode = \"tcp\"\n\
                       host = \"a.example.com\"\n";
    const ROUTE: &str = "[[route]]\nhost = \"a.example.com\"\ninstance = \"a\"\n";
    const CERTIFICATE: &str = "[[route.auth.any]]\nclient_certificate = true\n";
    const FIELD: &str =
        "[route.auth]\nheader = \"x-key\"\nvalue = \"0123456789abcdef0123456789abcdef\"\n";

    /// The keys and risks of a configuration, and the addresses that they name.
    fn risks(parts: &[&str]) -> Vec<(String, String)> {
        let key = [("HYPEMAN_API_KEY".to_owned(), "k".to_owned())];
        let config = load("w.toml", &parts.concat(), &Variables::from_iter(key)).unwrap();
        let advice = advice(&config, None).into_iter();
        advice.map(|one| (one.key, one.message)).collect()
    }

    #[test]
    fn a_listener_that_does_not_ask_for_certificates_is_named_and_one_that_does_is_not() {
        assert_eq!(risks(&[ASKS, ROUTE, CERTIFICATE]), []);
        let named = risks(&[CLEAR, SECURE, ASKS, ROUTE, CERTIFICATE]);
        let [(key, risk)] = named.as_slice() else {
            panic!("{named:?}");
        };
        assert_eq!(key, "route[0].auth");
        let has = |address: &str| risk.contains(address);
        assert!(has("127.0.0.1:80,") && has("127.0.0.1:443:"), "{risk}");
        assert!(!has("8443"), "{risk}");
        let https = "[server]\nhttps_port = 443\n";
        let redirects = format!("{ROUTE}redirect_http = true\n{CERTIFICATE}");
        assert_eq!(risks(&[https, CLEAR, ASKS, &redirects]), []);
        let watches = risks(&["[ingress]\nwatch = true\n", ASKS, ROUTE, CERTIFICATE]);
        assert!(watches[0].1.contains("[ingress]"), "{watches:?}");
    }

    #[test]
    fn a_listener_that_passes_connections_on_unread_is_named_for_any_proof() {
        for proof in [CERTIFICATE, FIELD] {
            for listener in [PASSES, TCP] {
                let named = risks(&[ASKS, listener, ROUTE, proof]);
                assert_eq!(named.len(), 1, "{named:?}");
                assert!(named[0].1.contains("unread"), "{named:?}");
            }
        }
        assert_eq!(risks(&[ASKS, PASSES, TCP, ROUTE]), []);
        // The port's connections are another route's.
        let other = "[[route]]\nhost = \"*.example.com\"\ninstance = \"b\"\n";
        assert_eq!(risks(&[ASKS, TCP, ROUTE, other, CERTIFICATE]), []);
    }
}
