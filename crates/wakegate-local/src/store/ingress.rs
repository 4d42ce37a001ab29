//! The record of an ingress, as it is kept and as the API shows it.
//!
//! Guarantees: the record is what is on disk; the value of a header that lets in does not show in
//! `Debug`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An ingress as kept and as shown (contract A.9).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IngressRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rule {
    #[serde(rename = "match")]
    pub(crate) matches: Match,
    pub(crate) target: Target,
    #[serde(default)]
    pub(crate) tls: bool,
    #[serde(default)]
    pub(crate) redirect_http: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_header_auth: Option<HeaderAuth>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Match {
    pub(crate) hostname: String,
    #[serde(default = "http_port")]
    pub(crate) port: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) instance: String,
    pub(crate) port: i64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct HeaderAuth {
    pub(crate) header: String,
    pub(crate) value: String,
}

const fn http_port() -> i64 {
    80
}

impl std::fmt::Debug for HeaderAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeaderAuth({})", self.header)
    }
}
