//! An account at the CA, made with a key that is kept already: whoever is killed before it hears of its
//! account finds it by the key (RFC 8555 §7.3.1).
//!
//! Guarantees: for one key there is one account, however often it is asked for; a key is in no message.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use instant_acme::{Error, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http_client::{Answered, HttpClient};

/// How often a nonce may be refused (RFC 8555 §6.5).
const NONCES: usize = 4;
const NONCE: &str = "replay-nonce";

/// The key of an account that may not be there yet.
pub(super) struct AccountKey {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

/// What binds an account to one that exists at the CA: the name of a key, and the key.
pub(super) struct Binding {
    pub(super) kid: String,
    pub(super) key: Vec<u8>,
}

/// The CA's resources that are asked here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    new_nonce: String,
    new_account: String,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An error of the CA.
fn refused(body: &[u8]) -> Error {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.into(),
        Err(error) => error.into(),
    }
}

fn is_of(error: &Error, kind: &str) -> bool {
    matches!(error, Error::Api(problem)
        if problem.r#type.as_deref().is_some_and(|told| told.ends_with(kind)))
}

// === impl AccountKey ===

impl AccountKey {
    pub(super) fn generate() -> Result<Self, Error> {
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| Error::Crypto)?;
        Self::of(made.as_ref().to_vec()).ok_or(Error::Crypto)
    }

    /// A key in PKCS#8, if it is one.
    fn of(pkcs8: Vec<u8>) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).ok()?;
        Some(Self { pkcs8, pair })
    }

    /// As it is kept until its account is known.
    pub(super) fn text(&self) -> Vec<u8> {
        encoded(&self.pkcs8).into_bytes()
    }

    /// What was kept so.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        Self::of(URL_SAFE_NO_PAD.decode(text.trim()).ok()?)
    }

    /// What is kept of an account with this key, in the library's words.
    pub(super) fn credentials(&self, id: &str, directory: &str) -> Vec<u8> {
        let key = encoded(&self.pkcs8);
        let kept = json!({ "id": id, "key_pkcs8": key, "directory": directory });
        kept.to_string().into_bytes()
    }

    /// The public key (RFC 7518 §6.2.1).
    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point
            .get(1..)
            .unwrap_or_default()
            .split_at(32.min(point.len() / 2));
        json!({ "crv": "P-256", "kty": "EC", "x": encoded(x), "y": encoded(y) })
    }

    /// A request (RFC 7515 §7.2.2).
    fn signed(&self, url: &str, nonce: &str, payload: &Value) -> Result<Vec<u8>, Error> {
        let head = json!({ "alg": "ES256", "jwk": self.public(), "nonce": nonce, "url": url });
        let (head, payload) = (encoded(head.to_string()), encoded(payload.to_string()));
        let text = format!("{head}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = encoded(signature.map_err(|_| Error::Crypto)?);
        let request = json!({ "protected": head, "payload": payload, "signature": signature });
        Ok(request.to_string().into_bytes())
    }
}

// === impl Binding ===

impl Binding {
    /// The binding to a key (RFC 8555 §7.3.4).
    fn of(&self, key: &AccountKey, url: &str) -> Value {
        let head = json!({ "alg": "HS256", "kid": self.kid, "url": url });
        let (head, payload) = (encoded(head.to_string()), encoded(key.public().to_string()));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        let signature = hmac::sign(&secret, format!("{head}.{payload}").as_bytes());
        json!({ "protected": head, "payload": payload, "signature": encoded(signature) })
    }
}

/// The account of a key, which is made where there is none; what the CA calls it. `may_be_there` says that
/// it may have been made before.
pub(super) async fn find_or_make(
    http: &HttpClient,
    directory: &str,
    key: &AccountKey,
    (contact, binding): (&[String], Option<&Binding>),
    may_be_there: bool,
) -> Result<String, Error> {
    let got = http.ask(Method::GET, directory, HeaderMap::new(), Bytes::new());
    let got = got.await?;
    if !got.status.is_success() {
        return Err(refused(&got.body));
    }
    let resources: Resources = serde_json::from_slice(&got.body)?;
    if may_be_there {
        let existing = json!({ "onlyReturnExisting": true });
        match post(http, &resources, key, &existing).await {
            Err(error) if is_of(&error, ":accountDoesNotExist") => {}
            found => return found,
        }
    }
    let mut new = json!({ "termsOfServiceAgreed": true });
    if let Some(new) = new.as_object_mut() {
        if !contact.is_empty() {
            new.insert("contact".to_owned(), json!(contact));
        }
        if let Some(binding) = binding {
            let bound = binding.of(key, &resources.new_account);
            new.insert("externalAccountBinding".to_owned(), bound);
        }
    }
    post(http, &resources, key, &new).await
}

