//! URLs that let in whoever has them, until they expire.
//!
//! Guarantees: a signature (HMAC-SHA256) covers the host without its port, the path and the whole
//! query as they are sent, the methods and the expiry, so that none of these can be changed, added
//! or left out; it is compared in constant time; the key is never printed.
//!
//! A signed URL ends in `wakegate-expires=SECONDS&wakegate-signature=TEXT`, behind a `?` or a `&`.
//! What is signed are these lines: `wakegate-url-1`, the methods, the host, the target without that
//! end, and the seconds since 1970 at which it expires.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;

const VERSION: &str = "wakegate-url-1";
const EXPIRES: &str = "wakegate-expires";
const SIGNATURE: &str = "wakegate-signature";
/// What a URL is signed for where nothing is said.
const READS: &str = "GET HEAD";
/// The shortest key that is no typing error.
const SHORTEST_KEY: usize = 16;

/// A key that URLs are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlKey(Arc<[u8]>);

/// The end of a signed URL's target, and what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedUrl<'t> {
    target: &'t str,
    expires: &'t str,
    signature: &'t str,
}

/// Why a signed URL does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It was signed with another key, or for something else.
    #[error("the URL's signature is not for this request")]
    Signature,
    /// It is over.
    #[error("the signed URL has expired")]
    Expired,
}

// === impl UrlKey ===

