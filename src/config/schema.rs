//! The configuration's JSON Schema, for editors.
//!
//! Guarantees: it has exactly the keys that the reader knows (a test compares them), every key's
//! description and default, and refuses every other key; it is draft 7, which editors for TOML
//! understand. It is a file of the source, which a test makes of the configuration's types and
//! compares, so that the shipped program does not carry the means to make it.

/// The schema as JSON.
pub fn schema() -> &'static str {
    include_str!("../../config/wakegate.schema.json")
}

#[cfg(test)]
mod made {
    use schemars::generate::SchemaSettings;
    use serde_json::{Map, Value, json};

    use crate::config::model::{Config, HypemanConfig, ListenerConfig};
    use crate::config::pattern::{HostPattern, InstanceTemplate};
    use crate::config::route::{RouteConfig, RoutePolicy};
    use crate::config::{FleetConfig, Variables, WakeConfig, load};
    use crate::names::PlaneIndex;

    /// A table's keys that have no default.
    const NEEDED: &[(&str, &[&str])] = &[
        ("route", &["host", "instance"]),
        ("keep_warm", &["cron", "for"]),
        ("prewarm", &["paths", "instances"]),
        ("any", &["client_certificate"]),
    ];

    /// The schema, made of the types.
    pub(super) fn schema() -> Value {
        let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<Config>();
        schema.insert("title".to_owned(), "wakegate".into());
        let mut schema = schema.to_value();
        strict(&mut schema, "");
        defaults(&mut schema, &default_config());
        schema
    }

    /// No keys but those that are there; none needed but those that have no default.
    fn strict(schema: &mut Value, within: &str) {
        let Some(object) = schema.as_object_mut() else {
            return;
        };
        object.remove("format");
        if let Some(Value::String(text)) = object.get_mut("description") {
            // As it is wrapped in the source is of no interest.
            *text = text.replace('\n', " ");
        }
        if let Some(Value::Object(properties)) = object.get_mut("properties") {
            for (key, below) in properties.iter_mut() {
                strict(below, key);
            }
            let needed = NEEDED.iter().find(|(table, _)| *table == within);
            match needed {
                Some((_, keys)) => object.insert("required".to_owned(), json!(keys)),
                None => object.remove("required"),
            };
            object.insert("additionalProperties".to_owned(), false.into());
        }
        if let Some(items) = object.get_mut("items") {
            strict(items, within);
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            if let Some(Value::Array(variants)) = object.get_mut(key) {
                for variant in variants {
                    strict(variant, within);
                }
            }
        }
    }

