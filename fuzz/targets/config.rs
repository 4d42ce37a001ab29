//! A configuration's text: it loads, or every problem has a place; and what has loaded prints as a
//! configuration.
#![no_main]

use wakegate::config::{Variables, load};

libfuzzer_sys::fuzz_target!(|text: &str| {
    // Files that a text names are of no interest here, and may be devices.
    if text.contains("_file")
        || text.contains("file")
        || text.contains("template")
        || text.contains("robots")
    {
        return;
    }
    match load("fuzz.toml", text, &Variables::default()) {
        Ok(config) => {
            let printed = toml::to_string(&config).expect("it prints");
            assert!(printed.parse::<toml::Table>().is_ok(), "{printed}");
        }
        Err(error) => assert!(!error.problems.is_empty()),
    }
});
