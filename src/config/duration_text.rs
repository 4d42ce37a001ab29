//! How a configuration writes durations.

use std::time::Duration;

use hypeman::GoDuration;
use serde::Serializer;

/// Writes a duration as Go does, such as `1m30s`.
pub(super) fn go_text<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&GoDuration::from(*value))
}
