//! What the codec and hyper's client make of the same bytes.
//!
//! Guarantees: the two read the same, or one of the rules below says why they do not.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http1::{BodyLength, ChunkError, FramingError, HeadError};

use crate::codec::{self, End, LIMITS, Response, Seen};
use crate::peer;

/// Why ours refuses what hyper reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// RFC 9112 §6.3: a length that is none, be it beside a coding; a coding that stays on.
    Framing,
    /// RFC 9112 §7.1: as for requests.
    Chunks,
}

fn as_hyper(response: &Response, is_persistent: bool) -> peer::Response {
    let mut fields = HeaderMap::new();
    for (name, value) in &response.fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        fields.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    peer::Response {
        status: response.head.status,
        reason: response.head.reason.clone(),
        version: response.head.version,
        fields,
        body: response.body.clone(),
        trailers: response.trailers.clone(),
        is_whole: response.is_whole,
        is_persistent,
    }
}

fn rule(end: End) -> Option<Rule> {
    match end {
        End::Head(HeadError::Framing(
            FramingError::Coding | FramingError::NotChunked | FramingError::Length,
        )) => Some(Rule::Framing),
        End::Chunk(ChunkError::Chunk | ChunkError::Trailers) => Some(Rule::Chunks),
        _ => None,
    }
}

fn final_of(seen: &Seen<Response>) -> Option<&Response> {
    let mut messages = seen.messages.iter();
    messages.find(|message| !message.head.framing.is_interim)
}

/// Whether the lengths that it has are numbers, and the same (RFC 9110 §8.6).
fn has_one_length(response: &Response) -> bool {
    let mut lengths = Vec::new();
    for (name, value) in &response.fields {
        if name.eq_ignore_ascii_case("content-length") {
            lengths.extend(value.split(|byte| *byte == b',').map(|text| {
                let text = text.trim_ascii();
                let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
                let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
                text.parse::<u64>().ok()
            }));
        }
    }
    lengths.dedup();
    lengths.len() <= 1 && !lengths.contains(&None)
}

pub(crate) fn compare(
    bytes: &[u8],
    sizes: &[usize],
    asked: &Method,
) -> Result<Option<Rule>, String> {
    let parts = codec::cut(bytes, sizes);
    let seen = codec::responses(parts.iter().copied(), LIMITS, std::slice::from_ref(asked));
    let ours = final_of(&seen);
    // The connection ends where ours waits for that, and else stays open, to see what hyper would
    // do with it.
    let endless = |ours: &Response| ours.head.framing.body == BodyLength::UntilClose;
    let ends = seen.end != End::Clean || ours.is_none_or(endless);
    let theirs = peer::response(&parts, ends, asked);
    let difference = |what: &str| {
        format!(
            "{what}: {}\nours: {seen:#?}\nhyper: {theirs:#?}",
            bytes.escape_ascii()
        )
    };
    let (ours, theirs) = match (ours, &theirs) {
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            return rule(seen.end)
                .map(Some)
                .ok_or_else(|| difference("theirs alone"));
        }
        (Some(ours), None) => {
            // Or it broke off before hyper has handed it over.
            return match ours.is_whole {
                true => Err(difference("ours alone")),
                false => Ok(None),
            };
        }
        (Some(ours), Some(theirs)) => (ours, theirs),
    };
    if !ours.is_whole && !theirs.is_whole {
        return Ok(None);
    }
    // More bytes than the message has end the connection, whatever was said about it.
    let is_alone = seen.left.is_empty() && !ends;
    let is_switch = ours.head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    // Nor does hyper read a list of options that has high bytes (RFC 9110 §7.6.1 has none).
    let mut connection = ours.fields.iter();
    let is_read =
        !connection.any(|field| field.0.eq_ignore_ascii_case("connection") && !field.1.is_ascii());
    // Ours ends the connection after a length that is none, even where no body can follow it.
    let is_odd = ours.head.framing.body == BodyLength::Nothing && !has_one_length(ours);
    if is_odd && ours.head.framing.is_persistent {
        return Err(difference("kept open"));
    }
    let is_persistent = match is_alone && is_read && !is_switch && !is_odd {
        true => ours.head.framing.is_persistent,
        false => theirs.is_persistent,
    };
    match as_hyper(ours, is_persistent) == *theirs {
        true => Ok(None),
        false => rule(seen.end).map(Some).ok_or_else(|| difference("differ")),
    }
}
