//! Settings that are allowed and that a careful operator would think about once more.
//!
//! Guarantees: advice never keeps a gateway from starting; it names a key and what to do; it never
//! shows a secret.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::auth_advice::of_auth;
use super::{Config, InstanceTemplate, ListenerMode, RouteConfig, TlsSource};
use crate::descriptors::for_clients;

/// One thing to think about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The key's path.
    pub key: String,
    /// What may happen.
    pub risk: String,
    /// What to do instead.
    pub help: &'static str,
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}\n    {}", self.key, self.risk, self.help)
    }
}

/// Everything that is worth a thought; `descriptors` is how many files the process may have open,
/// if the system says so.
pub fn advice(config: &Config, descriptors: Option<u64>) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut say = |key: &str, risk: String, help| {
        let key = key.to_owned();
        all.push(Advice { key, risk, help });
    };
    for name in &config.ignored_variables {
        say(
            name,
            "looks like a variable that Kubernetes sets for a Service of that name, so it is ignored"
                .to_owned(),
            "set `enableServiceLinks: false` for the pod, or give the Service another name",
        );
    }
    if !is_near(config.admin.address.ip()) && config.admin.token.is_none() {
        say(
            "admin.address",
            "is not this machine's own, so the API and the dashboard are closed, while /metrics is open to \
             whoever can connect"
                .to_owned(),
            "set `admin.token_file`, or bind it to 127.0.0.1",
        );
    }
    for network in &config.server.trusted_proxies {
        if network.prefix_len() == 0 {
            say(
                "server.trusted_proxies",
                format!(
                    "{network} is everybody: any client can say who it is and that it came over TLS"
                ),
                "name your proxies' own addresses",
            );
        }
    }
    let most = config.server.max_connections as u64;
    let room = descriptors.map(|limit| (limit, for_clients(limit) as u64));
    if let Some((descriptors, room)) = room.filter(|(_, room)| *room < most) {
        say(
            "server.max_connections",
            format!(
                "the process may have {descriptors} open files, which are enough for {room} clients and their \
                 instances' connections, not for {most}: further clients wait"
            ),
            "raise the limit (ulimit -n, LimitNOFILE=), or lower the number",
        );
    }
    for (key, limit) in [
        ("wake.max_held", config.wake.max_held),
        (
            "wake.max_held_per_instance",
            config.wake.max_held_per_instance,
        ),
        ("wake.max_held_per_route", config.wake.max_held_per_route),
        ("wake.max_held_bytes", config.wake.max_held_bytes),
    ] {
        if limit == 0 {
            say(
                key,
                "is 0, so no request waits for a wake: each that meets a sleeping instance is refused".to_owned(),
                "leave it out, unless that is what you want",
            );
        }
    }
    if config.server.http2.idle_timeout.is_some() {
        say(
            "server.http2.idle_timeout",
            "is called server.idle_timeout now; the old name still holds for HTTP/2, and the next version will not know it".to_owned(),
            "set `server.idle_timeout`, which is for HTTP/1 and HTTP/2",
        );
    }
    let longest = config.route.iter().map(|route| route.wake.timeout).max();
    if longest.is_some_and(|longest| longest > config.server.drain_timeout) {
        say(
            "server.drain_timeout",
            "is shorter than a route's wake.timeout, so a restart may cut requests that are held"
                .to_owned(),
            "make it at least as long",
        );
    }
    for (index, plane) in config.hypeman.iter().enumerate() {
        let has_key = plane.api_key.is_some() || plane.api_key_file.is_some();
        if has_key && is_in_clear(&plane.url) {
            say(
                &format!("hypeman[{index}].url"),
                "sends the API key over the network in clear".to_owned(),
                "use https, or an address of a private network",
            );
        }
    }
    if let Some(endpoint) = &config.tracing.endpoint
        && config.tracing.headers_file.is_some()
        && is_in_clear(endpoint)
    {
        say(
            "tracing.endpoint",
            "sends the fields of headers_file over the network in clear".to_owned(),
            "use https, or an address of a private network",
        );
    }
    let public = config
        .listener
        .iter()
        .any(|listener| listener.tls.is_none() && !is_near(listener.address.ip()));
    if let Some(port) = unusual_redirect(config) {
        say(
            "server.https_port",
            format!(
                "is not set, so redirect_http leads to port {port}, which clients may know by another number"
            ),
            "set it to the port at which clients reach TLS",
        );
    }
    for (index, route) in config.route.iter().enumerate() {
        let auth = route.forwarding.auth.as_ref();
        let has_field = auth.is_some_and(|auth| auth.header.is_some());
        let secret = has_field && !route.forwarding.redirect_http;
        if secret && public && config.server.trusted_proxies.is_empty() {
            say(
                &format!("route[{index}].auth"),
                "its field comes in clear, since a listener for other machines has no TLS"
                    .to_owned(),
                "give the listener `tls`, or put a proxy with TLS in front and name it in server.trusted_proxies",
            );
        }
        of_route(index, route, &mut say);
    }
    of_auth(config, &mut say);
    for (key, path) in secrets(config) {
        let mode = std::fs::metadata(&path).map(|found| found.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            say(
                &key,
                format!(
                    "{} can be read by every user of this machine",
                    path.display()
                ),
                "chmod o-r",
            );
        }
    }
    all
}

/// The port that clients are redirected to, if it is not the usual one and nobody has said so.
fn unusual_redirect(config: &Config) -> Option<u16> {
    let redirects = config
        .route
        .iter()
        .any(|route| route.forwarding.redirect_http);
    let secure = config
        .listener
        .iter()
        .filter(|listener| listener.tls.is_some() && listener.mode == ListenerMode::Http);
    let ports: Vec<u16> = secure.map(|listener| listener.address.port()).collect();
    let is_open = redirects && config.server.https_port.is_none() && !ports.contains(&443);
    ports.first().copied().filter(|_| is_open)
}

