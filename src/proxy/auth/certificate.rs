//! A client's certificate.
//!
//! Guarantees: a certificate counts only if the listener that the connection came to has verified
//! it: it belongs to the connection, whatever host of the listener's a request on it is for; a name
//! that it must be for is compared as a whole, and a wildcard in it is no name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;

use super::refusal::Refusal;
use crate::config::{CaptureText, CertificateAuth};

/// Whether the connection's certificate, as `Client-Cert` has it (RFC 9440 §2.1), lets a request in.
pub(in crate::proxy) fn judge(
    rules: &CertificateAuth,
    certificate: Option<&HeaderValue>,
    filled: impl FnOnce(&CaptureText) -> Option<String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let certificate = certificate.ok_or(Refusal::Missing)?;
    let Some(san) = &rules.san else {
        return Ok(Vec::new());
    };
    let expected = filled(san).ok_or(Refusal::Other)?;
    match names_of(certificate).is_some_and(|names| names.contains(&expected.to_ascii_lowercase()))
    {
        true => Ok(Vec::new()),
        false => Err(Refusal::Other),
    }
}

/// The DNS names of a certificate, in small letters.
fn names_of(certificate: &HeaderValue) -> Option<Vec<String>> {
    let text = certificate.to_str().ok()?;
    let text = text.strip_prefix(':')?.strip_suffix(':')?;
    let der = CertificateDer::from(BASE64.decode(text).ok()?);
    let parsed = webpki::EndEntityCert::try_from(&der).ok()?;
    Some(
        parsed
            .valid_dns_names()
            .map(str::to_ascii_lowercase)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(names: &[&str]) -> HeaderValue {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        HeaderValue::try_from(format!(":{}:", BASE64.encode(made.cert.der()))).unwrap()
    }

    #[test]
    fn a_certificate_must_be_for_the_name_that_is_asked_for() {
        let any = CertificateAuth::default();
        let one = shown(&["Blue.clients.test", "other.test"]);
        assert_eq!(judge(&any, None, |_| None), Err(Refusal::Missing));
        assert_eq!(judge(&any, Some(&one), |_| None), Ok(Vec::new()));
        let auth = crate::config::load(
            "test",
            "[[listener]]\ntls = { internal = \"x\", client_ca = \"y\" }\n\
             [[route]]\nhost = \"{i}.test\"\ninstance = \"{i}\"\n\
             [[route.auth.any]]\nclient_certificate = { san = \"{i}.clients.test\" }\n",
            &crate::config::Variables::default(),
        );
        let auth = auth.unwrap().route[0].forwarding.auth.clone().unwrap();
        let rules = auth.any[0].client_certificate.clone().unwrap();
        let judged = |certificate: &HeaderValue, i: &str| {
            judge(&rules, Some(certificate), |text| {
                text.filled(|name| (name == "i").then_some(i))
            })
        };
        assert_eq!(judged(&one, "blue"), Ok(Vec::new()));
        for wrong in ["red", "", "x.blue"] {
            assert_eq!(judged(&one, wrong), Err(Refusal::Other), "{wrong}");
        }
        assert_eq!(
            judged(&shown(&["*.clients.test"]), "blue"),
            Err(Refusal::Other)
        );
        assert_eq!(
            judged(&HeaderValue::from_static(":AA==:"), "blue"),
            Err(Refusal::Other)
        );
    }
}
