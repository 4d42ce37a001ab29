//! Reads one `[[route]]`.
//!
//! Guarantees: what a route does not say comes from `[wake]`; what it says of another instance or
//! control plane can be resolved.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::forwarding::read_forwarding;
use super::parse::{parse_path, set};
use crate::config::client_share::ClientShare;
use crate::config::forwarding::parse_field;
use crate::config::model::HypemanConfig;
use crate::config::pattern::{HostPattern, InstanceTemplate};
use crate::config::problem::Complaint;
use crate::config::reader::Section;
use crate::config::route::{
    AdmissionConfig, AsleepConfig, LimitsConfig, Preset, PrewarmConfig, RetryConfig, RouteConfig,
    RouteWakeConfig, WaitingPageConfig,
};
use crate::config::values::{ByteSize, HeaderRule, KeepWarm, Rate, TextFile};
use crate::config::wake::{ReadyWhen, WakeConfig};
use crate::names::PlaneIndex;
use hypeman::InstanceRef;

pub(super) fn parse_ready(text: &str) -> Result<ReadyWhen, String> {
    match text {
        "running" => Ok(ReadyWhen::Running),
        "port" => Ok(ReadyWhen::Port),
        "health" => Ok(ReadyWhen::Health),
        _ => Err(format!(
            "`{text}` is not \"running\", \"port\" or \"health\""
        )),
    }
}

pub(super) fn parse_instance(text: &str) -> Result<InstanceRef, String> {
    InstanceRef::parse(text).map_err(|error| error.to_string())
}

/// Methods that are written in capitals (IANA: "HTTP Method Registry"; PURGE is that of caches).
const METHODS: &str = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH ACL BIND COPY LABEL \
                       LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE ORDERPATCH PROPFIND \
                       PROPPATCH PURGE QUERY REBIND REPORT SEARCH UNBIND UNCHECKOUT UNLINK UNLOCK \
                       UPDATE CHECKIN CHECKOUT";

fn parse_method(text: &str) -> Result<String, String> {
    let method: http::Method = text
        .parse()
        .map_err(|_| format!("`{text}` is not an HTTP method"))?;
    // The case of methods counts (RFC 9110 §9.1), so that no request would have this one.
    let upper = text.to_ascii_uppercase();
    if text != upper && METHODS.split(' ').any(|method| method == upper) {
        return Err(format!(
            "`{text}` is no method that clients send; write `{upper}`"
        ));
    }
    Ok(method.as_str().to_owned())
}

/// A host pattern. What people copy out of a browser has more in it.
fn parse_host(text: &str) -> Result<HostPattern, Complaint> {
    HostPattern::parse(text).map_err(|error| {
        let host = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        let host = match host.rsplit_once(':') {
            Some((before, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => before,
            _ => host,
        };
        match host != text && HostPattern::parse(host).is_ok() {
            true => Complaint::new(
                "is a host alone, without scheme, port and path",
                format!("write \"{host}\""),
            ),
            false => error.to_string().into(),
        }
    })
}

pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into));
    let network = network.map_err(|_| format!("`{text}` is not a network like \"10.0.0.0/8\""))?;
    Ok(canonical(network))
}

/// A network of IPv4 addresses that are written as IPv6 (`::ffff:10.0.0.0/104`) as one of IPv4:
/// clients are compared by their canonical addresses.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let v4 = v6
        .addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(96));
    let v4 = v4.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok());
    v4.map_or(network, IpNet::V4)
}

/// The target of a request that the gateway makes itself.
fn parse_target(text: &str) -> Result<Arc<str>, String> {
    let uri: http::Uri = text
        .parse()
        .map_err(|_| format!("`{text}` is not a path like \"/health\""))?;
    if !text.starts_with('/') || uri.authority().is_some() {
        return Err(format!("`{text}` is not a path like \"/health\""));
    }
    Ok(text.into())
}

fn parse_error_status(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|status| (400..600).contains(status))
        .ok_or_else(|| format!("`{text}` is not a status from 400 to 599"))
}

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
    let port = s.port("port").unwrap_or(8080);
    let wake = read_wake(s, defaults);
    let limits = read_limits(s);
    let admission = read_admission(s);
    let asleep = read_asleep(s);
    let retry = read_retry(s);
    let waiting_page = read_waiting_page(s);
    let keep_warm = read_keep_warm(s);
    let prewarm = read_prewarm(s);
    let forwarding = read_forwarding(s);
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

fn read_wake(s: &mut Section<'_, '_>, defaults: &WakeConfig) -> RouteWakeConfig {
    let mut wake = RouteWakeConfig::of(defaults);
    s.section("wake", |s| {
        s.duration("timeout", &mut wake.timeout);
        s.flag("start_stopped", &mut wake.start_stopped);
        set(&mut wake.ready, s.parsed("ready", parse_ready));
        set(&mut wake.health_path, s.parsed("health_path", parse_target));
        s.flag("on_tls_hello", &mut wake.on_tls_hello);
        wake.warmup = s.parsed("warmup", parse_target);
        set(&mut wake.max_held, s.number("max_held"));
        let also = s.list("also", parse_instance);
        set(&mut wake.also, also.map(Into::into));
    });
    wake
}

