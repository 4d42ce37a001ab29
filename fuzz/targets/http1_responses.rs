//! A server's bytes, in any parts: the same responses come out, no more is kept than the limits
//! say, and what goes on to a client of either version is what a strict reader of RFC 9112 reads.
#![no_main]

#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/codec.rs"]
mod codec;
#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/strict.rs"]
mod strict;
#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/written.rs"]
mod written;

use http::Method;

// The first bytes are the sizes of the parts, the limits and what was asked; what follows is the
// connection's.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(([one, two, most, asked], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let sizes = [one, two].map(|size| usize::from(*size) + 1);
    let limits = http1::HeadLimits {
        bytes: 16 + usize::from(*most) * 4,
        fields: 1 + usize::from(*most) % 80,
    };
    let asked = [0, 1, 2].map(|bit| match asked >> bit & 1 {
        0 => Method::GET,
        _ => Method::HEAD,
    });
    let whole = codec::responses([bytes], limits, &asked);
    let parts = codec::responses(codec::cut(bytes, &sizes), limits, &asked);
    assert_eq!(whole.reading(), parts.reading());
    let bytewise = codec::responses(codec::cut(bytes, &[1]), limits, &asked);
    assert_eq!(whole.reading(), bytewise.reading());
    for response in whole.messages.iter().filter(|one| one.is_whole) {
        written::check_response(response, &sizes);
    }
});
