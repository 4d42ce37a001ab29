//! The codes and rules that other rooms count by, as words.
//!
//! Guarantees: each of them has its series from the start; tests read the sources, so that none is
//! missing here.

use metrics::Label;

use super::catalogue as name;
use super::registry::Registry;

/// Why a wake fails, for the wake's own count and for those who waited for it.
const OF_WAKES: &[&str] = &[
    "address_refused",
    "app_not_listening",
    "app_unhealthy",
    "cold_boot_refused",
    "control_plane_refused",
    "control_plane_unavailable",
    "control_plane_unreadable",
    "draining",
    "instance_initializing",
    "instance_not_found",
    "instance_state_unknown",
    "instance_stopped",
    "instance_transitioning",
    "instance_unusable",
    "no_capacity",
    "upstream_tls",
    "wake_failed",
    "wake_failing",
    "wake_queue_full",
    "wake_timeout",
    "wake_too_slow",
];
/// Why else the gateway answers itself.
const OTHERS: &[&str] = &[
    "ambiguous_path",
    "asleep",
    "auth_redirect",
    "auth_unavailable",
    "bad_handshake",
    "bad_host",
    "bad_request",
    "bad_target",
    "bad_upgrade",
    "body_broke",
    "body_timeout",
    "connect_failed",
    "forbidden",
    "forward_loop",
    "head_too_large",
    "hold_queue_full",
    "hold_queue_share",
    "host_unreachable",
    "instance_busy",
    "instance_share",
    "memory_share",
    "method_not_allowed",
    "misdirected",
    "misplaced",
    "no_route",
    "not_here",
    "peer_refused",
    "policy_not_known",
    "port_not_allowed",
    "redirect_to_https",
    "route_closed",
    "target_too_long",
    "too_many_refused",
    "too_many_unknown_names",
    "transfer_coding",
    "tunnel_limit",
    "unauthenticated",
    "unknown_protocol",
    "upstream_broke",
    "upstream_invalid",
    "upstream_timeout",
    "upstream_tls",
    "waiting_page",
    "wake_rate",
    "wrong_scheme",
];
/// The rules that keep a request from waking its instance.
const RULES: &[&str] = &[
    "method",
    "path",
    "header",
    "client",
    "user_agent",
    "client_rate",
    "route_rate",
    "robots",
    "health",
    "bot",
    "scanner",
    "prefetch",
    "icon",
];

/// A code by its text, as another gateway says it.
pub fn known_code(text: &str) -> Option<&'static str> {
    let mut codes = OF_WAKES.iter().chain(OTHERS).copied();
    codes.find(|code| *code == text)
}

/// Gives each word its series.
pub(super) fn register(registry: &Registry) {
    // A handle that nobody keeps leaves its series behind.
    let begin = |name, labels| drop(registry.counter(name, labels));
    let codes = || OF_WAKES.iter().chain(OTHERS).copied();
    for code in codes() {
        begin(name::ERRORS, vec![Label::new("code", code)]);
    }
    for code in OF_WAKES {
        begin(name::WAKE_FAILURES, vec![Label::new("code", *code)]);
    }
    for rule in RULES {
        begin(name::WAKE_REFUSALS, vec![Label::new("rule", *rule)]);
    }
    for outcome in ["ok", "failed"] {
        begin(name::SPANS, vec![Label::new("outcome", outcome)]);
    }
    for hook in ["resumed", "before_standby"] {
        for outcome in ["ok", "refused", "failed", "timeout"] {
            let labels = vec![Label::new("hook", hook), Label::new("outcome", outcome)];
            begin(name::HOOKS, labels);
        }
    }
    for kind in ["tls", "tcp"] {
        for outcome in codes().chain(["passed_on"]) {
            let labels = vec![Label::new("kind", kind), Label::new("outcome", outcome)];
            begin(name::RAW_CONNECTIONS, labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The words in quotes of a part of a source.
    fn words<'a>(source: &'a str, from: &str, to: &str) -> BTreeSet<&'a str> {
        let part = source.split(from).nth(1).unwrap();
        let part = part.split(to).next().unwrap();
        let quoted = part.split('"').skip(1).step_by(2);
        let is_word = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        quoted.filter(is_word).collect()
    }

    #[test]
    fn every_code_and_every_rule_has_its_series_from_the_start() {
        let set = |words: &[&'static str]| words.iter().copied().collect::<BTreeSet<_>>();
        let errors = include_str!("../../wake/error.rs");
        let of_wakes = words(errors, "fn code(", "\n    }\n");
        assert_eq!(of_wakes, set(OF_WAKES));
        let described = include_str!("../../proxy/error_response/descriptions.rs");
        let mut described = words(described, "pub fn describe(", "#[cfg(test)]");
        described.insert("waiting_page");
        assert_eq!(described, set(OTHERS));
        let denied = include_str!("../../proxy/denied.rs");
        assert_eq!(words(denied, "fn as_str(", "\n    }\n"), set(RULES));
    }
}
