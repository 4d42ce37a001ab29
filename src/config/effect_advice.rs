//! What to think about where a setting does nothing, or something else than it says.
//!
//! Guarantees: only what somebody has set is named, never a default.

use super::say::Say;
use super::{
    Config, IngressConfig, ListenerConfig, ListenerMode, ReadyWhen, RetryConfig, RouteConfig,
    RouteWakeConfig, TicketsConfig,
};

const LEAVE_OUT: &str = "leave it out, or set what it needs";

/// Calls `say` for each thing.
pub(super) fn of_effects(config: &Config, say: &mut impl Say) {
    of_variables(config, say);
    if config.server.http2.idle_timeout.is_some() {
        say(
            "old_name",
            "server.http2.idle_timeout",
            "is called server.idle_timeout now; the old name still holds for HTTP/2, and the next version will not know it".to_owned(),
            "set `server.idle_timeout`, which is for HTTP/1 and HTTP/2",
        );
    }
    of_redirects(config, say);
    if !config.ingress.watch && is_set(&config.ingress) {
        say(
            "no_effect",
            "ingress",
            "has no effect, since `ingress.watch` is not set".to_owned(),
            "set `ingress.watch = true`, or leave the section out",
        );
    }
    if config.tickets.dir.is_none() && config.tickets != TicketsConfig::default() {
        say(
            "no_effect",
            "tickets.rotate",
            "has no effect without `tickets.dir`".to_owned(),
            LEAVE_OUT,
        );
    }
    let tracing = &config.tracing;
    if tracing.endpoint.is_none() && tracing.headers_file.is_some() {
        say(
            "no_effect",
            "tracing.headers_file",
            "has no effect without `tracing.endpoint`".to_owned(),
            LEAVE_OUT,
        );
    }
    for (index, route) in config.route.iter().enumerate() {
        of_route(index, route, say);
    }
}

fn of_variables(config: &Config, say: &mut impl Say) {
    for name in &config.ignored_variables {
        say(
            "service_link",
            name,
            "looks like a variable that Kubernetes sets for a Service of that name, so it is ignored"
                .to_owned(),
            "set `enableServiceLinks: false` for the pod, or give the Service another name",
        );
    }
    for (name, why) in &config.unused_variables {
        say(
            "unused_variable",
            name,
            why.clone(),
            "unset it, or mend its name",
        );
    }
}

/// Whether anything is set but `watch`.
fn is_set(ingress: &IngressConfig) -> bool {
    let watch = ingress.watch;
    *ingress
        != IngressConfig {
            watch,
            ..IngressConfig::default()
        }
}

/// A browser that knows a host by HSTS goes to port 443 where it would have gone to port 80, whatever
/// a redirect says (RFC 6797 §8.3).
fn of_hsts(config: &Config, say: &mut impl Say) {
    let hsts = config
        .route
        .iter()
        .position(|r| r.forwarding.hsts.is_some());
    let Some((index, route)) = hsts.and_then(|index| Some((index, config.route.get(index)?)))
    else {
        return;
    };
    let is_secure = |one: &&ListenerConfig| one.tls.is_some() && one.mode == ListenerMode::Http;
    let mut own = config.listener.iter().filter(is_secure);
    let named = route.forwarding.redirect_http.port;
    let first = own.clone().next().map(|listener| listener.address.port());
    let is_usual = own.any(|listener| listener.address.port() == 443);
    if let Some(port) = named.or(config.server.https_port).or(first)
        && port != 443
        && (named.or(config.server.https_port).is_some() || !is_usual)
    {
        say(
            "hsts_port",
            &format!("route[{index}].hsts"),
            format!("makes browsers go to port 443 instead of 80, and TLS is at port {port}"),
            "serve TLS at port 443 or, if a mapping of ports makes 443 of it, say so with \
             `redirect_http = { port = 443 }`",
        );
    }
}