impl UrlKey {
    /// From a key file's bytes; line ends behind them do not count.
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes
            .iter()
            .rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        let key = end.and_then(|end| bytes.get(..=end)).unwrap_or_default();
        match key.len() < SHORTEST_KEY {
            true => Err(format!(
                "has fewer than {SHORTEST_KEY} bytes; `openssl rand -hex 32` makes a good key"
            )),
            false => Ok(Self(key.into())),
        }
    }

    /// The target of a signed URL: `target` with its end. It is for `method`, or for GET and HEAD.
    pub fn sign(&self, method: Option<&str>, host: &str, target: &str, expires: i64) -> String {
        let expires = expires.to_string();
        let text = signed_text(method.unwrap_or(READS), host, target, &expires);
        let signature = BASE64URL.encode(hmac::sign(&self.hmac(), text.as_bytes()));
        let separator = if target.contains('?') { '&' } else { '?' };
        format!("{target}{separator}{EXPIRES}={expires}&{SIGNATURE}={signature}")
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for UrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn signed_text(methods: &str, host: &str, target: &str, expires: &str) -> String {
    [VERSION, methods, host, target, expires].join("\n")
}

// === impl SignedUrl ===

impl<'t> SignedUrl<'t> {
    /// The names of its parameters.
    pub const PARAMETERS: [&'static str; 2] = [EXPIRES, SIGNATURE];

    /// The signed URL that a target is, if it ends as one.
    pub fn parse(target: &'t str) -> Option<Self> {
        let (rest, signature) = target.rsplit_once('&')?;
        let signature = signature.strip_prefix(SIGNATURE)?.strip_prefix('=')?;
        let (target, expires) = rest.rsplit_once(['?', '&'])?;
        let expires = expires.strip_prefix(EXPIRES)?.strip_prefix('=')?;
        let is_plain = !expires.starts_with('0') && expires.bytes().all(|b| b.is_ascii_digit());
        is_plain.then_some(Self {
            target,
            expires,
            signature,
        })
    }

    /// Whether it lets a request with this method and host in now.
    pub fn check(
        &self,
        key: &UrlKey,
        method: &str,
        host: &str,
        now: Timestamp,
    ) -> Result<(), UrlError> {
        let hmac = key.hmac();
        let signature = BASE64URL.decode(self.signature);
        let signature = signature.map_err(|_| UrlError::Signature)?;
        let is_for = |methods: &str| {
            let text = signed_text(methods, host, self.target, self.expires);
            hmac::verify(&hmac, text.as_bytes(), &signature).is_ok()
        };
        let is_read = matches!(method, "GET" | "HEAD");
        if !(is_for(method) || is_read && is_for(READS)) {
            return Err(UrlError::Signature);
        }
        let expires: i64 = self.expires.parse().map_err(|_| UrlError::Signature)?;
        match now.as_second() < expires {
            true => Ok(()),
            false => Err(UrlError::Expired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const END: i64 = NOW + 600;

    fn key() -> UrlKey {
        UrlKey::new(b"0123456789abcdef0123456789abcdef\n").unwrap()
    }

    fn check(target: &str, method: &str, host: &str, now: i64) -> Option<Result<(), UrlError>> {
        let now = Timestamp::from_second(now).unwrap();
        let signed = SignedUrl::parse(target)?;
        Some(signed.check(&key(), method, host, now))
    }

    #[test]
    fn whatever_is_changed_in_a_signed_url_refuses_it() {
        let target = key().sign(None, "a.test", "/f/x?y=1", END);
        let (wrong, expired) = (Some(Err(UrlError::Signature)), Some(Err(UrlError::Expired)));
        for (target, method, host, now, expected) in [
            (target.clone(), "GET", "b.test", NOW, wrong),
            (target.clone(), "POST", "a.test", NOW, wrong),
            (target.clone(), "GET", "a.test", END, expired),
            (target.replace("/f/x", "/f/y"), "GET", "a.test", NOW, wrong),
            (
                target.replace("/f/x", "/f/z/../x"),
                "GET",
                "a.test",
                NOW,
                wrong,
            ),
            (
                target.replace("/f/x", "/f/%78"),
                "GET",
                "a.test",
                NOW,
                wrong,
            ),
            (target.replace("y=1", "y=2"), "GET", "a.test", NOW, wrong),
            (
                target.replace("y=1", "y=1&z=2"),
                "GET",
                "a.test",
                NOW,
                wrong,
            ),
            (target.replace("y=1&", ""), "GET", "a.test", NOW, wrong),
            (
                target.replace(&END.to_string(), &(END + 1).to_string()),
                "GET",
                "a.test",
                NOW,
                wrong,
            ),
            (format!("{target}A"), "GET", "a.test", NOW, wrong),
            (
                target.replace(EXPIRES, "wakegate%2dexpires"),
                "GET",
                "a.test",
                NOW,
                None,
            ),
            (format!("{target}&z=1"), "GET", "a.test", NOW, None),
            (
                target.replace(&format!("{EXPIRES}="), &format!("{EXPIRES}=0")),
                "GET",
                "a.test",
                NOW,
                None,
            ),
        ] {
            assert_eq!(
                check(&target, method, host, now),
                expected,
                "{method} {host}{target}"
            );
        }
        assert_eq!(check("/f/x?y=1", "GET", "a.test", NOW), None);
        let doubled = key().sign(None, "a.test", &target, END);
        assert_eq!(SignedUrl::parse(&doubled).unwrap().target, target);
    }

    #[test]
    fn a_signed_url_is_for_its_method_or_for_reading() {
        for target in ["/", "/?", "/f/x?y=1", "/a%2fb?x=%26"] {
            let reads = key().sign(None, "a.test", target, END);
            assert_eq!(SignedUrl::parse(&reads).unwrap().target, target);
            for method in ["GET", "HEAD"] {
                assert_eq!(
                    check(&reads, method, "a.test", NOW),
                    Some(Ok(())),
                    "{method}"
                );
            }
            let puts = key().sign(Some("PUT"), "a.test", target, END);
            assert_eq!(check(&puts, "PUT", "a.test", NOW), Some(Ok(())));
            for method in ["GET", "HEAD", "POST", "GET HEAD"] {
                let refused = Some(Err(UrlError::Signature));
                assert_eq!(check(&puts, method, "a.test", NOW), refused, "{method}");
            }
        }
    }

    #[test]
    fn a_key_is_not_printed_and_a_short_one_is_none() {
        assert_eq!(format!("{:?}", key()), "***");
        assert!(UrlKey::new(b"short\n").is_err() && UrlKey::new(b"").is_err());
        assert_eq!(
            UrlKey::new(b"0123456789abcdef0123456789abcdef\r\n").unwrap(),
            key()
        );
    }
}
