//! What a verified token says.
//!
//! Guarantees: a token without an end is none; one with an audience is only for whom it names (RFC
//! 7519 §4.1.3); what is forwarded of a claim is a field's value and nothing else.

use http::HeaderValue;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::token_error::TokenError;

/// How many seconds the clocks of an issuer and of the gateway may be apart.
const LEEWAY: f64 = 30.0;

/// The claims of a token whose signature has been verified.
#[derive(Debug, Clone, Default)]
pub struct Claims(Map<String, Value>);

/// What a token must say for every request alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClaimRules<'r> {
    /// Its `iss`.
    pub issuer: Option<&'r str>,
    /// Its `aud`, or one of them. Without one, only tokens for nobody in particular count.
    pub audience: Option<&'r str>,
}

/// The first number from which on several whole ones are read as one.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// A claim's value as a text: texts, numbers, `true` and `false` have one. A number that was not read
/// exactly has none: it could be another user's.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => {
            let is_whole = number.is_i64() || number.is_u64();
            let is_exact = is_whole || number.as_f64().is_some_and(|f| f.abs() < INEXACT);
            is_exact.then(|| number.to_string())
        }
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

// === impl Claims ===

impl Claims {
    pub(super) fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// Whether the token is valid now, from this issuer and for this audience.
    pub fn check(&self, rules: &ClaimRules<'_>, now: Timestamp) -> Result<(), TokenError> {
        let now = now.as_duration().as_secs_f64();
        let expires = self.0.get("exp").and_then(Value::as_f64);
        if expires.ok_or(TokenError::Expired)? + LEEWAY <= now {
            return Err(TokenError::Expired);
        }
        if let Some(begins) = self.0.get("nbf") {
            let begins = begins.as_f64().ok_or(TokenError::NotYetValid)?;
            if begins - LEEWAY > now {
                return Err(TokenError::NotYetValid);
            }
        }
        let issuer = self.0.get("iss").and_then(Value::as_str);
        if rules.issuer.is_some() && rules.issuer != issuer {
            return Err(TokenError::Issuer);
        }
        let is_for = match (rules.audience, self.0.get("aud")) {
            (None, None) => true,
            (Some(audience), Some(Value::String(one))) => one == audience,
            (Some(audience), Some(Value::Array(all))) => all.iter().any(|one| one == audience),
            (_, _) => false,
        };
        match is_for {
            true => Ok(()),
            false => Err(TokenError::Audience),
        }
    }

    /// Whether a claim is this text, or is a list that has it.
    pub fn has(&self, name: &str, expected: &str) -> bool {
        match self.0.get(name) {
            Some(Value::Array(all)) => all.iter().any(|one| one == expected),
            Some(value) => text_of(value).is_some_and(|text| text == expected),
            None => false,
        }
    }

