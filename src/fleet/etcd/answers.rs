//! What etcd's JSON gateway answers, and how it is written to.
//!
//! Guarantees: what is no answer of etcd's is none; a key that is no text is none of ours; texts of an error are cut.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::fleet::engine::{Change, EngineError, Entry, News};

/// What is said of an answer that cannot be made anything of.
pub(super) const NOT_ETCD: &str = "an answer that is not etcd's";

/// What a member has answered.
pub(super) enum Refusal {
    /// Another may do better.
    Away(String),
    /// The token is not good any more.
    Token,
    /// Nobody will.
    Final(EngineError),
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn decode(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    BASE64_STANDARD.decode(text).unwrap_or_default()
}

/// A number, which the gateway writes as a text, and leaves out if it is 0.
pub(super) fn number(value: &Value) -> i64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or_else(|| value.as_i64()).unwrap_or(0)
}

/// A cluster's number, which needs all of its bits.
pub(super) fn cluster(answer: &Value) -> u64 {
    let value = field(answer, "/header/cluster_id");
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or_else(|| value.as_u64()).unwrap_or(0)
}

pub(super) fn entry(value: &Value) -> Option<Entry> {
    Some(Entry {
        // What is no text is no key of ours.
        key: String::from_utf8(decode(value.get("key")?)).ok()?,
        value: decode(value.get("value").unwrap_or(&Value::Null)),
        created: number(value.get("create_revision")?),
        modified: number(value.get("mod_revision")?),
    })
}

pub(super) fn field<'v>(value: &'v Value, path: &str) -> &'v Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

/// What an answer that is none means.
pub(super) fn refusal(status: u16, body: &str) -> Refusal {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let value = value
        .get("error")
        .filter(|error| error.is_object())
        .unwrap_or(&value);
    let text = ["message", "error"]
        .into_iter()
        .find_map(|key| value.get(key)?.as_str())
        .unwrap_or(NOT_ETCD);
    let code = ["code", "grpc_code"]
        .into_iter()
        .find_map(|key| value.get(key)?.as_i64());
    let text = text.chars().take(200).collect::<String>();
    if text.contains("has been compacted") {
        return Refusal::Final(EngineError::Compacted(0));
    }
    match code {
        // Unauthenticated; and what etcd says of a token that it has forgotten.
        Some(16) => Refusal::Token,
        _ if text.contains("invalid auth token") => Refusal::Token,
        // Cancelled, unknown, deadline, exhausted, aborted, internal, unavailable.
        Some(1 | 2 | 4 | 8 | 10 | 13 | 14) => Refusal::Away(text),
        Some(_) if status < 500 => Refusal::Final(EngineError::Refused(text)),
        Some(_) | None => Refusal::Away(format!("{status} {text}")),
    }
}

pub(super) fn news_of(line: &[u8]) -> Result<Option<News>, EngineError> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(line)
        .map_err(|_| EngineError::Unavailable("a watch that is not etcd's".to_owned()))?;
    let Some(result) = value.get("result") else {
        let text = field(&value, "/error/message")
            .as_str()
            .unwrap_or("the watch ended");
        return Err(EngineError::Unavailable(text.to_owned()));
    };
    let compacted = number(field(result, "/compact_revision"));
    if compacted > 0 {
        return Err(EngineError::Compacted(compacted));
    }
    if field(result, "/canceled").as_bool() == Some(true) {
        let text = field(result, "/cancel_reason")
            .as_str()
            .unwrap_or("the watch was cancelled");
        return Err(EngineError::Unavailable(text.to_owned()));
    }
    let events = field(result, "/events")
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let changes: Vec<Change> = events
        .iter()
        .filter_map(|event| {
            let kv = event.get("kv")?;
            // `PUT` is the word that is left out.
            match event.get("type").and_then(Value::as_str) {
                Some("DELETE") => Some(Change::Deleted {
                    key: String::from_utf8(decode(kv.get("key")?)).ok()?,
                    revision: number(field(kv, "/mod_revision")),
                }),
                Some(_) | None => entry(kv).map(Change::Put),
            }
        })
        .collect();
    Ok((!changes.is_empty()).then_some(News::Changes(changes)))
}
