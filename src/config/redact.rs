//! A configuration as an operator may see it.
//!
//! Guarantees: no secret that the typed configuration knows as one ([`super::Secret`], which never
//! serialises), and no value of a header field whose name says that it is one.

use serde_json::Value;

use super::Config;

const MASK: &str = "***";
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
    let mut value = serde_json::to_value(config).unwrap_or(Value::Null);
    let routes = value.get_mut("route").and_then(Value::as_array_mut);
    for route in routes.into_iter().flatten() {
        // Who knows it may wake the instance.
        if let Some(rule) = route.pointer_mut("/admission/header") {
            mask_rule(rule, |_| true);
        }
        for list in [
            "/request_headers/set",
            "/request_headers/add",
            "/response_headers/set",
            "/response_headers/add",
            "/asleep/headers",
        ] {
            let rules = route.pointer_mut(list).and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten() {
                mask_rule(rule, is_telling);
            }
        }
    }
    value
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING.iter().any(|part| name.contains(part))
}

/// `"name: value"` becomes `"name: ***"`.
fn mask_rule(rule: &mut Value, is_secret: impl Fn(&str) -> bool) {
    if let Value::String(text) = rule
        && let Some((name, _)) = text.split_once(':')
        && is_secret(name)
    {
        *text = format!("{name}: {MASK}");
    }
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
        let text = redacted(&config).to_string();
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