    /// Puts each key's default beside it.
    fn defaults(schema: &mut Value, values: &Value) {
        match values {
            Value::Object(values) => {
                if let Some(Value::Array(variants)) = schema.get_mut("anyOf") {
                    let own = Value::Object(values.clone());
                    for variant in variants {
                        let has = |key| variant.get(key).is_some();
                        if has("properties") || has("anyOf") {
                            defaults(variant, &own);
                        }
                    }
                    return;
                }
                let Some(Value::Object(properties)) = schema.get_mut("properties") else {
                    return;
                };
                for (key, value) in values {
                    if let Some(below) = properties.get_mut(key) {
                        defaults(below, value);
                    }
                }
            }
            Value::Array(tables) if tables.first().is_some_and(Value::is_object) => {
                if let (Some(items), Some(first)) = (schema.get_mut("items"), tables.first()) {
                    defaults(items, first);
                }
            }
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                if let Some(object) = schema.as_object_mut() {
                    object.insert("default".to_owned(), values.clone());
                }
            }
        }
    }

    /// What a configuration says that says nothing, but for what must be said.
    fn default_config() -> Value {
        let plain = |value: Result<Value, serde_json::Error>| value.unwrap_or(Value::Null);
        let wake = WakeConfig::default();
        let Ok(instance) = InstanceTemplate::parse("x", &HostPattern::Any) else {
            return Value::Null;
        };
        let policy = RoutePolicy::new(PlaneIndex(0), &wake);
        let route = RouteConfig::new(&HostPattern::Any, instance, 8080, policy.into());
        let mut route = plain(serde_json::to_value(route));
        if let Value::Object(route) = &mut route {
            // These have none, or another table's.
            for key in ["host", "instance", "hypeman", "wake"] {
                route.remove(key);
            }
            route.insert("wake".to_owned(), json!({ "health_path": "/" }));
        }
        let text = "[[route]]\nhost = \"*\"\ninstance = \"x\"\n";
        let loaded = load("defaults", text, &Variables::default());
        let mut config = match loaded {
            Ok(config) => plain(serde_json::to_value(config)),
            Err(_) => Value::Object(Map::new()),
        };
        if let Some(Value::Object(upstream)) = config.get_mut("upstream") {
            upstream.insert("port".to_owned(), 8080.into());
        }
        if let Value::Object(config) = &mut config {
            let plane = plain(serde_json::to_value(HypemanConfig::default()));
            let listener = plain(serde_json::to_value(ListenerConfig::default()));
            let fleet = plain(serde_json::to_value(FleetConfig::default()));
            config.insert("fleet".to_owned(), fleet);
            for (key, table) in [("hypeman", plane), ("listener", listener), ("route", route)] {
                config.insert(key.to_owned(), json!([table]));
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::made::schema;
    use crate::config::load::known_variables;

    const EXAMPLE: &str = include_str!("../../config/wakegate.toml");

    /// Every plain key's variable, as the schema has it.
    fn variables(schema: &Value, prefix: &str, found: &mut BTreeSet<String>) {
        let shapes = ["anyOf", "oneOf"]
            .iter()
            .filter_map(|key| schema[key].as_array());
        for shape in shapes.flatten() {
            variables(shape, prefix, found);
        }
        if let Some(properties) = schema["properties"].as_object() {
            for (key, below) in properties {
                variables(below, &format!("{prefix}_{}", key.to_uppercase()), found);
            }
        } else if schema["items"]["properties"].is_object() {
            variables(&schema["items"], &format!("{prefix}_0"), found);
        } else if schema["type"] != "null" && schema["anyOf"].is_null() {
            found.insert(prefix.to_owned());
        }
    }

    #[test]
    fn it_has_exactly_the_keys_that_the_reader_knows() {
        let mut in_schema = BTreeSet::new();
        variables(&schema(), "WAKEGATE", &mut in_schema);
        let short = |name: &&String| {
            !["ROUTE", "LISTENER", "HYPEMAN", "WARM", "PREWARM", "ANY"]
                .iter()
                .any(|list| {
                    name.split(&format!("{list}_"))
                        .nth(1)
                        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
                })
        };
        // What cannot stand beside what the example shows.
        let other = "[[route]]\n[[route.auth.any]]\n";
        let readable = known_variables(&format!("{EXAMPLE}{other}")).into_iter();
        let readable: Vec<_> = readable
            .map(|name| {
                name.replace("ROUTE_1_", "ROUTE_0_")
                    .replace("ROUTE_2_", "ROUTE_0_")
            })
            .collect();
        let readable: BTreeSet<String> = readable.iter().filter(short).cloned().collect();
        let missing: Vec<_> = readable.difference(&in_schema).collect();
        let invented: Vec<_> = in_schema.difference(&readable).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "the reader alone knows {missing:?}, the schema alone {invented:?}"
        );
    }

    #[test]
    fn the_example_is_valid_and_a_wrong_key_is_not() {
        let schema = schema();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let valid = |text: &str| {
            let value: toml::Value = toml::from_str(text).unwrap();
            let value = serde_json::to_value(value).unwrap();
            let errors = validator.iter_errors(&value);
            errors.map(|error| error.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(valid(EXAMPLE), Vec::<String>::new());
        assert_eq!(
            valid(include_str!("../../config/sidecar.toml")),
            Vec::<String>::new()
        );
        for wrong in [
            "[wake]\ntimout = \"3s\"\n",
            "[wake]\ntimeout = \"3 parsecs\"\n",
            "[[route]]\nhost = \"a.b\"\n",
            "[log]\nformat = \"xml\"\n",
            "[[listener]]\ntls = \"external\"\n",
        ] {
            assert!(!valid(wrong).is_empty(), "{wrong}");
        }
        for fine in [
            "[[listener]]\ntls = \"internal\"\n",
            "[[listener]]\ntls = { dir = \"x\", client_ca = \"y\" }\nmode = \"http\"\n",
            "[[route]]\nhost = \"*\"\ninstance = \"a\"\nwaiting_page = true\n",
            "[upstream]\ninstance = \"app\"\nport = 3000\n",
        ] {
            assert_eq!(valid(fine), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn the_file_beside_the_example_is_up_to_date() {
        assert!(
            super::schema() == text(),
            "write it anew: cargo test --lib -- --ignored the_schema_is_written"
        );
    }

    #[test]
    #[ignore = "it writes a file of the source"]
    fn the_schema_is_written() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/wakegate.schema.json");
        std::fs::write(file, text()).unwrap();
    }

    fn text() -> String {
        serde_json::to_string_pretty(&schema()).unwrap() + "\n"
    }
}
