//! What of a route is followed where its instance is, and not where its clients come.
//!
//! Guarantees: each key of a route is followed by the gateway that meets the client, or told to the instance's
//! host with each request, or named here where it says something; a new key has to be sorted before this
//! compiles.

use super::forwarding::ForwardingConfig;
use super::route::{
    AdmissionConfig, AsleepConfig, LimitsConfig, RetryConfig, RoutePolicy, RouteWakeConfig,
    WaitingPageConfig,
};
use super::tunnel::TunnelConfig;
use super::wake::WakeConfig;

/// The keys of a route that a front cannot follow and that no request takes along, as far as they say something
/// else than a route that says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AtNode {
    /// Without these, instances would be woken, reached or kept awake otherwise than is said.
    pub(super) needed: Vec<&'static str>,
    /// Without these, requests are served as well, only later.
    pub(super) helpful: Vec<&'static str>,
}

// === impl AtNode ===

impl AtNode {
    /// Those of a route's settings, where `[wake]` says this.
    pub(super) fn of(policy: &RoutePolicy, wake: &WakeConfig) -> Self {
        let RoutePolicy {
            // The port is a part of what the front asks for.
            ports: _,
            port_from: _,
            forwarding,
            hypeman: _,
            plane: _,
            plane_is_open: _,
            has_more_at_node: _,
            limits,
            wake: own,
            admission,
            asleep,
            retry,
            waiting_page,
            tunnel,
            keep_warm,
            prewarm,
        } = policy;
        let ForwardingConfig {
            // With each request.
            protocol: _,
            strip_path: _,
            upstream_tls,
            proxy_protocol,
            field_names,
            // What is between the client and its gateway.
            redirect_http: _,
            hsts: _,
            early_continue: _,
            request_headers: _,
            response_headers: _,
            auth: _,
        } = forwarding;
        let LimitsConfig {
            max_inflight,
            soft_inflight,
            soft_wait,
            max_inflight_per_client,
            max_held_per_client,
            // The client's own gateway reads its body.
            min_body_rate: _,
        } = limits;
        let RouteWakeConfig {
            // With each request.
            timeout: _,
            start_stopped,
            require_memory,
            ready,
            health_path,
            on_tls_hello,
            warmup,
            hooks,
            max_held,
            also,
        } = own;
        let TunnelConfig {
            // Tunnels go through both.
            idle: _,
            max_life: _,
            max_per_client: _,
            wake: tunnel_wake,
            subprotocols,
            park,
        } = tunnel;
        let (few, usual) = (LimitsConfig::default(), RouteWakeConfig::of(wake));
        let (plain, open) = (ForwardingConfig::default(), TunnelConfig::default());
        let said = |keys: &[(bool, &'static str)]| {
            let said = keys.iter().filter(|(is_said, _)| *is_said);
            said.map(|(_, key)| *key).collect()
        };
        Self {
            needed: said(&[
                (upstream_tls.is_some(), "upstream_tls"),
                (proxy_protocol.is_some(), "proxy_protocol"),
                (*field_names != plain.field_names, "field_names"),
                (*max_inflight != few.max_inflight, "limits.max_inflight"),
                // Without a word it is as many.
                (soft_inflight != max_inflight, "limits.soft_inflight"),
                (*soft_wait != few.soft_wait, "limits.soft_wait"),
                (
                    *max_inflight_per_client != few.max_inflight_per_client,
                    "limits.max_inflight_per_client",
                ),
                (
                    *max_held_per_client != few.max_held_per_client,
                    "limits.max_held_per_client",
                ),
                (*start_stopped != usual.start_stopped, "wake.start_stopped"),
                (
                    *require_memory != usual.require_memory,
                    "wake.require_memory",
                ),
                (*ready != usual.ready, "wake.ready"),
                (*health_path != usual.health_path, "wake.health_path"),
                (!hooks.is_empty(), "wake.hooks"),
                (*max_held != usual.max_held, "wake.max_held"),
                (*admission != AdmissionConfig::default(), "admission"),
                (*asleep != AsleepConfig::default(), "asleep"),
                (*retry != RetryConfig::default(), "retry"),
                (*tunnel_wake != open.wake, "tunnel.wake"),
                (!subprotocols.is_empty(), "tunnel.subprotocols"),
                (park.is_some(), "tunnel.park"),
            ]),
            helpful: said(&[
                (*on_tls_hello, "wake.on_tls_hello"),
                (warmup.is_some(), "wake.warmup"),
                (!also.is_empty(), "wake.also"),
                (
                    *waiting_page != WaitingPageConfig::default(),
                    "waiting_page",
                ),
                (!keep_warm.is_empty(), "keep_warm"),
                (!prewarm.is_empty(), "prewarm"),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn at_node(wake: &str, keys: &str) -> (AtNode, bool) {
        let text = format!("{wake}[[route]]\nhost = \"a.test\"\ninstance = \"a\"\n{keys}");
        let key = [("HYPEMAN_API_KEY".to_owned(), "k".to_owned())];
        let config = load("w.toml", &text, &key.into_iter().collect()).unwrap();
        let route = &config.route[0];
        let has_more = route.has_more_at_node;
        (AtNode::of(route, &config.wake), has_more)
    }

    #[test]
    fn what_a_front_cannot_follow_is_named_and_what_it_can_is_not() {
        for (keys, needed, helpful) in [
            ("", &[][..], &[][..]),
            // What it follows, or tells with each request.
            ("protocol = \"h2c\"\n", &[], &[]),
            ("hsts = \"24h\"\nearly_continue = true\n", &[], &[]),
            (
                "[route.response_headers]\nremove = [\"server\"]\n",
                &[],
                &[],
            ),
            (
                "auth = { header = \"x\", value = \"0123456789-0123456789-0123456789-0123456789\" }\n",
                &[],
                &[],
            ),
            ("[route.wake]\ntimeout = \"5s\"\n", &[], &[]),
            ("[route.limits]\nmin_body_rate = \"1KiB\"\n", &[], &[]),
            (
                "[route.tunnel]\nidle = \"1m\"\nmax_life = \"1h\"\nmax_per_client = 3\n",
                &[],
                &[],
            ),
            (
                "ports = \"3000\"\n[route.port_from]\nheader = \"x-port\"\n",
                &[],
                &[],
            ),
            // What is said as it is without a word.
            ("[route.limits]\nmax_inflight = 1000\n", &[], &[]),
            ("proxy_protocol = \"v2\"\n", &["proxy_protocol"], &[]),
            ("field_names = \"title\"\n", &["field_names"], &[]),
            (
                "protocol = \"https\"\nupstream_tls = { verify = false }\n",
                &["upstream_tls"],
                &[],
            ),
            (
                "[route.limits]\nmax_inflight = 5\n",
                &["limits.max_inflight"],
                &[],
            ),
            (
                "[route.limits]\nmax_inflight = 0\n",
                &["limits.max_inflight"],
                &[],
            ),
            (
                "[route.limits]\nmax_held_per_client = 4\n",
                &["limits.max_held_per_client"],
                &[],
            ),
            (
                "[route.wake]\nrequire_memory = true\n",
                &["wake.require_memory"],
                &[],
            ),
            (
                "[route.wake]\nstart_stopped = true\n",
                &["wake.start_stopped"],
                &[],
            ),
            ("[route.wake]\nmax_held = 0\n", &["wake.max_held"], &[]),
            (
                "[route.wake]\nready = \"health\"\nhealth_path = \"/up\"\n",
                &["wake.ready", "wake.health_path"],
                &[],
            ),
            (
                "[route.wake.hooks]\nresumed = \"/up\"\n",
                &["wake.hooks"],
                &[],
            ),
            (
                "[route.admission]\nmethods = [\"GET\"]\n",
                &["admission"],
                &[],
            ),
            (
                "[route.asleep]\nhealth_paths = [\"/up\"]\n",
                &["asleep"],
                &[],
            ),
            ("[route.retry]\non_wake = [502]\n", &["retry"], &[]),
            (
                "[route.tunnel]\nwake = \"first-frame\"\n",
                &["tunnel.wake"],
                &[],
            ),
            (
                "tunnel = { park = { after = \"2m\" } }\n",
                &["tunnel.park"],
                &[],
            ),
            ("waiting_page = true\n", &[], &["waiting_page"]),
            (
                "[route.wake]\nwarmup = \"/\"\nalso = [\"db\"]\n",
                &[],
                &["wake.warmup", "wake.also"],
            ),
            (
                "[[route.keep_warm]]\ncron = \"0 8 * * 1-5\"\nfor = \"10h\"\n",
                &[],
                &["keep_warm"],
            ),
            (
                "[[route.prewarm]]\npaths = [\"/a\"]\ninstances = [\"b\"]\n",
                &[],
                &["prewarm"],
            ),
            (
                "[route.wake]\non_tls_hello = true\n",
                &[],
                &["wake.on_tls_hello"],
            ),
        ] {
            let (at, has_more) = at_node("", keys);
            assert_eq!(
                (&at.needed[..], &at.helpful[..]),
                (needed, helpful),
                "{keys}"
            );
            assert_eq!(has_more, !needed.is_empty(), "{keys}");
        }
    }

    #[test]
    fn what_wake_says_for_all_routes_is_not_a_routes_own() {
        let wake = "[wake]\nstart_stopped = true\nmax_held_per_route = 7\n";
        assert_eq!(at_node(wake, "").0, AtNode::default());
        let (other, _) = at_node(wake, "[route.wake]\nstart_stopped = false\n");
        assert_eq!(other.needed, ["wake.start_stopped"]);
    }
}
