//! `wakegate fleet import`: routes of a file, as the directory has them.
//!
//! Guarantees: nothing is written unless all of it could be served; routes that say the same share a policy,
//! also with those that were imported before; a policy's name tells nothing of what it says.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::args::{ConfigArguments, ImportArguments, NameArguments};
use super::fleet_directory::{Opened, operators, policy_in, route_name};
use super::output::{Failure, Output};
use crate::config::{declared_policy, declared_route};
use crate::fleet::SealKeys;
use crate::fleet::engine::{Entry, read_all};
use crate::fleet::operator::{put, put_routes};
use crate::fleet::records::{Key, OPERATOR, PREFIX, RouteRecord, routes_of};

/// What the names of policies begin with that an import has written.
const IMPORTED: &str = "import-";

/// The names of policies, by what they say. They are drawn: a digest of a secret, which a name is to
/// everybody who may read keys, lets words be tried.
#[derive(Default)]
struct Names {
    of: HashMap<String, String>,
    taken: BTreeSet<String>,
}

// === impl Names ===

impl Names {
    /// Those of policies that are there. One that cannot be opened here is nobody's.
    fn known(entries: &[Entry], keys: &SealKeys) -> Self {
        let mut names = Self::default();
        for entry in entries {
            let Some(Key::Policy(name)) = Key::parse(&entry.key) else {
                continue;
            };
            if name.starts_with(IMPORTED)
                && let Ok(policy) = policy_in(entry, keys)
            {
                let known = names.of.entry(canonical(policy));
                known.or_insert_with(|| name.clone());
            }
            names.taken.insert(name);
        }
        names
    }

    /// The name of the policy that says this, and whether it is a new one.
    fn name(&mut self, policy: &Map<String, Value>) -> (String, bool) {
        let text = canonical(policy.clone());
        if let Some(known) = self.of.get(&text) {
            return (known.clone(), false);
        }
        let name = loop {
            let drawn = format!("{IMPORTED}{:012x}", fastrand::u64(..1 << 48));
            if self.taken.insert(drawn.clone()) {
                break drawn;
            }
        };
        self.of.insert(text, name.clone());
        (name, true)
    }
}

/// What a policy says, the same text however its keys are ordered.
fn canonical(policy: Map<String, Value>) -> String {
    let mut value = Value::Object(policy);
    value.sort_all_objects();
    value.to_string()
}

/// Runs it.
pub(super) async fn import(arguments: &ImportArguments, output: Output) -> Result<(), Failure> {
    let opened = Opened::of(arguments.config.config.as_deref())?;
    let path = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file)
        .map_err(|error| Failure::failed(format_args!("cannot read {path}: {error}")))?;
    let file: toml::Table =
        toml::from_str(&text).map_err(|error| Failure::failed(format_args!("{path}: {error}")))?;
    let file = serde_json::to_value(file).map_err(Failure::failed)?;
    let mut declared = Vec::new();
    let tables = file.get("route").and_then(Value::as_array);
    if tables.is_none_or(Vec::is_empty) {
        return Err(Failure::failed(format_args!("{path} has no [[route]]")));
    }
    for route in tables.into_iter().flatten() {
        declared.push(declare(route, &opened)?);
    }
    let (there, _) = read_all(&*opened.engine, &format!("{PREFIX}p/"))
        .await
        .map_err(Failure::failed)?;
    let mut names = Names::known(&there, &opened.keys);
    let (mut policies, mut routes, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (key, mut record, keys) in declared {
        if !keys.is_empty() {
            let (name, is_new) = names.name(&keys);
            if is_new {
                policies.push(opened.sealed(&name, &keys)?);
            }
            used.insert(name.clone());
            record.policy = Some(name);
        }
        routes.push((key, record));
    }
    let engine = &*opened.engine;
    put(engine, policies).await.map_err(Failure::failed)?;
    let (there, _) = read_all(engine, &routes_of(OPERATOR))
        .await
        .map_err(Failure::failed)?;
    let count = routes.len();
    let written = put_routes(engine, routes, there).await;
    written.map_err(Failure::failed)?;
    output.note(&format!(
        "{count} routes and {} policies are in the directory\n",
        used.len()
    ));
    Ok(())
}

