//! The longest that a request can wait, by its route's settings and its client's fields.
//!
//! Guarantees: a client can only shorten what its route allows: with `grpc-timeout` (gRPC over
//! HTTP/2, "Requests"), or with `Prefer: wait=…` (RFC 7240 §4.3).

use std::time::Duration;

use crate::client::Request;
use crate::upstream::{Field, Fields};

/// The shortest of what the route allows and what the client asks for.
pub(super) fn client_timeout<B>(route: Duration, request: &Request<B>, fields: Fields) -> Duration {
    if !fields.has(Field::GrpcTimeout) && !fields.has(Field::Prefer) {
        return route;
    }
    let headers = request.headers();
    let grpc = headers
        .get("grpc-timeout")
        .and_then(|value| grpc_timeout(value.to_str().ok()?));
    let prefer = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(prefer_wait);
    route
        .min(grpc.unwrap_or(Duration::MAX))
        .min(prefer.unwrap_or(Duration::MAX))
}

/// The time of a `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The time of `wait` in a `Prefer` field.
fn prefer_wait(text: &str) -> Option<Duration> {
    let preferences = text.split([',', ';']).map(str::trim);
    preferences
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, value)| value.trim().trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_can_shorten_the_wait_and_never_lengthen_it() {
        let route = Duration::from_secs(30);
        for (name, value, expected) in [
            ("grpc-timeout", "250m", Duration::from_millis(250)),
            ("grpc-timeout", "1S", Duration::from_secs(1)),
            ("grpc-timeout", "99999999H", route),
            ("grpc-timeout", "123456789S", route),
            ("grpc-timeout", "1", route),
            ("grpc-timeout", "", route),
            ("grpc-timeout", "-1S", route),
            ("prefer", "respond-async, wait=10", Duration::from_secs(10)),
            ("prefer", "wait=100", route),
            ("prefer", "wait=soon", route),
        ] {
            let mut request = Request::new(());
            let value_of_field = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value_of_field);
            let fields = Fields::of(request.headers());
            assert_eq!(
                client_timeout(route, &request, fields),
                expected,
                "{name}: {value}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_ignored(text in "\\PC{0,20}") {
            let _ = (grpc_timeout(&text), prefer_wait(&text));
        }
    }
}
