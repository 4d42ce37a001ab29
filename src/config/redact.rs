//! A configuration as an operator may see it.
//!
//! Guarantees: no secret that the typed configuration knows as one ([`super::Secret`], which never
//! serialises), and no value of a header field whose name says that it is one.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::Value;

use super::values::HeaderRule;
use super::{Config, RouteConfig, RoutePolicy};

/// Parts of names whose values nobody should read.
const TELLING: &[&str] = &[
    "auth",
    "cookie",
    "key",
    "passw",
    "secret",
    "signature",
    "token",
];

/// The effective configuration as JSON, without secrets.
pub fn redacted(config: &Config) -> Value {
    serde_json::to_value(masked(config)).unwrap_or(Value::Null)
}

/// The effective configuration without secrets; it still says which fields there are.
pub fn masked(config: &Config) -> Config {
    let mut config = config.clone();
    for route in &mut config.route {
        if let Some(masked) = masked_route(route) {
            *route = Arc::new(masked);
        }
    }
    config
}

/// The route without secrets; `None` when there are none in it.
fn masked_route(route: &RouteConfig) -> Option<RouteConfig> {
    let mut masked = RoutePolicy::clone(&route.policy);
    // Who knows it may wake the instance.
    let admission = masked.admission.header.iter_mut();
    let mut count = admission.map(|rule| mask(rule, true)).sum::<usize>();
    let (requests, responses) = (
        &mut masked.forwarding.request_headers,
        &mut masked.forwarding.response_headers,
    );
    let lists = [
        &mut requests.set,
        &mut requests.add,
        &mut responses.set,
        &mut responses.add,
        &mut masked.asleep.headers,
    ];
    let rules = lists.into_iter().flatten();
    count += rules
        .map(|rule| mask(rule, is_telling(rule)))
        .sum::<usize>();
    (count > 0).then(|| RouteConfig {
        policy: masked.into(),
        ..route.clone()
    })
}

fn is_telling(rule: &HeaderRule) -> bool {
    let name = rule.name.as_str();
    TELLING.iter().any(|part| name.contains(part))
}

/// `"name: value"` becomes `"name: ***"`. Returns how many values that were.
fn mask(rule: &mut HeaderRule, is_secret: bool) -> usize {
    let value = rule.value.as_mut().filter(|_| is_secret);
    value.map_or(0, |value| {
        *value = HeaderValue::from_static("***");
        1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    #[test]
    fn what_only_a_few_should_know_is_not_in_it() {
        let text = "[admin]\ntoken = \"hunter2-0123456789\"\n\
            [[route]]\nhost = \"a.b\"\ninstance = \"a\"\n\
            [route.auth]\nheader = \"x-key\"\nvalue = \"hunter2-0123456789-0123456789-0123456789\"\n\
            [route.admission]\nheader = \"x-wake: hunter2\"\n\
            [route.request_headers]\nset = [\"authorization: Bearer hunter2\", \"x-tenant: blue\"]\n\
            [route.asleep]\nheaders = [\"x-api-token: hunter2\", \"x-state: asleep\"]\n";
        let variables = [("HYPEMAN_API_KEY".to_owned(), "hunter2".to_owned())];
        let config = load("w.toml", text, &Variables::from_iter(variables)).unwrap();
        let printed = toml::to_string(&masked(&config)).unwrap();
        for text in [redacted(&config).to_string(), printed] {
            assert!(!text.contains("hunter2"), "{text}");
            for kept in [
                "x-tenant: blue",
                "x-state: asleep",
                "authorization: ***",
                "x-wake: ***",
            ] {
                assert!(text.contains(kept), "{kept} is not in {text}");
            }
        }
    }
}
