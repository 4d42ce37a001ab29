//! The codec as a connection drives it: bytes come in parts, messages come out.
//!
//! Guarantees: after each part, no more is kept than a head's limit or one line between chunks.

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version};
use http1::{
    BodyPart, ChunkError, HeadError, HeadLimits, RequestFraming, RequestReader, ResponseFraming,
    ResponseReader, empty_lines,
};

/// What the codec keeps of a line between chunks, or of the trailers, before it gives up.
const MOST_LINE: usize = 16 * 1024;

/// The limits of most of the proofs.
pub(crate) const LIMITS: HeadLimits = HeadLimits {
    bytes: 8192,
    fields: 100,
};

/// The part of a message after its head, which says `H` about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message<H> {
    pub(crate) head: H,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) is_whole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestLine {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) framing: RequestFraming,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusLine {
    pub(crate) asked: Method,
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
    pub(crate) version: Version,
    pub(crate) framing: ResponseFraming,
}

pub(crate) type Request = Message<RequestLine>;
pub(crate) type Response = Message<StatusLine>;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Between two messages, or after one that was the last.
    Clean,
    /// Inside a message, since no more bytes came.
    Cut,
    Head(HeadError),
    Chunk(ChunkError),
}

/// All that came of a connection's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen<M> {
    pub(crate) messages: Vec<M>,
    pub(crate) end: End,
    /// What nobody has taken.
    pub(crate) left: Vec<u8>,
    /// Whether the last message's body is not over.
    is_inside: bool,
}

impl<M: Clone> Seen<M> {
    /// What does not depend on how the bytes were cut. Which of several faults of a head is found
    /// first does, and whether a line's fault is found before its end has come.
    pub(crate) fn reading(&self) -> (Vec<M>, &'static str) {
        let end = match self.end {
            End::Clean => "clean",
            End::Cut if self.is_inside => "inside a body",
            End::Cut | End::Head(_) => "no head",
            End::Chunk(_) => "no body",
        };
        (self.messages.clone(), end)
    }

    /// Whether a fault was found.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.end, End::Head(_) | End::Chunk(_))
    }
}

/// Takes the rest of a message's body; whether it is over.
fn body<H>(
    message: &mut Message<H>,
    input: &mut BytesMut,
    mut take: impl FnMut(&mut BytesMut) -> Result<BodyPart, ChunkError>,
) -> Result<bool, ChunkError> {
    loop {
        match take(input)? {
            BodyPart::Data(data) => {
                assert!(!data.is_empty(), "a part has bytes");
                message.body.extend_from_slice(&data);
            }
            BodyPart::Trailers(trailers) => {
                assert!(!trailers.is_empty(), "trailers are there");
                message.trailers = trailers;
            }
            BodyPart::End => {
                message.is_whole = true;
                return Ok(true);
            }
            BodyPart::More => {
                assert!(
                    input.len() < MOST_LINE,
                    "{} bytes of a line are kept",
                    input.len()
                );
                return Ok(false);
            }
        }
    }
}

/// The requests that a connection's bytes are, which come in these parts.
pub(crate) fn requests<'p>(
    parts: impl IntoIterator<Item = &'p [u8]>,
    limits: HeadLimits,
) -> Seen<Request> {
    let mut reader = RequestReader::new(limits);
    let (mut input, mut messages) = (BytesMut::new(), Vec::<Request>::new());
    let mut is_over = false;
    let mut end = End::Clean;
    'connection: for part in parts {
        input.extend_from_slice(part);
        while !is_over {
            if let Some(message) = messages.last_mut().filter(|message| !message.is_whole) {
                match body(message, &mut input, |input| reader.read_body(input)) {
                    Ok(true) => is_over = !message.head.framing.is_persistent,
                    Ok(false) => break,
                    Err(error) => {
                        end = End::Chunk(error);
                        break 'connection;
                    }
                }
                continue;
            }
            input.advance(empty_lines(&input));
            let read = reader.read_head(&input, |head| Message {
                head: RequestLine {
                    method: head.method.into(),
                    target: head.target.into(),
                    version: head.version,
                    framing: head.framing,
                },
                fields: owned(head.fields),
                body: Vec::new(),
                trailers: HeaderMap::new(),
                is_whole: false,
            });
            match read {
                Ok(Some((length, message))) => {
                    input.advance(length);
                    messages.push(message);
                }
                Ok(None) => {
                    assert!(
                        input.len() <= limits.bytes,
                        "{} bytes of a head are kept",
                        input.len()
                    );
                    break;
                }
                Err(error) => {
                    end = End::Head(error);
                    break 'connection;
                }
            }
        }
    }
    ended(messages, end, &input, is_over)
}

