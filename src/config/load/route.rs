//! Reads one `[[route]]`.
//!
//! Guarantees: what a route does not say comes from `[wake]`; what it says of another instance or
//! control plane can be resolved.

use std::collections::HashSet;
use std::sync::Arc;

use super::forwarding::read_forwarding;
use crate::config::model::HypemanConfig;
use crate::config::pattern::{HostPattern, InstanceTemplate, PORT};
use crate::config::ports::{PortFrom, PortRanges};
use crate::config::reader::Section;
use crate::config::route::{
    LimitsConfig, PrewarmConfig, RouteConfig, RouteWakeConfig, WaitingPageConfig,
};
use crate::config::settings::{Setting as _, Settings as _, section};
use crate::config::texts::{parse_host, parse_instance, parse_path, parse_zone};
use crate::config::values::KeepWarm;
use crate::config::wake::WakeConfig;
use crate::names::PlaneIndex;

pub(super) fn read_route(
    s: &mut Section<'_, '_>,
    all: &mut Vec<Arc<RouteConfig>>,
    seen: &mut HashSet<(HostPattern, String)>,
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
    let (port, ports, port_from) = read_ports(s, host.as_ref());
    let mut wake = RouteWakeConfig::of(defaults);
    s.section("wake", |s| wake.read(s));
    let limits = read_limits(s);
    let admission = section(s, "admission").unwrap_or_default();
    let asleep = section(s, "asleep").unwrap_or_default();
    let retry = section(s, "retry").unwrap_or_default();
    let waiting_page = read_waiting_page(s);
    let keep_warm = read_keep_warm(s);
    let prewarm = read_prewarm(s);
    let forwarding = read_forwarding(s, host.as_ref());
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
    let Some(host) = host else {
        // The instance's captures cannot be checked without a host.
        s.text("instance");
        return;
    };
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
    let unknown = forwarding.auth.as_ref();
    if let Some(name) = unknown.and_then(|auth| auth.unknown_capture(&host)) {
        s.problem(
            "auth",
            format_args!("`{{{name}}}` is not a capture of this route's host, nor `{{instance}}`"),
        );
    }
    if !keep_warm.is_empty() && matches!(instance, InstanceTemplate::Capture(_)) {
        s.problem(
            "instance",
            "is a capture, so `keep_warm` cannot know which instances to keep awake; give each its \
             own route",
        );
    }
    if !seen.insert((host.clone(), path.clone())) {
        s.problem(
            "host",
            format_args!("`{host}` with path `{path}` is already an earlier route's"),
        );
    }
    let index = plane
        .and_then(|index| u16::try_from(index).ok())
        .unwrap_or(0);
    let hypeman = planes
        .get(usize::from(index))
        .map(|plane| plane.name.clone());
    all.push(Arc::new(RouteConfig {
        host,
        path,
        listen_port: None,
        instance,
        port,
        ports,
        port_from,
        forwarding,
        hypeman: hypeman.unwrap_or_default(),
        plane: PlaneIndex(index),
        limits,
        wake,
        admission,
        asleep,
        retry,
        waiting_page,
        keep_warm,
        prewarm,
    }));
}

/// A route's port, 0 where the host says which; the ports that may be chosen, and where else.
fn read_ports(
    s: &mut Section<'_, '_>,
    host: Option<&HostPattern>,
) -> (u16, Option<PortRanges>, PortFrom) {
    let of_host = host.is_some_and(|host| host.captures(PORT));
    let port = match s.is_word("port", "{port}") {
        true => s.text("port").map(|_| 0),
        false => s.port("port"),
    };
    let port = port.unwrap_or(if of_host { 0 } else { 8080 });
    let ports = PortRanges::take(s, "ports");
    let port_from = section::<PortFrom>(s, "port_from").unwrap_or_default();
    if port == 0 && !of_host && host.is_some() {
        s.problem("port", "is `{port}`, and the host has no such capture");
    }
    let is_chosen = port == 0 || !port_from.is_empty();
    if is_chosen && ports.is_none() && !s.has("ports") {
        s.problem(
            "ports",
            "is missing: which ports may requests choose? Write \"3000-9000, 22\"",
        );
    }
    if !is_chosen && ports.is_some() {
        s.problem(
            "ports",
            "has no effect, since nothing chooses a port: write port = \"{port}\", or `port_from`",
        );
    }
    (port, ports, port_from)
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
