//! Ingress resources (contract A.9).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::nullable;
use super::redacted::RedactedText;

/// A new ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateIngress {
    /// Unique name.
    pub name: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// At least one.
    pub rules: Vec<IngressRule>,
}

/// An ingress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ingress {
    /// Full id.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: BTreeMap<String, String>,
    /// At least one.
    pub rules: Vec<IngressRule>,
}

/// Which requests go where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: IngressMatch,
    /// Where.
    pub target: IngressTarget,
    /// Whether the host terminates TLS.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub tls: bool,
    /// Whether plain HTTP is redirected; needs `tls`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub redirect_http: bool,
    /// A header that a request must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_auth: Option<RequestHeaderAuth>,
}

/// Which requests a rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressMatch {
    /// Literal, or with `{captures}` as whole labels.
    pub hostname: String,
    /// Host port, 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Where a rule's requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressTarget {
    /// Name, id, or a `{capture}` of the hostname.
    pub instance: String,
    /// Guest port.
    pub port: u16,
}

/// A header that a request must have, removed before proxying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHeaderAuth {
    /// Its name.
    pub header: String,
    /// Its value, 32-256 printable ASCII characters.
    pub value: RedactedText,
}
