//! What requests' and responses' heads have in common.
//!
//! Guarantees: a head is looked at when it begins and once for each line of it, however it is cut;
//! it is whole, within its limits and syntactically right before anybody sees it. The syntax is
//! `httparse`'s.

use std::mem::MaybeUninit;

use bytes::Bytes;

/// Fields for which there is room without an allocation.
const USUAL_FIELDS: usize = 64;

/// The largest head that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, from the first of the start line to the last of the empty line.
    pub bytes: usize,
    /// Field lines.
    pub fields: usize,
}

/// A head cannot be read, and nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is not HTTP/1.x (RFC 9112 §2).
    #[error("the syntax is not HTTP/1.x: {0}")]
    Syntax(httparse::Error),
    /// It is some other version.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// A status, method, name or value that HTTP does not have.
    #[error("a status, a method, a name or a value is not valid")]
    Value,
    /// It is longer than the limit, or does not end before it.
    #[error("the head is larger than {0} bytes")]
    TooLarge(usize),
    /// It has more lines than the limit.
    #[error("the head has more than {0} fields")]
    TooManyFields(usize),
    /// Its body has no one length.
    #[error(transparent)]
    Framing(#[from] crate::FramingError),
}

/// How far a head has been looked for in what has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress(usize);

/// Parses with a table that is large enough; `parse` is called again with a larger one when the
/// first was too small.
#[inline]
pub(crate) fn with_table<'b, R>(
    limits: HeadLimits,
    mut parse: impl FnMut(&mut [MaybeUninit<httparse::Header<'b>>]) -> Result<R, HeadError>,
) -> Result<R, HeadError> {
    let usual = USUAL_FIELDS.min(limits.fields);
    let mut table = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let (mut larger, mut is_larger) = (Vec::new(), false);
    // One call, so that it is no call at all.
    loop {
        let table = match is_larger {
            false => table.get_mut(..usual).unwrap_or_default(),
            true => larger.as_mut_slice(),
        };
        match parse(table) {
            Err(HeadError::Syntax(httparse::Error::TooManyHeaders)) => {}
            parsed => return parsed,
        }
        if is_larger || limits.fields <= usual {
            return Err(HeadError::TooManyFields(limits.fields));
        }
        is_larger = true;
        larger.resize_with(limits.fields, MaybeUninit::uninit);
    }
}

/// What the parser says of a head that it does not take.
#[cold]
pub(crate) fn unparsed(error: httparse::Error) -> HeadError {
    if error == httparse::Error::Version {
        HeadError::Version
    } else {
        HeadError::Syntax(error)
    }
}

// === impl Progress ===

impl Progress {
    /// Whether it is of use to parse `input` now; remembers that it was.
    pub(crate) fn is_worth_parsing(&mut self, input: &[u8], limit: usize) -> bool {
        let fresh = input.get(self.0..).unwrap_or_default();
        let is_worth = match self.0 {
            0 => !fresh.is_empty(),
            _ => fresh.contains(&b'\n') || input.len() > limit,
        };
        self.0 = input.len();
        is_worth
    }

    /// The next head is looked for.
    pub(crate) fn restart(&mut self) {
        self.0 = 0;
    }
}

/// A head's bytes, copied once for all values in it.
#[derive(Debug)]
pub struct Copied {
    whole: Bytes,
    /// The address of the head that was copied.
    base: usize,
}

// === impl Copied ===

impl Copied {
    /// A copy of a whole head.
    pub fn of(head: &[u8]) -> Self {
        Self {
            whole: Bytes::copy_from_slice(head),
            base: head.as_ptr().addr(),
        }
    }

    /// The part that lay at `part`, which is a slice of the head that was copied.
    pub fn part(&self, part: &[u8]) -> Bytes {
        let start = part.as_ptr().addr() - self.base;
        self.whole.slice(start..start + part.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_lay_there() {
        let read = b"a: bc\r\nand more".to_vec();
        let copied = Copied::of(&read[..7]);
        let part = copied.part(&read[3..5]);
        drop(read);
        assert_eq!(part, "bc");
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_once_for_each_line() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        let mut progress = Progress::default();
        let looks = (1..=text.len()).filter(|end| {
            let part = &text[..*end];
            progress.is_worth_parsing(part, 1000)
        });
        assert_eq!(looks.count(), 5);
    }
}
