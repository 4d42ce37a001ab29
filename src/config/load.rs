//! From a file's text and the environment to a [`Config`].
//!
//! Guarantees: a missing key gets its default, a later check sees only values in range, and all
//! problems are reported together.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use self::auth::check_certificates;
use self::listener::{check_tcp_hosts, read_ingress, read_listener};
use self::parse::{positive, set};
use self::planes::{Planes, unused};
use self::route::{parse_instance, parse_network, parse_ready, read_route};
use self::telemetry::{read_admin, read_log, read_metrics, read_tracing};
use super::diagnostics::Diagnostics;
use super::forwarding::FieldNames;
use super::model::{
    AdminConfig, Config, IngressConfig, ListenerConfig, ResponseConfig, UpstreamConfig,
};
use super::origin::Origin;
use super::pattern::{HostPattern, InstanceTemplate};
use super::place::{ENVIRONMENT, Place};
use super::problem::{ConfigError, Problem};
use super::reader::Section;
use super::route::RouteConfig;
use super::server::{HalfClose, ServerConfig, ViaConfig};
use super::telemetry::{LogConfig, MetricsConfig, TracingConfig};
use super::values::{ByteSize, Rate};
use super::variables::Variables;
use super::wake::WakeConfig;
use crate::names::PlaneIndex;

/// A configuration, and where its keys were written.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where its keys were written.
    pub origin: Origin,
}

/// Loads a file, or the environment alone when there is no file.
pub fn load_file(file: Option<&Path>, variables: &Variables) -> Result<Loaded, ConfigError> {
    let (name, text) = read_text(file)?;
    Ok(Loaded {
        config: load(&name, &text, variables)?,
        origin: Origin::new(&name, &text, variables),
    })
}

/// The name and text of a file, or of the environment, which has no text.
fn read_text(file: Option<&Path>) -> Result<(String, String), ConfigError> {
    let Some(path) = file else {
        return Ok((ENVIRONMENT.to_owned(), String::new()));
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let message = format!("cannot read the file: {error}");
            let problem = Problem::of("unreadable_file", "", message);
            let problem = problem.with_mend("give its path with `-c`");
            let place = Place::file(name);
            let problems = vec![Problem { place, ..problem }];
            Err(ConfigError { problems })
        }
    }
}

/// Loads a configuration's text; `name` is what problems call it.
pub fn load(name: &str, text: &str, variables: &Variables) -> Result<Config, ConfigError> {
    let (config, mut problems) = read(name, text, variables, problems_of);
    if problems.is_empty() && config.route.is_empty() && !config.ingress.watch {
        problems.push(no_route(name));
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError { problems })
    }
}

/// Only `[admin]`, for a client of the gateway: what else is wrong with the configuration, or
/// cannot be read by this user, does not matter to it.
pub fn load_admin(file: Option<&Path>, variables: &Variables) -> Result<AdminConfig, ConfigError> {
    let (name, text) = read_text(file)?;
    let (config, mut problems) = read(&name, &text, variables, problems_of);
    problems.retain(|problem| match (problem.key.as_str(), &problem.place) {
        ("", Place::Named(_)) => false,
        ("", Place::File { .. }) => true,
        (key, _) => key.starts_with("admin."),
    });
    match problems.is_empty() {
        true => Ok(config.admin),
        false => Err(ConfigError { problems }),
    }
}

/// Every variable that a configuration of this shape has.
#[cfg(test)]
pub(super) fn known_variables(text: &str) -> Vec<String> {
    let some = Variables::from_iter([("WAKEGATE_X".to_owned(), "x".to_owned())]);
    read("test", text, &some, |diagnostics| {
        diagnostics.known().cloned().collect()
    })
    .1
}

fn problems_of(diagnostics: Diagnostics<'_>) -> Vec<Problem> {
    diagnostics.finish()
}

fn no_route(name: &str) -> Problem {
    let message = "there is no route, so every request would be answered 404";
    let problem = Problem::of("missing", "route", message).with_mend(
        "add `[[route]]` with host, instance and port; or, in front of one instance, set \
         WAKEGATE_UPSTREAM_INSTANCE and WAKEGATE_UPSTREAM_PORT",
    );
    let place = Place::file(name);
    Problem { place, ..problem }
}

