//! A signed token (JWT).
//!
//! Guarantees: a token counts if its signature, its times, its issuer and its audience do, and lets
//! in where its claims are those of the request; with no key at all nobody gets in.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::credential::Ambiguous;
use super::key_cache::KeyCache;
use super::key_source::KeyFetcher;
use super::refusal::Refusal;
use crate::config::{CaptureText, JwtAuth};
use crate::identity::{ClaimRules, Token};

/// Whether one of the tokens lets a request in, and the fields that say whose it is.
pub(in crate::proxy) async fn judge(
    rules: &JwtAuth,
    tokens: Result<Vec<String>, Ambiguous>,
    keys: Option<&Arc<KeyCache>>,
    fetcher: &KeyFetcher,
    filled: impl Fn(&CaptureText) -> Option<String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let Ok(tokens) = tokens else {
        return Err(Refusal::Invalid);
    };
    let keys = keys.ok_or(Refusal::Unavailable)?;
    let mut refusal = Refusal::Missing;
    for text in &tokens {
        match judge_one(rules, text, keys, fetcher, &filled).await {
            Ok(fields) => return Ok(fields),
            Err(one) => refusal = refusal.max(one),
        }
    }
    Err(refusal)
}

async fn judge_one(
    rules: &JwtAuth,
    text: &str,
    keys: &Arc<KeyCache>,
    fetcher: &KeyFetcher,
    filled: impl Fn(&CaptureText) -> Option<String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let token = Token::parse(text).map_err(|_| Refusal::Invalid)?;
    let claims = keys.verify(&token, fetcher).await?;
    let expected = ClaimRules {
        issuer: rules.issuer.as_deref(),
        audience: rules.audience.as_deref(),
    };
    let checked = claims.check(&expected, Timestamp::now());
    checked.map_err(|_| Refusal::Invalid)?;
    let is_theirs = rules.claims.iter().all(|(name, text)| {
        let expected = filled(text);
        expected.is_some_and(|expected| claims.has(name, &expected))
    });
    if !is_theirs {
        return Err(Refusal::Other);
    }
    let forwarded = rules.forward.iter();
    let forwarded =
        forwarded.filter_map(|(claim, name)| Some((name.clone(), claims.field(claim)?)));
    Ok(forwarded.collect())
}
