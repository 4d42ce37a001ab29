//! What a route may say about how its requests are passed on, typed.
//!
//! Guarantees: no rule names a field that frames a message or that is for one hop only.

use std::time::Duration;

use http::HeaderName;
#[cfg(test)]
use schemars::JsonSchema;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use super::auth::AuthConfig;
use super::duration_text::optional_go_text;
use super::settings::{elsewhere, list, optional_port, section, settings, word_settings};
#[cfg(test)]
use super::shape::{GoText, or_flag, text_schema};
use super::upstream_tls::UpstreamTlsConfig;
use super::values::{HeaderRule, parse_field_name};

word_settings!(Protocol, ProxyProtocol, FieldNames);

/// What is spoken with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 without TLS, by prior knowledge; upgrades go as HTTP/1.1.
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS; upgrades go as HTTP/1.1, over TLS, too.
    H2,
}

/// Which PROXY header begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// The text of version 1.
    V1,
    /// The bytes of version 2.
    V2,
}

/// The letters in which an instance is sent the names of a request's fields over HTTP/1.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FieldNames {
    /// Small letters, as HTTP/2 has them.
    #[default]
    Lower,
    /// A capital letter at the beginning of each word.
    Title,
    /// Those that the client has used; of other names as `title`.
    Original,
}

settings! {
    /// How a route's requests are passed on.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct ForwardingConfig {
        /// What is spoken with the instance.
        pub protocol: Protocol = Protocol::H1;
        /// Whom the gateway believes over TLS to the instance, and what it shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub upstream_tls: Option<UpstreamTlsConfig> = None, by elsewhere;
        /// Which PROXY header the instance gets; its connections then are of one client each.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub proxy_protocol: Option<ProxyProtocol> = None;
        /// The letters of the names of fields, for instances that know only some.
        pub field_names: FieldNames = FieldNames::default();
        /// Whether the route's path prefix is taken off, and all slashes behind it but one.
        pub strip_path: bool = false;
        /// Whether a request without TLS is redirected to `https`, without a wake.
        pub redirect_http: RedirectConfig = RedirectConfig::default(), by elsewhere;
        /// `Strict-Transport-Security` for so long on answers over TLS.
        #[serde(
            serialize_with = "optional_go_text",
            skip_serializing_if = "Option::is_none"
        )]
        #[cfg_attr(test, schemars(with = "Option<GoText>"))]
        pub hsts: Option<Duration> = None;
        /// Whether a body is asked for (`100 Continue`) before the instance is ready.
        pub early_continue: bool = false;
        /// Fields of requests.
        #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
        pub request_headers: HeaderEdits = HeaderEdits::default(), by section;
        /// Fields of responses.
        #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
        pub response_headers: HeaderEdits = HeaderEdits::default(), by section;
        /// What a request must show.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub auth: Option<AuthConfig> = None, by elsewhere;
    }
}

settings! {
    /// The way of a request without TLS to `https`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[cfg_attr(test, derive(JsonSchema))]
    #[cfg_attr(test, schemars(transform = or_flag))]
    pub struct RedirectConfig {
        /// Whether such a request is redirected.
        pub enabled: bool = false;
        /// The port of the URL that it is sent to, where that is not a TLS listener's own: behind a
        /// mapping of ports.
        pub port: Option<u16> = None, by optional_port;
    }
}

settings! {
    /// What is done to a message's fields, in this order.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct HeaderEdits {
        /// New names for fields.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub rename: Vec<Rename> = Vec::new(), by list(Rename::parse);
        /// Fields that are taken away.
        #[serde(serialize_with = "names", skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(test, schemars(with = "Vec<String>"))]
        pub remove: Vec<HeaderName> = Vec::new(), by list(parse_field_name);
        /// Fields that get this value alone.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub set: Vec<HeaderRule> = Vec::new(), by list(parse_field);
        /// Fields that get this value besides others.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub add: Vec<HeaderRule> = Vec::new(), by list(parse_field);
    }
}

/// `"old: new"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The name as it comes.
    pub from: HeaderName,
    /// The name as it goes.
    pub to: HeaderName,
}

#[cfg(test)]
text_schema!(Rename, "Rename", "x-old: x-new");

fn names<S: Serializer>(names: &[HeaderName], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(names.iter().map(HeaderName::as_str))
}

// === impl Protocol ===

impl Protocol {
    /// Whether it is spoken over TLS.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// Whether requests that do not leave HTTP go over HTTP/2.
    pub const fn is_h2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

// === impl HeaderEdits ===

impl HeaderEdits {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rename.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }

    /// The names of which no field passes with the value that it came with.
    pub fn replaced(&self) -> impl Iterator<Item = &HeaderName> {
        let renamed = self.rename.iter().map(|rename| &rename.from);
        let set = self.set.iter().map(|field| &field.name);
        renamed.chain(&self.remove).chain(set)
    }
}

// === impl Rename ===

impl Rename {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not two names like \"x-old: x-new\"");
        let (from, to) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            from: parse_field_name(from.trim())?,
            to: parse_field_name(to.trim())?,
        })
    }
}

/// As it is written.
impl Serialize for RedirectConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Some(port) = self.port else {
            return to.serialize_bool(self.enabled);
        };
        let mut table = to.serialize_struct("RedirectConfig", 2)?;
        table.serialize_field("enabled", &self.enabled)?;
        table.serialize_field("port", &port)?;
        table.end()
    }
}

impl Serialize for Rename {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}: {}", self.from, self.to))
    }
}

/// A field with its value that a rule may set.
pub(super) fn parse_field(text: &str) -> Result<HeaderRule, String> {
    let field = HeaderRule::parse(text)?;
    if field.value.is_none() {
        return Err("has no value: write \"name: value\"".to_owned());
    }
    parse_field_name(field.name.as_str())?;
    Ok(field)
}
