//! A PROXY header, and whatever else comes first.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wakegate::listener::proxy_protocol::fuzz(bytes));
