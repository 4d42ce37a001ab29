//! The compression of sleeping memory: what is accepted, and how it is kept (contract A.6, A.8).
//!
//! Guarantees: a kept policy is complete and normalised, every default written out; when
//! compression is off, its algorithm and its level are ignored and dropped. Nothing here
//! compresses: no driver of this control plane does.

use serde::{Deserialize, Serialize};

use hypeman::GoDuration;

use crate::error::Error;

/// Compression as a caller asks for it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CompressionRequest {
    enabled: bool,
    algorithm: Option<String>,
    level: Option<i64>,
}

/// A snapshot policy as a caller sends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SnapshotPolicyRequest {
    compression: Option<CompressionRequest>,
    standby_compression_delay: Option<String>,
}

/// Compression as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Compression {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<i64>,
}

/// A snapshot policy as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SnapshotPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<Compression>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standby_compression_delay: Option<GoDuration>,
}

// === impl Compression ===

impl Compression {
    /// Takes zstd levels 1 to 19 and lz4 levels 0 to 9. The refusal has the code of the operation
    /// that asks.
    pub(crate) fn accept(request: &CompressionRequest, code: &'static str) -> Result<Self, Error> {
        let CompressionRequest {
            enabled,
            algorithm,
            level,
        } = request;
        if !enabled {
            return Ok(Self {
                enabled: false,
                algorithm: None,
                level: None,
            });
        }
        let algorithm = algorithm.as_deref().filter(|text| !text.is_empty());
        let (algorithm, levels, default) = match algorithm.unwrap_or("zstd") {
            "zstd" => ("zstd", 1..=19, 1),
            "lz4" => ("lz4", 0..=9, 0),
            _ => return Err(Error::invalid(code, "algorithm must be zstd or lz4")),
        };
        let level = level.unwrap_or(default);
        if !levels.contains(&level) {
            let (least, most) = levels.into_inner();
            let text = format!("{algorithm} level must be between {least} and {most}");
            return Err(Error::invalid(code, text));
        }
        Ok(Self {
            enabled: true,
            algorithm: Some(algorithm),
            level: Some(level),
        })
    }
}

/// Reads the time that a sleep stays uncompressed. The refusal has the code of the operation that
/// asks.
pub(crate) fn accept_delay(text: &str, code: &'static str) -> Result<GoDuration, Error> {
    let delay = text.parse::<GoDuration>().ok();
    let delay = delay.filter(|delay| delay.nanos() >= 0);
    delay.ok_or_else(|| {
        let text = format!("`{text}` is not a duration that is zero or longer");
        Error::invalid(code, text)
    })
}

// === impl SnapshotPolicy ===

impl SnapshotPolicy {
    pub(crate) fn accept(request: &SnapshotPolicyRequest) -> Result<Self, Error> {
        const CODE: &str = "invalid_snapshot_policy";
        let compression = request.compression.as_ref();
        let compression = compression.map(|request| Compression::accept(request, CODE));
        let delay = request.standby_compression_delay.as_deref();
        let delay = delay.filter(|text| !text.is_empty());
        let delay = delay.map(|text| accept_delay(text, CODE));
        Ok(Self {
            compression: compression.transpose()?,
            standby_compression_delay: delay.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn accept(policy: Value) -> Result<Value, Error> {
        let request = serde_json::from_value(policy).unwrap();
        SnapshotPolicy::accept(&request).map(|policy| json!(policy))
    }

    #[test]
    fn a_policy_is_kept_with_its_defaults_and_without_what_is_off() {
        for (request, kept) in [
            (json!({}), json!({})),
            (
                json!({ "compression": { "enabled": true } }),
                json!({ "compression": { "enabled": true, "algorithm": "zstd", "level": 1 } }),
            ),
            (
                json!({ "compression": { "enabled": true, "algorithm": "lz4" } }),
                json!({ "compression": { "enabled": true, "algorithm": "lz4", "level": 0 } }),
            ),
            (
                json!({ "compression": { "enabled": false, "algorithm": "rar", "level": 99 },
                        "standby_compression_delay": "90s" }),
                json!({ "compression": { "enabled": false },
                        "standby_compression_delay": "1m30s" }),
            ),
        ] {
            assert_eq!(accept(request.clone()).unwrap(), kept, "{request}");
        }
    }

    #[test]
    fn an_unknown_algorithm_a_level_out_of_range_and_a_bad_delay_are_refused() {
        for policy in [
            json!({ "compression": { "enabled": true, "algorithm": "rar" } }),
            json!({ "compression": { "enabled": true, "level": 0 } }),
            json!({ "compression": { "enabled": true, "level": 20 } }),
            json!({ "compression": { "enabled": true, "algorithm": "lz4", "level": 10 } }),
            json!({ "standby_compression_delay": "soon" }),
            json!({ "standby_compression_delay": "-1s" }),
        ] {
            let refused = accept(policy.clone()).unwrap_err();
            assert_eq!(refused.code(), "invalid_snapshot_policy", "{policy}");
        }
    }
}
