//! Settings that are allowed and that a careful operator would think about once more.
//!
//! Guarantees: advice never keeps a gateway from starting; it has a rule, a key and what to do; it
//! never shows a secret.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::auth_advice::of_auth;
use super::effect_advice::of_effects;
use super::front_advice::of_front_routes;
use super::say::Say;
use super::workload_advice::of_workload;
use super::{
    AcmeChallenge, Config, FleetEngine, FleetRole, HeaderAuth, InstanceTemplate, KeyFile,
    ListenerConfig, ListenerMode, Problem, Proof, RouteConfig, ServerConfig, TlsSource,
};
use crate::descriptors::for_clients;

/// Everything that is worth a thought; `descriptors` is how many files the process may have open,
/// if the system says so.
pub fn advice(config: &Config, descriptors: Option<u64>) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut say = |rule: &'static str, key: &str, risk: String, help: &'static str| {
        all.push(Problem::of(rule, key, risk).with_mend(help));
    };
    of_effects(config, &mut say);
    of_exposure(config, &mut say);
    of_limits(config, descriptors, &mut say);
    of_auth(config, &mut say);
    of_acme(config, &mut say);
    of_workload(config, &mut say);
    of_fleet(config, &mut say);
    for (key, path) in secrets(config) {
        let mode = std::fs::metadata(&path).map(|found| found.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            say(
                "readable_secret",
                &key,
                format!(
                    "{} can be read by every user of this machine",
                    path.display()
                ),
                "chmod o-r, and let the user that the gateway runs as own it",
            );
        }
    }
    all
}

/// What others may see or do.
fn of_exposure(config: &Config, say: &mut impl Say) {
    if !is_near(config.admin.address.ip()) && config.admin.token.is_none() {
        say(
            "open_admin",
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
                "trusts_everybody",
                "server.trusted_proxies",
                format!(
                    "{network} is everybody: any client can say who it is and that it came over TLS"
                ),
                "name your proxies' own addresses",
            );
        }
    }
    for (index, plane) in config.hypeman.iter().enumerate() {
        let has_key = plane.api_key.is_some() || plane.api_key_file.is_some();
        if !has_key {
            say(
                "no_api_key",
                &format!("hypeman[{index}].api_key_file"),
                format!(
                    "is missing, and no variable has an API key for `{}`: Hypeman refuses every \
                     call without one",
                    plane.name
                ),
                "set it, or HYPEMAN_API_KEY, or leave it so if the control plane asks for none",
            );
        }
        if has_key && is_in_clear(&plane.url) {
            say(
                "key_in_clear",
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
            "key_in_clear",
            "tracing.endpoint",
            "sends the fields of headers_file over the network in clear".to_owned(),
            "use https, or an address of a private network",
        );
    }
    let public = config
        .listener
        .iter()
        .any(|listener| listener.tls.is_none() && !is_near(listener.address.ip()));
    for (index, route) in config.route.iter().enumerate() {
        let auth = route.forwarding.auth.as_ref();
        let is_sent = |proof: Proof<'_>| !matches!(proof, Proof::ClientCertificate(_));
        let has_secret = auth.is_some_and(|auth| auth.proofs().any(is_sent));
        let secret = has_secret && !route.forwarding.redirect_http.enabled;
        if secret && public && config.server.trusted_proxies.is_empty() {
            say(
                "key_in_clear",
                &format!("route[{index}].auth"),
                "what it asks for comes in clear, since a listener for other machines has no TLS"
                    .to_owned(),
                "give the listener `tls`, or put a proxy with TLS in front and name it in server.trusted_proxies",
            );
        }
        of_route(index, route, say);
    }
}

