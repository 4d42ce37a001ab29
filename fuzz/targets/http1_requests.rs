//! A client's bytes, in any parts: the same requests come out, no more is kept than the limits say,
//! and what goes on to an instance is what a strict reader of RFC 9112 reads.
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

// The first bytes are the sizes of the parts and the limits; what follows is the connection's.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(([one, two, three, most], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let sizes = [one, two, three].map(|size| usize::from(*size) + 1);
    let limits = http1::HeadLimits {
        bytes: 16 + usize::from(*most) * 4,
        fields: 1 + usize::from(*most) % 80,
    };
    let whole = codec::requests([bytes], limits);
    let parts = codec::requests(codec::cut(bytes, &sizes), limits);
    assert_eq!(whole.reading(), parts.reading());
    let bytewise = codec::requests(codec::cut(bytes, &[1]), limits);
    assert_eq!(whole.reading(), bytewise.reading());
    written::check_requests(&whole.messages, &sizes);
});
