//! A list that is read while it arrives, one element after the other.
//!
//! Guarantees: no more than one element is held, and of one that is too long nothing; an element
//! that is broken leaves those after it as they are, as long as its quotes and brackets are closed.

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
}

/// An element of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element<'a> {
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
        }
    }

    /// Takes the next chunk, and hands over each element that ends in it.
    pub(super) fn push(
        &mut self,
        chunk: &[u8],
        mut found: impl FnMut(Element<'_>),
    ) -> Result<(), NotAList> {
        for &byte in chunk {
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
    fn step(&mut self, byte: u8, found: &mut impl FnMut(Element<'_>)) {
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

    fn close(&mut self, is_last: bool, found: &mut impl FnMut(Element<'_>)) {
        if self.length > self.longest {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn cut(chunks: &[&[u8]], longest: usize) -> Result<Vec<String>, NotAList> {
        let (mut elements, mut all) = (Elements::new(longest), Vec::new());
        for chunk in chunks {
            elements.push(chunk, |element| {
                all.push(match element {
                    Element::Whole(text) => String::from_utf8_lossy(text).into_owned(),
                    Element::TooLong => "too long".to_owned(),
                });
            })?;
        }
        elements.end().map(|()| all)
    }

    #[test]
    fn elements_are_cut_out_whatever_is_in_them() {
        for (text, elements) in [
            ("[]", &[][..]),
            (" [ ]\n", &[]),
            ("null", &[]),
            (
                r#"[{"a":"],[\"{"}, [1,[2]] ,"x"]"#,
                &[r#"{"a":"],[\"{"}"#, "[1,[2]] ", r#""x""#],
            ),
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
