//! What was not tested, and why.
//!
//! Guarantees: a test that is skipped leaves a line in `target/tmp/skipped`, which `make test`
//! shows at its end; where tests must not be skipped for want of a tool (`CI` is set), it fails
//! instead.

use std::io::Write as _;

use super::tools::scratch;

/// What a skipped test would need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// Something that can be installed.
    Tool,
    /// Something that this machine does not allow or does not have.
    Machine,
}

/// Records that the current test is skipped, or a part of it.
pub fn skip(lacking: Lacking, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let must_run = lacking == Lacking::Tool && std::env::var_os("CI").is_some();
    assert!(!must_run, "{test} must not be skipped: {reason}");
    println!("SKIPPED: {reason}");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(scratch("skipped"))
        .unwrap();
    // One write, so that lines of tests beside this one do not mix with it.
    file.write_all(format!("{test}: {reason}\n").as_bytes())
        .unwrap();
}
