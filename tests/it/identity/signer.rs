//! An issuer of tokens.

use std::path::PathBuf;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

/// A key, and the file that publishes it.
pub struct Signer {
    pair: Ed25519KeyPair,
    id: &'static str,
    dir: tempfile::TempDir,
}

impl Signer {
    pub fn new(id: &'static str) -> Self {
        let signer = Self {
            pair: Ed25519KeyPair::generate().unwrap(),
            id,
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::write(signer.file(), signer.jwks()).unwrap();
        signer
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("jwks.json")
    }

    pub fn jwks(&self) -> String {
        let x = BASE64URL.encode(self.pair.public_key());
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": x });
        json!({ "keys": [key] }).to_string()
    }

    pub fn token(&self, claims: &Value) -> String {
        self.with_head(
            &json!({ "alg": "EdDSA", "kid": self.id, "typ": "JWT" }),
            claims,
        )
    }

    /// One whose head says something else.
    pub fn with_head(&self, head: &Value, claims: &Value) -> String {
        self.with_texts(&head.to_string(), &claims.to_string())
    }

    /// One whose parts are these texts, JSON or not.
    pub fn with_texts(&self, head: &str, claims: &str) -> String {
        let signed = [head, claims].map(|part| BASE64URL.encode(part)).join(".");
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}
