//! Reads one `[[route]]`.
//!
//! Guarantees: what a route does not say comes from `[wake]`; what it says of another instance or
//! control plane can be resolved; routes that say the same besides their names and instances share
//! it, and it is read once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::forwarding::read_forwarding;
use crate::config::at_node::AtNode;
use crate::config::model::HypemanConfig;
use crate::config::pattern::{HostPattern, InstanceTemplate, PORT};
use crate::config::ports::{PortFrom, PortRanges};
use crate::config::reader::Section;
use crate::config::route::{
    LimitsConfig, PrewarmConfig, RouteConfig, RoutePolicy, RouteWakeConfig, WaitingPageConfig,
};
use crate::config::route_name::RouteName;
use crate::config::settings::{Setting as _, Settings as _, section};
use crate::config::texts::{parse_host, parse_instance, parse_path, parse_zone};
use crate::config::tunnel::{TunnelConfig, TunnelWake};
use crate::config::values::KeepWarm;
use crate::config::wake::WakeConfig;
use crate::names::PlaneIndex;

/// What a route says of itself; all else many routes may say alike.
const OWN: [&str; 4] = ["host", "path", "port", "instance"];

/// What the routes that were read have in common.
#[derive(Default)]
pub(super) struct Routes {
    names: HashSet<RouteName>,
    /// By what their tables say of it.
    policies: HashMap<String, Arc<RoutePolicy>>,
}

pub(super) fn read_route(
    s: &mut Section<'_, '_>,
    all: &mut Vec<Arc<RouteConfig>>,
    earlier: &mut Routes,
    defaults: &WakeConfig,
    planes: &[HypemanConfig],
) {
    let host = s.parsed("host", parse_host);
    if host.is_none() && !s.has("host") {
        s.problem(
            "host",
            "is missing: which host name does the route answer for?",
        );
    }
    let path = s
        .parsed("path", parse_path)
        .unwrap_or_else(|| "/".to_owned());
    let policies = &mut earlier.policies;
    let policy = s.shared(&OWN, policies, |s| read_policy(s, defaults, planes));
    let port = read_port(s, host.as_ref(), &policy);
    let Some(host) = host else {
        // The instance's captures cannot be checked without a host.
        s.text("instance");
        return;
    };
    check_captures(s, &host, &policy);
    let parse = |text: &str| InstanceTemplate::parse(text, &host).map_err(|e| e.to_string());
    let Some(instance) = s.parsed("instance", parse) else {
        if !s.has("instance") {
            s.problem(
                "instance",
                "is missing: which instance does the route wake?",
            );
        }
        return;
    };
    if !policy.keep_warm.is_empty() && matches!(instance, InstanceTemplate::Capture(_)) {
        s.problem(
            "instance",
            "is a capture, so `keep_warm` cannot know which instances to keep awake; give each its \
             own route",
        );
    }
    let name = RouteName::new(&host, &path);
    if !earlier.names.insert(name.clone()) {
        s.problem(
            "host",
            format_args!("`{host}` with path `{path}` is already an earlier route's"),
        );
    }
    all.push(Arc::new(RouteConfig {
        name,
        listen_port: None,
        instance,
        port,
        policy,
    }));
}

/// Whether the policy, which routes of other hosts may have, too, names only captures of this host.
fn check_captures(s: &mut Section<'_, '_>, host: &HostPattern, policy: &RoutePolicy) {
    if let Some(name) = unknown_of_auth(policy, host) {
        s.problem(
            "auth",
            format_args!("`{{{name}}}` is not a capture of this route's host, nor `{{instance}}`"),
        );
    }
    if let Some(name) = unknown_of_tls(policy, host) {
        s.section_again("upstream_tls", |s| {
            let message = format_args!("`{{{name}}}` is not a capture of this route's host");
            s.problem("server_name", message);
        });
    }
}

fn unknown_of_auth<'p>(policy: &'p RoutePolicy, host: &HostPattern) -> Option<&'p str> {
    let auth = policy.forwarding.auth.as_ref();
    auth.and_then(|auth| auth.unknown_capture(host))
}

fn unknown_of_tls<'p>(policy: &'p RoutePolicy, host: &HostPattern) -> Option<&'p str> {
    let tls = policy.forwarding.upstream_tls.as_ref();
    let server_name = tls.and_then(|tls| tls.server_name.as_ref());
    server_name.and_then(|server| server.unknown_capture(host))
}

/// A capture that the policy names and the host does not have.
pub(super) fn unknown_capture<'p>(policy: &'p RoutePolicy, host: &HostPattern) -> Option<&'p str> {
    unknown_of_auth(policy, host).or_else(|| unknown_of_tls(policy, host))
}