/// Names that get no certificate, and CAs that are not answered.
fn of_acme(config: &Config, say: &mut impl Say) {
    if !config.uses_acme() {
        return;
    }
    let is_clear = |one: &ListenerConfig| one.tls.is_none() && one.mode == ListenerMode::Http;
    if config.acme.challenge == AcmeChallenge::Http01 && !config.listener.iter().any(is_clear) {
        say(
            "unanswered_challenge",
            "acme.challenge",
            "is http-01, and no listener takes requests without TLS".to_owned(),
            "add a [[listener]] without `tls` that the CA reaches at port 80, or use tls-alpn-01",
        );
    }
    for (index, route) in config.route.iter().enumerate() {
        let is_captured = matches!(route.instance, InstanceTemplate::Capture(_));
        if route.acme_name().is_none() && !(config.acme.on_demand && is_captured) {
            say(
                "no_certificate",
                &format!("route[{index}].host"),
                format!(
                    "`{}` is not one name that a CA can look at, so no certificate is ordered for it: \
                     a wildcard needs a challenge over DNS",
                    route.host()
                ),
                "set acme.on_demand = true if it is a pattern whose capture is the instance, give its names routes of their own, or a listener with `tls = { dir = … }` a wildcard certificate",
            );
        }
    }
}

/// A directory that others can read on its way, or that nothing is known of without it.
fn of_fleet(config: &Config, say: &mut impl Say) {
    let Some(fleet) = &config.fleet else { return };
    let is_etcd = fleet.engine == FleetEngine::Etcd;
    if is_etcd && fleet.endpoints.iter().any(|url| url.starts_with("http://")) {
        say(
            "directory_in_clear",
            "fleet.endpoints",
            "has http://, so whoever is on the way to etcd can read the directory, and change what the \
             gateway does"
                .to_owned(),
            "use https, with `fleet.tls`, or an address of a private network",
        );
    }
    if fleet.role == FleetRole::Node && !config.listener.is_empty() {
        say(
            "node_with_clients",
            "fleet.role",
            "is \"node\", and there are listeners for clients: no other host takes what they want of its \
             instances"
                .to_owned(),
            "use \"both\", and a certificate that says so, or leave the listeners out",
        );
    }
    if fleet.role == FleetRole::Front {
        of_front_routes(config, say);
    }
    if is_etcd && fleet.snapshot.is_none() {
        say(
            "no_snapshot",
            "fleet.snapshot",
            "is missing: a gateway that starts while etcd is away knows no route".to_owned(),
            "name a file, such as /var/lib/wakegate/directory",
        );
    }
}

/// Limits that are not what somebody may take them for.
fn of_limits(config: &Config, descriptors: Option<u64>, say: &mut impl Say) {
    let most = config.server.max_connections;
    let room = descriptors.map(|limit| (limit, for_clients(limit)));
    // Of the default nobody has asked for so many: what there is room for is as good.
    let is_chosen = most != ServerConfig::default().max_connections;
    if let Some((descriptors, room)) = room.filter(|(_, room)| is_chosen && *room < most) {
        say(
            "few_descriptors",
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
                "sheds_everything",
                key,
                "is 0, so no request waits for a wake: each that meets a sleeping instance is refused".to_owned(),
                "leave it out, unless that is what you want",
            );
        }
    }
    let longest = config.route.iter().map(|route| route.wake.timeout).max();
    if longest.is_some_and(|longest| longest > config.server.drain_timeout) {
        say(
            "short_drain",
            "server.drain_timeout",
            "is shorter than a route's wake.timeout, so a restart may cut requests that are held"
                .to_owned(),
            "make it at least as long",
        );
    }
}

