//! Sections of the configuration whose keys are declared once.
//!
//! Guarantees: a key's name, type, documentation, default and rule stand together, at its field in
//! `settings!`; from there it is read and checked, printed, and put in the schema. What a rule does
//! not say, the type does ([`Setting`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};

use super::client_share::ClientShare;
use super::problem::Complaint;
use super::reader::Section;
use super::secret::Secret;
use super::values::{ByteSize, HeaderRule, Rate, TextFile};
use super::whole::Whole;

/// A section: a table whose keys are declared with `settings!`.
pub(super) trait Settings: Default {
    /// Reads its keys; those that are not there keep their values.
    fn read(&mut self, s: &mut Section<'_, '_>);
}

/// A type that says how a key with it is written.
pub(super) trait Setting: Sized {
    /// A key's value; `None` where there is none, or one that is a problem.
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self>;
}

/// Declares a section. After a key's default may stand `by` and the rule that reads it.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                pub $field:ident: $type:ty = $default:expr $(, by $rule:expr)?;
            )*
        }
    ) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::settings::Settings for $name {
            fn read(&mut self, s: &mut $crate::config::reader::Section<'_, '_>) {
                $(
                    let found: Option<$type> = $crate::config::settings::settings!(
                        @take s, stringify!($field) $(, $rule)?
                    );
                    if let Some(value) = found {
                        self.$field = value;
                    }
                )*
            }
        }
    };
    (@take $s:ident, $key:expr) => {
        $crate::config::settings::Setting::take($s, $key)
    };
    (@take $s:ident, $key:expr, $rule:expr) => {
        ($rule)($s, $key)
    };
}
pub(super) use settings;

// === Rules ===

/// A table below.
#[allow(clippy::unnecessary_wraps, reason = "rules may find nothing")]
pub(super) fn section<T: Settings>(s: &mut Section<'_, '_>, key: &'static str) -> Option<T> {
    let mut found = T::default();
    s.section(key, |s| found.read(s));
    Some(found)
}

/// No key: it is found out otherwise.
pub(super) fn elsewhere<T>(_: &mut Section<'_, '_>, _: &'static str) -> Option<T> {
    None
}

/// A text that `parse` can read.
pub(super) fn text<T, E: Into<Complaint>>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<T> {
    move |s, key| s.parsed(key, &parse)
}

/// The same for a key that need not be there.
#[allow(
    clippy::option_option,
    reason = "one for whether there is a value, the other of the key's own type"
)]
pub(super) fn optional_text<T, E: Into<Complaint>>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<Option<T>> {
    move |s, key| s.parsed(key, &parse).map(Some)
}

/// A list of texts that `parse` can read.
pub(super) fn list<T, L: From<Vec<T>>, E: Into<Complaint>>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<L> {
    move |s, key| s.list(key, &parse).map(Into::into)
}

/// A table of texts that `parse` can read.
pub(super) fn map<T, E: Into<Complaint>>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<BTreeMap<String, T>> {
    move |s, key| s.map(key, &parse)
}

/// A number of at least so much.
pub(super) fn at_least<T: Whole + PartialOrd + std::fmt::Display + Copy>(
    least: T,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<T> {
    move |s, key| {
        let number = s.number::<T>(key)?;
        if number < least {
            s.problem(key, format_args!("must be at least {least}"));
        }
        Some(number)
    }
}

/// A number between two, both included.
pub(super) fn within<T: Whole + PartialOrd + std::fmt::Display + Copy>(
    range: RangeInclusive<T>,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<T> {
    move |s, key| {
        let number = s.number::<T>(key)?;
        if !range.contains(&number) {
            let (least, most) = (range.start(), range.end());
            s.problem(key, format_args!("must be {least} to {most}"));
        }
        Some(number)
    }
}

/// A size of at least, and at most, so many bytes.
pub(super) fn size_within(
    range: RangeInclusive<ByteSize>,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<ByteSize> {
    move |s, key| {
        let size = ByteSize::take(s, key)?;
        if size < *range.start() {
            s.problem(key, format_args!("must be at least {}", range.start()));
        }
        if size > *range.end() {
            s.problem(key, format_args!("must be at most {}", range.end()));
        }
        Some(size)
    }
}

/// A duration of at least so long; the text is how a person writes it.
pub(super) fn no_shorter(
    least: Duration,
    text: &'static str,
) -> impl Fn(&mut Section<'_, '_>, &'static str) -> Option<Duration> {
    move |s, key| {
        let time = Duration::take(s, key)?;
        if time < least {
            s.problem(key, format_args!("must be at least {text}"));
        }
        Some(time)
    }
}

/// A port that something can be reached at.
pub(super) fn port(s: &mut Section<'_, '_>, key: &'static str) -> Option<u16> {
    s.port(key)
}

/// The same for a key that need not be there.
#[allow(
    clippy::option_option,
    reason = "one for whether there is a value, the other of the key's own type"
)]
pub(super) fn optional_port(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<u16>> {
    s.port(key).map(Some)
}

/// A share from 0 to 1.
pub(super) fn share(s: &mut Section<'_, '_>, key: &'static str) -> Option<f64> {
    s.share(key)
}

// === Types ===

impl Setting for bool {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.flag(key)
    }
}

impl Setting for Duration {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.duration(key)
    }
}

