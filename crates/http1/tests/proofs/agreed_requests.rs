//! What the codec and hyper's server make of the same bytes.
//!
//! Guarantees: the two read the same, or one of the rules below says why they do not.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http1::{ChunkError, FramingError, HeadError};

use crate::codec::{self, End, LIMITS, Request, Seen};
use crate::peer;

/// Why ours refuses what hyper reads, or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// RFC 9112 §6.1: a length beside a coding, be it one or not, is how requests are smuggled.
    Both,
    /// RFC 9112 §6.1: a coding that is not taken off is not passed on.
    OtherCoding,
    /// RFC 9110 §5.6.4: an extension has no control bytes.
    ControlInExtension,
    /// RFC 9112 §7.1: lines among and after the trailers end with CR LF.
    LoneLineFeed,
    /// The target goes on as it came; who looks for a host in it refuses it.
    NoUri,
    /// RFC 9110 §8.6: a list of equal lengths is one.
    ListOfLengths,
    /// RFC 9110 §7.6.1: one option of a list says nothing about the others.
    OptionOfHighBytes,
}

/// What is compared: as hyper has it, which keeps no order among different names.
fn as_hyper(request: &Request) -> Option<peer::Request> {
    let mut fields = HeaderMap::new();
    for (name, value) in &request.fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        // hyper keeps one of several equal lengths.
        if name == CONTENT_LENGTH && fields.contains_key(CONTENT_LENGTH) {
            continue;
        }
        fields.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    Some(peer::Request {
        method: Method::from_bytes(request.head.method.as_bytes()).unwrap(),
        uri: Uri::try_from(request.head.target.as_str()).ok()?,
        version: request.head.version,
        fields,
        // hyper hands trailers and data over one by one, too; what broke off counts as broken.
        body: request.body.clone(),
        trailers: request.trailers.clone(),
        is_whole: request.is_whole,
    })
}

/// The rule by which ours comes to another end than hyper.
fn rule(seen: &Seen<Request>) -> Option<Rule> {
    let has = |name: &str, byte: fn(&u8) -> bool| {
        let fields = seen.messages.iter().flat_map(|message| &message.fields);
        let mut values = fields.filter(|field| field.0.eq_ignore_ascii_case(name));
        values.any(|field| field.1.iter().any(byte))
    };
    let is_uri = |message: &Request| Uri::try_from(message.head.target.as_str()).is_ok();
    match seen.end {
        _ if has("content-length", |byte| *byte == b',') => Some(Rule::ListOfLengths),
        _ if has("connection", |byte| !byte.is_ascii()) => Some(Rule::OptionOfHighBytes),
        _ if !seen.messages.iter().all(is_uri) => Some(Rule::NoUri),
        End::Head(HeadError::Framing(FramingError::Both | FramingError::Length)) => {
            Some(Rule::Both)
        }
        End::Head(HeadError::Framing(FramingError::Coding | FramingError::NotChunked)) => {
            Some(Rule::OtherCoding)
        }
        End::Chunk(ChunkError::Chunk) => Some(Rule::ControlInExtension),
        End::Chunk(ChunkError::Trailers) => Some(Rule::LoneLineFeed),
        _ => None,
    }
}

/// Whether ours reads what hyper does not.
fn is_ours_alone(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::NoUri | Rule::ListOfLengths | Rule::OptionOfHighBytes
    )
}

/// Compares the readings; the rule by which they differ, if they do.
pub(crate) fn compare(bytes: &[u8], sizes: &[usize]) -> Result<Option<Rule>, String> {
    let parts = codec::cut(bytes, sizes);
    let seen = codec::requests(parts.iter().copied(), LIMITS);
    let (theirs, is_clean) = peer::requests(&parts);
    let whole = |all: &[peer::Request]| -> Vec<peer::Request> {
        all.iter().filter(|one| one.is_whole).cloned().collect()
    };
    let ours: Option<Vec<_>> = seen.messages.iter().map(as_hyper).collect();
    // Line ends and nothing else are no message; hyper sees no fault in half ones either.
    let is_line_ends = seen.left.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    let is_same_end = is_line_ends && !seen.left.is_empty() || (seen.end == End::Clean) == is_clean;
    let is_same = ours
        .as_deref()
        .is_some_and(|ours| whole(ours) == whole(&theirs) && is_same_end);
    if is_same {
        return Ok(None);
    }
    let rule = rule(&seen).ok_or_else(|| {
        format!(
            "{}\nours: {seen:#?}\nhyper: {is_clean} {theirs:#?}",
            bytes.escape_ascii()
        )
    })?;
    // Whatever ours has read before it refused is what hyper has read.
    if seen.is_refused() {
        let (ours, theirs) = (whole(&ours.unwrap_or_default()), whole(&theirs));
        if !theirs.starts_with(&ours) && !is_ours_alone(rule) {
            return Err(format!(
                "{}\nours: {ours:#?}\nhyper: {theirs:#?}",
                bytes.escape_ascii()
            ));
        }
    }
    Ok(Some(rule))
}
