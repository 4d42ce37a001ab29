//! The decoder of a response's body.
//!
//! Guarantees: a body ends where its head said, or where its chunks do, and nowhere else (RFC 9112
//! §6.3, §7.1); an end of the connection before that is an error; no more is kept of a chunk's size
//! line or of the trailers than [`MOST_LINE`] bytes.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use hyper::body::Frame;

/// Bytes of a size line with its extensions, and of all trailers.
const MOST_LINE: usize = 16 * 1024;
const MOST_TRAILERS: usize = 64;

/// The part of a body that is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum BodyDecoder {
    Nothing,
    /// So many bytes, more than none.
    Length(u64),
    Chunked(Chunk),
    /// Whatever comes until the connection ends.
    UntilClose,
}

/// The position in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Chunk {
    /// Before a size line.
    Size,
    /// So many bytes are left of the chunk.
    Data(u64),
    /// After a chunk's data.
    End,
    /// After the last chunk.
    Trailers,
}

/// The result of decoding the bytes that are there.
#[derive(Debug)]
pub(in crate::upstream) enum Step {
    Frame(Frame<Bytes>),
    /// That was all.
    Over,
    /// Nothing without more bytes.
    More,
}

/// A chunked body is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A size, or what stands after a chunk.
    #[error("the chunks of the response are not valid")]
    Chunk,
    /// A size line or the trailers.
    #[error("a chunk's extensions or the trailers are larger than {MOST_LINE} bytes")]
    TooLarge,
    /// What follows the last chunk.
    #[error("the trailers of the response are not valid")]
    Trailers,
}

// === impl BodyDecoder ===

