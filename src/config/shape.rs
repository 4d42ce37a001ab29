//! How values that are written otherwise than they are kept look in the configuration's schema.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

/// A Go duration's text, for schemas.
pub(super) struct GoText;

impl JsonSchema for GoText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)";
        json_schema!({
            "type": "string",
            "pattern": format!("^({number})+$"),
            "examples": ["250ms", "30s", "1m30s"],
        })
    }
}

/// A type that is written as text.
macro_rules! text_schema {
    ($type:ty, $name:literal, $example:literal) => {
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "examples": [$example] })
            }
        }
    };
}
pub(super) use text_schema;

/// `tls = "internal"` or `tls = "acme"` in the place of a table.
pub(super) fn or_internal(schema: &mut Schema) {
    let table = std::mem::take(schema);
    let word =
        json!({ "const": "internal", "description": "A development CA of this machine's own" });
    let acme = json!({ "const": "acme", "description": "Certificates by ACME, as `[acme]` says" });
    *schema = json_schema!({ "anyOf": [word, acme, table] });
}

/// `true` or `false` in the place of a table.
pub(super) fn or_flag(schema: &mut Schema) {
    let table = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "type": "boolean" }, table] });
}
