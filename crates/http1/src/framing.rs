//! How long a message's body is.
//!
//! Guarantees: there is one answer, or the message is refused: no field is chosen among two that
//! disagree, and none is guessed at (RFC 9112 §6.1, §6.3).

use http::Version;

use crate::fields::{Fields, digits, has_option, is_named, options};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    Nothing,
    /// So many bytes; for a request, none are a body, too.
    Length(u64),
    /// The last chunk says so.
    Chunked,
    /// The connection's end says so. Only responses have it.
    UntilClose,
}

/// A message whose body has no one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A Content-Length is no number, or two differ (RFC 9112 §6.3, rule 5).
    #[error("the Content-Length is not one length")]
    Length,
    /// Content-Length and Transfer-Encoding: the usual form of request smuggling (RFC 9112 §6.3,
    /// rule 3).
    #[error("both Content-Length and Transfer-Encoding are there")]
    Both,
    /// A request's last coding is not `chunked` (rule 4).
    #[error("the last Transfer-Encoding is not chunked")]
    NotChunked,
    /// There is another coding before `chunked`, which nobody here takes off (RFC 9112 §6.1).
    #[error("there is a Transfer-Encoding besides chunked")]
    Coding,
    /// HTTP/1.0 has no Transfer-Encoding (RFC 9112 §6.1).
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    OldCoding,
}

/// What the fields say about the body and the connection, from one pass over them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said<'b> {
    pub(crate) length: Option<u64>,
    has_codings: bool,
    /// There is one coding, `chunked`.
    is_chunked: bool,
    /// The last coding is `chunked`.
    is_chunked_last: bool,
    pub(crate) closes: bool,
    pub(crate) keeps_alive: bool,
    pub(crate) upgrades: bool,
    pub(crate) upgrade: Option<&'b [u8]>,
    pub(crate) expects_continue: bool,
    pub(crate) wants_trailers: bool,
}

// === impl Said ===

impl<'b> Said<'b> {
    /// Reads them. The lengths of the names tell most fields apart at once.
    pub(crate) fn by(fields: Fields<'_, 'b>) -> Result<Self, FramingError> {
        let mut said = Self::default();
        for field in fields.0 {
            let name = field.name;
            match name.len() {
                2 if is_named(name, b"te") => {
                    said.wants_trailers |= has_option(field.value, "trailers");
                }
                6 if is_named(name, b"expect") => {
                    said.expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if is_named(name, b"upgrade") => {
                    said.upgrade = said.upgrade.or(Some(field.value));
                }
                10 if is_named(name, b"connection") => {
                    for option in options(field.value) {
                        said.closes |= option.eq_ignore_ascii_case(b"close");
                        said.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                        said.upgrades |= option.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                14 if is_named(name, b"content-length") => said.add_length(field.value)?,
                17 if is_named(name, b"transfer-encoding") => said.add_codings(field.value),
                _ => {}
            }
        }
        Ok(said)
    }

    /// Equal lengths are one (RFC 9110 §8.6).
    fn add_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        // As a rule there is one, which is no list.
        if self.length.is_none()
            && let Some(length) = digits(value)
        {
            self.length = Some(length);
            return Ok(());
        }
        for text in value.split(|byte| *byte == b',') {
            let length = digits(text.trim_ascii()).ok_or(FramingError::Length)?;
            if *self.length.get_or_insert(length) != length {
                return Err(FramingError::Length);
            }
        }
        Ok(())
    }

    fn add_codings(&mut self, value: &[u8]) {
        let is_first = !self.has_codings;
        self.has_codings = true;
        self.is_chunked = is_first && value.eq_ignore_ascii_case(b"chunked");
        let last = options(value).next_back();
        self.is_chunked_last = last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    }

    /// A request's body (RFC 9112 §6.3, rules 3 to 7).
    pub(crate) fn request_body(&self, version: Version) -> Result<BodyLength, FramingError> {
        if !self.has_codings {
            return Ok(self.length.map_or(BodyLength::Nothing, BodyLength::Length));
        }
        match (version, self.length) {
            (Version::HTTP_10, _) => Err(FramingError::OldCoding),
            (_, Some(_)) => Err(FramingError::Both),
            (_, None) if !self.is_chunked_last => Err(FramingError::NotChunked),
            (_, None) if !self.is_chunked => Err(FramingError::Coding),
            (_, None) => Ok(BodyLength::Chunked),
        }
    }

    /// A response's body, where there may be one (rules 4 to 8).
    pub(crate) fn response_body(&self, version: Version) -> Result<BodyLength, FramingError> {
        if self.has_codings {
            return match version {
                Version::HTTP_10 => Err(FramingError::OldCoding),
                // The coding wins over a length, which is not passed on (rule 3).
                _ if self.is_chunked => Ok(BodyLength::Chunked),
                // What is not taken off would be passed on as if it had been.
                _ if self.is_chunked_last => Err(FramingError::Coding),
                _ => Err(FramingError::NotChunked),
            };
        }
        Ok(self
            .length
            .map_or(BodyLength::UntilClose, BodyLength::Length))
    }

    /// Whether the connection goes on after the message (RFC 9112 §9.3).
    pub(crate) fn is_persistent(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps_alive)
    }
}