impl Setting for String {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.text(key)
    }
}

impl Setting for PathBuf {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.text(key).map(Into::into)
    }
}

impl Setting for Secret {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.text(key).as_deref().map(Self::new)
    }
}

impl<T: Setting> Setting for Option<T> {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        T::take(s, key).map(Some)
    }
}

macro_rules! whole_settings {
    ($($type:ty),*) => {
        $(
            impl Setting for $type {
                fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
                    s.number(key)
                }
            }
        )*
    };
}
whole_settings!(u16, u32, usize);

/// Types with a way of their own to read a text, or a text or a number.
macro_rules! parsed_settings {
    ($($type:ty: $read:ident($parse:expr),)*) => {
        $(
            impl Setting for $type {
                fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
                    s.$read(key, $parse)
                }
            }
        )*
    };
}
parsed_settings! {
    ByteSize: word_or_number(ByteSize::parse),
    ClientShare: word_or_number(ClientShare::parse),
    Rate: parsed(Rate::parse),
    HeaderRule: parsed(HeaderRule::parse),
    TextFile: parsed(TextFile::read),
    IpAddr: parsed(|text| text.parse().map_err(|_| {
        format!("`{text}` is not an IP address like \"0.0.0.0\"")
    })),
    SocketAddr: parsed(|text| text.parse().map_err(|_| no_address(text))),
}

/// What is wrong with the address of a listener, and what may have been meant.
fn no_address(text: &str) -> String {
    let of_port = |(host, port): (&str, &str)| {
        let port: u16 = port.parse().ok()?;
        match host {
            "" | "*" => Some(format!("0.0.0.0:{port}")),
            "localhost" => Some(format!("127.0.0.1:{port}")),
            _ => None,
        }
    };
    let meant = text.rsplit_once(':').and_then(of_port);
    let like = match meant {
        Some(meant) => format!("write \"{meant}\""),
        None => "like \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned(),
    };
    format!("`{text}` is not an IP address and port; {like}")
}

/// Types that are one of some words, which their variants' names are for serde.
macro_rules! word_settings {
    ($($type:ty),* $(,)?) => {
        $(
            impl $crate::config::settings::Setting for $type {
                fn take(
                    s: &mut $crate::config::reader::Section<'_, '_>,
                    key: &'static str,
                ) -> Option<Self> {
                    s.parsed(key, $crate::config::settings::word)
                }
            }
        )*
    };
}
pub(super) use word_settings;

/// One of a type's words.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let words: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(words).map_err(|error| {
        let said = error.to_string();
        // "unknown variant `x`, expected `a` or `b`", or "expected one of `a`, `b`, `c`".
        let expected = said.split_once(", expected ").map(|(_, words)| words);
        format!("`{text}` is not {}", expected.unwrap_or("one of its words"))
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Colour {
        Red,
        DarkBlue,
    }

    #[test]
    fn a_word_is_one_of_its_types_or_they_are_listed() {
        assert_eq!(word("dark-blue"), Ok(Colour::DarkBlue));
        assert_eq!(word("red"), Ok(Colour::Red));
        for wrong in ["Red", "DarkBlue", "", "green"] {
            let expected = format!("`{wrong}` is not `red` or `dark-blue`");
            assert_eq!(word::<Colour>(wrong), Err(expected));
        }
    }
}
