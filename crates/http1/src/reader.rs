//! What reading requests and reading responses have in common.
//!
//! Guarantees: a head that is not whole is never taken; one that does not end within its limit is
//! refused as soon as that is certain; the body that is read next is that of the head that was read
//! last.

use std::mem::MaybeUninit;

use bytes::BytesMut;

use crate::chunk::ChunkError;
use crate::decoder::{BodyDecoder, BodyPart};
use crate::framing::BodyLength;
use crate::head::{HeadError, HeadLimits, Progress, with_table};

/// What a parser makes of a head: the length of its body, its own, and what was made of it; `None`
/// before it is whole.
pub(crate) type Parsed<R> = Result<Option<(BodyLength, usize, R)>, HeadError>;

/// Reads messages off a connection, one after the other.
#[derive(Debug)]
pub(crate) struct MessageReader {
    limits: HeadLimits,
    progress: Progress,
    body: BodyDecoder,
}

// === impl MessageReader ===

impl MessageReader {
    /// A reader at the beginning of a connection.
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            progress: Progress::default(),
            body: BodyDecoder::new(BodyLength::Nothing),
        }
    }

    pub(crate) fn limits(&self) -> HeadLimits {
        self.limits
    }

    /// Parses the head that `input` begins with, if that is of use now; returns its length and what
    /// was made of it once it is whole.
    pub(crate) fn read_head<'b, R>(
        &mut self,
        input: &'b [u8],
        parse: impl FnMut(&mut [MaybeUninit<httparse::Header<'b>>]) -> Parsed<R>,
    ) -> Result<Option<(usize, R)>, HeadError> {
        let limit = self.limits.bytes;
        if !self.progress.is_worth_parsing(input, limit) {
            return Ok(None);
        }
        let Some((body, length, taken)) = with_table(self.limits, parse)? else {
            return match input.len() > limit {
                true => Err(HeadError::TooLarge(limit)),
                false => Ok(None),
            };
        };
        self.progress.restart();
        self.body = BodyDecoder::new(body);
        Ok(Some((length, taken)))
    }

    /// The body of the message whose head was read last.
    pub(crate) fn body(&self) -> BodyDecoder {
        self.body
    }

    /// Takes the next part of that body off the beginning of `input`.
    pub(crate) fn read_body(&mut self, input: &mut BytesMut) -> Result<BodyPart, ChunkError> {
        self.body.take(input)
    }
}
