//! Go durations: what is read and printed reads back to the same.
#![no_main]

use hypeman::GoDuration;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(duration) = text.parse::<GoDuration>() {
        let printed = duration.to_string();
        assert_eq!(
            printed.parse::<GoDuration>(),
            Ok(duration),
            "{text:?} is {printed:?}"
        );
    }
});
