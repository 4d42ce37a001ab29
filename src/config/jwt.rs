//! What a route may ask a signed token (JWT) to say, typed.
//!
//! Guarantees: a key set that is a file has been read, and has keys; a claim is forwarded in a field
//! that has no meaning of its own.

use std::collections::BTreeMap;

use http::HeaderName;
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::capture_text::CaptureText;
use super::settings::{map, optional_text, section, settings};
use super::texts::{parse_auth_name, parse_auth_url};
use super::values::TextFile;

settings! {
    /// A signed token (JWT, RFC 7519) that a request must have.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct JwtAuth {
        /// The public keys that tokens are signed with: a JWK Set (RFC 7517).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub jwks_file: Option<TextFile> = None;
        /// Where they are, instead of a file. They are asked for again every five minutes while they are in
        /// use, and when a token names a key that is not known.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub jwks_url: Option<String> = None, by optional_text(parse_auth_url);
        /// The `iss` that a token must have.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub issuer: Option<String> = None;
        /// The `aud` that a token must have, or have among others. Without it, tokens that have an
        /// `aud` are refused: they are for somebody else.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub audience: Option<String> = None;
        /// Texts that claims must be, or have in their lists. `{instance}` is the instance's name;
        /// the captures of the route's host can be used, too.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub claims: BTreeMap<String, CaptureText> = BTreeMap::new(), by map(CaptureText::parse);
        /// The fields that the instance is sent claims in: texts and numbers. Nobody else can send
        /// it such a field.
        #[serde(serialize_with = "names", skip_serializing_if = "BTreeMap::is_empty")]
        #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
        pub forward: BTreeMap<String, HeaderName> = BTreeMap::new(), by map(parse_auth_name);
        /// Where tokens are looked for besides `Authorization: Bearer`.
        #[serde(skip_serializing_if = "TokenFrom::is_empty")]
        pub token_from: TokenFrom = TokenFrom::default(), by section;
        /// Whether the instance is sent the token, too.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub forward_credential: bool = false;
    }
}

settings! {
    /// Where tokens are looked for besides `Authorization: Bearer`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct TokenFrom {
        /// The name of a cookie.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cookie: Option<String> = None, by optional_text(parse_cookie_name);
        /// The name of a parameter of the query.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub query: Option<String> = None, by optional_text(parse_word);
        /// The beginning of a WebSocket subprotocol, which the token follows. A browser's
        /// `WebSocket` can send no field, but can offer subprotocols.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub subprotocol: Option<String> = None, by optional_text(parse_word);
    }
}

fn names<S: Serializer>(fields: &BTreeMap<String, HeaderName>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(fields.iter().map(|(claim, name)| (claim, name.as_str())))
}

fn is_token(text: &str) -> bool {
    let is_token_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// A cookie's name is a token (RFC 6265 §4.1.1).
fn parse_cookie_name(text: &str) -> Result<String, String> {
    match is_token(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not a cookie's name")),
    }
}

/// What stands in a query or among subprotocols as it is.
pub(super) fn parse_word(text: &str) -> Result<String, String> {
    match is_token(text) && !text.contains(['%', '&', '+', '#']) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}` has other characters than letters, digits, `.`, `-` and `_`"
        )),
    }
}

// === impl TokenFrom ===

impl TokenFrom {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