fn read_limits(s: &mut Section<'_, '_>) -> LimitsConfig {
    let mut limits = LimitsConfig::default();
    s.section("limits", |s| {
        if let Some(most) = s.number("max_inflight") {
            limits.max_inflight = most;
            limits.soft_inflight = most;
        }
        set(&mut limits.soft_inflight, s.number("soft_inflight"));
        if limits.soft_inflight > limits.max_inflight {
            s.problem("soft_inflight", "must not be more than `max_inflight`");
        }
        s.duration("soft_wait", &mut limits.soft_wait);
        set(
            &mut limits.max_inflight_per_client,
            s.word_or_number("max_inflight_per_client", ClientShare::parse),
        );
        set(
            &mut limits.max_held_per_client,
            s.word_or_number("max_held_per_client", ClientShare::parse),
        );
        limits.min_body_rate = s.word_or_number("min_body_rate", ByteSize::parse);
    });
    limits
}

fn read_admission(s: &mut Section<'_, '_>) -> AdmissionConfig {
    let mut admission = AdmissionConfig::default();
    s.section("admission", |s| {
        set(&mut admission.methods, s.list("methods", parse_method));
        set(&mut admission.paths, s.list("paths", parse_path));
        set(&mut admission.deny_paths, s.list("deny_paths", parse_path));
        admission.header = s.parsed("header", HeaderRule::parse);
        set(&mut admission.clients, s.list("clients", parse_network));
        let lower = |text: &str| match text.is_empty() {
            true => Err("an empty text is in every user agent".to_owned()),
            false => Ok(text.to_lowercase()),
        };
        let agents = s.list("deny_user_agents", lower);
        set(&mut admission.deny_user_agents, agents);
        admission.rate_per_client = s.parsed("rate_per_client", Rate::parse);
        admission.rate = s.parsed("rate", Rate::parse);
        admission.preset = s.parsed("preset", |text| match text {
            "browser-abuse" => Ok(Preset::BrowserAbuse),
            _ => Err(format!(
                "`{text}` is not a preset; there is \"browser-abuse\""
            )),
        });
    });
    admission
}

fn read_asleep(s: &mut Section<'_, '_>) -> AsleepConfig {
    let mut asleep = AsleepConfig::default();
    s.section("asleep", |s| {
        if let Some(status) = s.number::<u16>("status") {
            asleep.status = status;
            if !(200..600).contains(&status) {
                s.problem("status", "must be 200 to 599");
            }
        }
        set(&mut asleep.headers, s.list("headers", parse_field));
        asleep.body_file = s.parsed("body_file", TextFile::read);
        asleep.robots = s.parsed("robots", TextFile::read);
        set(&mut asleep.health_paths, s.list("health_paths", parse_path));
    });
    asleep
}

fn read_retry(s: &mut Section<'_, '_>) -> RetryConfig {
    let mut retry = RetryConfig::default();
    s.section("retry", |s| {
        set(&mut retry.buffer, s.parsed("buffer", ByteSize::parse));
        if retry.buffer.0 > 16 << 20 {
            s.problem("buffer", "must be at most 16MiB");
        }
        set(&mut retry.on_wake, s.list("on_wake", parse_error_status));
        s.duration("on_wake_for", &mut retry.on_wake_for);
    });
    retry
}

fn read_waiting_page(s: &mut Section<'_, '_>) -> WaitingPageConfig {
    let mut page = WaitingPageConfig::default();
    let mut enabled = page.enabled;
    s.section_or_flag("waiting_page", &mut enabled, |s, enabled| {
        *enabled |= s.is_in_file();
        s.flag("enabled", enabled);
        s.duration("after", &mut page.after);
        page.template = s.parsed("template", TextFile::read);
    });
    page.enabled = enabled;
    page
}

/// An IANA time zone.
fn parse_zone(text: &str) -> Result<String, String> {
    match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "`{text}` is not a time zone like \"Europe/Berlin\" or \"UTC\""
        )),
    }
}

fn read_keep_warm(s: &mut Section<'_, '_>) -> Vec<KeepWarm> {
    let mut windows = Vec::new();
    s.tables("keep_warm", |s| {
        let (cron, zone) = (s.text("cron"), s.parsed("zone", parse_zone));
        if cron.is_none() && !s.has("cron") {
            s.problem("cron", "is missing: when does the window begin?");
        }
        let has_zone = zone.is_some() || !s.has("zone");
        let mut length = Duration::ZERO;
        s.duration("for", &mut length);
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
