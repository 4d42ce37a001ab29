//! Ingresses: which requests of the host's HTTP server go to which instance.
//!
//! Guarantees: the secret of a header check does not show in `Debug`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::members::Members;
use super::object::{Writer, member, object, request};
use super::redacted::RedactedText;

/// A new ingress.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateIngress {
    /// The name, unique on the server.
    pub name: String,
    /// The labels.
    pub tags: BTreeMap<String, String>,
    /// The rules, at least one.
    pub rules: Vec<IngressRule>,
    /// Members that this version does not know.
    pub other: Members,
}

request!(CreateIngress {
    always name;
    each tags, rules;
});

/// An ingress.
#[derive(Debug, Clone, PartialEq)]
pub struct Ingress {
    /// The full id.
    pub id: String,
    /// The name, unique on the server.
    pub name: String,
    /// The time of its creation.
    pub created_at: Option<Timestamp>,
    /// The labels.
    pub tags: BTreeMap<String, String>,
    /// The rules, at least one.
    pub rules: Vec<IngressRule>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Ingress {
    required id, name;
    optional created_at;
    each tags, rules;
});

/// Which requests go where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IngressRule {
    /// The requests that the rule is for.
    pub matches: IngressMatch,
    /// The instance and port that receive them.
    pub target: IngressTarget,
    /// Whether the host terminates TLS.
    pub tls: bool,
    /// Whether plain HTTP is redirected to HTTPS; this needs `tls`.
    pub redirect_http: bool,
    /// The header that a request must have.
    pub request_header_auth: Option<RequestHeaderAuth>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(IngressRule {
    required matches as "match", target;
    strict tls, redirect_http, request_header_auth;
});

/// The requests that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IngressMatch {
    /// The host name: a literal one, or one in which whole labels are `{captures}`.
    pub hostname: String,
    /// The port of the host, 80 by default.
    pub port: Option<u16>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(IngressMatch {
    required hostname;
    strict port;
});

/// The receiver of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IngressTarget {
    /// The instance's name or id, or a `{capture}` of the host name.
    pub instance: String,
    /// The port in the guest.
    pub port: u16,
    /// The members that this version does not know.
    pub other: Members,
}

object!(IngressTarget {
    required instance, port;
});

/// A header that a request must have. The server removes it before the instance sees the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeaderAuth {
    /// The header's name.
    pub header: String,
    /// The header's value: 32-256 printable ASCII characters.
    pub value: RedactedText,
    /// The members that this version does not know.
    pub other: Members,
}

object!(RequestHeaderAuth {
    required header, value;
});

// === impl Ingress ===

impl Ingress {
    /// The number of rules that cannot be read and are among `other` for that reason; all of them,
    /// whatever they are, count as one.
    pub fn unreadable_rules(&self) -> usize {
        match self.other.get("rules") {
            None => 0,
            Some(Value::Array(rules)) => rules.len(),
            Some(_) => 1,
        }
    }

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