/// Reads everything; `finish` says what is made of the diagnostics.
fn read<T>(
    name: &str,
    text: &str,
    variables: &Variables,
    finish: impl for<'b> FnOnce(Diagnostics<'b>) -> T,
) -> (Config, T) {
    let mut diagnostics = Diagnostics::new(name, text, variables);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        diagnostics.syntax(error.span(), error.message());
    }
    let mut config = Config {
        server: ServerConfig::default(),
        wake: WakeConfig::default(),
        upstream: UpstreamConfig::default(),
        response: ResponseConfig::default(),
        log: LogConfig::default(),
        metrics: MetricsConfig::default(),
        tracing: TracingConfig::default(),
        admin: AdminConfig::default(),
        hypeman: Vec::new(),
        listener: Vec::new(),
        route: Vec::new(),
        ingress: IngressConfig::default(),
        ignored_variables: Vec::new(),
        unused_variables: Vec::new(),
    };
    if errors.is_empty() {
        let mut root = Section::root(&mut diagnostics, table.get_ref());
        root.section("server", |s| read_server(s, &mut config.server));
        root.section("wake", |s| read_wake(s, &mut config.wake));
        root.section("upstream", |s| read_upstream(s, &mut config.upstream));
        root.section("response", |s| {
            s.flag("server_timing", &mut config.response.server_timing);
            s.flag("wake_header", &mut config.response.wake_header);
        });
        root.section("log", |s| read_log(s, &mut config.log));
        root.section("metrics", |s| read_metrics(s, &mut config.metrics));
        root.section("tracing", |s| read_tracing(s, &mut config.tracing));
        root.section("admin", |s| read_admin(s, &mut config.admin));
        root.section("ingress", |s| read_ingress(s, &mut config.ingress));
        let mut planes = Planes::default();
        root.tables("hypeman", |s| planes.read(s));
        let problems;
        (config.hypeman, problems) = planes.with(&|name| variables.get(name));
        let trusting = !config.server.trusted_proxies.is_empty();
        root.tables("listener", |s| {
            read_listener(s, &mut config.listener, trusting);
        });
        let (wake, planes) = (config.wake.clone(), config.hypeman.clone());
        let mut seen = HashSet::new();
        root.tables("route", |s| {
            read_route(s, &mut config.route, &mut seen, &wake, &planes);
        });
        root.finish();
        for problem in problems {
            diagnostics.problem("hypeman", problem);
        }
        config.unused_variables = unused(&config.hypeman, variables);
        add_sidecar(&mut config);
        let mut routes = config.route.iter();
        config.server.keeps_field_names =
            routes.any(|route| route.forwarding.field_names == FieldNames::Original);
    }
    check_tcp_hosts(&mut diagnostics, &config);
    check_certificates(&mut diagnostics, &config);
    if config.listener.is_empty() {
        config.listener.push(ListenerConfig::default());
    }
    config.ignored_variables = diagnostics.suspicious_links();
    (config, finish(diagnostics))
}

/// A sidecar's one instance is the route of whatever no other route takes.
fn add_sidecar(config: &mut Config) {
    let Some(instance) = config.upstream.instance.clone() else {
        return;
    };
    let (host, instance) = (HostPattern::Any, InstanceTemplate::Fixed(instance));
    if config
        .route
        .iter()
        .any(|route| route.host == host && route.path == "/")
    {
        return;
    }
    let port = config.upstream.port;
    let mut route = RouteConfig::new(host, instance, port, PlaneIndex(0), &config.wake);
    route.hypeman = config
        .hypeman
        .first()
        .map(|plane| plane.name.clone())
        .unwrap_or_default();
    config.route.push(Arc::new(route));
}

/// More threads than any machine has processors for.
const MAX_WORKERS: usize = 1024;
/// With less, a handful of clients would get nothing through.
const MIN_BUFFERED_BYTES: usize = 1 << 20;
/// The shortest `wake.verify_interval`: the control plane is asked that often about each instance in
/// use, and has to have answered by then.
const SHORTEST_VERIFY: Duration = Duration::from_millis(50);

/// The limits of messages' heads, of requests as of responses.
fn read_head_limits(s: &mut Section<'_, '_>, bytes: &mut usize, fields: &mut usize) {
    if let Some(limit) = s.number::<usize>("max_header_bytes") {
        if limit < 8192 {
            s.problem("max_header_bytes", "must be at least 8192");
        }
        *bytes = limit;
    }
    set(fields, positive(s, "max_headers"));
}

