//! Authentication that belongs to a connection, and not to a request.
//!
//! Guarantees: a connection on which such a scheme was asked for or used is known as its client's
//! (Negotiate: RFC 4559 §6, where a proxy has to keep the connections apart; NTLM does the same).

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, StatusCode};
use http1::options;

/// Schemes that authenticate a connection.
const SCHEMES: [&str; 2] = ["negotiate", "ntlm"];

/// The name of a client's connection. No two connections have the same, whoever has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConnection {
    /// The process that has it, by a number that no other one has, or has had.
    process: u64,
    number: u64,
}

// === impl ClientConnection ===

impl ClientConnection {
    /// The name of a new connection.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::u64(1..));
        Self {
            process: *PROCESS,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The name of a connection that another member of the fleet has, as that one says it.
    pub fn parse(text: &str) -> Option<Self> {
        let (process, number) = text.split_once('.')?;
        let read = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            process: read(process)?,
            number: read(number)?,
        })
    }
}

impl fmt::Display for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.process, self.number)
    }
}

impl Default for ClientConnection {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a request brings credentials that are for its whole connection.
pub fn has_bound_credentials(headers: &HeaderMap) -> bool {
    has_scheme(headers, &AUTHORIZATION)
}

/// Whether a response asks for such credentials.
pub(super) fn is_bound_challenge(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED && has_scheme(headers, &WWW_AUTHENTICATE)
}

/// Whether one of a field's challenges or credentials is of these schemes. A challenge may stand
/// anywhere in a list (RFC 9110 §11.6.1); a parameter that looks like one costs a pooled connection
/// and nothing else.
fn has_scheme(headers: &HeaderMap, name: &HeaderName) -> bool {
    let values = headers.get_all(name).iter();
    let elements = values.flat_map(|value| options(value.as_bytes()));
    let mut words = elements.filter_map(|element| element.split(u8::is_ascii_whitespace).next());
    words.any(|word| {
        SCHEMES
            .iter()
            .any(|scheme| word.eq_ignore_ascii_case(scheme.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let values = values.iter();
        values
            .map(|value| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn schemes_of_connections_are_found_in_any_place_and_in_any_letters() {
        for values in [
            &["Negotiate"][..],
            &["NTLM TlRMTVNTUAAB"],
            &["Basic realm=\"a\", negotiate"],
            &["Basic realm=\"a\"", "Ntlm"],
        ] {
            let headers = fields(&WWW_AUTHENTICATE, values);
            assert!(
                is_bound_challenge(StatusCode::UNAUTHORIZED, &headers),
                "{values:?}"
            );
            assert!(!is_bound_challenge(StatusCode::OK, &headers), "{values:?}");
        }
        assert!(has_bound_credentials(&fields(
            &AUTHORIZATION,
            &["NTLM abc"]
        )));
        for value in ["Bearer ntlm", "Basic bnRsbQ==", "Digest a=\"b\"", ""] {
            assert!(
                !has_bound_credentials(&fields(&AUTHORIZATION, &[value])),
                "{value}"
            );
        }
    }
}