/// Where `redirect_http` sends clients.
fn of_redirects(config: &Config, say: &mut impl Say) {
    of_hsts(config, say);
    let redirects = |route: &RouteConfig| {
        let redirect = route.forwarding.redirect_http;
        redirect.enabled && redirect.port.or(config.server.https_port).is_none()
    };
    let Some(index) = config.route.iter().position(|route| redirects(route)) else {
        return;
    };
    let secure = config
        .listener
        .iter()
        .filter(|listener| listener.tls.is_some() && listener.mode == ListenerMode::Http);
    let ports: Vec<u16> = secure.map(|listener| listener.address.port()).collect();
    let is_elsewhere = config.ingress.tls.is_some() || !config.server.trusted_proxies.is_empty();
    match ports.first() {
        Some(_) if ports.contains(&443) => {}
        Some(port) => say(
            "redirect_port",
            "server.https_port",
            format!(
                "is not set, so redirect_http leads to port {port}, which clients may know by another number"
            ),
            "set it to the port at which clients reach TLS",
        ),
        None if is_elsewhere => {}
        None => say(
            "redirect_port",
            &format!("route[{index}].redirect_http"),
            "sends clients to https, and no listener has TLS".to_owned(),
            "give a [[listener]] `tls`; or name the proxy that has it in `server.trusted_proxies`, or set `server.https_port`",
        ),
    }
}

fn of_route(index: usize, route: &RouteConfig, say: &mut impl Say) {
    let mut idle = |key: &str, needs: &str| {
        say(
            "no_effect",
            &format!("route[{index}].{key}"),
            format!("has no effect without `{needs}`"),
            LEAVE_OUT,
        );
    };
    let wake = &route.wake;
    if wake.health_path != RouteWakeConfig::default().health_path && wake.ready != ReadyWhen::Health
    {
        idle("wake.health_path", "wake.ready = \"health\"");
    }
    let retry = &route.retry;
    if retry.on_wake.is_empty() && retry.on_wake_for != RetryConfig::default().on_wake_for {
        idle("retry.on_wake_for", "retry.on_wake");
    }
    if route.asleep.health_forward && route.asleep.health_paths.is_empty() {
        idle("asleep.health_forward", "asleep.health_paths");
    }
    let page = &route.waiting_page;
    if !page.enabled && page.template.is_some() {
        idle("waiting_page.template", "waiting_page.enabled = true");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{advice, load};

    fn rules(text: &str, variables: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let text = format!("[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n{text}");
        let variables = [("HYPEMAN_API_KEY", "k")].iter().chain(variables);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = load("w.toml", &text, &variables.collect()).unwrap();
        let advice = advice(&config, None).into_iter();
        advice.map(|one| (one.rule, one.key)).collect()
    }

    #[test]
    fn a_setting_that_does_nothing_is_named_and_one_that_does_something_is_not() {
        let tls = "[[listener]]\ntls = { dir = \"x\" }\n";
        for (text, key) in [
            (
                "wake = { health_path = \"/up\" }",
                "route[0].wake.health_path",
            ),
            (
                "retry = { on_wake_for = \"3s\" }",
                "route[0].retry.on_wake_for",
            ),
            (
                "asleep = { health_forward = true }",
                "route[0].asleep.health_forward",
            ),
            (
                "waiting_page = { enabled = false, template = \"Cargo.toml\" }",
                "route[0].waiting_page.template",
            ),
            ("[ingress]\ninterval = \"9s\"", "ingress"),
            ("redirect_http = true", "route[0].redirect_http"),
        ] {
            let rules = rules(text, &[]);
            assert_eq!(rules.len(), 1, "{text}: {rules:?}");
            assert_eq!(rules[0].1, key);
        }
        for text in [
            "wake = { health_path = \"/up\", ready = \"health\" }",
            "retry = { on_wake_for = \"3s\", on_wake = [502] }",
            "asleep = { health_forward = true, health_paths = [\"/up\"] }",
            "waiting_page = { template = \"Cargo.toml\" }",
            "[ingress]\ninterval = \"9s\"\nwatch = true",
            "redirect_http = true\n[server]\nhttps_port = 443",
            "redirect_http = true\n[server]\ntrusted_proxies = [\"10.0.0.1\"]",
            &format!("redirect_http = true\n[server]\nhttps_port = 443\n{tls}"),
        ] {
            assert_eq!(rules(text, &[]), [], "{text}");
        }
    }

    #[test]
    fn a_variable_of_no_use_is_named() {
        let rules = rules("", &[("HYPEMAN_BASEURL", "https://b")]);
        assert_eq!(rules, [("unused_variable", "HYPEMAN_BASEURL".to_owned())]);
    }
}
