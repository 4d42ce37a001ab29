//! Durations as Go writes them: `time.ParseDuration` in, `time.Duration.String` out.
//!
//! Guarantees: what Go accepts is accepted, what Go refuses is refused, and printing gives Go's
//! canonical text byte for byte (`1h0m0s`, `1.5s`, `100ms`), so that a value may go through a
//! Hypeman server and come back equal. Range: 64-bit nanoseconds, about ±292 years.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A signed span of nanoseconds that reads and prints as Go's `time.Duration`.
///
/// ```
/// use std::time::Duration;
///
/// use hypeman::GoDuration;
///
/// let idle: GoDuration = "90s".parse()?;
/// assert_eq!(idle.to_string(), "1m30s");
/// assert_eq!(idle.to_std(), Some(Duration::from_secs(90)));
/// assert_eq!(GoDuration::from(Duration::from_millis(1500)).to_string(), "1.5s");
/// # Ok::<(), hypeman::GoDurationError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration(i64);

/// The reason why a text is no Go duration. The text itself is kept: it is a setting or a value of
/// the API, and never a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoDurationError {
    /// The text is not a number and a unit, or several of these.
    #[error(
        "`{0}` is not a duration: write a number and a unit, like \"30s\", \"250ms\" or \"1h30m\""
    )]
    Malformed(String),
    /// A number has no unit. Go takes only `0` so.
    #[error("`{0}` has no unit: write it like \"{0}s\" or \"{0}ms\"")]
    MissingUnit(String),
    /// Go does not know the unit; there are no days.
    #[error("`{unit}` in `{text}` is not a unit: use ns, us, ms, s, m or h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The part that should have been a unit.
        unit: String,
    },
    /// The span does not fit 64-bit nanoseconds.
    #[error("`{0}` is too long: the limit is about 292 years")]
    OutOfRange(String),
}

// === impl GoDuration ===

impl GoDuration {
    /// The span of so many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The span in nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The span as the standard library has it; `None` when it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl From<Duration> for GoDuration {
    /// The same span, or Go's longest one if it is longer.
    fn from(value: Duration) -> Self {
        Self(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = GoDurationError;

    /// Source of the rules: the documentation of Go's `time.ParseDuration`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || GoDurationError::Malformed(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(malformed());
        }
        // Go sums in an unsigned 64-bit number whose ceiling is 2^63, so that the most negative
        // value can be written.
        let out_of_range = || GoDurationError::OutOfRange(text.to_owned());
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let whole_len = digits(rest);
            let (whole, after) = rest.split_at(whole_len);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(tail) => tail.split_at(digits(tail)),
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(malformed());
            }
            let unit_len = after
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_len);
            if unit.is_empty() {
                return Err(GoDurationError::MissingUnit(text.to_owned()));
            }
            let scale = unit_nanos(unit).ok_or_else(|| GoDurationError::UnknownUnit {
                text: text.to_owned(),
                unit: unit.to_owned(),
            })?;
            let whole: u64 = if whole.is_empty() {
                0
            } else {
                whole.parse().map_err(|_| out_of_range())?
            };
            let value = whole
                .checked_mul(scale)
                .and_then(|nanos| nanos.checked_add(fraction_nanos(fraction, scale)))
                .and_then(|nanos| total.checked_add(nanos))
                .filter(|nanos| *nanos <= 1 << 63)
                .ok_or_else(out_of_range)?;
            total = value;
            rest = after;
        }
        let signed = if negative {
            -i128::from(total)
        } else {
            i128::from(total)
        };
        i64::try_from(signed).map(Self).map_err(|_| out_of_range())
    }
}

/// Length of the leading ASCII digits.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// `0.fraction` of one unit in nanoseconds, in floating point and with Go's cut-off for digits that
/// no longer fit, so that `0.3333333333333333333h` is 20 minutes here as it is there.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the product is below one unit, at most an hour, and never negative"
)]
fn fraction_nanos(fraction: &str, unit: u64) -> u64 {
    let (mut numerator, mut scale) = (0_u64, 1.0_f64);
    for digit in fraction.bytes() {
        if numerator > (i64::MAX as u64) / 10 {
            break;
        }
        let next = numerator * 10 + u64::from(digit - b'0');
        if next > 1 << 63 {
            break;
        }
        numerator = next;
        scale *= 10.0;
    }
    (numerator as f64 * (unit as f64 / scale)) as u64
}

fn unit_nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // U+00B5 (micro sign) and U+03BC (Greek mu): Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

impl fmt::Display for GoDuration {
    /// Source of the form: the documentation of Go's `time.Duration.String`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match magnitude {
            0 => f.write_str("0s"),
            n if n < MICROSECOND => write!(f, "{n}ns"),
            n if n < MILLISECOND => write_decimal(f, n, MICROSECOND, "\u{b5}s"),
            n if n < SECOND => write_decimal(f, n, MILLISECOND, "ms"),
            n => {
                let (hours, minutes, rest) = (n / HOUR, n % HOUR / MINUTE, n % MINUTE);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if n >= MINUTE {
                    write!(f, "{minutes}m")?;
                }
                write_decimal(f, rest, SECOND, "s")
            }
        }
    }
}

/// Prints `nanos / scale` without trailing zeros, then the unit.
fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: u64, scale: u64, unit: &str) -> fmt::Result {
    let (whole, mut fraction) = (nanos / scale, nanos % scale);
    write!(f, "{whole}")?;
    if fraction > 0 {
        let mut width = scale.ilog10() as usize;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        write!(f, ".{fraction:0width$}")?;
    }
    f.write_str(unit)
}

impl fmt::Debug for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pairs from the documentation and the published examples of Go's `time` package.
    #[test]
    fn prints_the_texts_that_go_prints() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (3_600_000_000_000, "1h0m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration::from_nanos(nanos).to_string(), text);
            assert_eq!(text.parse(), Ok(GoDuration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn reads_every_form_that_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("+5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("5s5s", 10_000_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9007199254.740993ms", 9_007_199_254_740_993),
            ("0.100000000000000000000h", 360_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses_and_says_why() {
        use GoDurationError as E;
        for text in [
            "", "+", "-", "s", ".", ".s", "-.", "+.s", " 1s", "1s ", "1 s",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
        assert!(matches!("3".parse::<GoDuration>(), Err(E::MissingUnit(_))));
        assert!(matches!(
            "1d".parse::<GoDuration>(),
            Err(E::UnknownUnit { .. })
        ));
        assert!(matches!(
            "2562047h47m16.854775808s".parse::<GoDuration>(),
            Err(E::OutOfRange(_))
        ));
        assert!(matches!(
            "99999999999999999999h".parse::<GoDuration>(),
            Err(E::OutOfRange(_))
        ));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_equal(nanos in any::<i64>()) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn what_is_read_prints_canonically(h in 0_u32..1000, m in 0_u32..600, ms in 0_u32..100_000) {
            let text = format!("{h}h{m}m{ms}ms");
            let once: GoDuration = text.parse().unwrap();
            prop_assert_eq!(
                once.nanos(),
                i64::from(h) * 3_600_000_000_000 + i64::from(m) * 60_000_000_000 + i64::from(ms) * 1_000_000
            );
            prop_assert_eq!(once.to_string().parse::<GoDuration>().unwrap().to_string(), once.to_string());
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
