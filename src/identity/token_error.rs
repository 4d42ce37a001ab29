//! Why a token does not count.
//!
//! Guarantees: it says nothing of what the token says.

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, or one that is signed in no way that is trusted.
    #[error("the token is malformed, or signed with no algorithm that is trusted")]
    Malformed,
    /// None of the keys is the one that it names.
    #[error("the token is signed with a key that is not known")]
    UnknownKey,
    /// The key that it names has not signed it.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// It is over.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It comes from somebody else.
    #[error("the token has another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
}
