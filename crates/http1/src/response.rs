//! Responses, as a client reads them.
//!
//! Guarantees: as for requests; besides, a response that has no body by its status or by what was
//! asked has none, whatever its fields say (RFC 9112 §6.3, rule 1).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{Method, StatusCode, Version};

use crate::chunk::ChunkError;
use crate::decoder::{BodyDecoder, BodyPart};
use crate::fields::Fields;
use crate::framing::{BodyLength, Said};
use crate::head::{HeadError, HeadLimits, unparsed};
use crate::reader::{MessageReader, Parsed};

/// A response's head, which borrows its bytes.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'t, 'b> {
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, which may be empty.
    pub reason: &'b str,
    /// The fields, in their order.
    pub fields: Fields<'t, 'b>,
    /// What they say about the message.
    pub framing: ResponseFraming,
    /// The head's own bytes.
    pub bytes: &'b [u8],
}

/// A response's reason phrase that is not the usual one: an extension of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(Box<str>);

/// What a response's head says about the message and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFraming {
    /// How the body's end is found.
    pub body: BodyLength,
    /// Whether the connection takes another request afterwards.
    pub is_persistent: bool,
    /// Whether another response to the same request follows (RFC 9110 §15.2).
    pub is_interim: bool,
}

/// Reads responses off a connection, one after the other.
#[derive(Debug)]
pub struct ResponseReader(MessageReader);

// === impl Reason ===

impl Reason {
    /// That of a response that was read.
    pub fn new(reason: &str) -> Self {
        Self(reason.into())
    }

    /// Its octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

// === impl ResponseReader ===

impl ResponseReader {
    /// A reader at the beginning of a connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self(MessageReader::new(limits))
    }

    /// Hands the head that `input` begins with to `take`, once it is whole; returns its length and
    /// what `take` made of it. `asked` is the method of the request that it answers. The caller
    /// drops the head's bytes, and then reads the body.
    pub fn read_head<R>(
        &mut self,
        input: &[u8],
        asked: &Method,
        take: impl FnOnce(ResponseHead<'_, '_>) -> R,
    ) -> Result<Option<(usize, R)>, HeadError> {
        let (limits, mut take) = (self.0.limits(), Some(take));
        self.0
            .read_head(input, |table| parse(input, table, limits, asked, &mut take))
    }

    /// The body of the response whose head was read last.
    pub fn body(&self) -> BodyDecoder {
        self.0.body()
    }

    /// Takes the next part of that body off the beginning of `input`.
    pub fn read_body(&mut self, input: &mut BytesMut) -> Result<BodyPart, ChunkError> {
        self.0.read_body(input)
    }
}

fn parse<'b, R, F: FnOnce(ResponseHead<'_, 'b>) -> R>(
    input: &'b [u8],
    table: &mut [MaybeUninit<httparse::Header<'b>>],
    limits: HeadLimits,
    asked: &Method,
    take: &mut Option<F>,
) -> Parsed<R> {
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let status = config.parse_response_with_uninit_headers(&mut parsed, input, table);
    let httparse::Status::Complete(length) = status.map_err(unparsed)? else {
        return Ok(None);
    };
    if length > limits.bytes {
        return Err(HeadError::TooLarge(limits.bytes));
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let Some(status) = status else {
        return Err(HeadError::Value);
    };
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let fields = Fields(parsed.headers);
    let framing = framing(fields, version, status, asked)?;
    let head = ResponseHead {
        version,
        status,
        reason: parsed.reason.unwrap_or_default(),
        fields,
        framing,
        bytes: input.get(..length).unwrap_or_default(),
    };
    let taken = take.take().map(|take| take(head));
    Ok(taken.map(|taken| (framing.body, length, taken)))
}

/// Whether a response to this has no body, whatever its fields say (RFC 9110 §6.4.1).
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn framing(
    fields: Fields<'_, '_>,
    version: Version,
    status: StatusCode,
    asked: &Method,
) -> Result<ResponseFraming, HeadError> {
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    let has_none = is_bodiless(status) || *asked == Method::HEAD;
    let said = match Said::by(fields) {
        Ok(said) => said,
        // A length that is none does no harm where nothing follows it, on this connection either.
        Err(_) if has_none => {
            let mut said = Said::default();
            said.closes = true;
            said
        }
        Err(error) => return Err(error.into()),
    };
    let body = match has_none {
        true => BodyLength::Nothing,
        false => said.response_body(version)?,
    };
    Ok(ResponseFraming {
        body,
        is_persistent: said.is_persistent(version) && !is_switch && body != BodyLength::UntilClose,
        is_interim: status.is_informational() && !is_switch,
    })
}

#[cfg(test)]
mod tests;
