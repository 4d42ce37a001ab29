//! A client's and a server's bytes, beside what hyper makes of them: it reads the same, or a rule
//! says why not.
#![no_main]

#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/agreed_requests.rs"]
mod agreed_requests;
#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/agreed_responses.rs"]
mod agreed_responses;
#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/codec.rs"]
mod codec;
#[allow(dead_code, reason = "each side has half of it")]
#[path = "../../crates/http1/tests/proofs/peer.rs"]
mod peer;

// The first bytes are the sizes of the parts and the side; what follows is the connection's.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(([one, two, side], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let sizes = [one, two].map(|size| usize::from(*size) + 1);
    let compared = match side & 3 {
        0 => agreed_responses::compare(bytes, &sizes, &http::Method::GET).map(drop),
        1 => agreed_responses::compare(bytes, &sizes, &http::Method::HEAD).map(drop),
        _ => agreed_requests::compare(bytes, &sizes).map(drop),
    };
    if let Err(difference) = compared {
        panic!("{difference}");
    }
});
