//! What a request carries, read with the contract's errors.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::body::Bytes;
use serde::de::DeserializeOwned;

use super::error::ApiError;

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

    /// A value that must parse when it is there.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let bad = |_| ApiError::malformed(format!("parameter {name} in query has an error"));
        self.text(name)
            .map(|text| text.parse().map_err(bad))
            .transpose()
    }

    /// `name[key]=value`, the form that OpenAPI calls deepObject.
    pub(super) fn deep_object(&self, name: &str) -> BTreeMap<String, String> {
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

/// A body that must be there.
pub(super) fn required<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::malformed(format!("request body has an error: {error}")))
}

/// A body that may be left out.
pub(super) fn optional<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, ApiError> {
    if body.is_empty() {
        Ok(T::default())
    } else {
        required(body)
    }
}
