//! The fields of a message that passes through.
//!
//! Guarantees: whoever asks for a field gets what was sent, or what has become of it, whether the
//! fields are still the lines of the head that they came in or a map; a map is made when somebody
//! wants one, and is all there is from the first change of it on.

use std::sync::OnceLock;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::lines::FieldLines;

/// Room for fields that a gateway adds.
const ADDED: usize = 4;

/// Fields, with as little work done for them as they need.
#[derive(Debug, Clone)]
pub struct PassingFields(Form);

/// What they are.
#[derive(Debug)]
enum Form {
    /// As they came, and a map of them, where somebody has looked into one.
    Lines(FieldLines, OnceLock<HeaderMap>),
    Map(HeaderMap),
}

// === impl PassingFields ===

impl PassingFields {
    /// A map of them, which may have to be made.
    #[inline]
    pub fn headers(&self) -> &HeaderMap {
        match &self.0 {
            Form::Lines(lines, seen) => seen.get_or_init(|| lines.to_map(ADDED)),
            Form::Map(map) => map,
        }
    }

    /// A map of them, to be changed.
    #[inline]
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        loop {
            // The second time it is one.
            match self.0 {
                Form::Map(ref mut map) => return map,
                Form::Lines(ref lines, ref mut seen) => {
                    let seen = seen.take();
                    self.0 = Form::Map(seen.unwrap_or_else(|| lines.to_map(ADDED)));
                }
            }
        }
    }

    /// The lines that they are, if they are still lines.
    #[inline]
    pub fn lines(&self) -> Option<&FieldLines> {
        match &self.0 {
            Form::Lines(lines, _) => Some(lines),
            Form::Map(_) => None,
        }
    }

    /// The same, to have some left out.
    #[inline]
    pub fn lines_mut(&mut self) -> Option<&mut FieldLines> {
        match &mut self.0 {
            Form::Lines(lines, seen) => {
                seen.take();
                Some(lines)
            }
            Form::Map(_) => None,
        }
    }

    /// The lines, or the map.
    #[inline]
    pub fn into_either(self) -> Result<FieldLines, HeaderMap> {
        match self.0 {
            Form::Lines(lines, _) => Ok(lines),
            Form::Map(map) => Err(map),
        }
    }

    /// The first value of a field.
    #[inline]
    pub fn first(&self, name: &HeaderName) -> Option<HeaderValue> {
        match &self.0 {
            Form::Lines(lines, _) => lines.first(name),
            Form::Map(map) => map.get(name).cloned(),
        }
    }

    /// All values of a field, in their order.
    #[inline]
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        let (lines, map) = match &self.0 {
            Form::Lines(lines, _) => (Some(lines.values(name)), None),
            Form::Map(map) => (None, Some(map.get_all(name).iter())),
        };
        let map = map.into_iter().flatten().map(HeaderValue::as_bytes);
        lines.into_iter().flatten().chain(map)
    }

    /// The first two values of a field.
    #[inline]
    pub fn first_two(&self, name: HeaderName) -> (Option<&[u8]>, Option<&[u8]>) {
        match &self.0 {
            Form::Lines(lines, _) => {
                let mut values = lines.values(name);
                (values.next(), values.next())
            }
            Form::Map(map) => {
                let mut values = map.get_all(name).iter().map(HeaderValue::as_bytes);
                (values.next(), values.next())
            }
        }
    }

    /// Whether a field is there.
    #[inline]
    pub fn has(&self, name: &HeaderName) -> bool {
        match &self.0 {
            Form::Lines(lines, _) => lines.has(name),
            Form::Map(map) => map.contains_key(name),
        }
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &HeaderName) {
        match self.lines_mut() {
            Some(lines) => lines.leave_out(|own| own == name.as_str().as_bytes()),
            None => drop(self.headers_mut().remove(name)),
        }
    }
}

impl Default for PassingFields {
    fn default() -> Self {
        HeaderMap::new().into()
    }
}

impl From<FieldLines> for PassingFields {
    #[inline]
    fn from(lines: FieldLines) -> Self {
        Self(Form::Lines(lines, OnceLock::new()))
    }
}

impl From<HeaderMap> for PassingFields {
    fn from(map: HeaderMap) -> Self {
        Self(Form::Map(map))
    }
}

// === impl Form ===

impl Clone for Form {
    fn clone(&self) -> Self {
        match self {
            Self::Lines(lines, _) => Self::Lines(lines.clone(), OnceLock::new()),
            Self::Map(map) => Self::Map(map.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, COOKIE, HOST};

    use super::*;
    use crate::{HeadLimits, RequestReader};

    fn of_lines() -> PassingFields {
        let head = b"GET / HTTP/1.1\r\nHost: a.b\r\nCookie: a=b\r\ncookie: c=d\r\n\r\n";
        let limits = HeadLimits {
            bytes: 1000,
            fields: 10,
        };
        let take = |head: crate::RequestHead<'_, '_>| FieldLines::of(head.bytes, head.fields);
        let read = RequestReader::new(limits).read_head(head, take);
        read.unwrap().unwrap().1.unwrap().into()
    }

    fn says(fields: &PassingFields) -> (Option<HeaderValue>, Vec<&[u8]>, bool, bool) {
        (
            fields.first(&HOST),
            fields.values(COOKIE).collect(),
            fields.has(&HOST),
            fields.has(&ACCEPT),
        )
    }

    #[test]
    fn lines_and_a_map_say_the_same() {
        let (lines, mut map) = (of_lines(), of_lines());
        map.headers_mut();
        assert!(lines.lines().is_some() && map.lines().is_none());
        let host = HeaderValue::from_static("a.b");
        let cookies: [&[u8]; 2] = [b"a=b", b"c=d"];
        assert_eq!(says(&lines), (Some(host), cookies.to_vec(), true, false));
        assert_eq!(says(&lines), says(&map));
        assert_eq!(lines.headers(), map.headers());
        let own = map.headers().clone();
        assert_eq!(says(&own.into()), says(&lines));
        assert_eq!(lines.into_either().unwrap().to_map(0), *map.headers());
    }

    #[test]
    fn a_change_is_seen_by_whoever_looks_afterwards() {
        let mut fields = of_lines();
        assert_eq!(fields.headers().len(), 3);
        fields.remove(&COOKIE);
        assert_eq!((fields.headers().len(), fields.has(&COOKIE)), (1, false));
        let accept = HeaderValue::from_static("*/*");
        fields.headers_mut().insert(ACCEPT, accept);
        assert!(fields.lines().is_none() && fields.lines_mut().is_none());
        assert!(fields.has(&ACCEPT) && fields.has(&HOST) && !fields.has(&COOKIE));
        fields.remove(&HOST);
        assert_eq!(fields.into_either().unwrap_err().len(), 1);
    }
}