fn of_route(index: usize, route: &RouteConfig, say: &mut impl FnMut(&str, String, &'static str)) {
    let rules = &route.admission;
    let limited = rules.rate.is_some() || rules.rate_per_client.is_some();
    let closed = rules.header.is_some() || !rules.clients.is_empty();
    if route.wake.on_tls_hello && !limited && rules.clients.is_empty() {
        say(
            &format!("route[{index}].wake.on_tls_hello"),
            "lets whoever can connect wake the instance, as often as they like".to_owned(),
            "set admission.rate_per_client or admission.clients",
        );
    }
    let guessable = matches!(route.instance, InstanceTemplate::Capture(_));
    if route.wake.start_stopped && guessable && !limited && !closed {
        say(
            &format!("route[{index}].wake.start_stopped"),
            "lets whoever guesses a name boot that instance, also one that somebody stopped on purpose".to_owned(),
            "set admission.rate, admission.clients or [route.auth], or give such instances routes of their own",
        );
    }
    if route.wake.max_held == 0 || route.limits.max_inflight == 0 {
        say(
            &format!("route[{index}]"),
            "has a limit of 0, which sheds everything".to_owned(),
            "leave it out, unless that is what you want",
        );
    }
}

/// Files that hold something that not everybody should read.
fn secrets(config: &Config) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut add = |key: String, path: Option<&Path>| {
        files.extend(path.map(|path| (key, path.to_owned())));
    };
    add(
        "admin.token_file".to_owned(),
        config.admin.token_file.as_deref(),
    );
    let headers = config.tracing.headers_file.as_deref();
    add("tracing.headers_file".to_owned(), headers);
    for (index, plane) in config.hypeman.iter().enumerate() {
        let key = format!("hypeman[{index}].api_key_file");
        add(key, plane.api_key_file.as_deref());
    }
    for (index, route) in config.route.iter().enumerate() {
        let auth = route.forwarding.auth.as_ref();
        let key = format!("route[{index}].auth.value_file");
        add(
            key,
            auth.and_then(|auth| auth.header.as_ref()?.value_file.as_deref()),
        );
    }
    for (index, listener) in config.listener.iter().enumerate() {
        if let Some(TlsSource::Files { key, .. }) = listener.tls.as_ref().map(|tls| &tls.source) {
            add(format!("listener[{index}].tls.key"), Some(key));
        }
    }
    files
}

fn is_near(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Whether a URL leads over a network that is not ours without TLS.
fn is_in_clear(url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return false;
    };
    let private = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        // A name of one label is a container's neighbour.
        Some(url::Host::Domain(name)) => !name.contains('.'),
        None => true,
    };
    url.scheme() == "http" && !private
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn keys(text: &str) -> Vec<String> {
        let text = format!("{text}\n[[route]]\nhost = \"a.example.com\"\ninstance = \"a\"\n");
        let config = load("w.toml", &text, &Variables::default()).unwrap();
        advice(&config, None)
            .into_iter()
            .map(|one| one.key)
            .collect()
    }

    #[test]
    fn an_ordinary_configuration_needs_no_advice() {
        assert_eq!(keys(""), Vec::<String>::new());
        assert_eq!(
            keys("[[hypeman]]\nurl = \"http://10.0.0.1:8080\"\napi_key_file = \"x\""),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_risk_is_named_by_its_key() {
        let risky = "[[route]]\nhost = \"{x}.example.org\"\ninstance = \"{x}\"\n";
        for (text, key) in [
            (
                "[admin]\naddress = \"0.0.0.0:9900\"".to_owned(),
                "admin.address",
            ),
            (
                "[server]\ntrusted_proxies = [\"0.0.0.0/0\"]".to_owned(),
                "server.trusted_proxies",
            ),
            (
                "[server]\ndrain_timeout = \"5s\"".to_owned(),
                "server.drain_timeout",
            ),
            ("[wake]\nmax_held = 0".to_owned(), "wake.max_held"),
            (
                "[[hypeman]]\nurl = \"http://hypeman.example.com\"\napi_key_file = \"x\""
                    .to_owned(),
                "hypeman[0].url",
            ),
            (
                format!("{risky}wake = {{ on_tls_hello = true }}"),
                "route[0].wake.on_tls_hello",
            ),
            (
                format!("{risky}wake = {{ start_stopped = true }}"),
                "route[0].wake.start_stopped",
            ),
            (
                format!(
                    "{risky}redirect_http = true\n[[listener]]\naddress = \"127.0.0.1:8443\"\n\
                     tls = \"internal\""
                ),
                "server.https_port",
            ),
            (
                format!("{risky}limits = {{ max_inflight = 0 }}"),
                "route[0]",
            ),
        ] {
            assert_eq!(keys(&text), [key], "{text}");
        }
    }

    #[test]
    fn a_secret_that_everybody_can_read_and_too_few_descriptors_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123456789abcdef").unwrap();
        let text = format!(
            "[admin]\ntoken_file = {file:?}\n[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n"
        );
        let config = load("w.toml", &text, &Variables::default()).unwrap();
        for (mode, count) in [(0o644, 1), (0o640, 0)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let advice = advice(&config, None);
            assert_eq!(advice.len(), count, "{advice:?}");
        }
        let few = advice(&config, Some(1024));
        assert_eq!(few[0].key, "server.max_connections");
        assert!(advice(&config, Some(65_536)).is_empty());
    }
}
