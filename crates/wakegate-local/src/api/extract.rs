//! What a request carries, read with the contract's errors.
//!
//! Guarantees: whatever cannot be read is an error in the validator's dialect.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::body::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::scalars::are_tags;
use crate::state::State;

/// Query parameters; the last of a name wins.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

// === impl Query ===

impl Query {
    pub(super) fn parse(raw: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(raw.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads a number that must be one when it is there.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, ApiError> {
        self.parsed(name, "it must be a number that is not negative")
    }

    /// Reads a flag that must be one when it is there.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.parsed(name, "it must be true or false")
    }

    fn parsed<T: FromStr>(&self, name: &str, rule: &str) -> Result<Option<T>, ApiError> {
        let parsed = self.text(name).map(str::parse).transpose();
        parsed.map_err(|_| malformed_parameter(name, rule))
    }

    /// Reads the state of an instance.
    pub(super) fn state(&self) -> Result<Option<State>, ApiError> {
        let Some(text) = self.text("state") else {
            return Ok(None);
        };
        let state = State::parse(text);
        let bad = || malformed_parameter("state", &format!("it must be one of {}", State::names()));
        Ok(Some(state.ok_or_else(bad)?))
    }

    /// Tags that must all be there: `tags[key]=value`, the form that OpenAPI calls deepObject.
    pub(super) fn tags(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let tags = self.deep_object("tags");
        match are_tags(&tags) {
            true => Ok(tags),
            false => Err(malformed_parameter("tags", "these are no valid tags")),
        }
    }

    fn deep_object(&self, name: &str) -> BTreeMap<String, String> {
        let inside = |key: &str| {
            let key = key
                .strip_prefix(name)?
                .strip_prefix('[')?
                .strip_suffix(']')?;
            Some(key.to_owned())
        };
        self.0
            .iter()
            .filter_map(|(key, value)| Some((inside(key)?, value.clone())))
            .collect()
    }
}

/// The error of a query's parameter, with the rule that it breaks.
pub(super) fn malformed_parameter(name: &str, rule: &str) -> ApiError {
    ApiError::malformed(format!("parameter {name} in query has an error: {rule}"))
}

/// A body that must be there, and be an object: serde would take an array's elements for the
/// fields.
pub(super) fn required<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    let bad = |why: &dyn std::fmt::Display| {
        ApiError::malformed(format!("request body has an error: {why}"))
    };
    if body.is_empty() {
        return Err(bad(&"it is missing"));
    }
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|error| bad(&error))?;
    if let Some(name) = null_in(&object) {
        return Err(bad(&format_args!("{name} is null")));
    }
    T::deserialize(Value::Object(object)).map_err(|error| bad(&error))
}

/// A field that is `null`, where the contract knows one only that may be (A.4).
fn null_in(object: &Map<String, Value>) -> Option<&str> {
    object.iter().find_map(|(name, value)| match value {
        Value::Null => (name != "name_prefix").then_some(name.as_str()),
        Value::Object(object) => null_in(object),
        Value::Array(values) => values.iter().find_map(|value| null_in(value.as_object()?)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// Reads a body that may be left out.
pub(super) fn optional<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, ApiError> {
    if body.is_empty() {
        Ok(T::default())
    } else {
        required(body)
    }
}
