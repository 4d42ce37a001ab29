//! Heads on their way out.
//!
//! Guarantees: a head says how its body ends in one way only, and what it says is what the encoder
//! that belongs to it does; a length or coding that came from elsewhere is not passed on.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use crate::fields::{digits, has_option};
use crate::framing::BodyLength;
use crate::lines::{FieldLines, Piece};
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
    named_line(out, name.as_bytes(), value);
}

#[inline]
fn named_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    // One by one: what is short and known needs no call to be copied.
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
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
    let mut framing = Framing::begin(out, method, target, body);
    for (name, value) in fields {
        framing.field(out, name, value);
    }
    add(out);
    framing.end(out)
}

/// The same with the lines of a head that passes through.
pub fn write_request_lines(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    fields: &FieldLines,
    body: BodyLength,
    add: impl FnOnce(&mut Vec<u8>),
) -> BodyLength {
    let mut framing = Framing::begin(out, method, target, body);
    for piece in fields.pieces() {
        match piece {
            Piece::Lines(lines) => out.extend_from_slice(lines),
            Piece::Length(value) => framing.length(out, CONTENT_LENGTH.as_str(), value),
            Piece::Coding => framing.coding(out, TRANSFER_ENCODING.as_str()),
            Piece::Line(name, value) => named_line(out, name, value),
        }
    }
    add(out);
    framing.end(out)
}

/// How the head of a request that is being written says where its body ends.
struct Framing {
    body: BodyLength,
    /// It has said so.
    is_said: bool,
}

impl Framing {
    /// Writes the line before the fields.
    fn begin(out: &mut Vec<u8>, method: &str, target: &str, body: BodyLength) -> Self {
        let body = match body {
            BodyLength::UntilClose => BodyLength::Chunked,
            BodyLength::Nothing | BodyLength::Length(_) | BodyLength::Chunked => body,
        };
        for part in [method, " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        Self {
            body,
            is_said: false,
        }
    }

    /// Writes a field; one that frames a body only where it is the first, and in the body's words.
    fn field(&mut self, out: &mut Vec<u8>, name: &str, value: &[u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            14 if is(CONTENT_LENGTH.as_str()) => self.length(out, name, value),
            17 if is(TRANSFER_ENCODING.as_str()) => self.coding(out, name),
            _ => line(out, name, value),
        }
    }

    /// Writes a field that says how long the body is, which came with this value.
    fn length(&mut self, out: &mut Vec<u8>, name: &str, came: &[u8]) {
        if let (BodyLength::Length(length), false) = (self.body, self.is_said) {
            length_line(out, name, length, Some(came));
            self.is_said = true;
        }
    }

    /// Writes a field that says how the body is coded.
    fn coding(&mut self, out: &mut Vec<u8>, name: &str) {
        if let (BodyLength::Chunked, false) = (self.body, self.is_said) {
            line(out, name, b"chunked");
            self.is_said = true;
        }
    }

    /// Writes what follows the fields.
    fn end(self, out: &mut Vec<u8>) -> BodyLength {
        match self.body {
            BodyLength::Length(length) if !self.is_said => {
                length_line(out, CONTENT_LENGTH.as_str(), length, None);
            }
            BodyLength::Chunked if !self.is_said => {
                line(out, TRANSFER_ENCODING.as_str(), b"chunked");
            }
            BodyLength::Nothing
            | BodyLength::UntilClose
            | BodyLength::Length(_)
            | BodyLength::Chunked => {}
        }
        out.extend_from_slice(b"\r\n");
        self.body
    }
}

/// A final response, or a switch of protocols.
#[derive(Debug, Clone, Copy)]
pub struct Final<'a> {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<&'a [u8]>,
    /// Fields that are still lines, which come first. What the fields say about the body's length or
    /// coding is not passed on.
    pub lines: Option<&'a FieldLines>,
    /// The others.
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
        status,
        lines,
        headers,
        ..
    } = response;
    status_line(out, audience.version, status, response.reason);
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    let has_none = is_bodiless(status);
    let only_length = || match lines {
        Some(lines) => only_length_of(lines),
        None => only_length(headers),
    };
    let length = response.length.or_else(only_length);
    let (mut is_dated, mut closes, mut is_measured) = (false, false, false);
    let mut measure = |out: &mut Vec<u8>, name: &str, value: &[u8]| {
        let length = match audience.is_head {
            _ if has_none => None,
            true => only_length(),
            false => length.filter(|_| !is_measured),
        };
        if let Some(length) = length {
            is_measured = true;
            length_line(out, name, length, Some(value));
        }
    };
    if let Some(lines) = lines {
        for piece in lines.pieces() {
            match piece {
                Piece::Lines(lines) => out.extend_from_slice(lines),
                Piece::Length(value) => measure(out, CONTENT_LENGTH.as_str(), value),
                // Framed anew below.
                Piece::Coding => {}
                Piece::Line(name, value) => named_line(out, name, value),
            }
        }
        is_dated = lines.has(&DATE);
        closes = lines
            .values(CONNECTION)
            .any(|value| has_option(value, "close"));
    }
    for (name, value) in headers {
        match *name {
            // Framed anew below.
            TRANSFER_ENCODING => continue,
            CONTENT_LENGTH => {
                measure(out, name.as_str(), value.as_bytes());
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

/// The same of lines.
fn only_length_of(lines: &FieldLines) -> Option<u64> {
    if lines.values(TRANSFER_ENCODING).next().is_some() {
        return None;
    }
    let mut lengths = lines.values(CONTENT_LENGTH);
    match (lengths.next(), lengths.next()) {
        (Some(length), None) => digits(length),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