/// A route of the file, with what it says besides.
fn declare(
    route: &Value,
    opened: &Opened,
) -> Result<(Key, RouteRecord, Map<String, Value>), Failure> {
    let mut keys = route.as_object().cloned().unwrap_or_default();
    let mut take = |key: &str| keys.shift_remove(key);
    let host = take("host").and_then(|host| host.as_str().map(str::to_owned));
    let host = host.ok_or_else(|| Failure::failed("a route has no host"))?;
    let path = take("path").and_then(|path| path.as_str().map(str::to_owned));
    let instance = take("instance").and_then(|name| name.as_str().map(str::to_owned));
    let port = match take("port") {
        // The host says which.
        Some(Value::String(text)) if text == "{port}" => 0,
        Some(port) => {
            let number = port.as_u64().and_then(|port| u16::try_from(port).ok());
            let number = number.filter(|port| *port > 0);
            number.ok_or_else(|| Failure::failed(format_args!("`{host}`: {port} is no port")))?
        }
        None if host.contains("{port}") => 0,
        None => 8080,
    };
    take("hypeman");
    let name = NameArguments {
        config: ConfigArguments::default(),
        host,
        path: path.unwrap_or_else(|| "/".to_owned()),
    };
    let name = route_name(&name)?;
    let wrong = |problem: String| Failure::failed(format_args!("`{name}`: {problem}"));
    let policy = declared_policy(&keys, &opened.config.wake, "").map_err(wrong)?;
    let instance = instance.unwrap_or_default();
    declared_route(&name, &instance, port, &policy).map_err(wrong)?;
    let record = RouteRecord {
        instance,
        port,
        policy: None,
        more: Map::new(),
    };
    Ok((operators(&name), record, keys))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;

    fn keys(bytes: &[u8]) -> SealKeys {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let lines = bytes
            .iter()
            .map(|byte| base64::prelude::BASE64_STANDARD.encode([*byte; 32]) + "\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        SealKeys::load(&path).unwrap()
    }

    fn policy(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn entry(name: &str, policy: &Map<String, Value>, keys: &SealKeys) -> Entry {
        let key = Key::Policy(name.to_owned()).text();
        let value = serde_json::to_vec(policy).unwrap();
        Entry {
            value: keys.seal(&key, value).unwrap(),
            key,
            created: 1,
            modified: 1,
        }
    }

    #[test]
    fn a_policys_name_does_not_come_from_what_it_says() {
        let secret = policy(&json!({ "auth": { "value": "hunter2" } }));
        let (one, other) = (
            Names::default().name(&secret),
            Names::default().name(&secret),
        );
        assert!(one.1 && other.1);
        assert_ne!(one.0, other.0, "it could be computed from the secret");
    }

    #[test]
    fn an_import_finds_the_policies_of_an_earlier_one_whatever_the_first_key_is() {
        let said = policy(&json!({ "hsts": "1d", "wake": { "timeout": "2m", "wait": "1s" } }));
        let mut first = Names::default();
        let (name, _) = first.name(&said);
        let there = [
            entry(&name, &said, &keys(&[1])),
            entry("inside", &policy(&json!({ "hsts": "2d" })), &keys(&[1])),
        ];
        let mut names = Names::known(&there, &keys(&[2, 1]));
        let otherwise = policy(&json!({ "wake": { "wait": "1s", "timeout": "2m" }, "hsts": "1d" }));
        assert_eq!(names.name(&otherwise), (name.clone(), false));
        let other = names.name(&policy(&json!({ "hsts": "3d" })));
        assert!(other.1 && other.0 != name);
        // What an operator has written himself is his, and may change for reasons of his own.
        let same = names.name(&policy(&json!({ "hsts": "2d" })));
        assert!(same.1 && same.0 != "inside", "{same:?}");
        // One that does not open here is left alone.
        let (drawn, is_new) = Names::known(&there, &keys(&[3])).name(&said);
        assert!(is_new && drawn != name);
    }
}
