//! What a listener's TLS may say, typed.
//!
//! Guarantees: there is exactly one place that certificates come from.

use std::path::PathBuf;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::settings::word_settings;
#[cfg(test)]
use super::shape::or_internal;

/// A listener's TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(transform = or_internal))]
pub struct TlsConfig {
    /// Where its certificates are.
    #[serde(flatten)]
    pub source: TlsSource,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether clients show certificates, too.
    #[serde(flatten)]
    pub clients: Option<ClientCertificates>,
}

/// Where a listener's certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TlsSource {
    /// One chain and its key, PEM.
    Files {
        /// The chain, the leaf first.
        cert: PathBuf,
        /// The leaf's private key.
        key: PathBuf,
        /// An OCSP response for it, DER, which is stapled.
        #[serde(skip_serializing_if = "Option::is_none")]
        ocsp: Option<PathBuf>,
    },
    /// As many as there are in a directory, chosen by the client's SNI.
    Directory {
        /// The directory of the certificates.
        dir: PathBuf,
    },
    /// Ordered by ACME, as `[acme]` says.
    Acme {
        /// Always set.
        acme: bool,
    },
    /// Made as they are asked for, by a CA of this machine's own: for development.
    Internal {
        /// Where the CA is kept.
        internal: PathBuf,
    },
}

word_settings!(TlsVersion, ClientAuth);

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Certificates that clients show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct ClientCertificates {
    /// Their CAs, PEM.
    pub client_ca: PathBuf,
    /// Whether they must.
    pub client_auth: ClientAuth,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// Without one there is no connection.
    Required,
    /// One that is shown must be good.
    Optional,
}

/// All its variants' keys beside each other; which go together, the reader says.
#[cfg(test)]
impl JsonSchema for TlsSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TlsSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let path = |text| serde_json::json!({ "type": "string", "description": text });
        json_schema!({ "type": "object", "properties": {
            "cert": path("The certificates' chain, PEM, the leaf first."),
            "key": path("The leaf's private key, PEM."),
            "ocsp": path("An OCSP response for it, DER, which is stapled."),
            "dir": path("A directory of certificates, chosen by the client's SNI."),
            "acme": { "const": true, "description": "Certificates are ordered by ACME, as `[acme]` says." },
            "internal": path("Where a development CA of this machine's own is kept."),
        }})
    }
}

// === impl TlsConfig ===

impl TlsConfig {
    /// With certificates from `source`, and everything else by default.
    pub fn of(source: TlsSource) -> Self {
        Self {
            source,
            min_version: TlsVersion::V1_2,
            clients: None,
        }
    }
}

/// Where the CA of `tls = "internal"` is kept: below the user's state directory (XDG Base Directory
/// Specification).
pub(super) fn default_ca_dir() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = state.filter(|path| path.is_absolute()).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("wakegate/ca")
}
