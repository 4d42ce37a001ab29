//! What a route may say about how its requests are passed on, typed.
//!
//! Guarantees: no rule names a field that frames a message or that is for one hop only; a secret
//! value is never printed.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::duration_text::optional_go_text;
use super::secret::Secret;
#[cfg(test)]
use super::shape::{GoText, text_schema};
use super::values::HeaderRule;

/// What is spoken with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 without TLS, by prior knowledge; upgrades go as HTTP/1.1.
    H2c,
}

/// Which PROXY header begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// The text of version 1.
    V1,
    /// The bytes of version 2.
    V2,
}

/// The letters in which an instance is sent the names of a request's fields over HTTP/1.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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

/// How a route's requests are passed on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct ForwardingConfig {
    /// What is spoken with the instance.
    pub protocol: Protocol,
    /// Which PROXY header the instance gets; its connections then are of one client each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The letters of the names of fields, for instances that know only some.
    pub field_names: FieldNames,
    /// Whether the route's path prefix is taken off.
    pub strip_path: bool,
    /// Whether a request without TLS is redirected to `https`, without a wake.
    pub redirect_http: bool,
    /// `Strict-Transport-Security` for so long on answers over TLS.
    #[serde(
        serialize_with = "optional_go_text",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<GoText>"))]
    pub hsts: Option<Duration>,
    /// Whether a body is asked for (`100 Continue`) before the instance is ready.
    pub early_continue: bool,
    /// Fields of requests.
    #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// Fields of responses.
    #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
    /// What a request must know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<HeaderAuth>,
}

/// What is done to a message's fields, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct HeaderEdits {
    /// New names for fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rename: Vec<Rename>,
    /// Fields that are taken away.
    #[serde(serialize_with = "names", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub remove: Vec<HeaderName>,
    /// Fields that get this value alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderRule>,
    /// Fields that get this value besides others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderRule>,
}

/// `"old: new"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The name as it comes.
    pub from: HeaderName,
    /// The name as it goes.
    pub to: HeaderName,
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
    pub value_file: Option<std::path::PathBuf>,
}

#[cfg(test)]
text_schema!(Rename, "Rename", "x-old: x-new");

fn display<S: Serializer>(name: &HeaderName, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

fn names<S: Serializer>(names: &[HeaderName], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(names.iter().map(HeaderName::as_str))
}

impl Default for ForwardingConfig {
    fn default() -> Self {
        Self {
            protocol: Protocol::H1,
            proxy_protocol: None,
            field_names: FieldNames::default(),
            strip_path: false,
            redirect_http: false,
            hsts: None,
            early_continue: false,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            auth: None,
        }
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
            from: parse_name(from.trim())?,
            to: parse_name(to.trim())?,
        })
    }
}

impl Serialize for Rename {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}: {}", self.from, self.to))
    }
}

/// The name of a field that a rule may touch.
pub(super) fn parse_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("`{text}` is not a header field's name"))?;
    let own = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    if own.contains(&name) {
        return Err(format!("`{name}` frames messages and is the gateway's own"));
    }
    Ok(name)
}

/// A field with its value that a rule may set.
pub(super) fn parse_field(text: &str) -> Result<HeaderRule, String> {
    let field = HeaderRule::parse(text)?;
    if field.value.is_none() {
        return Err(format!("`{text}` has no value"));
    }
    parse_name(field.name.as_str())?;
    Ok(field)
}

/// The name of a field that can prove who asks (seed: ingress, "Reserved auth headers").
pub(super) fn parse_auth_name(text: &str) -> Result<HeaderName, String> {
    let name = parse_name(text)?;
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
