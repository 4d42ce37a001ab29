//! Small values that a configuration writes as text.
//!
//! Guarantees: each prints as the text that loads back to it; a file's text was read when the
//! configuration was, so that a missing file is a problem of the configuration.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::duration_text::go_text;
#[cfg(test)]
use super::shape::{GoText, text_schema};

/// Bytes: `"512"`, `"64KiB"`, `"1MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

/// So many per second, minute or hour: `"10/m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long: a second, a minute or an hour.
    pub per: Duration,
}

/// A header field: `"name: value"`, or `"name"` with any value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    /// Its name.
    pub name: HeaderName,
    /// Its value, when that matters.
    pub value: Option<HeaderValue>,
}

/// A text file, read with the configuration. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    path: PathBuf,
    text: Arc<str>,
}

/// A window in which an instance is kept awake.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct KeepWarm {
    /// When it begins: five cron fields.
    pub cron: String,
    /// The cron fields' time zone, an IANA name.
    pub zone: String,
    /// How long it lasts.
    #[serde(rename = "for", serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub length: Duration,
    #[serde(skip)]
    parsed: cronexpr::Crontab,
}

#[cfg(test)]
text_schema!(ByteSize, "ByteSize", "64KiB");
#[cfg(test)]
text_schema!(Rate, "Rate", "10/m");
#[cfg(test)]
text_schema!(HeaderRule, "HeaderRule", "x-name: value");
#[cfg(test)]
text_schema!(TextFile, "TextFile", "page.html");

// === impl ByteSize ===

impl ByteSize {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size like \"64KiB\"");
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text.strip_prefix(digits).map(str::trim) {
            Some("" | "B") => 1,
            Some("KiB") => 1 << 10,
            Some("MiB") => 1 << 20,
            _ => return Err(wrong()),
        };
        let count: usize = digits.parse().map_err(|_| wrong())?;
        count.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n > 0 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl Rate ===

impl Rate {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate like \"10/m\" (per s, m or h)");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        let count = count.parse().map_err(|_| wrong())?;
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name of a field that a rule may touch.
pub(super) fn parse_field_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("`{text}` is not a header field's name"))?;
    let own = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    if own.contains(&name) {
        return Err(format!("`{name}` frames messages and is the gateway's own"));
    }
    Ok(name)
}

// === impl HeaderRule ===

impl HeaderRule {
    /// A message has the name in it and never the value, which may be a secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        let name: HeaderName = name
            .parse()
            .map_err(|_| "is not a header field like \"x-wake: yes\"".to_owned())?;
        let value = value.map(str::parse).transpose();
        let value = value.map_err(|_| format!("`{name}` has a value that no field can have"))?;
        Ok(Self { name, value })
    }
}

impl fmt::Display for HeaderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())?;
        match &self.value {
            Some(value) => write!(f, ": {}", String::from_utf8_lossy(value.as_bytes())),
            None => Ok(()),
        }
    }
}

impl Serialize for HeaderRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl TextFile ===

impl TextFile {
    /// The longest that is read.
    const LIMIT: usize = 1024 * 1024;

    pub(super) fn read(path: &str) -> Result<Self, String> {
        let path = Path::new(path);
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
        if text.len() > Self::LIMIT {
            return Err(format!("`{}` is longer than 1 MiB", path.display()));
        }
        let (path, text) = (path.to_owned(), text.into());
        Ok(Self { path, text })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Serialize for TextFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.path.display())
    }
}

// === impl KeepWarm ===

impl KeepWarm {
    pub(super) fn new(cron: String, zone: String, length: Duration) -> Result<Self, String> {
        let parsed = cronexpr::parse_crontab(&format!("{cron} {zone}"));
        let parsed = parsed.map_err(|_| {
            format!(
                "`{cron}` is not five cron fields (minute, hour, day of the month, month, day of \
                 the week) like \"0 8 * * 1-5\""
            )
        })?;
        Ok(Self {
            cron,
            zone,
            length,
            parsed,
        })
    }

    /// How much is left at `now` of the window that began first; `None` outside of all. Windows of
    /// one schedule may overlap: where this one ends, another may go on.
    pub fn left(&self, now: jiff::Timestamp) -> Option<Duration> {
        let length = jiff::SignedDuration::try_from(self.length).ok()?;
        let start = self.next_after(now.checked_sub(length).ok()?)?;
        let into = Duration::try_from(now.duration_since(start)).ok()?;
        let left = self.length.checked_sub(into);
        left.filter(|left| !left.is_zero())
    }

    /// How long it is at `now` until the next window begins.
    pub fn begins_in(&self, now: jiff::Timestamp) -> Option<Duration> {
        Duration::try_from(self.next_after(now)?.duration_since(now)).ok()
    }

    fn next_after(&self, time: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let next = self.parsed.find_next(time.to_string().as_str()).ok()?;
        Some(next.timestamp())
    }
}

impl PartialEq for KeepWarm {
    fn eq(&self, other: &Self) -> bool {
        (&self.cron, &self.zone, self.length) == (&other.cron, &other.zone, other.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_print_as_they_are_read() {
        for text in ["0B", "17B", "64KiB", "3MiB"] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
        for text in ["1/s", "10/m", "500/h"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "KiB",
            "-1",
            "9GB",
            "1 fortnight",
            "99999999999999999999MiB",
        ] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
        for text in ["", "0/m", "10", "10/d", "/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_is_open_from_its_first_second_for_its_length_in_its_zone() {
        let hours = Duration::from_secs(2 * 3600);
        let window = KeepWarm::new("0 8 * * 1-5".into(), "Europe/Berlin".into(), hours).unwrap();
        let left = |text: &str| window.left(text.parse().unwrap());
        // Winter: 8:00 in Berlin is 7:00 UTC. The 23rd of November 2026 is a Monday.
        assert_eq!(left("2026-11-23T06:59:59Z"), None);
        assert_eq!(left("2026-11-23T07:00:00Z"), Some(hours));
        assert_eq!(left("2026-11-23T08:30:00Z"), Some(hours / 4));
        assert_eq!(left("2026-11-23T09:00:00Z"), None);
        assert_eq!(left("2026-11-22T07:30:00Z"), None, "a Sunday");
        // Summer: 6:00 UTC.
        assert_eq!(left("2026-07-01T06:00:00Z"), Some(hours));
        let bad = KeepWarm::new("0 8 * *".into(), "Europe/Berlin".into(), hours);
        assert!(bad.is_err());
        assert!(KeepWarm::new("0 8 * * *".into(), "Mars/Olympus".into(), hours).is_err());
    }
}
