//! Policies and routes that a directory declares.
//!
//! Guarantees: they are judged by the rules of a file, and refused in its words; which control plane
//! they are for is not theirs to say.

use std::sync::Arc;

use serde_json::{Map, Value};
use toml::de::DeTable;

use super::route::{read_policy, unknown_capture};
use crate::config::diagnostics::Diagnostics;
use crate::config::pattern::{InstanceTemplate, PORT};
use crate::config::reader::Section;
use crate::config::route::{RouteConfig, RoutePolicy};
use crate::config::route_name::RouteName;
use crate::config::texts::{parse_host, parse_path};
use crate::config::variables::Variables;
use crate::config::wake::WakeConfig;
use crate::names::PlaneIndex;

/// What a policy's keys say, on top of `[wake]`; `hypeman` is the name of the control plane of
/// whoever reads it.
pub fn declared_policy(
    keys: &Map<String, Value>,
    wake: &WakeConfig,
    hypeman: &str,
) -> Result<Arc<RoutePolicy>, String> {
    let mut keys = keys.clone();
    for own in ["host", "path", "instance", "port", "hypeman"] {
        if keys.remove(own).is_some() {
            return Err(format!("`{own}` is not a policy's to say"));
        }
    }
    let text = toml::to_string(&keys).map_err(|error| error.to_string())?;
    let (table, errors) = DeTable::parse_recoverable(&text);
    if let Some(error) = errors.first() {
        return Err(error.message().to_owned());
    }
    let variables = Variables::default();
    let mut diagnostics = Diagnostics::new("policy", &text, &variables);
    let mut root = Section::root(&mut diagnostics, table.get_ref());
    // What is not published by another one is the first one's.
    let mut policy = read_policy(&mut root, wake, &[]);
    root.finish();
    let problems = diagnostics.finish();
    if let Some(problem) = problems.first() {
        return Err(format!("`{}`: {}", problem.key, problem.message));
    }
    hypeman.clone_into(&mut policy.hypeman);
    policy.plane = PlaneIndex(0);
    policy.plane_is_open = true;
    Ok(Arc::new(policy))
}

/// A route of a host with a path, for an instance's port.
pub fn declared_route(
    name: &str,
    instance: &str,
    port: u16,
    policy: &Arc<RoutePolicy>,
) -> Result<RouteConfig, String> {
    let slash = name.find('/').ok_or("has no path")?;
    let (host, path) = name.split_at(slash);
    let pattern = parse_host(host).map_err(|complaint| complaint.message)?;
    if pattern.to_string() != host {
        return Err(format!("`{host}` is to be written `{pattern}`"));
    }
    if parse_path(path)? != path {
        return Err(format!("`{path}` is not a path as a key has it"));
    }
    let template = InstanceTemplate::parse(instance, &pattern).map_err(|e| e.to_string())?;
    if port == 0 && !pattern.captures(PORT) {
        return Err("has no port, and its host has no `{port}`".to_owned());
    }
    if (port == 0 || !policy.port_from.is_empty()) && policy.ports.is_none() {
        return Err("lets requests choose a port, and its policy says no `ports`".to_owned());
    }
    if !policy.keep_warm.is_empty() && matches!(template, InstanceTemplate::Capture(_)) {
        return Err("has a capture as its instance, which `keep_warm` cannot know".to_owned());
    }
    if let Some(capture) = unknown_capture(policy, &pattern) {
        return Err(format!(
            "its policy names `{{{capture}}}`, which its host does not have"
        ));
    }
    Ok(RouteConfig {
        name: RouteName::new(&pattern, path),
        listen_port: None,
        instance: template,
        port,
        policy: Arc::clone(policy),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(keys: &Value) -> Result<Arc<RoutePolicy>, String> {
        declared_policy(keys.as_object().unwrap(), &WakeConfig::default(), "default")
    }

    #[test]
    fn what_a_file_would_refuse_is_refused() {
        for (keys, said) in [
            (json!({"wake": {"timout": "3s"}}), "wake.timout"),
            (json!({"wake": {"timeout": "soon"}}), "wake.timeout"),
            (json!({"host": "a.b"}), "`host` is not a policy's"),
            (json!({"hypeman": "other"}), "`hypeman` is not a policy's"),
            (
                json!({"limits": {"soft_inflight": 9, "max_inflight": 1}}),
                "soft_inflight",
            ),
            (json!({"x": null}), ""),
        ] {
            let error = policy(&keys).unwrap_err();
            assert!(error.contains(said), "{keys}: {error}");
        }
        let plain = policy(&json!({})).unwrap();
        for (name, instance, port) in [
            ("a.b", "a", 80),
            ("a.b/v1/", "a", 80),
            ("A.b/", "a", 80),
            ("a..b/", "a", 80),
            ("a.b/", "{x}", 80),
            ("a.b/", "", 80),
            ("a.b/", "a", 0),
            ("{port}.a.b/", "a", 0),
        ] {
            let route = declared_route(name, instance, port, &plain);
            assert!(route.is_err(), "{name} {instance} {port}");
        }
        let claims = json!({"auth": {"any": [{"jwt": {"jwks_url": "https://a.b/k", "issuer": "i",
            "audience": "a", "claims": {"sub": "{tenant}"}}}]}});
        let claims = policy(&claims).unwrap();
        assert!(
            declared_route("a.b/", "a", 80, &claims)
                .unwrap_err()
                .contains("{tenant}")
        );
        assert!(declared_route("{tenant}.a.b/", "a", 80, &claims).is_ok());
    }

    #[test]
    fn what_it_says_is_in_force_and_the_rest_is_as_wake_has_it() {
        let policy = policy(&json!({"wake": {"timeout": "7s"}, "ports": "3000-4000"})).unwrap();
        assert_eq!(policy.wake.timeout.as_secs(), 7);
        assert_eq!((&*policy.hypeman, policy.plane), ("default", PlaneIndex(0)));
        let route = declared_route("{port}-{app}.a.b/v1", "{app}", 0, &policy).unwrap();
        assert_eq!((route.host(), route.path()), ("{port}-{app}.a.b", "/v1"));
    }
}
