//! Trailers as they pass through.
//!
//! Guarantees: no trailer that would change a message's framing or routing is forwarded, in either
//! direction.

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING};
use hyper::body::Frame;

/// The frame without those trailers that must not be forwarded.
pub(super) fn without_unsafe_trailers<B>(frame: Frame<B>) -> Frame<B> {
    match frame.into_trailers() {
        Err(frame) => frame,
        Ok(trailers) => Frame::trailers(clean(trailers)),
    }
}

/// The trailers without fields for framing, routing or authentication (RFC 9110 §6.5.1).
fn clean(mut trailers: HeaderMap) -> HeaderMap {
    for name in [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        TRAILER,
        AUTHORIZATION,
    ] {
        trailers.remove(name);
    }
    trailers
}
