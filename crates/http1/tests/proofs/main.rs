//! What the codec promises, held against others: against hyper on both sides, against bare
//! `httparse`, and against a strict reader of RFC 9112 that shares no code with it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod agreed_requests;
mod agreed_responses;
mod codec;
mod corpus;
mod heads;
mod nearly;
mod peer;
mod requests;
mod responses;
mod round_trips;
mod strict;
mod strictness;
mod written;

/// As many cases of a property as find most of what there is: eight times the usual number, which
/// `PROPTEST_CASES` sets.
fn many() -> proptest::prelude::ProptestConfig {
    let usual = proptest::prelude::ProptestConfig::default();
    proptest::prelude::ProptestConfig {
        cases: usual.cases * 8,
        ..usual
    }
}
