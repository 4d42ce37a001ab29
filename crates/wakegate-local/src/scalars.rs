//! Names, tags and sizes as the contract writes them (A.3, A.4).
//!
//! Guarantees: input and output are kept apart, as the contract does: a printed size cannot be read
//! back.

use std::collections::BTreeMap;

/// What a name must be, for those who are refused.
pub(crate) const NAME_RULE: &str = "name must be lowercase letters, digits and hyphens, at most 63";

/// Whether a text is a name: `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`, at most 63 characters.
pub(crate) fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Whether these are at most 50 tags, with keys of 1-128 and values of 0-256 characters of the
/// contract's set.
pub(crate) fn are_tags(tags: &BTreeMap<String, String>) -> bool {
    let fine = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b" _.:/=+@-".contains(&b))
    };
    tags.len() <= 50
        && tags.iter().all(|(key, value)| {
            (1..=128).contains(&key.len()) && value.len() <= 256 && fine(key) && fine(value)
        })
}

/// Whether a program can be given these words.
pub(crate) fn are_words<'a>(mut words: impl Iterator<Item = &'a String>) -> bool {
    words.all(|word| !word.contains('\0'))
}

/// Whether a program can be given this environment, each variable as it is written.
pub(crate) fn is_environment(variables: &BTreeMap<String, String>) -> bool {
    let is_name = |name: &String| !name.is_empty() && !name.contains('=');
    variables.keys().all(is_name) && are_words(variables.iter().flat_map(|(k, v)| [k, v]))
}

/// Whether all of the `required` tags are among `tags`.
pub(crate) fn have_tags(
    tags: &BTreeMap<String, String>,
    required: &BTreeMap<String, String>,
) -> bool {
    required
        .iter()
        .all(|(key, value)| tags.get(key) == Some(value))
}

/// The bytes of a size such as `512MB`, `2 gb`, `1G` or `512`; no decimals, powers of 1024, and no
/// form that could mean bits (`Kb`).
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let mut letters = unit.chars();
    let power = match letters.next().map(|c| c.to_ascii_uppercase()) {
        None => 0,
        Some('B') if unit.len() == 1 => 0,
        Some(letter) => {
            let tail: String = letters.collect();
            let bits = tail == "b" && unit.starts_with(|c: char| c.is_ascii_uppercase());
            if bits || !(tail.is_empty() || tail.eq_ignore_ascii_case("b")) {
                return None;
            }
            1 + "KMGTPE".find(letter)?
        }
    };
    let scale = 1024_u64.checked_pow(u32::try_from(power).ok()?)?;
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// The bytes per second of a rate such as `100MB/s`, `100MBps` or `100MB`.
pub(crate) fn parse_rate(text: &str) -> Option<u64> {
    let size = text.strip_suffix("/s").or_else(|| text.strip_suffix("ps"));
    parse_size(size.unwrap_or(text))
}

/// The bytes per second of a bandwidth: bits such as `1Gbps`, in powers of 1000, or bytes such as
/// `125MB/s`.
pub(crate) fn parse_bandwidth(text: &str) -> Option<u64> {
    let Some(bits) = text.strip_suffix("bps") else {
        return parse_rate(text);
    };
    let digits = bits.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = bits.split_at(digits);
    let scale: u64 = match unit.trim_start_matches(' ') {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "g" | "G" => 1_000_000_000,
        "t" | "T" => 1_000_000_000_000,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()?.checked_mul(scale)? / 8)
}

/// A size with one decimal, its unit chosen by a strict `>`: 1 GiB is `1024.0 MB`.
pub(crate) fn print_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0 B".to_owned();
    }
    let units = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut index) = (bytes as f64, 0);
    while value > 1024.0 && index + 1 < units.len() {
        value /= 1024.0;
        index += 1;
    }
    format!("{value:.1} {}", units.get(index).copied().unwrap_or("EB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        for good in ["a", "a-b", "0", "agent-7", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_as_the_contract_says() {
        let mib = 1024 * 1024;
        for (text, bytes) in [
            ("512", 512),
            ("512MB", 512 * mib),
            ("2 gb", 2048 * mib),
            ("1G", 1024 * mib),
            ("1kb", 1024),
            ("7B", 7),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "1.5GB",
            "1GiB",
            "1Gb",
            "1Kb",
            "GB",
            "-1",
            "1 G B",
            "1X",
            "99999999999EB",
            "1é",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_no_program_can_be_given_is_no_environment() {
        let environment = |name: &str, value: &str| {
            is_environment(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        assert!(environment("A", "b=c") && environment("a.b c", ""));
        for (name, value) in [("", "b"), ("A=B", "c"), ("A\0", "b"), ("A", "\0")] {
            assert!(!environment(name, value), "{name:?} {value:?}");
        }
        let words = ["a".to_owned(), "b\0".to_owned()];
        assert!(are_words(words[..1].iter()) && !are_words(words.iter()));
    }

    #[test]
    fn rates_are_bytes_and_bandwidths_also_bits() {
        let mib = 1024 * 1024;
        for text in ["100MB", "100MB/s", "100MBps"] {
            assert_eq!(parse_rate(text), Some(100 * mib), "{text}");
        }
        for text in ["fast", "100MB/s/s", "100MBpsps", "1.5MB/s", "", "/s"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
        for (text, bytes) in [
            ("1Gbps", 125_000_000),
            ("100Mbps", 12_500_000),
            ("800bps", 100),
            ("125MB/s", 125 * mib),
        ] {
            assert_eq!(parse_bandwidth(text), Some(bytes), "{text}");
        }
        for text in ["very fast", "1Xbps", "bps", "-1Gbps", "99999999999Tbps"] {
            assert_eq!(parse_bandwidth(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_with_a_strict_border() {
        let gib = 1024 * 1024 * 1024;
        for (bytes, text) in [
            (gib / 2, "512.0 MB"),
            (gib, "1024.0 MB"),
            (2 * gib, "2.0 GB"),
            (10 * gib, "10.0 GB"),
            (0, "0 B"),
        ] {
            assert_eq!(print_size(bytes), text);
        }
    }
}
