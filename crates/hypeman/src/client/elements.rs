//! A list that is read while it arrives, one element after the other.
//!
//! Guarantees: no more than one element is held, and of one that is too long nothing; an element
//! that is broken leaves those after it as they are, as long as its quotes and brackets are closed;
//! whether an element is cut out or read in its place makes no difference but the time.

use std::mem;

/// The elements of a JSON list, cut out of chunks that may end anywhere.
#[derive(Debug)]
pub(super) struct Elements {
    place: Place,
    /// How many brackets are open in the element.
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    element: Vec<u8>,
    length: usize,
    longest: usize,
    /// The element was read in its place, and its end comes next.
    is_read: bool,
}

/// An element of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element<'a, T> {
    /// It was read in its place.
    Read(T),
    /// Its text.
    Whole(&'a [u8]),
    /// It is longer than the bound.
    TooLong,
}

/// The text is no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAList;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Inside,
    After,
}

// === impl Elements ===

impl Elements {
    /// Cuts out elements of at most so many bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self {
            place: Place::Before,
            depth: 0,
            in_text: false,
            is_escaped: false,
            element: Vec::new(),
            length: 0,
            longest,
            is_read: false,
        }
    }

    /// Takes the next chunk, and hands over each element that ends in it. Where an object begins,
    /// `read` may read it in its place, and says how long it is.
    pub(super) fn push<T>(
        &mut self,
        chunk: &[u8],
        read: impl Fn(&[u8]) -> Option<(T, usize)>,
        mut found: impl FnMut(Element<'_, T>),
    ) -> Result<(), NotAList> {
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            if self.place == Place::Inside && self.length == 0 && byte == b'{' {
                let element = read(rest).filter(|(_, length)| *length <= self.longest);
                if let Some((element, end)) = element.and_then(|(it, length)| {
                    Some((it, rest.get(length..).filter(|rest| is_end(rest))?))
                }) {
                    found(Element::Read(element));
                    self.is_read = true;
                    rest = end;
                    continue;
                }
            }
            match self.place {
                Place::Inside => self.step(byte, &mut found),
                Place::Before | Place::After if byte.is_ascii_whitespace() => {}
                Place::Before if byte == b'[' && self.element.is_empty() => {
                    self.place = Place::Inside;
                }
                // Go writes a list that was never made as `null`.
                Place::Before => {
                    self.element.push(byte);
                    if !b"null".starts_with(&self.element) {
                        return Err(NotAList);
                    }
                }
                Place::After => return Err(NotAList),
            }
            rest = after;
        }
        Ok(())
    }

    /// The text is over.
    pub(super) fn end(&self) -> Result<(), NotAList> {
        match self.place {
            Place::After => Ok(()),
            Place::Before if self.element == b"null" => Ok(()),
            Place::Before | Place::Inside => Err(NotAList),
        }
    }

    /// One byte within the list.
    fn step<T>(&mut self, byte: u8, found: &mut impl FnMut(Element<'_, T>)) {
        if self.in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return self.keep(byte);
        }
        match byte {
            b',' | b']' if self.depth == 0 => return self.close(byte == b']', found),
            b' ' | b'\n' | b'\r' | b'\t' if self.length == 0 => return,
            b'"' => self.in_text = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.keep(byte);
    }

    fn keep(&mut self, byte: u8) {
        self.length += 1;
        if self.length <= self.longest {
            self.element.push(byte);
        }
    }

    fn close<T>(&mut self, is_last: bool, found: &mut impl FnMut(Element<'_, T>)) {
        if mem::take(&mut self.is_read) {
            // It was handed over.
        } else if self.length > self.longest {
            found(Element::TooLong);
        } else if self.length > 0 || !is_last {
            found(Element::Whole(&self.element));
        }
        self.element.clear();
        self.length = 0;
        if is_last {
            self.place = Place::After;
        }
    }
}

/// Whether an element ends here.
fn is_end(rest: &[u8]) -> bool {
    let next = rest.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(next, Some(b',' | b']'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    fn cut(chunks: &[&[u8]], longest: usize) -> Result<Vec<String>, NotAList> {
        let cut = cut_or_read(chunks, longest, |_| None);
        assert_eq!(cut_or_read(chunks, longest, read), cut, "{chunks:?}");
        cut
    }

    fn cut_or_read(
        chunks: &[&[u8]],
        longest: usize,
        read: impl Fn(&[u8]) -> Option<(String, usize)>,
    ) -> Result<Vec<String>, NotAList> {
        let (mut elements, mut all) = (Elements::new(longest), Vec::new());
        for chunk in chunks {
            elements.push(chunk, &read, |element| {
                all.push(match element {
                    Element::Read(text) => text,
                    Element::Whole(text) => String::from_utf8_lossy(text).trim_end().to_owned(),
                    Element::TooLong => "too long".to_owned(),
                });
            })?;
        }
        elements.end().map(|()| all)
    }

    fn read(text: &[u8]) -> Option<(String, usize)> {
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let length = values.byte_offset();
        let text = String::from_utf8_lossy(&text[..length]);
        Some((text.into_owned(), length))
    }

    #[test]
    fn elements_are_cut_out_whatever_is_in_them() {
        for (text, elements) in [
            ("[]", &[][..]),
            (" [ ]\n", &[]),
            ("null", &[]),
            (
                r#"[{"a":"],[\"{"}, [1,[2]] ,"x"]"#,
                &[r#"{"a":"],[\"{"}"#, "[1,[2]]", r#""x""#],
            ),
            (
                "[{\"a\":1} ,{}x,{},\n{\"b\":{}}\t]",
                &[r#"{"a":1}"#, "{}x", "{}", r#"{"b":{}}"#],
            ),
            (r#"[{"a":12345},{}]"#, &["too long", "{}"]),
            ("[1,,2]", &["1", "", "2"]),
            ("[tru,}]", &["tru", "}"]),
            (r#"["123456789",1]"#, &["too long", "1"]),
        ] {
            let elements: Vec<String> = elements.iter().map(|text| (*text).to_owned()).collect();
            let longest = if text.contains("12345") { 9 } else { 99 };
            assert_eq!(cut(&[text.as_bytes()], longest), Ok(elements), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_or_has_no_end_is_refused() {
        for text in [
            "", "{}", "nul", "nulls", "[", "[1", "[\"]", "[] []", "<html>", "null []",
        ] {
            assert_eq!(cut(&[text.as_bytes()], 99), Err(NotAList), "{text}");
        }
    }

    proptest! {
        #[test]
        fn where_chunks_are_cut_does_not_matter(
            texts in prop::collection::vec(".{0,6}", 0..4),
            at in any::<prop::sample::Index>(),
        ) {
            let values: Vec<Value> = texts
                .iter()
                .map(|text| serde_json::json!({"a": [text, {"b": text}]}))
                .collect();
            let whole = Value::from(values.clone()).to_string();
            let (head, tail) = whole.as_bytes().split_at(at.index(whole.len()));
            let elements = cut(&[head, tail], 999).unwrap();
            let read: Vec<Value> = elements
                .iter()
                .map(|text| serde_json::from_str(text).unwrap())
                .collect();
            prop_assert_eq!(read, values);
        }
    }
}
