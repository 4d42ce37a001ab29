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
    /// The lengths that their names have, or had before some were left out.
    lengths: Lengths,
}

/// Where name and value of a line lie.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: u16,
    name_end: u16,
    value: u16,
    value_end: u16,
    form: Form,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it came.
    Plain,
    /// In another way than it came.
    Other,
    /// As the body's length wants it.
    Length,
    /// As the body's coding wants it.
    Coding,
}

/// A set of lengths, so that most names that are not there are not looked for.
#[derive(Debug, Clone, Copy, Default)]
struct Lengths(u64);

/// What is written of a head at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'l> {
    /// Lines that lie one behind the other, as they are written.
    Lines(&'l [u8]),
    /// The value of a `content-length`.
    Length(&'l [u8]),
    /// A `transfer-encoding`.
    Coding,
    /// Name and value of a line that is written in another way than it came.
    Line(&'l [u8], &'l [u8]),
}

// === impl FieldLines ===

impl FieldLines {
    /// The fields of a head with these bytes; `None` where it is too large.
    pub fn of(head: &[u8], fields: Fields<'_, '_>) -> Option<Self> {
        if fields.len() > MOST_LINES || u16::try_from(head.len()).is_err() {
            return None;
        }
        let (base, mut copied) = (head.as_ptr().addr(), head.to_vec());
        let mut lengths = Lengths::default();
        let lines = fields.0.iter().map(|field| {
            lengths.add(field.name.len());
            let name = field.name.as_bytes().as_ptr().addr().wrapping_sub(base);
            let value = field.value.as_ptr().addr().wrapping_sub(base);
            let mut line = Line {
                name: small(name),
                name_end: small(name.wrapping_add(field.name.len())),
                value: small(value),
                value_end: small(value.wrapping_add(field.value.len())),
                form: Form::Other,
            };
            if is_plain(head, line) {
                line.form = Form::Plain;
            }
            if may_have_capitals(field.name.as_bytes())
                && let Some(name) = copied.get_mut(line.name())
            {
                name.make_ascii_lowercase();
            }
            match field.name.len() {
                14 if copied.get(line.name()) == Some(&b"content-length"[..]) => {
                    line.form = Form::Length;
                }
                17 if copied.get(line.name()) == Some(&b"transfer-encoding"[..]) => {
                    line.form = Form::Coding;
                }
                _ => {}
            }
            line
        });
        let lines = lines.collect();
        Some(Self {
            head: copied.into(),
            lines,
            lengths,
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

    /// Whether a name is there.
    #[inline]
    pub fn has(&self, name: &HeaderName) -> bool {
        self.place(name.as_str().as_bytes()).is_some()
    }

    /// The first value of a name, as a map would have it.
    #[inline]
    pub fn first(&self, name: &HeaderName) -> Option<HeaderValue> {
        let line = self.place(name.as_str().as_bytes())?;
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

    /// The first line of a name.
    #[inline]
    fn place(&self, name: &[u8]) -> Option<&Line> {
        if !self.lengths.has(name.len()) {
            return None;
        }
        let is_it = |line: &&Line| {
            usize::from(line.name_end - line.name) == name.len() && self.get(line.name()) == name
        };
        self.lines.iter().find(is_it)
    }

    #[inline]
    fn places(&self, name: HeaderName) -> impl Iterator<Item = &Line> {
        let length = name.as_str().len();
        let lines = match self.lengths.has(length) {
            true => self.lines.as_slice(),
            false => &[],
        };
        lines.iter().filter(move |line| {
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
    #[inline]
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut lines = self.lines.iter();
        std::iter::from_fn(move || {
            let line = lines.next()?;
            Some(match line.form {
                Form::Plain => {
                    let mut run = line.whole();
                    while let [next, ..] = lines.as_slice()
                        && next.form == Form::Plain
                        && usize::from(next.name) == run.end
                    {
                        run.end = next.whole().end;
                        lines.next();
                    }
                    Piece::Lines(self.get(run))
                }
                Form::Other => Piece::Line(self.get(line.name()), self.get(line.value())),
                Form::Length => Piece::Length(self.get(line.value())),
                Form::Coding => Piece::Coding,
            })
        })
    }
}

/// A place in a head that is small enough.
#[inline]
fn small(place: usize) -> u16 {
    let [low, high, ..] = place.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Whether a line came as it is written. After a name there is a colon, and after a carriage return a
/// line feed: it was accepted.
#[inline]
fn is_plain(head: &[u8], line: Line) -> bool {
    let (name_end, value) = (usize::from(line.name_end), usize::from(line.value));
    value == name_end + 2
        && head.get(name_end + 1) == Some(&b' ')
        && head.get(usize::from(line.value_end)) == Some(&b'\r')
}

/// Whether a name may have large letters: all small ones have one bit that those have not, and so
/// have most other characters of names.
#[inline]
fn may_have_capitals(name: &[u8]) -> bool {
    const SMALL: u8 = 0x20;
    let wide = |part: &[u8; 8]| u64::from_ne_bytes(*part) & u64::from_ne_bytes([SMALL; 8]);
    let narrow = |part: &[u8; 4]| u32::from_ne_bytes(*part) & u32::from_ne_bytes([SMALL; 4]);
    // The last ones overlap those before them.
    let are_small = match (name.first_chunk(), name.last_chunk()) {
        (Some(first), Some(last)) => {
            let ends = wide(first) & wide(last);
            let between = name.get(8..name.len() - 8).unwrap_or_default();
            ends == wide(&[SMALL; 8]) && between.iter().all(|byte| byte & SMALL != 0)
        }
        _ => match (name.first_chunk(), name.last_chunk()) {
            (Some(first), Some(last)) => narrow(first) & narrow(last) == narrow(&[SMALL; 4]),
            _ => name.iter().all(|byte| byte & SMALL != 0),
        },
    };
    !are_small
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

// === impl Lengths ===

impl Lengths {
    #[inline]
    fn add(&mut self, length: usize) {
        self.0 |= Self::bit(length);
    }

    #[inline]
    fn has(self, length: usize) -> bool {
        self.0 & Self::bit(length) != 0
    }

    /// One for each length, and one for all that are longer.
    #[inline]
    fn bit(length: usize) -> u64 {
        1 << length.min(63)
    }
}

#[cfg(test)]
mod tests;
