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
#[derive(Debug, Default)]
pub struct PassingFields {
    /// As they came; none once `map` has them.
    lines: Option<FieldLines>,
    map: HeaderMap,
    /// The map of the `lines`, where somebody has looked into one.
    seen: OnceLock<HeaderMap>,
}

// === impl PassingFields ===

impl PassingFields {
    /// A map of them, which may have to be made.
    #[inline]
    pub fn headers(&self) -> &HeaderMap {
        match &self.lines {
            None => &self.map,
            Some(lines) => self.seen.get_or_init(|| lines.to_map(ADDED)),
        }
    }

    /// A map of them, to be changed.
    #[inline]
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        if let Some(lines) = self.lines.take() {
            let seen = self.seen.take();
            self.map = seen.unwrap_or_else(|| lines.to_map(ADDED));
        }
        &mut self.map
    }

    /// The lines that they are, if they are still lines.
    #[inline]
    pub fn lines(&self) -> Option<&FieldLines> {
        self.lines.as_ref()
    }

    /// The same, to have some left out.
    #[inline]
    pub fn lines_mut(&mut self) -> Option<&mut FieldLines> {
        if self.lines.is_some() {
            self.seen = OnceLock::new();
        }
        self.lines.as_mut()
    }

    /// The lines, or the map.
    #[inline]
    pub fn into_either(self) -> Result<FieldLines, HeaderMap> {
        self.lines.ok_or(self.map)
    }

    /// The first value of a field.
    #[inline]
    pub fn first(&self, name: &HeaderName) -> Option<HeaderValue> {
        match &self.lines {
            Some(lines) => lines.first(name),
            None => self.map.get(name).cloned(),
        }
    }

    /// All values of a field, in their order.
    #[inline]
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        let (lines, map) = match &self.lines {
            Some(lines) => (Some(lines.values(name)), None),
            None => (None, Some(self.map.get_all(name).iter())),
        };
        let map = map.into_iter().flatten().map(HeaderValue::as_bytes);
        lines.into_iter().flatten().chain(map)
    }

    /// The first two values of a field.
    #[inline]
    pub fn first_two(&self, name: HeaderName) -> (Option<&[u8]>, Option<&[u8]>) {
        match &self.lines {
            Some(lines) => {
                let mut values = lines.values(name);
                (values.next(), values.next())
            }
            None => {
                let mut values = self.map.get_all(name).iter().map(HeaderValue::as_bytes);
                (values.next(), values.next())
            }
        }
    }

    /// Whether a field is there.
    #[inline]
    pub fn has(&self, name: &HeaderName) -> bool {
        match &self.lines {
            Some(lines) => lines.values(name.clone()).next().is_some(),
            None => self.map.contains_key(name),
        }
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &HeaderName) {
        match self.lines_mut() {
            Some(lines) => lines.leave_out(|own| own == name.as_str().as_bytes()),
            None => drop(self.map.remove(name)),
        }
    }
}

impl From<FieldLines> for PassingFields {
    fn from(lines: FieldLines) -> Self {
        Self {
            lines: Some(lines),
            ..Self::default()
        }
    }
}

impl From<HeaderMap> for PassingFields {
    fn from(map: HeaderMap) -> Self {
        Self {
            map,
            ..Self::default()
        }
    }
}

impl Clone for PassingFields {
    fn clone(&self) -> Self {
        Self {
            lines: self.lines.clone(),
            map: self.map.clone(),
            seen: OnceLock::new(),
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
