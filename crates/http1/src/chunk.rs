//! The lines between the chunks of a body (RFC 9112 §7.1).
//!
//! Guarantees: lines end with CR LF and nothing else; an extension cannot hide a line's end; no
//! more is kept of a size line than [`MOST_LINE`] bytes, nor of the trailers; and all size lines of a
//! body together waste no more than [`MOST_WASTE`] bytes beyond the data's own.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Bytes of a size line with its extensions, and of all trailers.
pub(crate) const MOST_LINE: usize = 16 * 1024;
const MOST_TRAILERS: usize = 64;
/// Bytes of extensions, blanks and leading zeros in all size lines of a body, beyond one for each byte
/// of data. Servers that pad each size are within it; who sends little else than extensions is not.
const MOST_WASTE: u64 = 16 * 1024;

/// A chunked body is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A size, or what stands after a chunk.
    #[error("a chunk is not valid")]
    Chunk,
    /// A size line, all size lines together, or the trailers.
    #[error("the chunks' extensions or the trailers are larger than {MOST_LINE} bytes")]
    TooLarge,
    /// What follows the last chunk.
    #[error("the trailers are not valid")]
    Trailers,
}

/// The bytes that a body's size lines may still waste.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare(u64);

// === impl Spare ===

impl Spare {
    /// At the beginning of a body.
    pub(crate) const ALL: Self = Self(MOST_WASTE);

    /// Takes what a line of `length` bytes wastes to say `size`, and gives the chunk's own share.
    pub(crate) fn take(&mut self, length: usize, size: u64) -> Result<(), ChunkError> {
        let needed = size.checked_ilog2().map_or(1, |bits| bits / 4 + 1) + 2;
        let wasted = (length as u64).saturating_sub(needed.into());
        let left = self.0.checked_sub(wasted).ok_or(ChunkError::TooLarge)?;
        self.0 = left.saturating_add(size);
        Ok(())
    }
}

/// The size line that `input` begins with, once it is there as a whole: its length and the chunk's
/// size.
pub(crate) fn size_line(input: &[u8]) -> Result<Option<(usize, u64)>, ChunkError> {
    let digits = input.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let digits = digits.count();
    let mut rest = input.iter().enumerate().skip(digits);
    if digits == 0 && !input.is_empty() {
        return Err(ChunkError::Chunk);
    }
    let mut is_extension = false;
    while let Some((at, byte)) = rest.next() {
        match byte {
            b'\r' => {
                return match rest.next() {
                    None => unfinished(input),
                    Some(_) if at + 2 > MOST_LINE => Err(ChunkError::TooLarge),
                    Some((_, b'\n')) => Ok(Some((at + 2, size(input.get(..digits))?))),
                    Some(_) => Err(ChunkError::Chunk),
                };
            }
            // White space before an extension or the line's end is bad and usual (RFC 9112 §7.1.1).
            b' ' | b'\t' => {}
            b';' => is_extension = true,
            0..=31 | 127 => return Err(ChunkError::Chunk),
            _ if is_extension => {}
            _ => return Err(ChunkError::Chunk),
        }
    }
    // More digits than the largest size has are wrong, however many more come.
    size(
        input
            .get(..digits)
            .filter(|digits| !digits.is_empty())
            .or(Some(b"0")),
    )?;
    unfinished(input)
}

fn unfinished<T>(input: &[u8]) -> Result<Option<T>, ChunkError> {
    match input.len() < MOST_LINE {
        true => Ok(None),
        false => Err(ChunkError::TooLarge),
    }
}

fn size(digits: Option<&[u8]>) -> Result<u64, ChunkError> {
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    let size = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    size.ok_or(ChunkError::Chunk)
}

/// The trailers that `input` begins with, once they are there as a whole: their length, and they.
pub(crate) fn trailers(input: &[u8]) -> Result<Option<(usize, HeaderMap)>, ChunkError> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let (length, fields) = match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Complete(complete)) => complete,
        Ok(httparse::Status::Partial) if has_lone_line_feed(input) => {
            return Err(ChunkError::Trailers);
        }
        Ok(httparse::Status::Partial) => return unfinished(input),
        Err(_) => return Err(ChunkError::Trailers),
    };
    if length > MOST_LINE {
        return Err(ChunkError::TooLarge);
    }
    if has_lone_line_feed(input.get(..length).unwrap_or_default()) {
        return Err(ChunkError::Trailers);
    }
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(ChunkError::Trailers);
        };
        trailers.append(name, value);
    }
    Ok(Some((length, trailers)))
}

/// `httparse` takes such a line's end, too.
fn has_lone_line_feed(lines: &[u8]) -> bool {
    let mut before = b'\0';
    lines
        .iter()
        .any(|byte| std::mem::replace(&mut before, *byte) != b'\r' && *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_size_lines_waste_is_bounded_beyond_the_datas_own_share() {
        let waste = usize::try_from(MOST_WASTE).unwrap();
        for (length, size) in [(3, 0), (3, 15), (4, 16), (5, 0xfff), (18, u64::MAX)] {
            let mut spare = Spare(0);
            assert_eq!(spare.take(length, size), Ok(()));
            assert_eq!(Spare(0).take(length + 1, size), Err(ChunkError::TooLarge));
            let mut spare = Spare::ALL;
            assert_eq!(spare.take(length + waste, size), Ok(()));
        }
        // A size of eight digits before each short event, for ever.
        let mut spare = Spare::ALL;
        assert!((0..100_000).all(|_| spare.take(10, 9).is_ok()));
        // A long extension for each byte.
        let mut spare = Spare::ALL;
        let taken = (0..100_000).take_while(|_| spare.take(1003, 1).is_ok());
        assert_eq!(taken.count(), 16);
    }

    #[test]
    fn a_size_line_is_hexadecimal_digits_perhaps_extensions_and_crlf() {
        for (line, expected) in [
            ("5\r\nrest", Ok(Some((3, 5)))),
            ("00fF \t\r\n", Ok(Some((8, 255)))),
            ("5;a=b;\"c\"\r\n", Ok(Some((11, 5)))),
            ("5 ; a\r\n", Ok(Some((7, 5)))),
            ("ffffffffffffffff\r\n", Ok(Some((18, u64::MAX)))),
            ("", Ok(None)),
            ("5", Ok(None)),
            ("5\r", Ok(None)),
            ("5;a", Ok(None)),
            ("\r\n", Err(ChunkError::Chunk)),
            (" 5\r\n", Err(ChunkError::Chunk)),
            ("5\n", Err(ChunkError::Chunk)),
            ("5;a\n", Err(ChunkError::Chunk)),
            ("5;a\rb\r\n", Err(ChunkError::Chunk)),
            ("5\0\r\n", Err(ChunkError::Chunk)),
            ("5x\r\n", Err(ChunkError::Chunk)),
            ("0x5\r\n", Err(ChunkError::Chunk)),
            ("-1\r\n", Err(ChunkError::Chunk)),
            ("10000000000000000\r\n", Err(ChunkError::Chunk)),
            ("10000000000000000", Err(ChunkError::Chunk)),
        ] {
            assert_eq!(size_line(line.as_bytes()), expected, "{line:?}");
        }
        let endless = format!("5;{}", "x".repeat(MOST_LINE));
        assert_eq!(size_line(endless.as_bytes()), Err(ChunkError::TooLarge));
    }
}