/// All that a route says besides its name, its port and its instance.
pub(super) fn read_policy(
    s: &mut Section<'_, '_>,
    defaults: &WakeConfig,
    planes: &[HypemanConfig],
) -> RoutePolicy {
    let ports = PortRanges::take(s, "ports");
    let port_from = section::<PortFrom>(s, "port_from").unwrap_or_default();
    let mut wake = RouteWakeConfig::of(defaults);
    s.section("wake", |s| wake.read(s));
    let limits = read_limits(s);
    let admission = section(s, "admission").unwrap_or_default();
    let asleep = section(s, "asleep").unwrap_or_default();
    let retry = section(s, "retry").unwrap_or_default();
    let waiting_page = read_waiting_page(s);
    let tunnel = read_tunnel(s, &wake);
    let keep_warm = read_keep_warm(s);
    let prewarm = read_prewarm(s);
    let forwarding = read_forwarding(s);
    if forwarding.auth.is_some() && wake.on_tls_hello {
        s.problem(
            "auth",
            "cannot be asked for where `wake.on_tls_hello` wakes: the first bytes of TLS do not show \
             who comes. Leave one of both out",
        );
    }
    let plane_name = s.text("hypeman");
    let plane = match &plane_name {
        Some(name) => planes.iter().position(|plane| &plane.name == name),
        None => Some(0),
    };
    if plane.is_none() {
        let names: Vec<&str> = planes.iter().map(|plane| plane.name.as_str()).collect();
        s.problem(
            "hypeman",
            format_args!(
                "no [[hypeman]] has this name; there are: {}",
                names.join(", ")
            ),
        );
    }
    let index = plane
        .and_then(|index| u16::try_from(index).ok())
        .unwrap_or(0);
    let hypeman = planes
        .get(usize::from(index))
        .map(|plane| plane.name.clone());
    let mut policy = RoutePolicy {
        ports,
        port_from,
        forwarding,
        hypeman: hypeman.unwrap_or_default(),
        plane: PlaneIndex(index),
        plane_is_open: false,
        has_more_at_node: false,
        limits,
        wake,
        admission,
        asleep,
        retry,
        waiting_page,
        tunnel,
        keep_warm,
        prewarm,
    };
    policy.has_more_at_node = !AtNode::of(&policy, defaults).needed.is_empty();
    policy
}

/// A route's port, 0 where the host says which.
fn read_port(s: &mut Section<'_, '_>, host: Option<&HostPattern>, policy: &RoutePolicy) -> u16 {
    let of_host = host.is_some_and(|host| host.captures(PORT));
    let port = match s.is_word("port", "{port}") {
        true => s.text("port").map(|_| 0),
        false => s.port("port"),
    };
    let port = port.unwrap_or(if of_host { 0 } else { 8080 });
    if port == 0 && !of_host && host.is_some() {
        s.problem("port", "is `{port}`, and the host has no such capture");
    }
    let is_chosen = port == 0 || !policy.port_from.is_empty();
    if is_chosen && policy.ports.is_none() && !s.has("ports") {
        s.problem(
            "ports",
            "is missing: which ports may requests choose? Write \"3000-9000, 22\"",
        );
    }
    if !is_chosen && policy.ports.is_some() {
        s.problem(
            "ports",
            "has no effect, since nothing chooses a port: write port = \"{port}\", or `port_from`",
        );
    }
    port
}

/// What a route says of requests at its instance at once.
fn read_limits(s: &mut Section<'_, '_>) -> LimitsConfig {
    let mut limits = LimitsConfig::default();
    s.section("limits", |s| {
        limits.read(s);
        if !s.has("soft_inflight") {
            limits.soft_inflight = limits.max_inflight;
        }
        if limits.soft_inflight > limits.max_inflight {
            s.problem("soft_inflight", "must not be more than `max_inflight`");
        }
    });
    limits
}

fn read_waiting_page(s: &mut Section<'_, '_>) -> WaitingPageConfig {
    let mut page = WaitingPageConfig::default();
    let mut enabled = page.enabled;
    s.section_or_flag("waiting_page", &mut enabled, |s, enabled| {
        page.enabled = *enabled || s.is_in_file();
        page.read(s);
        *enabled = page.enabled;
    });
    page.enabled = enabled;
    page
}

/// What a route says of upgraded and raw connections.
fn read_tunnel(s: &mut Section<'_, '_>, wake: &RouteWakeConfig) -> TunnelConfig {
    let mut tunnel = TunnelConfig::default();
    s.section("tunnel", |s| {
        tunnel.read(s);
        let is_lazy = tunnel.wake == TunnelWake::FirstFrame;
        if is_lazy && wake.on_tls_hello {
            s.problem(
                "wake",
                "cannot be \"first-frame\" where `wake.on_tls_hello` wakes: that comes before any frame. \
                 Leave one of both out",
            );
        }
        if !is_lazy && !tunnel.subprotocols.is_empty() {
            s.problem(
                "subprotocols",
                "has no effect, since the instance picks one: write wake = \"first-frame\", or leave it \
                 out",
            );
        }
        let park = tunnel.park.as_ref().zip(tunnel.idle);
        if park.is_some_and(|(park, idle)| idle <= park.after) {
            s.problem(
                "idle",
                "closes each tunnel before it is parked: it must be longer than `park.after`, or be left \
                 out",
            );
        }
    });
    tunnel
}

fn read_keep_warm(s: &mut Section<'_, '_>) -> Vec<KeepWarm> {
    let mut windows = Vec::new();
    s.tables("keep_warm", |s| {
        let (cron, zone) = (s.text("cron"), s.parsed("zone", parse_zone));
        if cron.is_none() && !s.has("cron") {
            s.problem("cron", "is missing: when does the window begin?");
        }
        let has_zone = zone.is_some() || !s.has("zone");
        let length = s.duration("for").unwrap_or_default();
        if length.is_zero() && !s.has("for") {
            s.problem("for", "is missing: how long does the window last?");
        }
        let (Some(cron), true) = (cron, has_zone) else {
            return;
        };
        match KeepWarm::new(cron, zone.unwrap_or_else(|| "UTC".to_owned()), length) {
            Ok(window) => windows.push(window),
            Err(message) => s.problem("cron", message),
        }
    });
    windows
}

fn read_prewarm(s: &mut Section<'_, '_>) -> Vec<PrewarmConfig> {
    let mut all = Vec::new();
    s.tables("prewarm", |s| {
        let paths = s.list("paths", parse_path).unwrap_or_default();
        let instances = s.list("instances", parse_instance).unwrap_or_default();
        if paths.is_empty() || instances.is_empty() {
            s.problem("instances", "a prewarm needs `paths` and `instances`");
        }
        all.push(PrewarmConfig { paths, instances });
    });
    all
}
