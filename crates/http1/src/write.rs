//! Heads on their way out.
//!
//! Guarantees: a head says how its body ends in one way only, and what it says is what the encoder
//! that belongs to it does; a length or coding that came from elsewhere is not passed on.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use crate::fields::{digits, has_option};
use crate::framing::BodyLength;
use crate::response::is_bodiless;

/// Who a response goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    /// The version of the request.
    pub version: Version,
    /// Whether it asked for the head alone.
    pub is_head: bool,
    /// Whether the connection is to end with this response.
    pub is_last: bool,
}

/// What a response's head has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How the body that follows it has to be written.
    pub body: BodyLength,
    /// Whether the connection ends with it.
    pub is_last: bool,
}

/// Writes one field line.
pub fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn length_line(out: &mut Vec<u8>, name: &str, length: u64, came: Option<&[u8]>) {
    // What is there already in another form of the same number stays as it is.
    match came.filter(|value| digits(value) == Some(length)) {
        Some(value) => line(out, name, value),
        None => line(out, name, length.to_string().as_bytes()),
    }
}

/// Writes a request's head behind `out`; returns how the body that follows it has to be written: a
/// request's never ends with the connection (RFC 9112 §6.3, rule 7). The fields that frame a body are those of `body`, in the
/// place of the first that was among `fields`, or at the end; `add` writes lines of its own before
/// that.
pub fn write_request<'a>(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: BodyLength,
    add: impl FnOnce(&mut Vec<u8>),
) -> BodyLength {
    let body = match body {
        BodyLength::UntilClose => BodyLength::Chunked,
        BodyLength::Nothing | BodyLength::Length(_) | BodyLength::Chunked => body,
    };
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut is_framed = false;
    for (name, value) in fields {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            14 if is(CONTENT_LENGTH.as_str()) => {
                if let (BodyLength::Length(length), false) = (body, is_framed) {
                    length_line(out, name, length, Some(value));
                    is_framed = true;
                }
            }
            17 if is(TRANSFER_ENCODING.as_str()) => {
                if let (BodyLength::Chunked, false) = (body, is_framed) {
                    line(out, name, b"chunked");
                    is_framed = true;
                }
            }
            _ => line(out, name, value),
        }
    }
    add(out);
    match body {
        BodyLength::Length(length) if !is_framed => {
            length_line(out, CONTENT_LENGTH.as_str(), length, None);
        }
        BodyLength::Chunked if !is_framed => {
            line(out, TRANSFER_ENCODING.as_str(), b"chunked");
        }
        BodyLength::Nothing
        | BodyLength::UntilClose
        | BodyLength::Length(_)
        | BodyLength::Chunked => {}
    }
    out.extend_from_slice(b"\r\n");
    body
}

/// A final response, or a switch of protocols.
#[derive(Debug, Clone, Copy)]
pub struct Final<'a> {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<&'a [u8]>,
    /// The fields; what they say about the body's length or coding is not passed on.
    pub headers: &'a HeaderMap,
    /// The body's length, where it is known; else one among the fields is believed.
    pub length: Option<u64>,
}

/// Writes a response's head behind `out`. `add` writes lines of its own, `date` the value of a Date
/// where there is none (RFC 9110 §6.6.1).
pub fn write_response(
    out: &mut Vec<u8>,
    response: Final<'_>,
    audience: Audience,
    add: impl FnOnce(&mut Vec<u8>),
    date: impl FnOnce(&mut Vec<u8>),
) -> Outcome {
    let Final {
        status, headers, ..
    } = response;
    status_line(out, audience.version, status, response.reason);
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    let has_none = is_bodiless(status);
    let length = response.length.or_else(|| only_length(headers));
    let (mut is_dated, mut closes, mut is_measured) = (false, false, false);
    for (name, value) in headers {
        match *name {
            // Framed anew below.
            TRANSFER_ENCODING => continue,
            CONTENT_LENGTH if has_none => continue,
            CONTENT_LENGTH if audience.is_head => {
                if let Some(length) = only_length(headers) {
                    is_measured = true;
                    length_line(out, name.as_str(), length, Some(value.as_bytes()));
                }
                continue;
            }
            CONTENT_LENGTH => {
                if let Some(length) = length.filter(|_| !is_measured) {
                    is_measured = true;
                    length_line(out, name.as_str(), length, Some(value.as_bytes()));
                }
                continue;
            }
            CONNECTION => closes |= has_option(value.as_bytes(), "close"),
            DATE => is_dated = true,
            _ => {}
        }
        line(out, name.as_str(), value.as_bytes());
    }
    add(out);
    let is_old = audience.version == Version::HTTP_10;
    let body = match length {
        _ if has_none => BodyLength::Nothing,
        Some(length) => {
            if !(is_measured || audience.is_head && length == 0) {
                length_line(out, CONTENT_LENGTH.as_str(), length, None);
            }
            match audience.is_head {
                true => BodyLength::Nothing,
                false => BodyLength::Length(length),
            }
        }
        None if audience.is_head => BodyLength::Nothing,
        // It does not know chunks (RFC 9112 §6.1).
        None if is_old => BodyLength::UntilClose,
        None => {
            line(out, TRANSFER_ENCODING.as_str(), b"chunked");
            BodyLength::Chunked
        }
    };
    let is_last = audience.is_last || closes || body == BodyLength::UntilClose;
    match (is_last, is_old) {
        _ if is_switch => {}
        (true, _) if !closes => line(out, CONNECTION.as_str(), b"close"),
        (false, true) => line(out, CONNECTION.as_str(), b"keep-alive"),
        _ => {}
    }
    if !is_dated {
        out.extend_from_slice(b"date: ");
        date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Outcome { body, is_last }
}

/// Writes an interim response (RFC 9110 §15.2), which has no body and says nothing about one.
pub fn write_interim(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    status_line(out, Version::HTTP_11, status, None);
    for (name, value) in headers {
        if !matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION) {
            line(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The version is the client's: some of those that know HTTP/1.0 alone take no other.
fn status_line(out: &mut Vec<u8>, version: Version, status: StatusCode, reason: Option<&[u8]>) {
    let is_old = version == Version::HTTP_10;
    if status == StatusCode::OK && reason.is_none() && !is_old {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let usual = status.canonical_reason().unwrap_or_default();
    for part in [
        if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " },
        status.as_str().as_bytes(),
        b" ",
        reason.unwrap_or(usual.as_bytes()),
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

/// The length that a head gives a body which does not know its own: the one that is there, if it is
/// a number and nothing overrules it (RFC 9112 §6.3).
pub fn only_length(headers: &HeaderMap) -> Option<u64> {
    // A coding overrules it (RFC 9112 §6.3, rule 3).
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (Some(length), None) => digits(length.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
