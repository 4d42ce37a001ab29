//! The encoder of a body.
//!
//! Guarantees: what is written is as long as its head has said, or whoever writes it hears that it
//! is not: a body that is cut short never looks whole.

use std::io::Write as _;

use http::HeaderMap;

use crate::framing::BodyLength;
use crate::write::line;

/// The part of a body that is still to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyEncoder(BodyLength);

/// A body is not as long as its head has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More came.
    #[error("the body is longer than its Content-Length")]
    TooLong,
    /// It ended early.
    #[error("the body is shorter than its Content-Length")]
    TooShort,
}

// === impl BodyEncoder ===

impl BodyEncoder {
    /// The encoder of a body that its head frames so.
    pub fn new(length: BodyLength) -> Self {
        Self(length)
    }

    /// Whether nothing may be written.
    pub fn is_nothing(self) -> bool {
        matches!(self.0, BodyLength::Nothing | BodyLength::Length(0))
    }

    /// Whether parts of the body may follow each other with nothing between them.
    pub fn is_plain(self) -> bool {
        !matches!(self.0, BodyLength::Chunked)
    }

    /// Begins a part of `length` bytes, more than none: puts what comes before it behind `out`, and
    /// returns what comes after it.
    pub fn begin_part(
        &mut self,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<&'static [u8], EncodeError> {
        match &mut self.0 {
            BodyLength::Nothing => Err(EncodeError::TooLong),
            BodyLength::Length(left) => {
                *left = left
                    .checked_sub(length as u64)
                    .ok_or(EncodeError::TooLong)?;
                Ok(b"")
            }
            // A chunk of no bytes would be the last.
            BodyLength::Chunked if length == 0 => Ok(b""),
            BodyLength::Chunked => {
                // Writing into memory does not fail.
                let _written = write!(out, "{length:X}\r\n");
                Ok(b"\r\n")
            }
            BodyLength::UntilClose => Ok(b""),
        }
    }

    /// Ends the body: puts what ends it behind `out`. Trailers go where there are chunks, and are
    /// dropped elsewhere, as they may be (RFC 9110 §6.5.1).
    pub fn end(self, trailers: Option<&HeaderMap>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self.0 {
            BodyLength::Length(1..) => return Err(EncodeError::TooShort),
            BodyLength::Nothing | BodyLength::Length(0) | BodyLength::UntilClose => {}
            BodyLength::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    line(out, name.as_str(), value.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::decoder::{BodyDecoder, BodyPart};

    fn encoded(
        length: BodyLength,
        parts: &[Vec<u8>],
        trailers: Option<&HeaderMap>,
    ) -> Result<Vec<u8>, EncodeError> {
        let (mut encoder, mut out) = (BodyEncoder::new(length), Vec::new());
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let tail = encoder.begin_part(part.len(), &mut out)?;
            out.extend_from_slice(part);
            out.extend_from_slice(tail);
        }
        encoder.end(trailers, &mut out).map(|()| out)
    }

    #[test]
    fn a_body_of_another_length_is_an_error() {
        let parts = [b"abc".to_vec()];
        for (length, expected) in [
            (BodyLength::Length(2), Err(EncodeError::TooLong)),
            (BodyLength::Length(4), Err(EncodeError::TooShort)),
            (BodyLength::Length(3), Ok(b"abc".to_vec())),
            (BodyLength::Nothing, Err(EncodeError::TooLong)),
            (BodyLength::Chunked, Ok(b"3\r\nabc\r\n0\r\n\r\n".to_vec())),
            (BodyLength::UntilClose, Ok(b"abc".to_vec())),
        ] {
            assert_eq!(encoded(length, &parts, None), expected, "{length:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            has_trailer in any::<bool>(),
            is_chunked in any::<bool>(),
        ) {
            let whole = parts.concat();
            let length = match is_chunked {
                true => BodyLength::Chunked,
                false => BodyLength::Length(whole.len() as u64),
            };
            let mut trailers = HeaderMap::new();
            if has_trailer && is_chunked {
                trailers.insert("x-sum", "1".parse().unwrap());
            }
            let out = encoded(length, &parts, Some(&trailers)).unwrap();
            let (mut input, mut decoder) = (BytesMut::from(&out[..]), BodyDecoder::new(length));
            let (mut data, mut fields) = (Vec::new(), HeaderMap::new());
            loop {
                match decoder.take(&mut input).unwrap() {
                    BodyPart::Data(bytes) => data.extend_from_slice(&bytes),
                    BodyPart::Trailers(read) => fields = read,
                    BodyPart::End => break,
                    BodyPart::More => return Err(TestCaseError::fail("it does not end")),
                }
            }
            prop_assert_eq!((data, fields, input.len()), (whole, trailers, 0));
        }
    }
}