fn read_server(s: &mut Section<'_, '_>, server: &mut ServerConfig) {
    if let Some(workers) = s.number("workers") {
        server.workers = NonZeroUsize::new(workers).filter(|count| count.get() <= MAX_WORKERS);
        if server.workers.is_none() {
            s.problem("workers", format_args!("must be 1 to {MAX_WORKERS}"));
        }
    }
    set(&mut server.max_connections, positive(s, "max_connections"));
    s.duration("header_timeout", &mut server.header_timeout);
    s.duration("idle_timeout", &mut server.idle_timeout);
    s.duration("send_timeout", &mut server.send_timeout);
    let half_close = s.parsed("half_close", |text| match text {
        "abort" => Ok(HalfClose::Abort),
        "answer" => Ok(HalfClose::Answer),
        _ => Err(format!("`{text}` is not \"abort\" or \"answer\"")),
    });
    set(&mut server.half_close, half_close);
    read_head_limits(s, &mut server.max_header_bytes, &mut server.max_headers);
    if let Some(limit) = positive(s, "max_connections_per_client") {
        server.max_connections_per_client = limit;
    }
    let rate = s.word_or_number("min_body_rate", ByteSize::parse);
    set(&mut server.min_body_rate, rate);
    if let Some(bytes) = s.parsed("max_buffered_bytes", ByteSize::parse) {
        if bytes.0 < MIN_BUFFERED_BYTES {
            s.problem("max_buffered_bytes", "must be at least 1MiB");
        }
        server.max_buffered_bytes = bytes;
    }
    s.section("http2", |s| {
        let http2 = &mut server.http2;
        if let Some(streams) = s.number("max_streams") {
            if streams == 0 {
                s.problem("max_streams", "must be at least 1");
            }
            http2.max_streams = streams;
        }
        set(
            &mut http2.max_pending_resets,
            positive(s, "max_pending_resets"),
        );
        set(&mut http2.max_error_resets, positive(s, "max_error_resets"));
        let mut renamed = Duration::ZERO;
        s.duration("idle_timeout", &mut renamed);
        http2.idle_timeout = (!renamed.is_zero()).then_some(renamed);
    });
    s.flag("reuse_port", &mut server.reuse_port);
    s.flag("watch", &mut server.watch);
    s.duration("drain_timeout", &mut server.drain_timeout);
    s.duration("drain_idle_timeout", &mut server.drain_idle_timeout);
    set(
        &mut server.trusted_proxies,
        s.list("trusted_proxies", parse_network),
    );
    let via = s.parsed("via", |text| match text {
        "requests" => Ok(ViaConfig::Requests),
        "both" => Ok(ViaConfig::Both),
        "off" => Ok(ViaConfig::Off),
        _ => Err(format!("`{text}` is not \"requests\", \"both\" or \"off\"")),
    });
    set(&mut server.via, via);
    server.https_port = s.port("https_port");
}

fn read_wake(s: &mut Section<'_, '_>, wake: &mut WakeConfig) {
    s.duration("timeout", &mut wake.timeout);
    // Zero sheds everything (it is never "unlimited"), so it is a fair value here.
    set(
        &mut wake.max_held_per_instance,
        s.number("max_held_per_instance"),
    );
    set(&mut wake.max_held_per_route, s.number("max_held_per_route"));
    set(&mut wake.max_held, s.number("max_held"));
    set(&mut wake.max_held_bytes, s.number("max_held_bytes"));
    s.flag("start_stopped", &mut wake.start_stopped);
    s.duration("verify_interval", &mut wake.verify_interval);
    if wake.verify_interval < SHORTEST_VERIFY {
        s.problem("verify_interval", "must be at least 50ms");
    }
    if let Some(failures) = s.number("breaker_failures") {
        wake.breaker_failures = failures;
        if failures == 0 {
            s.problem("breaker_failures", "must be at least 1");
        }
    }
    s.duration("breaker_max_delay", &mut wake.breaker_max_delay);
    s.duration("unknown_ttl", &mut wake.unknown_ttl);
    s.duration("forget_after", &mut wake.forget_after);
    set(&mut wake.max_unknown, s.number("max_unknown"));
    set(
        &mut wake.unknown_per_client,
        s.parsed("unknown_per_client", Rate::parse),
    );
    set(&mut wake.ready, s.parsed("ready", parse_ready));
    set(&mut wake.max_concurrent, positive(s, "max_concurrent"));
    set(&mut wake.max_questions, positive(s, "max_questions"));
    s.duration("stall_timeout", &mut wake.stall_timeout);
    s.duration("max_hold", &mut wake.max_hold);
    set(&mut wake.thrash_per_minute, s.number("thrash_per_minute"));
    set(&mut wake.ledger, s.number("ledger"));
    s.duration("ramp_step", &mut wake.ramp_step);
}

fn read_upstream(s: &mut Section<'_, '_>, upstream: &mut UpstreamConfig) {
    let instance = s.parsed("instance", parse_instance);
    upstream.instance = instance.map(|instance| instance.as_str().to_owned());
    if let Some(port) = s.port("port") {
        upstream.port = port;
        if upstream.instance.is_none() {
            s.problem("port", "needs `upstream.instance`: whose port is it?");
        }
    }
    s.duration("connect_timeout", &mut upstream.connect_timeout);
    s.duration("response_timeout", &mut upstream.response_timeout);
    let mut read_timeout = Duration::ZERO;
    s.duration("read_timeout", &mut read_timeout);
    upstream.read_timeout = (!read_timeout.is_zero()).then_some(read_timeout);
    s.duration("idle_timeout", &mut upstream.idle_timeout);
    set(&mut upstream.max_idle, s.number("max_idle"));
    read_head_limits(s, &mut upstream.max_header_bytes, &mut upstream.max_headers);
}

mod auth;
mod forwarding;
mod listener;
#[cfg(test)]
mod mistake_tests;
mod parse;
mod planes;
mod route;
mod telemetry;
#[cfg(test)]
mod tests;
