//! Signed tokens: JWT (RFC 7519) in the compact form of JWS (RFC 7515 §3.1).
//!
//! Guarantees: nothing that a token says is looked at before its signature has been verified, but
//! the algorithm and the key's id; extensions that are not understood and must be refuse it (RFC
//! 7515 §4.1.11); its parts are base64url in its one form, or it is none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::algorithm::Algorithm;
use super::claims::Claims;
use super::keys::KeySet;
use super::token_error::TokenError;
use super::unique::UniqueObject;

/// The longest token that is looked at: more than any server takes in a field.
const LONGEST: usize = 16 * 1024;

/// A token whose signature has yet to be verified.
#[derive(Debug)]
pub struct Token<'t> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What is signed: head and claims with the dot between them.
    signed: &'t str,
    claims: &'t str,
    signature: Vec<u8>,
}

// === impl Token ===

impl<'t> Token<'t> {
    /// Reads a token's head.
    pub fn parse(text: &'t str) -> Result<Self, TokenError> {
        Self::parse_inner(text).ok_or(TokenError::Malformed)
    }

    fn parse_inner(text: &'t str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        let head: UniqueObject = serde_json::from_slice(&BASE64URL.decode(head).ok()?).ok()?;
        // What is critical is not understood here (RFC 7515 §4.1.11).
        if head.0.contains_key("crit") {
            return None;
        }
        let algorithm = Algorithm::named(head.0.get("alg")?.as_str()?)?;
        let key_id = match head.0.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.to_owned()),
        };
        Some(Self {
            algorithm,
            key_id,
            signed,
            claims,
            signature: BASE64URL.decode(signature).ok()?,
        })
    }

    /// What the token says, if one of the keys has signed it.
    pub fn verify(&self, keys: &KeySet) -> Result<Claims, TokenError> {
        let fitting = keys.fitting(self.algorithm, self.key_id.as_deref());
        if fitting.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        let message = self.signed.as_bytes();
        let mut fitting = fitting.iter();
        if !fitting.any(|key| key.verifies(self.algorithm, message, &self.signature)) {
            return Err(TokenError::BadSignature);
        }
        let claims = BASE64URL.decode(self.claims).ok();
        let claims = claims.and_then(|claims| serde_json::from_slice::<UniqueObject>(&claims).ok());
        let claims = claims.ok_or(TokenError::Malformed)?;
        Ok(Claims::new(claims.0))
    }
}

#[cfg(test)]
mod tests;
