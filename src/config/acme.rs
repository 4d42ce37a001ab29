//! Certificates by ACME, typed.
//!
//! Guarantees: a CA is called over TLS alone.

use std::fmt;
use std::path::PathBuf;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::Section;
use super::settings::{list, settings, text, word_settings};

word_settings!(AcmeChallenge);

/// How a CA makes sure of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub enum AcmeChallenge {
    /// By a handshake with a listener that has TLS, which the CA reaches at port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a request to a listener without TLS, which the CA reaches at port 80.
    #[serde(rename = "http-01")]
    Http01,
}

settings! {
    /// Certificates by ACME, for listeners with `tls = "acme"`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct AcmeConfig {
        /// The CA's directory. With it you agree to the CA's terms of service.
        pub directory: String = "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            by text(parse_directory);
        /// Where the CA reaches you, such as `mailto:ops@example.com`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub contact: Vec<String> = Vec::new(), by list(parse_contact);
        /// How the CA makes sure of a name.
        pub challenge: AcmeChallenge = AcmeChallenge::TlsAlpn01;
        /// Whether names that are captures of a route's host get certificates when a client asks for
        /// them. Only those do whose instance exists by the control plane's word.
        pub on_demand: bool = false;
        /// Where accounts and certificates are kept; gateways may share it. In a fleet with
        /// `fleet.key_file` fronts share them by its directory, and here is a sealed copy.
        pub dir: PathBuf = "/var/lib/wakegate/acme".into();
        /// The roots of the CA's own server, PEM, in place of the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca: Option<PathBuf> = None;
        /// The CA's profile of certificates, such as `shortlived`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub profile: Option<String> = None;
        /// The common name of the root that chains are to lead to, where the CA offers several.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub preferred_chain: Option<String> = None;
        /// What binds the account to one that you have at the CA.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub eab: Option<EabConfig> = None, by read_eab;
    }
}

/// The binding of an account to one that exists at the CA (RFC 8555 §7.3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct EabConfig {
    /// The key's name, from the CA.
    pub kid: String,
    /// A file with the key, base64url, from the CA.
    pub key_file: PathBuf,
}

#[allow(
    clippy::option_option,
    clippy::unnecessary_wraps,
    reason = "one for whether there is a value, the other of the key's own type"
)]
fn read_eab(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<EabConfig>> {
    let mut eab = None;
    s.section(key, |s| match (s.text("kid"), s.text("key_file")) {
        (Some(kid), Some(file)) => {
            let key_file = file.into();
            eab = Some(EabConfig { kid, key_file });
        }
        (Some(_), None) => s.problem("key_file", "is missing: the key of `kid`"),
        (None, Some(_)) => s.problem("kid", "is missing: the name of the key in `key_file`"),
        (None, None) => {}
    });
    Some(eab)
}

/// Whether a host in small letters can have a certificate of a public CA: it is a name with more
/// than one label, of this world.
pub fn can_be_certified(host: &str) -> bool {
    let Some((_, last)) = host.rsplit_once('.') else {
        return false;
    };
    last.bytes().any(|b| b.is_ascii_alphabetic()) && last != "localhost" && !host.contains('_')
}

fn parse_directory(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).ok().filter(url::Url::has_host);
    match url {
        Some(url) if url.scheme() == "https" => Ok(text.to_owned()),
        Some(_) | None => Err(format!("`{text}` is not a URL that begins with https://")),
    }
}

fn parse_contact(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "`{text}` is not a URL like \"mailto:ops@example.com\""
        )),
    }
}

impl fmt::Display for AcmeChallenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        })
    }
}
