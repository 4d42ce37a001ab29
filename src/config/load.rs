//! From a file's text and the environment to a [`Config`].
//!
//! Guarantees: a missing key gets its default, a later check sees only values in range, and all
//! problems are reported together.

use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use self::auth::check_certificates;
pub use self::declared::{declared_policy, declared_route};
use self::listener::{check_tcp_hosts, read_ingress, read_listener};
use self::planes::{Planes, unused};
use self::route::{Routes, read_route};
use self::telemetry::{read_admin, read_tracing};
use super::diagnostics::Diagnostics;
use super::fleet::FleetRole;
use super::forwarding::FieldNames;
use super::model::{AdminConfig, Config, ListenerConfig, UpstreamConfig};
use super::origin::Origin;
use super::parts::Parts;
use super::pattern::{HostPattern, InstanceTemplate};
use super::place::{ENVIRONMENT, Place};
use super::problem::{ConfigError, Problem};
use super::reader::Section;
use super::route::{RouteConfig, RoutePolicy};
use super::settings::Settings as _;
use super::variables::Variables;
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
    if problems.is_empty()
        && config.route.is_empty()
        && !config.ingress.watch
        && config.fleet.is_none()
    {
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
    if let Some(parts) = Parts::of(text) {
        let (table, errors) = DeTable::parse_recoverable(&parts.rest);
        let is_plain = errors.is_empty() && !table.get_ref().contains_key("route");
        let mut diagnostics = Diagnostics::new(name, text, variables);
        let config = is_plain.then(|| {
            let routes = Some(&*parts.routes);
            read_config(&mut diagnostics, table.get_ref(), routes, variables)
        });
        // What is wrong is told by its place in the whole file.
        if let Some(config) = config.flatten()
            && diagnostics.count() == 0
        {
            return (config, finish(diagnostics));
        }
    }
    let mut diagnostics = Diagnostics::new(name, text, variables);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        diagnostics.syntax(error.span(), error.message());
    }
    let config = match errors.is_empty() {
        true => read_config(&mut diagnostics, table.get_ref(), None, variables),
        false => Some(checked(&mut diagnostics, Config::default())),
    };
    (config.unwrap_or_default(), finish(diagnostics))
}

/// Reads a table, and the routes in texts of their own, if they are; `None` where something else is
/// in those.
fn read_config<'a>(
    diagnostics: &mut Diagnostics<'a>,
    table: &DeTable<'a>,
    routes: Option<&[&'a str]>,
    variables: &Variables,
) -> Option<Config> {
    let mut config = Config::default();
    let mut root = Section::root(diagnostics, table);
    config.read(&mut root);
    root.section("upstream", |s| read_upstream(s, &mut config.upstream));
    root.section("tracing", |s| read_tracing(s, &mut config.tracing));
    root.section("admin", |s| read_admin(s, &mut config.admin));
    root.section("ingress", |s| read_ingress(s, &mut config.ingress));
    let mut planes = Planes::default();
    root.tables("hypeman", |s| planes.read(s));
    let problems;
    let has_plane = !config.has_role(FleetRole::Front);
    (config.hypeman, problems) = planes.with(has_plane, &|name| variables.get(name));
    let trusting = !config.server.trusted_proxies.is_empty();
    root.tables("listener", |s| {
        read_listener(s, &mut config.listener, trusting);
    });
    let (wake, planes) = (config.wake.clone(), config.hypeman.clone());
    let mut earlier = Routes::default();
    let one = |s: &mut Section<'_, '_>| {
        read_route(s, &mut config.route, &mut earlier, &wake, &planes);
    };
    match routes {
        Some(texts) => root.tables_of("route", texts, one).then_some(())?,
        None => root.tables("route", one),
    }
    root.finish();
    for problem in problems {
        diagnostics.problem("hypeman", problem);
    }
    config.unused_variables = unused(&config.hypeman, variables);
    add_sidecar(&mut config);
    let mut routes = config.route.iter();
    config.server.keeps_field_names =
        routes.any(|route| route.forwarding.field_names == FieldNames::Original);
    Some(checked(diagnostics, config))
}

/// The configuration with what several keys say together.
fn checked(diagnostics: &mut Diagnostics<'_>, mut config: Config) -> Config {
    check_tcp_hosts(diagnostics, &config);
    check_certificates(diagnostics, &config);
    if config.listener.is_empty() && !config.has_role(FleetRole::Node) {
        config.listener.push(ListenerConfig::default());
    }
    config.ignored_variables = diagnostics.suspicious_links();
    config
}

/// A sidecar's one instance is the route of whatever no other route takes.
fn add_sidecar(config: &mut Config) {
    let Some(instance) = config.upstream.instance.clone() else {
        return;
    };
    let first = config.hypeman.first();
    let policy = RoutePolicy {
        hypeman: first.map(|plane| plane.name.clone()).unwrap_or_default(),
        ..RoutePolicy::new(PlaneIndex(0), &config.wake)
    };
    let (instance, port) = (InstanceTemplate::Fixed(instance), config.upstream.port);
    let route = RouteConfig::new(&HostPattern::Any, instance, port, policy.into());
    if config.route.iter().all(|other| other.name != route.name) {
        config.route.push(Arc::new(route));
    }
}

fn read_upstream(s: &mut Section<'_, '_>, upstream: &mut UpstreamConfig) {
    upstream.read(s);
    if upstream.instance.is_none() && s.has("port") {
        s.problem("port", "needs `upstream.instance`: whose port is it?");
    }
}

mod auth;
mod declared;
mod forwarding;
mod listener;
#[cfg(test)]
mod mistake_tests;
mod planes;
mod route;
mod telemetry;
#[cfg(test)]
mod tests;