fn of_route(index: usize, route: &RouteConfig, say: &mut impl Say) {
    let rules = &route.admission;
    let limited = rules.rate.is_some() || rules.rate_per_client.is_some();
    let closed = rules.header.is_some() || !rules.clients.is_empty();
    if route.wake.on_tls_hello && !limited && rules.clients.is_empty() {
        say(
            "open_wake",
            &format!("route[{index}].wake.on_tls_hello"),
            "lets whoever can connect wake the instance, as often as they like".to_owned(),
            "set admission.rate_per_client or admission.clients",
        );
    }
    let guessable = matches!(route.instance, InstanceTemplate::Capture(_));
    if route.wake.start_stopped && guessable && !limited && !closed {
        say(
            "open_wake",
            &format!("route[{index}].wake.start_stopped"),
            "lets whoever guesses a name boot that instance, also one that somebody stopped on purpose".to_owned(),
            "set admission.rate, admission.clients or [route.auth], or give such instances routes of their own",
        );
    }
    if route
        .forwarding
        .upstream_tls
        .as_ref()
        .is_some_and(|tls| !tls.verify)
    {
        say(
            "unverified_tls",
            &format!("route[{index}].upstream_tls.verify"),
            "is false: whoever is at the instance's address is believed, and gets the requests"
                .to_owned(),
            "name the CA of the instance's certificate in `upstream_tls.ca` instead",
        );
    }
    if route.wake.max_held == 0 || route.limits.max_inflight == 0 {
        say(
            "sheds_everything",
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
        let Some(auth) = &route.forwarding.auth else {
            continue;
        };
        let file = |header: &Option<HeaderAuth>| header.as_ref()?.value_file.clone();
        let key = format!("route[{index}].auth");
        add(format!("{key}.value_file"), file(&auth.header).as_deref());
        for (position, way) in auth.any.iter().enumerate() {
            let key = format!("{key}.any[{position}].value_file");
            add(key, file(&way.header).as_deref());
            let key_file = way
                .signed_url
                .as_ref()
                .and_then(|url| url.key_file.as_ref());
            let key = format!("route[{index}].auth.any[{position}].signed_url.key_file");
            add(key, key_file.map(KeyFile::path));
        }
    }
    let eab = config.acme.eab.as_ref().map(|eab| eab.key_file.as_path());
    add("acme.eab.key_file".to_owned(), eab);
    if let Some(fleet) = &config.fleet {
        let identity = fleet.identity.as_ref();
        let tls = fleet.tls.as_ref();
        for (key, path) in [
            ("fleet.password_file", fleet.password_file.as_deref()),
            ("fleet.key_file", fleet.key_file.as_deref()),
            (
                "fleet.identity.key",
                identity.map(|identity| identity.key.as_path()),
            ),
            ("fleet.tls.key", tls.and_then(|tls| tls.key.as_deref())),
        ] {
            add(key.to_owned(), path);
        }
    }
    let ring = config.tickets.dir.as_ref().map(|dir| dir.join("ring"));
    add("tickets.dir".to_owned(), ring.as_deref());
    for (index, route) in config.route.iter().enumerate() {
        let tls = route.forwarding.upstream_tls.as_ref();
        let key = tls.and_then(|tls| tls.client_key.as_deref());
        add(format!("route[{index}].upstream_tls.client_key"), key);
    }
    for (index, listener) in config.listener.iter().enumerate() {
        match listener.tls.as_ref().map(|tls| &tls.source) {
            Some(TlsSource::Files { key, .. }) => {
                add(format!("listener[{index}].tls.key"), Some(key));
            }
            Some(TlsSource::Directory { dir }) => {
                for path in keys_in(dir) {
                    add(format!("listener[{index}].tls.dir"), Some(&path));
                }
            }
            Some(TlsSource::Internal { .. } | TlsSource::Acme { .. }) | None => {}
        }
    }
    files
}

/// The private keys in a directory of certificates, and in the folders in it.
fn keys_in(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let is_key = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "key") || path.ends_with("privkey.pem")
    };
    let (folders, files): (Vec<_>, Vec<_>) = entries(dir).into_iter().partition(|p| p.is_dir());
    let below = folders.iter().flat_map(|folder| entries(folder));
    files.into_iter().chain(below).filter(is_key).collect()
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
        let key = [("HYPEMAN_API_KEY".to_owned(), "k".to_owned())];
        let config = load("w.toml", &text, &key.into_iter().collect()).unwrap();
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
    fn a_node_that_has_clients_is_told_to_be_a_front_as_well() {
        let fleet = |role: &str| {
            let text = format!(
                "[[listener]]\naddress = \"127.0.0.1:8080\"\n[fleet]\nengine = \"memory\"\nrole = \"{role}\"\n\
                 listen = \"127.0.0.1:7443\"\nidentity = {{ cert = \"c\", key = \"k\", ca = \"a\" }}"
            );
            keys(&text).contains(&"fleet.role".to_owned())
        };
        assert!(fleet("node") && !fleet("both"));
    }

    #[test]
    fn a_challenge_that_nobody_could_answer_and_a_name_that_needs_dns_are_told_of() {
        let told = |more: &str, instance: &str| {
            let text = format!(
                "[[listener]]\naddress = \"0.0.0.0:443\"\ntls = \"acme\"\n{more}\n\
                 [[route]]\nhost = \"{instance}.example.com\"\ninstance = \"{instance}\"\n"
            );
            let mut told = keys(&text);
            told.retain(|key| key == "acme.challenge" || key == "route[0].host");
            told
        };
        let http = "[acme]\nchallenge = \"http-01\"";
        let clear = "[[listener]]\naddress = \"0.0.0.0:80\"";
        let raw =
            "[[listener]]\naddress = \"0.0.0.0:80\"\nmode = \"tcp\"\nhost = \"a.example.com\"";
        let on_demand = "[acme]\non_demand = true";
        for (more, instance, expected) in [
            ("", "shop", &[][..]),
            (http, "shop", &["acme.challenge"]),
            (&format!("{http}\n{raw}"), "shop", &["acme.challenge"]),
            (&format!("{http}\n{clear}"), "shop", &[]),
            ("", "{app}", &["route[0].host"]),
            (on_demand, "{app}", &[]),
        ] {
            assert_eq!(told(more, instance), expected, "{more} {instance}");
        }
        let wild = "[[listener]]\ntls = \"acme\"\n[acme]\non_demand = true\n\
                    [[route]]\nhost = \"*.example.com\"\ninstance = \"one\"\n";
        assert!(keys(wild).contains(&"route[0].host".to_owned()));
    }

    #[test]
    fn a_key_of_a_directory_that_everybody_can_read_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a.example.com");
        std::fs::create_dir(&folder).unwrap();
        let here = dir.path().display();
        let text = format!("[[listener]]\ntls = {{ dir = \"{here}\" }}\n");
        for (file, is_told) in [
            (dir.path().join("a.crt"), false),
            (dir.path().join("a.key"), true),
            (folder.join("fullchain.pem"), false),
            (folder.join("privkey.pem"), true),
            (folder.join("tls.key"), true),
        ] {
            std::fs::write(&file, "x").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            let told = keys(&text).contains(&"listener[0].tls.dir".to_owned());
            assert_eq!(told, is_told, "{file:?}");
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn a_control_plane_without_a_key_is_told_of() {
        let text = "[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n";
        let config = load("w.toml", text, &Variables::default()).unwrap();
        let advice = advice(&config, None);
        assert_eq!(advice.len(), 1, "{advice:?}");
        assert_eq!(
            (advice[0].rule, &*advice[0].key),
            ("no_api_key", "hypeman[0].api_key_file")
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
                format!("{risky}protocol = \"https\"\nupstream_tls = {{ verify = false }}"),
                "route[0].upstream_tls.verify",
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
        let key = [("HYPEMAN_API_KEY".to_owned(), "k".to_owned())];
        let mut config = load("w.toml", &text, &key.into_iter().collect()).unwrap();
        for (mode, count) in [(0o644, 1), (0o640, 0)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let advice = advice(&config, None);
            assert_eq!(advice.len(), count, "{advice:?}");
        }
        assert!(
            advice(&config, Some(1024)).is_empty(),
            "nobody asked for so many"
        );
        config.server.max_connections += 1;
        let few = advice(&config, Some(1024));
        assert_eq!(few[0].key, "server.max_connections");
        assert!(advice(&config, Some(65_536)).is_empty());
    }
}