/// The responses to requests of these methods, after which the connection ends.
pub(crate) fn responses<'p>(
    parts: impl IntoIterator<Item = &'p [u8]>,
    limits: HeadLimits,
    asked: &[Method],
) -> Seen<Response> {
    let mut reader = ResponseReader::new(limits);
    let mut asked = asked.iter();
    let mut method = asked.next().cloned();
    let (mut input, mut messages) = (BytesMut::new(), Vec::<Response>::new());
    let mut end = End::Clean;
    'connection: for part in parts {
        input.extend_from_slice(part);
        while let Some(now) = &method {
            if let Some(message) = messages.last_mut().filter(|message| !message.is_whole) {
                match body(message, &mut input, |input| reader.read_body(input)) {
                    Ok(true) if message.head.framing.is_interim => {}
                    Ok(true) if message.head.framing.is_persistent => {
                        method = asked.next().cloned();
                    }
                    Ok(true) => method = None,
                    Ok(false) => break,
                    Err(error) => {
                        end = End::Chunk(error);
                        break 'connection;
                    }
                }
                continue;
            }
            let read = reader.read_head(&input, now, |head| Message {
                head: StatusLine {
                    asked: now.clone(),
                    status: head.status,
                    reason: head.reason.into(),
                    version: head.version,
                    framing: head.framing,
                },
                fields: owned(head.fields),
                body: Vec::new(),
                trailers: HeaderMap::new(),
                is_whole: false,
            });
            match read {
                Ok(Some((length, message))) => {
                    input.advance(length);
                    messages.push(message);
                }
                Ok(None) => {
                    assert!(
                        input.len() <= limits.bytes,
                        "{} bytes of a head are kept",
                        input.len()
                    );
                    break;
                }
                Err(error) => {
                    end = End::Head(error);
                    break 'connection;
                }
            }
        }
    }
    let last = messages.last_mut();
    if let Some(last) = last.filter(|last| !last.is_whole && end == End::Clean) {
        last.is_whole = reader.body().ends_with_connection();
    }
    ended(messages, end, &input, method.is_none())
}

fn owned(fields: http1::Fields<'_, '_>) -> Vec<(String, Vec<u8>)> {
    let fields = fields.iter();
    fields
        .map(|field| (field.name.to_owned(), field.value.to_vec()))
        .collect()
}

fn ended<H>(messages: Vec<Message<H>>, end: End, input: &[u8], is_over: bool) -> Seen<Message<H>> {
    let is_whole = messages.last().is_none_or(|last| last.is_whole);
    // Empty lines after a message are none of the next, nor is one whose end is missing.
    let left = input.get(empty_lines(input)..).unwrap_or_default();
    let is_between = is_over || left.is_empty() || left == b"\r";
    let end = match end {
        End::Clean if !(is_whole && is_between) => End::Cut,
        end => end,
    };
    Seen {
        messages,
        end,
        left: input.to_vec(),
        is_inside: !is_whole,
    }
}

/// The bytes in parts of these sizes, which are taken in turns.
pub(crate) fn cut<'b>(bytes: &'b [u8], sizes: &[usize]) -> Vec<&'b [u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes
            .next()
            .map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        let (part, more) = rest.split_at(size);
        parts.push(part);
        rest = more;
    }
    parts
}
