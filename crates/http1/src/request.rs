//! Requests, as a server reads them.
//!
//! Guarantees: a head is handed over only when it is whole, has one reading, and its body one
//! length; the body that follows it is read by what the head said, and nothing else is.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::Version;

use crate::chunk::ChunkError;
use crate::decoder::{BodyDecoder, BodyPart};
use crate::fields::Fields;
use crate::framing::{BodyLength, Said};
use crate::head::{HeadError, HeadLimits, unparsed};
use crate::reader::{MessageReader, Parsed};

/// A request's head, which borrows its bytes.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'t, 'b> {
    /// The method; it is a token.
    pub method: &'b str,
    /// The target, as it came.
    pub target: &'b str,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields, in their order.
    pub fields: Fields<'t, 'b>,
    /// What they say about the message.
    pub framing: RequestFraming,
    /// The head's own bytes.
    pub bytes: &'b [u8],
}

/// What a request's fields say about the message and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFraming {
    /// How the body's end is found; never by the connection's end.
    pub body: BodyLength,
    /// Whether the client wants to go on with the connection (RFC 9112 §9.3).
    pub is_persistent: bool,
    /// Whether the client waits to be asked for the body (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Whether the client takes trailers (RFC 9110 §10.1.4).
    pub wants_trailers: bool,
    /// Whether the client asks for another protocol on the connection (RFC 9110 §7.8).
    pub is_upgrade: bool,
}

/// Reads requests off a connection, one after the other.
#[derive(Debug)]
pub struct RequestReader(MessageReader);

// === impl RequestReader ===

impl RequestReader {
    /// A reader at the beginning of a connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self(MessageReader::new(limits))
    }

    /// Hands the head that `input` begins with to `take`, once it is whole; returns its length and
    /// what `take` made of it. The caller drops the head's bytes, and then reads the body. Empty
    /// lines before it are the caller's, too ([`empty_lines`]).
    pub fn read_head<R>(
        &mut self,
        input: &[u8],
        take: impl FnOnce(RequestHead<'_, '_>) -> R,
    ) -> Result<Option<(usize, R)>, HeadError> {
        let (limits, mut take) = (self.0.limits(), Some(take));
        self.0
            .read_head(input, |table| parse(input, table, limits, &mut take))
    }

    /// The body of the request whose head was read last.
    pub fn body(&self) -> BodyDecoder {
        self.0.body()
    }

    /// Takes the next part of that body off the beginning of `input`.
    pub fn read_body(&mut self, input: &mut BytesMut) -> Result<BodyPart, ChunkError> {
        self.0.read_body(input)
    }
}

fn parse<'b, R, F: FnOnce(RequestHead<'_, 'b>) -> R>(
    input: &'b [u8],
    table: &mut [MaybeUninit<httparse::Header<'b>>],
    limits: HeadLimits,
    take: &mut Option<F>,
) -> Parsed<R> {
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(input, table);
    let httparse::Status::Complete(length) = status.map_err(unparsed)? else {
        return Ok(None);
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(HeadError::Syntax(httparse::Error::Token));
    };
    if length > limits.bytes {
        return Err(HeadError::TooLarge(limits.bytes));
    }
    let version = match version {
        1 => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let fields = Fields(parsed.headers);
    let framing = framing(fields, version)?;
    let head = RequestHead {
        method,
        target,
        version,
        fields,
        framing,
        bytes: input.get(..length).unwrap_or_default(),
    };
    let taken = take.take().map(|take| take(head));
    Ok(taken.map(|taken| (framing.body, length, taken)))
}

fn framing(fields: Fields<'_, '_>, version: Version) -> Result<RequestFraming, HeadError> {
    let said = Said::by(fields)?;
    let is_new = version == Version::HTTP_11;
    Ok(RequestFraming {
        body: said.request_body(version)?,
        is_persistent: said.is_persistent(version),
        // Both are of HTTP/1.1 (RFC 9110 §7.8, §10.1.1).
        expects_continue: is_new && said.expects_continue,
        wants_trailers: said.wants_trailers,
        is_upgrade: is_new && said.upgrades && said.upgrade.is_some(),
    })
}

/// Bytes of the empty lines before a head, which mean nothing (RFC 9112 §2.2). Were they kept, each
/// would be looked at again with the next.
pub fn empty_lines(input: &[u8]) -> usize {
    let mut rest = input;
    while let Some(less) = (rest.strip_prefix(b"\n")).or_else(|| rest.strip_prefix(b"\r\n")) {
        rest = less;
    }
    input.len() - rest.len()
}

#[cfg(test)]
mod tests;
