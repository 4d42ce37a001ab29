//! The decoder of a body.
//!
//! Guarantees: a body ends where its head said, or where its chunks do, and nowhere else (RFC 9112
//! §6.3, §7.1); an end of the connection before that is an error of whoever reads; what stands between
//! chunks costs a bounded part of what the body is.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use crate::chunk::{ChunkError, Spare, size_line, trailers};
use crate::framing::BodyLength;

/// Chunks that are no longer are handed over together, as far as they have come: each by itself would
/// cost its reader more than its bytes.
const SMALL: usize = 1024;
/// No more is put together than this.
const TOGETHER: usize = 16 * 1024;

/// The part of a body that is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyDecoder {
    rest: Rest,
    spare: Spare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// So many bytes, more than none.
    Length(u64),
    /// A size line.
    Size,
    /// So many bytes of a chunk, more than none.
    Chunk(u64),
    /// A chunk's line end.
    ChunkEnd,
    /// What follows the last chunk.
    Trailers,
    UntilClose,
}

/// The next of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// Some bytes of it; never none.
    Data(Bytes),
    /// The fields after it; never none.
    Trailers(HeaderMap),
    /// That was all.
    End,
    /// Nothing can be said before more has come.
    More,
}

// === impl BodyDecoder ===

impl BodyDecoder {
    /// The decoder of a body of this length.
    pub fn new(length: BodyLength) -> Self {
        let rest = match length {
            BodyLength::Nothing | BodyLength::Length(0) => Rest::Nothing,
            BodyLength::Length(length) => Rest::Length(length),
            BodyLength::Chunked => Rest::Size,
            BodyLength::UntilClose => Rest::UntilClose,
        };
        Self {
            rest,
            spare: Spare::ALL,
        }
    }

    /// Whether all of it was taken.
    pub fn is_over(self) -> bool {
        self.rest == Rest::Nothing
    }

    /// Whether the connection's end is the body's end.
    pub fn ends_with_connection(self) -> bool {
        self.rest == Rest::UntilClose
    }

    /// How many bytes are left, where that is known beforehand.
    pub fn exact(self) -> Option<u64> {
        match self.rest {
            Rest::Nothing => Some(0),
            Rest::Length(left) => Some(left),
            Rest::Size | Rest::Chunk(_) | Rest::ChunkEnd | Rest::Trailers | Rest::UntilClose => {
                None
            }
        }
    }

    /// How many bytes are worth reading at once, if that is known.
    pub fn useful(self) -> Option<u64> {
        match self.rest {
            Rest::Length(left) | Rest::Chunk(left) => Some(left),
            Rest::Nothing | Rest::Size | Rest::ChunkEnd | Rest::Trailers | Rest::UntilClose => None,
        }
    }

    /// Takes the next part of the body off the beginning of `input`.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<BodyPart, ChunkError> {
        loop {
            self.rest = match self.rest {
                Rest::Nothing => return Ok(BodyPart::End),
                _ if input.is_empty() => return Ok(BodyPart::More),
                Rest::UntilClose => return Ok(BodyPart::Data(input.split().freeze())),
                Rest::Length(left) => {
                    let (data, left) = part(input, left);
                    self.rest = match left {
                        0 => Rest::Nothing,
                        left => Rest::Length(left),
                    };
                    return Ok(BodyPart::Data(data));
                }
                Rest::Size => {
                    let Some((length, size)) = size_line(input)? else {
                        return Ok(BodyPart::More);
                    };
                    self.spare.take(length, size)?;
                    input.advance(length);
                    match size {
                        0 => Rest::Trailers,
                        size => Rest::Chunk(size),
                    }
                }
                Rest::Chunk(left) => {
                    let (data, left) = part(input, left);
                    self.rest = match left {
                        0 => Rest::ChunkEnd,
                        left => Rest::Chunk(left),
                    };
                    let is_small = left == 0 && data.len() <= SMALL && input.len() > data.len();
                    return Ok(BodyPart::Data(match is_small {
                        true => self.together(&data, input),
                        false => data,
                    }));
                }
                Rest::ChunkEnd => {
                    match input.get(..2) {
                        Some(b"\r\n") => {}
                        None if **input == *b"\r" => return Ok(BodyPart::More),
                        _ => return Err(ChunkError::Chunk),
                    }
                    input.advance(2);
                    Rest::Size
                }
                Rest::Trailers => {
                    let Some((length, trailers)) = trailers(input)? else {
                        return Ok(BodyPart::More);
                    };
                    input.advance(length);
                    self.rest = Rest::Nothing;
                    match trailers.is_empty() {
                        true => return Ok(BodyPart::End),
                        false => return Ok(BodyPart::Trailers(trailers)),
                    }
                }
            };
        }
    }
}

impl BodyDecoder {
    /// The data of a small chunk together with that of small ones which have come behind it. What is
    /// wrong with one of them is met when the next part is taken.
    fn together(&mut self, first: &[u8], input: &mut BytesMut) -> Bytes {
        let mut data = BytesMut::with_capacity(input.len().min(TOGETHER) + first.len());
        data.extend_from_slice(first);
        while data.len() < TOGETHER {
            let Some(line) = input.strip_prefix(b"\r\n") else {
                break;
            };
            let Ok(Some((length, size @ 1..))) = size_line(line) else {
                break;
            };
            let chunk = line.get(length..).unwrap_or_default();
            let count = usize::try_from(size).unwrap_or(usize::MAX);
            let Some(chunk) = chunk.get(..count).filter(|chunk| chunk.len() <= SMALL) else {
                break;
            };
            if self.spare.take(length, size).is_err() {
                break;
            }
            data.extend_from_slice(chunk);
            input.advance(2 + length + count);
        }
        data.freeze()
    }
}

/// As much as there is of `left` bytes, and how many are left then.
fn part(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    (input.split_to(count).freeze(), left - count as u64)
}

#[cfg(test)]
mod tests;
