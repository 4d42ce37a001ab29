//! How a configuration writes durations.

use std::time::Duration;

use hypeman::GoDuration;
use serde::Serializer;

/// Writes a duration as Go does, such as `1m30s`.
pub(super) fn go_text<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&GoDuration::from(*value))
}

/// The same for one that may be left out.
#[allow(clippy::ref_option, reason = "serde hands it over so")]
pub(super) fn optional_go_text<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => go_text(value, serializer),
        None => serializer.serialize_none(),
    }
}
