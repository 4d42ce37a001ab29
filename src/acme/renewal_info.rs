//! When a CA suggests to renew a certificate (ARI, RFC 9773).
//!
//! Guarantees: a name's own moment of a window stays the same while the window does; whatever the CA
//! says, a certificate that is just new is not replaced at once, and none is kept until it expires.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, CertificateIdentifier, Error};
use jiff::Timestamp;
use yasna::models::ObjectIdentifier;
use yasna::{Tag, parse_der};

use super::schedule::{latest, within};

/// The extension with the issuer's key (RFC 5280 §4.2.1.1).
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
/// A certificate is as old as this at least when it is replaced, in seconds.
const YOUNGEST: i64 = 2 * 3600;

/// What a CA has said of one certificate.
#[derive(Debug, Clone)]
pub(super) struct Suggestion {
    /// The certificate.
    pub(super) of: CertificateIdentifier<'static>,
    /// When it is to be renewed; `None` if the CA does not say.
    pub(super) at: Option<Timestamp>,
    /// When the CA is asked again.
    pub(super) ask_at: Timestamp,
}

/// Asks when a name's certificate is to be renewed; `None` if this CA does not say such things.
pub(super) async fn ask(
    account: &Account,
    of: &CertificateIdentifier<'static>,
    name: &str,
    (not_before, not_after): (i64, i64),
) -> Result<Option<Timestamp>, Error> {
    let window = match account.renewal_info(of).await {
        Ok((info, _)) => info.suggested_window,
        Err(Error::Unsupported(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
    let at = within(name, start, end).max(not_before.saturating_add(YOUNGEST));
    let at = at.min(latest(not_before, not_after));
    Ok(Timestamp::from_second(at).ok())
}

/// What a CA calls a certificate (RFC 9773 §4.1).
#[allow(
    clippy::redundant_closure_for_method_calls,
    reason = "the method itself is for one lifetime alone"
)]
pub(super) fn identifier(certificate: &[u8]) -> Option<CertificateIdentifier<'static>> {
    let read = parse_der(certificate, |reader| {
        reader.read_sequence(|parts| {
            let found = parts.next().read_sequence(|parts| {
                parts.read_optional(|version| {
                    version.read_tagged(Tag::context(0), |version| version.read_u8().map(drop))
                })?;
                let serial = parts.next().read_tagged_der()?;
                for _algorithm_issuer_validity_subject_key in 0..5 {
                    parts.next().read_der()?;
                }
                let extensions = parts.next().read_tagged(Tag::context(3), |extensions| {
                    extensions.collect_sequence_of(|extension| {
                        extension.read_sequence(|parts| {
                            let kind = parts.next().read_oid()?;
                            parts.read_optional(|critical| critical.read_bool().map(drop))?;
                            Ok((kind, parts.next().read_bytes()?))
                        })
                    })
                })?;
                Ok((serial, extensions))
            })?;
            for _algorithm_signature in 0..2 {
                parts.next().read_der()?;
            }
            Ok(found)
        })
    });
    let (serial, extensions) = read.ok()?;
    let wanted = ObjectIdentifier::from_slice(AUTHORITY_KEY);
    let (_, authority) = extensions.into_iter().find(|(kind, _)| *kind == wanted)?;
    let key = parse_der(&authority, |reader| {
        reader.read_sequence(|parts| {
            let key = parts
                .next()
                .read_tagged_implicit(Tag::context(0), |key| key.read_bytes())?;
            while parts
                .read_optional(|part| part.read_der().map(drop))?
                .is_some()
            {}
            Ok(key)
        })
    });
    Some(CertificateIdentifier {
        authority_key_identifier: URL_SAFE_NO_PAD.encode(key.ok()?).into(),
        serial: URL_SAFE_NO_PAD.encode(serial.value()).into(),
    })
}

#[cfg(test)]
mod tests {
    use std::future::{Future, ready};
    use std::pin::Pin;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use instant_acme::{BodyWrapper, BytesResponse, HttpClient, Key};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair};

    use super::*;

    /// A CA that knows one window.
    struct Scripted(&'static str);

    type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

    impl HttpClient for Scripted {
        fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
            let body = match request.uri().path() {
                "/dir" => format!(
                    r#"{{"newNonce":"https://ca.test/n","newAccount":"https://ca.test/a","newOrder":"https://ca.test/o"{}}}"#,
                    self.0
                ),
                "/info/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE" => {
                    r#"{"suggestedWindow":{"start":"2025-01-02T04:00:00Z","end":"2025-01-03T04:00:00Z"}}"#
                        .to_owned()
                }
                _ => "{}".to_owned(),
            };
            let response = Response::builder().header("retry-after", "21600");
            let response = response.body(Full::new(Bytes::from(body))).unwrap();
            Box::pin(ready(Ok(BytesResponse::from(response))))
        }
    }

    async fn account(more: &'static str) -> Account {
        let builder = Account::builder_with_http(Box::new(Scripted(more)));
        let (_, key) = Key::generate_pkcs8().unwrap();
        let parts = builder.from_parts(
            "https://ca.test/account".to_owned(),
            key,
            "https://ca.test/dir".to_owned(),
        );
        parts.await.unwrap()
    }

    fn leaf() -> Vec<u8> {
        // The example of RFC 9773 §4.1.
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![
            0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0,
            0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4,
        ]);
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.serial_number = Some(vec![0x87, 0x65, 0x43, 0x21].into());
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &issuer).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_called_as_the_rfc_s_example_is_and_nonsense_not_at_all() {
        assert!(identifier(b"nonsense").is_none() && identifier(b"").is_none());
        let own = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        assert!(identifier(own.cert.der()).is_none(), "it names no issuer");
        let found = identifier(&leaf()).unwrap().to_string();
        assert_eq!(found, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    }

    #[tokio::test]
    async fn a_name_has_a_moment_of_its_own_within_the_window_and_none_where_the_ca_says_nothing() {
        let of = identifier(&leaf()).unwrap();
        let silent = account("").await;
        assert_eq!(
            ask(&silent, &of, "a.test", (0, i64::MAX)).await.unwrap(),
            None
        );
        let speaks = account(r#","renewalInfo":"https://ca.test/info""#).await;
        let at = ask(&speaks, &of, "a.test", (0, i64::MAX))
            .await
            .unwrap()
            .unwrap();
        let [start, end] = ["2025-01-02T04:00:00Z", "2025-01-03T04:00:00Z"];
        let [start, end] = [start, end].map(|text| text.parse::<Timestamp>().unwrap());
        assert!(at >= start && at <= end, "{at}");
        assert_eq!(
            ask(&speaks, &of, "a.test", (0, i64::MAX)).await.unwrap(),
            Some(at)
        );
        assert_ne!(
            ask(&speaks, &of, "b.test", (0, i64::MAX)).await.unwrap(),
            Some(at)
        );
        // A certificate that has just come is not replaced.
        let now = end.as_second() + 5;
        let life = (now, now + 90 * 86_400);
        let later = ask(&speaks, &of, "a.test", life).await.unwrap().unwrap();
        assert_eq!(later.as_second(), now + YOUNGEST);
        // None is kept until it expires.
        let life = (start.as_second() - 10_000, start.as_second());
        let sooner = ask(&speaks, &of, "a.test", life).await.unwrap().unwrap();
        assert_eq!(sooner.as_second(), start.as_second() - 1000);
    }
}
