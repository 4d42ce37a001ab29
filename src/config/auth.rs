//! What a route may ask a request to show, typed.
//!
//! Guarantees: what is configured always asks for something; a secret value is never printed.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, header};
#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::secret::Secret;
use super::values::parse_field_name;

/// What a request must show before anything is done for it: the field, or one of the proofs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct AuthConfig {
    /// A field with a secret value.
    #[serde(flatten)]
    pub header: Option<HeaderAuth>,
    /// Proofs, of which the first that a request can show lets it in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<Proof>,
}

/// One proof of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A certificate of the client's that the listener has verified.
    ClientCertificate,
}

/// A field that a request must have; it is not passed on (seed: `IngressRule.request_header_auth`).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct HeaderAuth {
    /// Its name.
    #[serde(serialize_with = "display")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub header: HeaderName,
    /// Its value; better give `value_file`.
    #[serde(skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub value: Secret,
    /// Where the value was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_file: Option<PathBuf>,
}

fn display<S: Serializer>(name: &HeaderName, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

// === impl AuthConfig ===

impl AuthConfig {
    /// The fields that prove something here, which instances do not get.
    pub fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.header.iter().map(|auth| &auth.header)
    }

    /// Whether a request without a client's certificate is refused, whatever else it shows.
    pub fn needs_certificate(&self) -> bool {
        let certificate = |proof: &Proof| matches!(proof, Proof::ClientCertificate);
        self.header.is_none() && self.any.iter().all(certificate)
    }
}

impl From<HeaderAuth> for AuthConfig {
    fn from(header: HeaderAuth) -> Self {
        Self {
            header: Some(header),
            any: Vec::new(),
        }
    }
}

// === impl Proof ===

impl Serialize for Proof {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut entry = to.serialize_map(Some(1))?;
        match self {
            Self::ClientCertificate => entry.serialize_entry("client_certificate", &true)?,
        }
        entry.end()
    }
}

#[cfg(test)]
impl JsonSchema for Proof {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Proof".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": {
            "client_certificate": {
                "const": true,
                "description": "A certificate that the listener has verified against its `client_ca`.",
            },
        }})
    }
}

// === impl HeaderAuth ===

impl HeaderAuth {
    /// From a name and a value that somebody else has written down; checks both.
    pub fn new(header: &str, value: &str) -> Result<Self, String> {
        check_auth_value(value)?;
        Ok(Self {
            header: parse_auth_name(header)?,
            value: Secret::new(value),
            value_file: None,
        })
    }
}

/// The name of a field that can prove who asks (seed: ingress, "Reserved auth headers").
pub(super) fn parse_auth_name(text: &str) -> Result<HeaderName, String> {
    let name = parse_field_name(text)?;
    let reserved = [header::HOST, header::AUTHORIZATION, header::COOKIE].contains(&name)
        || name.as_str().starts_with("proxy-")
        || name.as_str().starts_with("sec-websocket-");
    if reserved {
        return Err(format!(
            "`{name}` has a meaning of its own; use another name"
        ));
    }
    Ok(name)
}

/// 32 to 256 visible ASCII characters without `*`, `{` and `}` (seed: `request_header_auth.value`).
/// The message never has the value in it.
pub(super) fn check_auth_value(text: &str) -> Result<(), String> {
    let fine = (32..=256).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'{' | b'}'))
        && HeaderValue::from_str(text).is_ok();
    match fine {
        true => Ok(()),
        false => Err("must be 32 to 256 visible ASCII characters without *, { and }".to_owned()),
    }
}
