//! Sets of public keys (JWK Sets, RFC 7517).
//!
//! Guarantees: a key verifies only what its kind, its `alg`, its `use` and its `key_ops` allow; a key
//! that cannot be used is passed over (RFC 7517 §5), and a text with keys of which none can be used
//! is no set; the number of keys and their size have a bound.

use aws_lc_rs::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, KeyKind, Verification};

/// As many keys as are looked at; sets have a handful.
const MOST_KEYS: usize = 64;
/// The smallest modulus of RSA (RFC 7518 §3.3), and the largest that is verified with.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys that tokens may be signed with.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<Key>);

/// Why a text is no set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is something else.
    #[error("is not a JWK Set: a JSON object with a list `keys` (RFC 7517)")]
    NotASet,
    /// It has keys, and none of a kind that tokens are verified with.
    #[error(
        "has no key that tokens can be verified with: RSA of 2048 bits or more, P-256, P-384, \
         P-521 or Ed25519, for signatures"
    )]
    NoUsableKey,
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    Point(KeyKind, Vec<u8>),
    Ed25519(Vec<u8>),
}

// === impl KeySet ===

impl KeySet {
    /// Reads a JWK Set. An empty list is a set: its owner has withdrawn every key.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        let value: Value = serde_json::from_str(text).map_err(|_| KeySetError::NotASet)?;
        let keys = value.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or(KeySetError::NotASet)?;
        let usable = keys.iter().take(MOST_KEYS);
        let usable: Vec<Key> = usable.filter_map(Key::parse).collect();
        match usable.is_empty() && !keys.is_empty() {
            true => Err(KeySetError::NoUsableKey),
            false => Ok(Self(usable)),
        }
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a token with this head may be signed with: those of its key's id, or, without
    /// one, the only one that fits its algorithm.
    pub(super) fn fitting(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<&Key> {
        let mut fitting: Vec<&Key> = self.0.iter().filter(|key| key.fits(algorithm)).collect();
        match id {
            Some(id) => fitting.retain(|key| key.id.as_deref() == Some(id)),
            None if fitting.len() > 1 => fitting.clear(),
            None => {}
        }
        fitting
    }
}

// === impl Key ===

impl Key {
    fn parse(value: &Value) -> Option<Self> {
        let key = value.as_object()?;
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let is_for_signatures = key.get("use").is_none_or(|usage| usage == "sig");
        let may_verify = match key.get("key_ops") {
            None => true,
            Some(operations) => {
                let mut operations = operations.as_array()?.iter();
                operations.any(|operation| operation == "verify")
            }
        };
        if !is_for_signatures || !may_verify {
            return None;
        }
        let algorithm = match key.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::named(name.as_str()?)?),
        };
        let material = Material::parse(text("kty")?, key)?;
        Some(Self {
            id: text("kid").map(str::to_owned),
            algorithm: algorithm.or(material.only_algorithm()),
            material,
        })
        .filter(|key| {
            key.algorithm
                .is_none_or(|one| key.material.is_of(one.key_kind()))
        })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.material.is_of(algorithm.key_kind())
            && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// Whether this key has signed a message so.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = match (algorithm.verification(), &self.material) {
            (Verification::Rsa(parameters), Material::Rsa { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature)
            }
            (Verification::Ecdsa(curve), Material::Point(_, point)) => {
                UnparsedPublicKey::new(curve, point).verify(message, signature)
            }
            (Verification::Ed25519(parameters), Material::Ed25519(key)) => {
                UnparsedPublicKey::new(parameters, key).verify(message, signature)
            }
            (_, Material::Rsa { .. } | Material::Point(..) | Material::Ed25519(_)) => return false,
        };
        verified.is_ok()
    }
}

// === impl Material ===

impl Material {
    fn parse(kind: &str, key: &Map<String, Value>) -> Option<Self> {
        let bytes = |name: &str| BASE64URL.decode(key.get(name)?.as_str()?).ok();
        let curve = key.get("crv").and_then(Value::as_str);
        match (kind, curve) {
            ("RSA", _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let significant = n.iter().position(|byte| *byte != 0)?;
                let n = n.get(significant..)?.to_vec();
                (MODULUS.contains(&n.len()) && (1..=8).contains(&e.len()))
                    .then_some(Self::Rsa { n, e })
            }
            ("EC", Some(curve)) => {
                let (kind, length) = match curve {
                    "P-256" => (KeyKind::P256, 32),
                    "P-384" => (KeyKind::P384, 48),
                    "P-521" => (KeyKind::P521, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                let is_whole = x.len() == length && y.len() == length;
                is_whole.then(|| Self::Point(kind, [&[4][..], &x, &y].concat()))
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes("x")?;
                (x.len() == 32).then_some(Self::Ed25519(x))
            }
            _ => None,
        }
    }

    fn is_of(&self, kind: KeyKind) -> bool {
        match self {
            Self::Rsa { .. } => kind == KeyKind::Rsa,
            Self::Point(own, _) => kind == *own,
            Self::Ed25519(_) => kind == KeyKind::Ed25519,
        }
    }

    /// The algorithm of a kind of key that has one alone.
    fn only_algorithm(&self) -> Option<Algorithm> {
        match self {
            Self::Rsa { .. } => None,
            Self::Point(KeyKind::P256, _) => Some(Algorithm::Es256),
            Self::Point(KeyKind::P384, _) => Some(Algorithm::Es384),
            Self::Point(..) => Some(Algorithm::Es512),
            Self::Ed25519(_) => Some(Algorithm::EdDsa),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(keys: &Value) -> Result<usize, KeySetError> {
        KeySet::parse(&json!({ "keys": keys }).to_string()).map(|set| set.0.len())
    }

    #[test]
    fn what_is_no_set_is_told_from_one_without_keys() {
        for text in ["", "<html>", "[]", "{}", r#"{"keys": {}}"#, "null"] {
            let error = KeySet::parse(text).unwrap_err();
            assert_eq!(error, KeySetError::NotASet, "{text}");
        }
        assert_eq!(set(&json!([])), Ok(0));
    }

    #[test]
    fn a_key_that_cannot_verify_is_passed_over() {
        let x = BASE64URL.encode([7; 32]);
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let wrong = [
            json!({ "kty": "oct", "k": x, "alg": "HS256" }),
            with("use", json!("enc")),
            with("key_ops", json!(["sign"])),
            with("alg", json!("none")),
            with("alg", json!("ES256")),
            with("x", json!(BASE64URL.encode([7; 31]))),
            with("crv", json!("X25519")),
            json!({ "kty": "RSA", "n": BASE64URL.encode([7; 128]), "e": "AQAB" }),
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": "AA" }),
            json!("a text"),
        ];
        for key in &wrong {
            let only = set(&json!([key]));
            assert_eq!(only, Err(KeySetError::NoUsableKey), "{key}");
        }
        let mut all = wrong.to_vec();
        all.push(good);
        assert_eq!(set(&json!(all)), Ok(1));
    }
}
