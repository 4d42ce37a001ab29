//! HTTP/1.0 and HTTP/1.1 (RFC 9112) for both sides of a proxy, without sockets: bytes that came in,
//! events and bytes to be sent out.
//!
//! Guarantees: a message has one reading or is refused ([`FramingError`], RFC 9112 §6, §7), and
//! where it ends does not depend on how its bytes are cut; a body is never dropped, invented or
//! shortened without an error; what is written reads back the same; nothing is kept of a message
//! beyond the limits that its reader was given.
//!
//! | side | reads | writes |
//! |---|---|---|
//! | a server's, for clients | [`RequestReader`] | [`write_response`], [`BodyEncoder`] |
//! | a client's, for servers | [`ResponseReader`] | [`write_request`], [`BodyEncoder`] |

mod chunk;
mod decoder;
mod encoder;
mod fields;
mod framing;
mod head;
mod lines;
mod passing;
mod reader;
mod request;
mod response;
mod write;

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

pub use self::chunk::ChunkError;
pub use self::decoder::{BodyDecoder, BodyPart};
pub use self::encoder::{BodyEncoder, EncodeError};
pub use self::fields::{Field, Fields, digits, has_option, options};
pub use self::framing::{BodyLength, FramingError};
pub use self::head::{Copied, HeadError, HeadLimits};
pub use self::lines::FieldLines;
pub use self::passing::PassingFields;
pub use self::request::{RequestFraming, RequestHead, RequestReader, empty_lines};
pub use self::response::{Reason, ResponseFraming, ResponseHead, ResponseReader};
pub use self::write::{
    Audience, Final, Outcome, line, only_length, write_interim, write_request, write_request_lines,
    write_response,
};

/// Takes interim responses (1xx, RFC 9110 §15.2) for a client: the upstream side has them, and the
/// client's connection writes them.
pub type InterimSink = Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;
