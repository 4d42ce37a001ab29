//! What a handshake that failed means.
//!
//! Guarantees: a refusal, by either side, is told from a connection that only ended; the reason is
//! one sentence for operators, without a byte of what was sent.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};

/// A definite answer of a handshake: trying again leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One side does not accept the other, for this reason.
    Refused(Arc<str>),
    /// The instance does not speak the protocol that is wanted of it.
    WrongProtocol,
}

/// What the error of a handshake says for certain; `None` when the connection failed or ended
/// before the instance had answered.
pub fn verdict(error: &io::Error) -> Option<Verdict> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let no_protocol = [
        rustls::Error::NoApplicationProtocol,
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
    ];
    Some(match no_protocol.contains(error) {
        true => Verdict::WrongProtocol,
        false => Verdict::Refused(reason(error).into()),
    })
}

/// The kind of an error by which an instance says after the handshake, as TLS 1.3 has it, that it
/// does not accept the gateway's certificate. No socket has such an error, and libraries keep the
/// kind of an error and its text, if not the error itself.
const CERTIFICATE_REFUSED: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// An error of a connection that is there.
pub(super) fn later_error(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
            io::Error::new(CERTIFICATE_REFUSED, alerted(*alert))
        }
        Some(_) | None => error,
    }
}

/// Why the instance does not accept the gateway's certificate, if this error of a connection that
/// was there says so.
pub fn refusal_of_client_certificate(error: &(dyn Error + 'static)) -> Option<Arc<str>> {
    let mut next = Some(error);
    while let Some(error) = next {
        let h2 = error.downcast_ref::<h2::Error>();
        let io = error.downcast_ref::<io::Error>();
        let io = io.or_else(|| h2?.get_io());
        if let Some(io) = io.filter(|io| io.kind() == CERTIFICATE_REFUSED) {
            return Some(io.to_string().into());
        }
        next = error.source();
    }
    None
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    [
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
        AlertDescription::CertificateRequired,
    ]
    .contains(&alert)
}

fn alerted(alert: AlertDescription) -> String {
    match is_about_certificates(alert) {
        true => format!("the instance refuses the gateway's certificate, or its lack: {alert:?}"),
        false => format!("the instance breaks the handshake off: {alert:?}"),
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not told in words of ours is told in the library's"
)]
fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::NoCertificatesPresented => "the instance shows no certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => alerted(*alert),
        rustls::Error::InvalidMessage(_) => "the instance does not speak TLS".to_owned(),
        rustls::Error::PeerIncompatible(what) => {
            format!("the instance speaks no TLS that the gateway does: {what:?}")
        }
        other => format!("TLS with the instance failed: {other}"),
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not told in words of ours is told in the library's"
)]
fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the instance's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the instance's certificate is not valid yet".to_owned()
        }
        CertificateError::Revoked => "the instance's certificate is revoked".to_owned(),
        // A stranger may have the name of an issuer that is known.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the instance's certificate is self-signed, or from an unknown issuer".to_owned()
        }
        CertificateError::NotValidForName => {
            "the instance's certificate is for another name".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names: Vec<&str> = presented.iter().take(5).map(String::as_str).collect();
            let (expected, names) = (expected.to_str(), names.join(", "));
            format!("the instance's certificate is not for the name {expected}, but for: {names}")
        }
        CertificateError::UnknownRevocationStatus => {
            "no list in `crl` is of the issuer of the instance's certificate".to_owned()
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the list in `crl` of the issuer of the instance's certificate has expired".to_owned()
        }
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the instance's certificate is self-signed, and a CA's instead of a server's".to_owned()
        }
        other => format!("the instance's certificate is not accepted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: rustls::Error) -> Option<Verdict> {
        verdict(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_connection_that_ended_is_no_refusal_and_what_tls_says_is() {
        for kind in [
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::TimedOut,
        ] {
            assert_eq!(verdict(&kind.into()), None);
        }
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let reason = "the instance's certificate has expired";
        assert_eq!(of(expired), Some(Verdict::Refused(reason.into())));
        let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(of(alert), Some(Verdict::WrongProtocol));
    }

    #[test]
    fn a_client_certificate_that_is_refused_later_is_found_in_the_error_of_the_connection() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let error = later_error(io::Error::new(io::ErrorKind::InvalidData, alert));
        let reason = refusal_of_client_certificate(&error).unwrap();
        assert!(reason.contains("CertificateRequired"), "{reason}");
        let other = rustls::Error::AlertReceived(AlertDescription::InternalError);
        let error = later_error(io::Error::new(io::ErrorKind::InvalidData, other));
        assert_eq!(refusal_of_client_certificate(&error), None);
    }
}
