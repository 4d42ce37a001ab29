//! A request's head, and whatever follows it, as our own side of HTTP/1.1 reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wakegate::listener::fuzz_head(bytes));
