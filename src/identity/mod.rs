//! Who a request comes from, as far as it can be told from texts alone: signed tokens (JWT, RFC 7519),
//! the keys that they are signed with (JWK Sets, RFC 7517), and signed URLs.
//!
//! Guarantees: no socket, no clock and no request is used here, so that every judgement can be
//! repeated; what is read in two ways is refused; nothing that is judged here is put in an error.

mod algorithm;
mod claims;
mod keys;
mod signed_url;
mod token;
mod token_error;
mod unique;

pub use algorithm::Algorithm;
pub use claims::{ClaimRules, Claims};
pub use keys::{KeySet, KeySetError};
pub use signed_url::{SignedUrl, UrlError, UrlKey};
pub use token::Token;
pub use token_error::TokenError;
