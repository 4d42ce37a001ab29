//! The fields of a head that passes through: its lines where they lie, without a map.
//!
//! Guarantees: lines keep their order; names are in small letters; lines that are left out are gone
//! for whoever looks, writes or makes a map; a map of them has what a map of the head would have.
//! What was not accepted as a head is never here.

use std::fmt;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::Fields;

/// A head with more lines is rare, and larger than it is worth.
const MOST_LINES: usize = 128;

/// The lines of a head that are not left out. They share the head's bytes.
#[derive(Clone)]
pub struct FieldLines {
    head: Bytes,
    lines: Vec<Line>,
}

/// Where name and value of a line lie.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: u16,
    name_end: u16,
    value: u16,
    value_end: u16,
}

/// What is written of a head at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'l> {
    /// Lines that lie one behind the other, as they are written.
    Lines(&'l [u8]),
    /// A line by itself: that of a length or a coding, or one that is written in another way than it
    /// came.
    Line(&'l [u8], &'l [u8]),
}

// === impl FieldLines ===

impl FieldLines {
    /// The fields of a head with these bytes; `None` where it is too large.
    pub fn of(head: &[u8], fields: Fields<'_, '_>) -> Option<Self> {
        if fields.len() > MOST_LINES || u16::try_from(head.len()).is_err() {
            return None;
        }
        let base = head.as_ptr().addr();
        let place = |part: &[u8]| {
            // Where an empty value lies says nothing.
            let start = match part {
                [] => 0,
                part => part.as_ptr().addr().wrapping_sub(base),
            };
            let end = start.wrapping_add(part.len());
            Some((u16::try_from(start).ok()?, u16::try_from(end).ok()?))
        };
        let (mut copied, mut lines) = (head.to_vec(), Vec::with_capacity(fields.len()));
        for field in fields.0 {
            let (name, name_end) = place(field.name.as_bytes())?;
            let (value, value_end) = place(field.value)?;
            let line = Line {
                name,
                name_end,
                value,
                value_end,
            };
            // All small letters have this bit, and most other characters of names.
            if field.name.bytes().fold(0x20, |all, byte| all & byte) == 0 {
                copied.get_mut(line.name())?.make_ascii_lowercase();
            }
            lines.push(line);
        }
        Some(Self {
            head: copied.into(),
            lines,
        })
    }

    /// A part of the head, which is not copied: what lies at `part` in the `head` that this was made
    /// of.
    #[inline]
    pub fn part(&self, head: &[u8], part: &[u8]) -> Bytes {
        let start = part.as_ptr().addr() - head.as_ptr().addr();
        self.head.slice(start..start + part.len())
    }

    #[inline]
    fn get(&self, place: std::ops::Range<usize>) -> &[u8] {
        self.head.get(place).unwrap_or_default()
    }

    /// Names, in small letters, and values, in their order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.lines.iter();
        lines.map(|line| (self.get(line.name()), self.get(line.value())))
    }

    /// The values of a name, in their order.
    #[inline]
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.places(name).map(|line| self.get(line.value()))
    }

    /// The first value of a name, as a map would have it.
    #[inline]
    pub fn first(&self, name: &HeaderName) -> Option<HeaderValue> {
        let line = self.places(name.clone()).next()?;
        HeaderValue::from_maybe_shared(self.head.slice(line.value())).ok()
    }

    /// The value of a name that is there once, as it lies in the head.
    #[inline]
    pub fn only(&self, name: HeaderName) -> Option<Bytes> {
        let mut places = self.places(name);
        match (places.next(), places.next()) {
            (Some(line), None) => Some(self.head.slice(line.value())),
            _ => None,
        }
    }

    #[inline]
    fn places(&self, name: HeaderName) -> impl Iterator<Item = &Line> {
        let (length, lines) = (name.as_str().len(), self.lines.iter());
        lines.filter(move |line| {
            // Most names have another length.
            usize::from(line.name_end - line.name) == length
                && self.get(line.name()) == name.as_str().as_bytes()
        })
    }

    /// Leaves out the lines with these names, which are in small letters.
    pub fn leave_out(&mut self, is_unwanted: impl Fn(&[u8]) -> bool) {
        let head = &self.head;
        let name = |line: &Line| head.get(line.name()).unwrap_or_default();
        self.lines.retain(|line| !is_unwanted(name(line)));
    }

    /// A map of them, with room for `added` more.
    pub fn to_map(&self, added: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.lines.len() + added);
        for line in &self.lines {
            let name = HeaderName::from_bytes(self.get(line.name()));
            let value = HeaderValue::from_maybe_shared(self.head.slice(line.value()));
            // Both are what the parser has accepted: the tests go through all octets.
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        headers
    }

    /// What is to be written, in its order.
    pub(crate) fn pieces(&self, mut write: impl FnMut(Piece<'_>)) {
        let mut run = 0..0;
        for line in &self.lines {
            let name = self.get(line.name());
            let is_framing = matches!(name, b"content-length" | b"transfer-encoding");
            if !is_framing && self.is_plain(*line) {
                let own = line.whole();
                if run.end == own.start {
                    run.end = own.end;
                    continue;
                }
                write(Piece::Lines(self.get(std::mem::replace(&mut run, own))));
                continue;
            }
            write(Piece::Lines(self.get(std::mem::take(&mut run))));
            write(Piece::Line(name, self.get(line.value())));
        }
        write(Piece::Lines(self.get(run)));
    }

    /// Whether a line came as it is written.
    #[inline]
    fn is_plain(&self, line: Line) -> bool {
        let value_end = usize::from(line.value_end);
        self.get(usize::from(line.name_end)..usize::from(line.value)) == b": "
            && self.get(value_end..value_end + 2) == b"\r\n"
    }
}

impl fmt::Debug for FieldLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        write!(f, "FieldLines({})", self.lines.len())
    }
}

// === impl Line ===

impl Line {
    #[inline]
    fn name(self) -> std::ops::Range<usize> {
        self.name.into()..self.name_end.into()
    }

    #[inline]
    fn value(self) -> std::ops::Range<usize> {
        self.value.into()..self.value_end.into()
    }

    /// Of a line that came as it is written, with its end.
    #[inline]
    fn whole(self) -> std::ops::Range<usize> {
        self.name.into()..usize::from(self.value_end) + 2
    }
}

#[cfg(test)]
mod tests;