fn nonce_of(answered: &Answered) -> Option<String> {
    let nonce = answered.fields.get(NONCE)?.to_str().ok()?;
    Some(nonce.to_owned())
}

/// Asks for an account; what the CA calls it.
async fn post(
    http: &HttpClient,
    resources: &Resources,
    key: &AccountKey,
    payload: &Value,
) -> Result<String, Error> {
    let url = &resources.new_account;
    let mut fields = HeaderMap::new();
    fields.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/jose+json"),
    );
    let mut nonce = None;
    for _ in 0..NONCES {
        let fresh = match nonce.take() {
            Some(fresh) => fresh,
            None => {
                let place = &resources.new_nonce;
                let got = http.ask(Method::HEAD, place, HeaderMap::new(), Bytes::new());
                nonce_of(&got.await?).ok_or(Error::Str("no nonce"))?
            }
        };
        let body = Bytes::from(key.signed(url, &fresh, payload)?);
        let answered = http.ask(Method::POST, url, fields.clone(), body).await?;
        if answered.status.is_success() {
            let id = answered.fields.get(LOCATION);
            let id = id.and_then(|place| place.to_str().ok());
            return id
                .map(str::to_owned)
                .ok_or(Error::Str("the account has no URL"));
        }
        let error = refused(&answered.body);
        if !is_of(&error, ":badNonce") {
            return Err(error);
        }
        nonce = nonce_of(&answered);
    }
    Err(Error::Str("no nonce is good enough"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn decoded(text: &Value) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
    }

    #[test]
    fn what_is_no_key_is_not_read_and_what_is_kept_is_the_same_key() {
        for wrong in [&b""[..], b"AAAA", b"\xff", b"not base64!"] {
            assert!(AccountKey::read(wrong).is_none());
        }
        let key = AccountKey::generate().unwrap();
        let again = AccountKey::read(&key.text()).unwrap();
        assert_eq!(again.public(), key.public());
        let kept = key.credentials("https://ca.test/1", "https://ca.test/dir");
        let kept: instant_acme::AccountCredentials = serde_json::from_slice(&kept).unwrap();
        assert_eq!(kept.private_key().secret_pkcs8_der(), key.pkcs8);
    }

    #[test]
    fn a_request_is_signed_with_the_key_that_it_shows_and_bound_with_the_one_it_does_not() {
        let key = AccountKey::generate().unwrap();
        let signed = key.signed("https://ca.test/new", "n", &json!({ "a": 1 }));
        let signed: Value = serde_json::from_slice(&signed.unwrap()).unwrap();
        let head: Value = serde_json::from_slice(&decoded(&signed["protected"])).unwrap();
        assert_eq!(
            (&head["nonce"], &head["alg"]),
            (&json!("n"), &json!("ES256"))
        );
        let (x, y) = (decoded(&head["jwk"]["x"]), decoded(&head["jwk"]["y"]));
        let point = [&[4][..], &x, &y].concat();
        let text = |of: &Value| {
            let part = |name: &str| of[name].as_str().unwrap().to_owned();
            format!("{}.{}", part("protected"), part("payload"))
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(text(&signed).as_bytes(), &decoded(&signed["signature"]))
            .unwrap();
        let binding = Binding {
            kid: "k".to_owned(),
            key: b"secret".to_vec(),
        };
        let bound = binding.of(&key, "https://ca.test/new");
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        hmac::verify(
            &secret,
            text(&bound).as_bytes(),
            &decoded(&bound["signature"]),
        )
        .unwrap();
        assert_eq!(
            decoded(&bound["payload"]),
            key.public().to_string().into_bytes()
        );
    }
}
