use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::identity::ClaimRules;

const OTHERS: &str = include_str!("others.json");

fn encoded(value: &str) -> String {
    BASE64URL.encode(value)
}

/// A key, its JWK and tokens of it.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn jwk(&self, id: Option<&str>) -> Value {
        let x = BASE64URL.encode(self.0.public_key().as_ref());
        let mut jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
        if let Some(id) = id {
            jwk["kid"] = json!(id);
        }
        jwk
    }

    fn sign(&self, head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encoded(head), encoded(claims));
        let signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64URL.encode(signature.as_ref()))
    }
}

fn keys(all: &[Value]) -> KeySet {
    KeySet::parse(&json!({ "keys": all }).to_string()).unwrap()
}

fn verify(token: &str, keys: &KeySet) -> Result<Claims, TokenError> {
    Token::parse(token)?.verify(keys)
}

#[test]
fn tokens_of_other_libraries_are_read_with_every_algorithm() {
    let others: Value = serde_json::from_str(OTHERS).unwrap();
    let keys = KeySet::parse(OTHERS).unwrap();
    let rules = ClaimRules {
        issuer: Some("https://id.example.com"),
        audience: Some("gateway"),
    };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let tokens = others["tokens"].as_object().unwrap();
    assert_eq!(tokens.len(), 16);
    for (name, token) in tokens {
        let token = token.as_str().unwrap();
        let claims = verify(token, &keys).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(claims.check(&rules, now), Ok(()), "{name}");
        assert!(claims.has("sub", "blue"), "{name}");
        // One changed letter of what is signed, or of the signature.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (head, _) = signed.split_once('.').unwrap();
        let other = encoded(r#"{"sub":"red","exp":4102444800}"#);
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        let rest = signature.get(1..).unwrap();
        for forged in [
            format!("{head}.{other}.{signature}"),
            format!("{signed}.{first}{rest}"),
        ] {
            let refused = verify(&forged, &keys).unwrap_err();
            assert_eq!(refused, TokenError::BadSignature, "{name}");
        }
    }
}

#[test]
fn a_token_that_no_trusted_algorithm_signs_is_none() {
    let signer = Signer::new();
    let keys = keys(&[signer.jwk(Some("a"))]);
    let claims = r#"{"exp":4102444800}"#;
    let good = signer.sign(r#"{"alg":"EdDSA","kid":"a"}"#, claims);
    assert!(verify(&good, &keys).is_ok());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let none = format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(claims));
    for malformed in [
        none.clone(),
        none.replace(&encoded(r#"{"alg":"none"}"#), &encoded(r#"{"alg":"NONE"}"#)),
        signer.sign(r#"{"alg":"HS256","kid":"a"}"#, claims),
        signer.sign(r#"{"kid":"a"}"#, claims),
        signer.sign(r#"{"alg":["EdDSA"],"kid":"a"}"#, claims),
        signer.sign(r#"{"alg":"EdDSA","alg":"EdDSA","kid":"a"}"#, claims),
        signer.sign(
            r#"{"alg":"EdDSA","kid":"a","crit":["exp"],"exp":1}"#,
            claims,
        ),
        signer.sign(r#"{"alg":"EdDSA","kid":7}"#, claims),
        signer.sign(
            r#"{"alg":"EdDSA","kid":"a"}"#,
            r#"{"exp":1,"exp":4102444800}"#,
        ),
        signer.sign(r#"{"alg":"EdDSA","kid":"a"}"#, "[]"),
        format!("{good}="),
        format!("{good}.{signature}"),
        format!(" {good}"),
        signed.to_owned(),
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(LONGEST + 1),
    ] {
        let refused = verify(&malformed, &keys).unwrap_err();
        assert_eq!(refused, TokenError::Malformed, "{malformed}");
    }
}

#[test]
fn the_key_is_the_one_that_the_token_names_and_a_token_without_one_needs_no_guess() {
    let (one, other) = (Signer::new(), Signer::new());
    let claims = r#"{"exp":4102444800}"#;
    let named = one.sign(r#"{"alg":"EdDSA","kid":"one"}"#, claims);
    let nameless = one.sign(r#"{"alg":"EdDSA"}"#, claims);
    let both = keys(&[one.jwk(Some("one")), other.jwk(Some("other"))]);
    let only = keys(&[one.jwk(None)]);
    let exchanged = keys(&[other.jwk(Some("one"))]);
    assert!(verify(&named, &both).is_ok());
    assert!(verify(&nameless, &only).is_ok());
    for (token, keys, expected) in [
        (&nameless, &both, TokenError::UnknownKey),
        (&named, &only, TokenError::UnknownKey),
        (&named, &exchanged, TokenError::BadSignature),
        (&nameless, &exchanged, TokenError::BadSignature),
        (&named, &KeySet::default(), TokenError::UnknownKey),
    ] {
        assert_eq!(verify(token, keys).unwrap_err(), expected);
    }
}

#[test]
fn a_key_of_another_kind_does_not_fit_whatever_it_is_called() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (&point[1..33], &point[33..65]);
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "kid": "a",
        "x": BASE64URL.encode(x), "y": BASE64URL.encode(y),
    });
    let keys = keys(&[jwk]);
    let signed = |head: &str| {
        let signed = format!("{}.{}", encoded(head), encoded(r#"{"exp":4102444800}"#));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL.encode(signature.as_ref()))
    };
    assert!(verify(&signed(r#"{"alg":"ES256","kid":"a"}"#), &keys).is_ok());
    for algorithm in ["ES384", "RS256", "EdDSA", "PS512"] {
        let token = signed(&format!(r#"{{"alg":"{algorithm}","kid":"a"}}"#));
        let refused = verify(&token, &keys).unwrap_err();
        assert_eq!(refused, TokenError::UnknownKey, "{algorithm}");
    }
}
