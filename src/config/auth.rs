//! What a route may ask a request to show, typed.
//!
//! Guarantees: what is configured always asks for something; each way of a list is one way; a secret
//! value is never printed.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::capture_text::CaptureText;
use super::jwt::JwtAuth;
use super::other_ways::{ForwardAuth, SignedUrlAuth};
use super::pattern::HostPattern;
use super::secret::Secret;
use super::texts::parse_auth_name;

/// What a request must show before anything is done for it: the field, or what one of the ways asks
/// for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct AuthConfig {
    /// A field with a secret value.
    #[serde(flatten)]
    pub header: Option<HeaderAuth>,
    /// Whether the instance is sent the field, too.
    #[serde(skip_serializing_if = "is_false")]
    #[cfg_attr(test, schemars(default))]
    pub forward_credential: bool,
    /// Ways in, of which the first that accepts a request lets it in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<Way>,
}

/// One way in: one of the keys but the last is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct Way {
    /// A field with a secret value.
    #[serde(flatten)]
    pub header: Option<HeaderAuth>,
    /// A certificate that the listener has verified against its `client_ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateAuth>,
    /// A signed token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Box<JwtAuth>>,
    /// A signed URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_url: Option<SignedUrlAuth>,
    /// Another server's judgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardAuth>,
    /// Whether the instance is sent what let the request in, too.
    #[serde(skip_serializing_if = "is_false")]
    #[cfg_attr(test, schemars(default))]
    pub forward_credential: bool,
}

/// What one way in asks for.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// A field with a secret value.
    Header(&'a HeaderAuth),
    /// A certificate of the client's that the listener has verified.
    ClientCertificate(&'a CertificateAuth),
    /// A signed token.
    Jwt(&'a JwtAuth),
    /// A signed URL.
    SignedUrl(&'a SignedUrlAuth),
    /// Another server's judgement.
    Forward(&'a ForwardAuth),
}

/// A certificate that a client must show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CertificateAuth {
    /// A DNS name that it must be for.
    pub san: Option<CaptureText>,
}

/// A field that a request must have (seed: `IngressRule.request_header_auth`).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct HeaderAuth {
    /// Its name. The instance does not get the field, unless `forward_credential` says so.
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

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

// === impl AuthConfig ===

impl AuthConfig {
    /// What the ways ask for, in their order.
    pub fn proofs(&self) -> impl Iterator<Item = Proof<'_>> {
        let header = self.header.iter().map(Proof::Header);
        header.chain(self.any.iter().filter_map(Way::proof))
    }

    /// The secret fields that let in.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderAuth> {
        let ways = self.any.iter().filter_map(|way| way.header.as_ref());
        self.header.iter().chain(ways)
    }

    /// The fields that instances get from the gateway alone, or not at all.
    pub fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        let own = self.header.iter().filter(|_| !self.forward_credential);
        let own = own.map(|auth| &auth.header);
        own.chain(self.any.iter().flat_map(Way::fields))
    }

    /// Whether a request without a client's certificate is refused, whatever else it shows.
    pub fn needs_certificate(&self) -> bool {
        self.proofs()
            .all(|proof| matches!(proof, Proof::ClientCertificate(_)))
    }

    /// A capture that a way names and a route of this host does not have.
    pub(super) fn unknown_capture(&self, host: &HostPattern) -> Option<&str> {
        self.any.iter().find_map(|way| {
            let san = way.client_certificate.iter();
            let san = san.filter_map(|certificate| certificate.san.as_ref());
            let claims = way.jwt.iter().flat_map(|jwt| jwt.claims.values());
            san.chain(claims).find_map(|text| text.unknown(host))
        })
    }
}

impl From<HeaderAuth> for AuthConfig {
    fn from(header: HeaderAuth) -> Self {
        Self {
            header: Some(header),
            ..Self::default()
        }
    }
}

// === impl Way ===

impl Way {
    /// What it asks for.
    pub fn proof(&self) -> Option<Proof<'_>> {
        let header = self.header.as_ref().map(Proof::Header);
        header
            .or_else(|| {
                self.client_certificate
                    .as_ref()
                    .map(Proof::ClientCertificate)
            })
            .or_else(|| self.jwt.as_deref().map(Proof::Jwt))
            .or_else(|| self.signed_url.as_ref().map(Proof::SignedUrl))
            .or_else(|| self.forward.as_ref().map(Proof::Forward))
    }

    /// Whether the instance is sent what let the request in, too.
    pub fn keeps_credential(&self) -> bool {
        self.forward_credential || self.jwt.as_ref().is_some_and(|jwt| jwt.forward_credential)
    }

    fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        let own = self.header.iter().filter(|_| !self.forward_credential);
        let own = own.map(|auth| &auth.header);
        let claims = self.jwt.iter().flat_map(|jwt| jwt.forward.values());
        let judged = self.forward.iter();
        let judged = judged.flat_map(|forward| &forward.response_headers);
        own.chain(claims).chain(judged)
    }
}

// === impl CertificateAuth ===

impl Serialize for CertificateAuth {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Some(san) = &self.san else {
            return to.serialize_bool(true);
        };
        let mut entry = to.serialize_map(Some(1))?;
        entry.serialize_entry("san", san)?;
        entry.end()
    }
}

#[cfg(test)]
impl JsonSchema for CertificateAuth {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CertificateAuth".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut san = generator.subschema_for::<CaptureText>();
        san.insert(
            "description".to_owned(),
            "A DNS name that the certificate must be for, among its subject's alternative names."
                .into(),
        );
        json_schema!({ "anyOf": [
            { "const": true },
            { "type": "object", "properties": { "san": san }, "required": ["san"], "additionalProperties": false },
        ]})
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