impl BodyDecoder {
    pub(in crate::upstream) fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// How many bytes are worth reading at once, if that is known.
    pub(in crate::upstream) fn useful(self) -> Option<u64> {
        match self {
            Self::Length(left) | Self::Chunked(Chunk::Data(left)) => Some(left),
            Self::Nothing | Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next part of the body off the beginning of `input`.
    pub(in crate::upstream) fn take(&mut self, input: &mut BytesMut) -> Result<Step, ChunkError> {
        loop {
            match self {
                Self::Nothing => return Ok(Step::Over),
                _ if input.is_empty() => return Ok(Step::More),
                Self::UntilClose => {
                    let all = input.split().freeze();
                    return Ok(Step::Frame(Frame::data(all)));
                }
                Self::Length(left) => {
                    let data = data(input, left);
                    if *left == 0 {
                        *self = Self::Nothing;
                    }
                    return Ok(Step::Frame(Frame::data(data)));
                }
                Self::Chunked(chunk @ Chunk::Size) => {
                    let Some(size) = size_line(input)? else {
                        return Ok(Step::More);
                    };
                    *chunk = match size {
                        0 => Chunk::Trailers,
                        size => Chunk::Data(size),
                    };
                }
                Self::Chunked(Chunk::Data(left)) => {
                    let data = data(input, left);
                    if *left == 0 {
                        *self = Self::Chunked(Chunk::End);
                    }
                    return Ok(Step::Frame(Frame::data(data)));
                }
                Self::Chunked(chunk @ Chunk::End) => {
                    match input.get(..2) {
                        Some(b"\r\n") => {}
                        None if **input == *b"\r" => return Ok(Step::More),
                        _ => return Err(ChunkError::Chunk),
                    }
                    let _end = input.split_to(2);
                    *chunk = Chunk::Size;
                }
                Self::Chunked(Chunk::Trailers) => {
                    let Some(trailers) = trailers(input)? else {
                        return Ok(Step::More);
                    };
                    *self = Self::Nothing;
                    if trailers.is_empty() {
                        return Ok(Step::Over);
                    }
                    return Ok(Step::Frame(Frame::trailers(trailers)));
                }
            }
        }
    }
}

/// As much as there is of what is left.
fn data(input: &mut BytesMut, left: &mut u64) -> Bytes {
    let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= count as u64;
    input.split_to(count).freeze()
}

/// A chunk's size, once its line is there. Without a digit there is no size (RFC 9112 §7.1).
fn size_line(input: &mut BytesMut) -> Result<Option<u64>, ChunkError> {
    if !input.first().is_some_and(u8::is_ascii_hexdigit) {
        return Err(ChunkError::Chunk);
    }
    match httparse::parse_chunk_size(input) {
        Ok(httparse::Status::Complete((length, size))) => {
            let _line = input.split_to(length);
            Ok(Some(size))
        }
        Ok(httparse::Status::Partial) if input.len() < MOST_LINE => Ok(None),
        Ok(httparse::Status::Partial) => Err(ChunkError::TooLarge),
        Err(_) => Err(ChunkError::Chunk),
    }
}

/// The trailers, once they are there as a whole.
fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, ChunkError> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let (length, fields) = match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Complete(complete)) => complete,
        Ok(httparse::Status::Partial) if input.len() < MOST_LINE => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(ChunkError::TooLarge),
        Err(_) => return Err(ChunkError::Trailers),
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(ChunkError::Trailers);
        };
        trailers.append(name, value);
    }
    let _lines = input.split_to(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that comes of a body whose bytes arrive in these parts, and what is left over.
    fn decoded(
        mut left: BodyDecoder,
        parts: &[&[u8]],
    ) -> Result<(Vec<u8>, usize, bool, Vec<u8>), ChunkError> {
        let (mut input, mut data, mut trailers) = (BytesMut::new(), Vec::new(), 0);
        for part in parts {
            input.extend_from_slice(part);
            while let Step::Frame(frame) = left.take(&mut input)? {
                match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers += frame.into_trailers().unwrap().len(),
                }
            }
        }
        Ok((data, trailers, left == BodyDecoder::Nothing, input.to_vec()))
    }

    #[test]
    fn chunks_are_put_together_and_end_at_the_last_one() {
        let text = b"5;a=b\r\nhello\r\n1 \r\n!\r\n0\r\nx-a: b\r\n\r\nnext";
        let expected = (b"hello!".to_vec(), 1, true, b"next".to_vec());
        assert_eq!(decoded(BodyDecoder::chunked(), &[text]), Ok(expected));
        let (data, _, over, _) = decoded(BodyDecoder::chunked(), &[b"5\r\nhel"]).unwrap();
        assert_eq!((&data[..], over), (&b"hel"[..], false));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wrong in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5\rx",
            "5\n",
            " 5\r\n",
            ";a\r\n",
            "5 5\r\n",
            "fffffffffffffffff\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rx",
            "0\r\na b\r\n\r\n",
            "0\r\n: x\r\n\r\n",
        ] {
            let found = decoded(BodyDecoder::chunked(), &[wrong.as_bytes()]);
            assert!(found.is_err(), "{wrong:?}: {found:?}");
        }
        let long = format!("5;{}", "x".repeat(MOST_LINE));
        assert_eq!(
            decoded(BodyDecoder::chunked(), &[long.as_bytes()]),
            Err(ChunkError::TooLarge)
        );
        let long = format!("0\r\na: {}", "x".repeat(MOST_LINE));
        assert_eq!(
            decoded(BodyDecoder::chunked(), &[long.as_bytes()]),
            Err(ChunkError::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            trailer in any::<bool>(),
            cuts in prop::collection::vec(1_usize..30, 1..20),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            text.extend(if trailer { &b"0\r\nx-t: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            text.extend(b"rest");
            let (mut parts, mut rest, mut cuts) = (Vec::new(), &text[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                parts.push(part);
                rest = more;
            }
            let found = decoded(BodyDecoder::chunked(), &parts).unwrap();
            prop_assert_eq!(found, (chunks.concat(), usize::from(trailer), true, b"rest".to_vec()));
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(prop::sample::select(b"0159af;\r\n x:".to_vec()), 0..60),
        ) {
            let _ = decoded(BodyDecoder::chunked(), &[&bytes]);
            let _ = decoded(BodyDecoder::Length(7), &[&bytes]);
        }
    }
}