    /// A claim as a field's value: a text or a number of visible ASCII, perhaps with blanks between.
    pub fn field(&self, name: &str) -> Option<HeaderValue> {
        let value = self.0.get(name)?;
        let text = match value {
            Value::String(_) | Value::Number(_) => text_of(value)?,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        let is_visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let is_fine = !text.is_empty() && text.trim() == text && text.bytes().all(is_visible);
        is_fine.then(|| HeaderValue::from_str(&text).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn claims(value: &Value) -> Claims {
        Claims(value.as_object().unwrap().clone())
    }

    fn check(value: &Value, rules: ClaimRules<'_>) -> Result<(), TokenError> {
        claims(value).check(&rules, Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn a_token_counts_from_its_beginning_to_its_end_with_half_a_minute_of_leeway() {
        let rules = ClaimRules::default();
        for (value, expected) in [
            (json!({}), Err(TokenError::Expired)),
            (json!({ "exp": "1900000000" }), Err(TokenError::Expired)),
            (json!({ "exp": NOW - 30 }), Err(TokenError::Expired)),
            (json!({ "exp": -1 }), Err(TokenError::Expired)),
            (json!({ "exp": NOW - 29 }), Ok(())),
            (json!({ "exp": NOW - 29, "nbf": NOW + 30 }), Ok(())),
            (
                json!({ "exp": NOW + 60, "nbf": NOW + 31 }),
                Err(TokenError::NotYetValid),
            ),
            (
                json!({ "exp": NOW + 60, "nbf": "0" }),
                Err(TokenError::NotYetValid),
            ),
            (json!({ "exp": (NOW + 60) as f64 + 0.5 }), Ok(())),
        ] {
            assert_eq!(check(&value, rules), expected, "{value}");
        }
    }

    #[test]
    fn issuer_and_audience_must_be_those_that_are_asked_for() {
        let rules = ClaimRules {
            issuer: Some("https://id.example.com"),
            audience: Some("gateway"),
        };
        let with = |issuer: Value, audience: Value| {
            let value = json!({ "exp": NOW + 60, "iss": issuer, "aud": audience });
            check(&value, rules)
        };
        let id = || json!("https://id.example.com");
        assert_eq!(with(id(), json!("gateway")), Ok(()));
        assert_eq!(with(id(), json!(["other", "gateway"])), Ok(()));
        assert_eq!(with(id(), json!(["other"])), Err(TokenError::Audience));
        assert_eq!(with(id(), json!("gateways")), Err(TokenError::Audience));
        assert_eq!(with(id(), json!(null)), Err(TokenError::Audience));
        for other in [json!("https://id.example.com/"), json!([id()]), json!(null)] {
            assert_eq!(with(other, json!("gateway")), Err(TokenError::Issuer));
        }
        // Of somebody else's token nobody has said that it may be used here.
        let other = json!({ "exp": NOW + 60, "aud": "other" });
        assert_eq!(
            check(&other, ClaimRules::default()),
            Err(TokenError::Audience)
        );
    }

    #[test]
    fn a_list_matches_by_one_of_its_texts_and_a_part_of_a_text_never() {
        let claims = claims(&json!({
            "sub": "blue", "groups": ["red", "blue"], "n": 42, "deep": { "blue": "blue" }, "on": true,
        }));
        for (name, expected, has) in [
            ("sub", "blue", true),
            ("sub", "blu", false),
            ("sub", "", false),
            ("groups", "red", true),
            ("groups", "re", false),
            ("n", "42", true),
            ("on", "true", true),
            ("deep", "blue", false),
            ("none", "", false),
        ] {
            assert_eq!(claims.has(name, expected), has, "{name} {expected}");
        }
    }

    #[test]
    fn numbers_that_are_read_as_one_are_nobody() {
        for text in ["18446744073709551616", "100000000000000000001", "1e300"] {
            let claims = format!("{{\"sub\":{text}}}");
            let claims = Claims(serde_json::from_str(&claims).unwrap());
            assert_eq!(claims.field("sub"), None, "{text}");
            let read = claims.0["sub"].to_string();
            assert!(!claims.has("sub", &read), "{text}");
        }
    }

    #[test]
    fn only_texts_and_numbers_of_visible_ascii_become_fields() {
        let claims = claims(&json!({
            "a": "Jane Doe", "b": 42, "c": "x\r\ny: z", "d": "Zoë", "e": ["x"], "f": true, "g": "",
            "h": " x", "i": 18_446_744_073_709_551_615_u64, "j": 1.5,
        }));
        let field = |name: &str| claims.field(name);
        assert_eq!(field("i").unwrap(), "18446744073709551615");
        assert_eq!(field("j").unwrap(), "1.5");
        assert_eq!(field("a").unwrap(), "Jane Doe");
        assert_eq!(field("b").unwrap(), "42");
        for name in ["c", "d", "e", "f", "g", "h", "none"] {
            assert_eq!(field(name), None, "{name}");
        }
    }
}
