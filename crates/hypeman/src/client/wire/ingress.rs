//! Ingresses: which requests of the host's HTTP server go to which instance.
//!
//! Guarantees: the secret of a header check does not show in `Debug`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::members::Members;
use super::null::nullable;
use super::redacted::RedactedText;

/// A new ingress.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CreateIngress {
    /// The name, unique on the server.
    pub name: String,
    /// The labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The rules, at least one.
    pub rules: Vec<IngressRule>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// An ingress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ingress {
    /// The full id.
    pub id: String,
    /// The name, unique on the server.
    pub name: String,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The labels.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tags: BTreeMap<String, String>,
    /// The rules, at least one.
    pub rules: Vec<IngressRule>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// Which requests go where.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IngressRule {
    /// The requests that the rule is for.
    #[serde(rename = "match")]
    pub matches: IngressMatch,
    /// The instance and port that receive them.
    pub target: IngressTarget,
    /// Whether the host terminates TLS.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub tls: bool,
    /// Whether plain HTTP is redirected to HTTPS; this needs `tls`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub redirect_http: bool,
    /// The header that a request must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_auth: Option<RequestHeaderAuth>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The requests that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IngressMatch {
    /// The host name: a literal one, or one in which whole labels are `{captures}`.
    pub hostname: String,
    /// The port of the host, 80 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The receiver of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IngressTarget {
    /// The instance's name or id, or a `{capture}` of the host name.
    pub instance: String,
    /// The port in the guest.
    pub port: u16,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A header that a request must have. The server removes it before the instance sees the request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestHeaderAuth {
    /// The header's name.
    pub header: String,
    /// The header's value: 32-256 printable ASCII characters.
    pub value: RedactedText,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

// === impl Ingress ===

impl Ingress {
    /// The request that would create this ingress. There is no way to change an ingress: delete it,
    /// then create it anew.
    pub fn to_request(&self) -> CreateIngress {
        CreateIngress {
            name: self.name.clone(),
            tags: self.tags.clone(),
            rules: self.rules.clone(),
            other: self.other.clone(),
        }
    }
}
