//! When a cron expression's moments are, in a time zone.
//!
//! Guarantees: the five fields are written as crontab(5) has them (lists, ranges, steps, names) and
//! with the usual extensions: `L` and `15W` among the days of a month, `5L` and `5#3` among those
//! of a week. When either field of days begins with `*` a day must be in both, otherwise in one of
//! them, as Vixie's cron has it.

use jiff::civil::Date;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;
use jiff::{RoundMode, Span, Timestamp, ToSpan as _, Unit, ZonedDateTimeRound};

/// Years after which a moment is no longer looked for: a leap day's are four apart.
const HORIZON: i64 = 4;

/// A cron expression in its zone.
#[derive(Debug, Clone)]
pub(super) struct Cron {
    minutes: Set,
    hours: Set,
    months: Set,
    days: Days,
    weekdays: Weekdays,
    /// Whether a day must be in both of the fields above.
    both: bool,
    zone: TimeZone,
}

#[derive(Debug, Clone, Default)]
struct Days {
    plain: Set,
    last: bool,
    /// Days whose nearest weekday is meant.
    nearest: Set,
}

/// Days of a week: Monday is 1, Sunday 7.
#[derive(Debug, Clone, Default)]
struct Weekdays {
    plain: Set,
    /// Those that are the last of a month.
    last: Set,
    /// The first of a month, the second and so on.
    nth: [Set; 5],
}

/// Numbers from 0 to 63.
#[derive(Debug, Clone, Copy, Default)]
struct Set(u64);

struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// Other names of its values, from the least.
    words: &'static [&'static str],
}

const fn field(name: &'static str, least: u8, most: u8, words: &'static [&'static str]) -> Field {
    Field {
        name,
        least,
        most,
        words,
    }
}

const MINUTE: Field = field("minute", 0, 59, &[]);
const HOUR: Field = field("hour", 0, 23, &[]);
const DAY: Field = field("day of the month", 1, 31, &[]);
const MONTH: Field = field(
    "month",
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
const WEEKDAY: Field = field(
    "day of the week",
    0,
    7,
    &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
);

// === impl Set ===

impl Set {
    fn insert(&mut self, number: u8) {
        self.0 |= 1 << number;
    }

    fn has(self, number: i8) -> bool {
        self.0 >> number & 1 == 1
    }

    /// With Sunday as 7 alone.
    fn normal(self) -> Self {
        Self(self.0 & !1 | (self.0 & 1) << 7)
    }
}

// === impl Field ===

impl Field {
    fn value(&self, text: &str) -> Result<u8, String> {
        let is_word = |word: &&str| word.eq_ignore_ascii_case(text);
        let word = (self.least..).zip(self.words);
        let word = word.into_iter().find(|(_, word)| is_word(word));
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = word.map(|(number, _)| number);
        let number = number.or_else(|| text.parse().ok().filter(|_| digits));
        let number = number.filter(|number| (self.least..=self.most).contains(number));
        number.ok_or_else(|| {
            let Self {
                name, least, most, ..
            } = self;
            format!("`{text}` is no {name} from {least} to {most}")
        })
    }

    fn insert(&self, text: &str, set: &mut Set) -> Result<(), String> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            None => {
                let first = self.value(range)?;
                (first, if step.is_some() { self.most } else { first })
            }
        };
        if first > last {
            return Err(format!("`{range}` goes down"));
        }
        let step = match step {
            None => 1,
            Some(step) => {
                let number = step.parse().ok();
                let number = number.filter(|number| (1..=usize::from(self.most)).contains(number));
                number.ok_or_else(|| format!("`{step}` is no step of a {}", self.name))?
            }
        };
        for number in (first..=last).step_by(step) {
            set.insert(number);
        }
        Ok(())
    }

    fn set(&self, text: &str) -> Result<Set, String> {
        let mut set = Set::default();
        for item in text.split(',') {
            self.insert(item, &mut set)?;
        }
        Ok(set)
    }
}

// === impl Days ===

impl Days {
    fn parse(text: &str) -> Result<Self, String> {
        let mut days = Self::default();
        for item in text.split(',') {
            match item.strip_suffix('W') {
                Some(day) => days.nearest.insert(DAY.value(day)?),
                None if item == "L" => days.last = true,
                None => DAY.insert(item, &mut days.plain)?,
            }
        }
        Ok(days)
    }

    fn has(&self, date: Date) -> bool {
        let (day, last) = (date.day(), date.days_in_month());
        let is_nearest = |to: i8| {
            let Ok(meant) = Date::new(date.year(), date.month(), to) else {
                return false;
            };
            // It stays in its month.
            let nearest = match meant.weekday().to_monday_one_offset() {
                6 if to == 1 => 3,
                6 => to - 1,
                7 if to == last => to - 2,
                7 => to + 1,
                _ => to,
            };
            nearest == day
        };
        self.plain.has(day)
            || self.last && day == last
            || (1..=last).any(|to| self.nearest.has(to) && is_nearest(to))
    }
}

// === impl Weekdays ===

impl Weekdays {
    fn parse(text: &str) -> Result<Self, String> {
        let mut days = Self::default();
        for item in text.split(',') {
            if let Some((day, nth)) = item.split_once('#') {
                let number = nth.parse::<usize>().ok();
                let set = number.and_then(|number| days.nth.get_mut(number.checked_sub(1)?));
                let set = set.ok_or_else(|| format!("`{nth}` is not a number from 1 to 5"))?;
                set.insert(WEEKDAY.value(day)?);
            } else if let Some(day) = item.strip_suffix('L') {
                days.last.insert(WEEKDAY.value(day)?);
            } else {
                WEEKDAY.insert(item, &mut days.plain)?;
            }
        }
        Ok(Self {
            plain: days.plain.normal(),
            last: days.last.normal(),
            nth: days.nth.map(Set::normal),
        })
    }

    fn has(&self, date: Date) -> bool {
        let weekday = date.weekday().to_monday_one_offset();
        let is_last = date.day() > date.days_in_month() - 7;
        let nth = usize::try_from((date.day() - 1) / 7).unwrap_or_default();
        let nth = self.nth.get(nth).copied().unwrap_or_default();
        self.plain.has(weekday) || self.last.has(weekday) && is_last || nth.has(weekday)
    }
}

// === impl Cron ===

impl Cron {
    pub(super) fn parse(text: &str, zone: &str) -> Result<Self, String> {
        let fields: Vec<_> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!(
                "it has {} fields; minute, hour, day of the month, month and day of the week are \
                 needed",
                fields.len()
            ));
        };
        let zone = DateTimeParser::new()
            .parse_time_zone(zone)
            .map_err(|_| "there is no such time zone; they are called like Europe/Berlin")?;
        Ok(Self {
            minutes: MINUTE.set(minutes)?,
            hours: HOUR.set(hours)?,
            months: MONTH.set(months)?,
            days: Days::parse(days)?,
            weekdays: Weekdays::parse(weekdays)?,
            both: days.starts_with('*') || weekdays.starts_with('*'),
            zone,
        })
    }

    fn has(&self, date: Date) -> bool {
        match self.both {
            true => self.days.has(date) && self.weekdays.has(date),
            false => self.days.has(date) || self.weekdays.has(date),
        }
    }

    /// Its first moment after another; `None` when there is none for years.
    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut time = after.to_zoned_datetime(self.zone.clone());
        let end = time.checked_add(HORIZON.years()).ok()?;
        let (mut step, mut unit): (Span, Unit) = (1.minute(), Unit::Minute);
        loop {
            let down = ZonedDateTimeRound::new()
                .mode(RoundMode::Trunc)
                .smallest(unit);
            time = time.checked_add(step).ok()?.round(down).ok()?;
            if time > end {
                return None;
            }
            (step, unit) = if !self.months.has(time.month()) {
                let rest = time.days_in_month() - time.day() + 1;
                (i64::from(rest).days(), Unit::Day)
            } else if !self.has(time.date()) {
                (1.day(), Unit::Day)
            } else if !self.hours.has(time.hour()) {
                (1.hour(), Unit::Hour)
            } else if !self.minutes.has(time.minute()) {
                (1.minute(), Unit::Minute)
            } else {
                return Some(time.timestamp());
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first moments after another, as the zone's clocks show them.
    fn moments(cron: &str, zone: &str, after: &str, number: usize) -> Vec<String> {
        let cron = Cron::parse(cron, zone).unwrap();
        let mut time: Timestamp = after.parse().unwrap();
        let next = std::iter::from_fn(|| {
            time = cron.next_after(time)?;
            let shown = time.to_zoned_datetime(cron.zone.clone());
            Some(shown.datetime().to_string().replace(":00", ""))
        });
        next.take(number).collect()
    }

    #[test]
    fn moments_are_those_of_cron() {
        for (cron, after, expected) in [
            (
                "2 4 * * *",
                "2024-09-11T12:00:00Z",
                "2024-09-12T04:02 2024-09-13T04:02",
            ),
            (
                "0 0 1 1 *",
                "2024-01-01T00:00:00Z",
                "2025-01-01T00 2026-01-01T00",
            ),
            (
                "0 0 29 2 *",
                "2024-02-29T00:00:00Z",
                "2028-02-29T00 2032-02-29T00",
            ),
            (
                "0 18 * * 1-5",
                "2024-09-12T19:00:00Z",
                "2024-09-13T18 2024-09-16T18",
            ),
            (
                "0 18 * * sun,SAT",
                "2024-09-12T19:00:00Z",
                "2024-09-14T18 2024-09-15T18",
            ),
            (
                "0 18 * * 0",
                "2024-09-12T19:00:00Z",
                "2024-09-15T18 2024-09-22T18",
            ),
            (
                "0 18 * * 7",
                "2024-09-12T19:00:00Z",
                "2024-09-15T18 2024-09-22T18",
            ),
            (
                "5/25 8-9 * * *",
                "2024-09-12T08:05:00Z",
                "2024-09-12T08:30 2024-09-12T08:55 2024-09-12T09:05",
            ),
            (
                "0 */12 * * *",
                "2024-09-12T00:00:00Z",
                "2024-09-12T12 2024-09-13T00",
            ),
            (
                "0 0 31 * *",
                "2024-09-11T00:00:00Z",
                "2024-10-31T00 2024-12-31T00",
            ),
            // The days' fields: both or either.
            (
                "0 12 1-31 * 2",
                "2024-09-24T13:00:00Z",
                "2024-09-25T12 2024-09-26T12",
            ),
            (
                "0 12 *,10 * 2",
                "2024-09-24T13:00:00Z",
                "2024-10-01T12 2024-10-08T12",
            ),
            (
                "0 12 */2 * 0,6",
                "2024-09-24T13:00:00Z",
                "2024-09-29T12 2024-10-05T12",
            ),
            (
                "0 12 10 * 2",
                "2024-10-07T13:00:00Z",
                "2024-10-08T12 2024-10-10T12 2024-10-15T12",
            ),
            // Extensions.
            (
                "3 11 L 12,2 *",
                "2024-09-24T00:00:00Z",
                "2024-12-31T11:03 2025-02-28T11:03",
            ),
            (
                "3 11 17W,L * *",
                "2024-10-31T12:00:00Z",
                "2024-11-18T11:03 2024-11-30T11:03",
            ),
            (
                "3 11 1W * *",
                "2025-01-02T00:00:00Z",
                "2025-02-03T11:03 2025-03-03T11:03",
            ),
            (
                "3 11 31W * *",
                "2025-05-01T00:00:00Z",
                "2025-05-30T11:03 2025-07-31T11:03 2025-08-29T11:03",
            ),
            (
                "0 18 * * TUE#1",
                "2024-09-24T00:00:00Z",
                "2024-10-01T18 2024-11-05T18",
            ),
            (
                "0 18 * * 5#5",
                "2024-09-24T00:00:00Z",
                "2024-11-29T18 2025-01-31T18",
            ),
            (
                "4 2 * * 1L",
                "2024-11-26T00:00:00Z",
                "2024-12-30T02:04 2025-01-27T02:04",
            ),
        ] {
            let expected: Vec<_> = expected.split(' ').collect();
            let got = moments(cron, "UTC", after, expected.len());
            assert_eq!(got, expected, "{cron}");
        }
        assert!(moments("0 0 31 2 *", "UTC", "2024-09-11T00:00:00Z", 1).is_empty());
    }

    #[test]
    fn moments_are_by_the_zones_clock() {
        let berlin = |cron, after| moments(cron, "Europe/Berlin", after, 2);
        assert_eq!(
            berlin("0 8 * * *", "2026-03-28T12:00:00Z"),
            ["2026-03-29T08", "2026-03-30T08"]
        );
        // The hour that a spring night does not have passes by; the hour that an autumn night has
        // twice counts twice.
        assert_eq!(
            berlin("30 2 * * *", "2026-03-28T12:00:00Z"),
            ["2026-03-30T02:30", "2026-03-31T02:30"]
        );
        assert_eq!(
            berlin("30 2 * * *", "2026-10-24T12:00:00Z"),
            ["2026-10-25T02:30", "2026-10-25T02:30"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (cron, named) in [
            ("0 8 * *", "4 fields"),
            ("0 8 * * * *", "6 fields"),
            ("60 8 * * *", "`60` is no minute from 0 to 59"),
            ("0 24 * * *", "`24` is no hour"),
            ("0 8 0 * *", "`0` is no day of the month"),
            ("0 8 * 13 *", "`13` is no month"),
            ("0 8 * * 8", "`8` is no day of the week"),
            ("0 8 * * FRI-SUN", "`FRI-SUN` goes down"),
            ("*/0 8 * * *", "`0` is no step"),
            ("*/60 8 * * *", "`60` is no step"),
            ("0 8 * * 1#6", "`6` is not a number from 1 to 5"),
            ("0 8 * * 1#0", "`0` is not a number from 1 to 5"),
            ("0,,5 8 * * *", "`` is no minute"),
            ("+5 8 * * *", "`+5` is no minute"),
            ("H 8 * * *", "`H` is no minute"),
            ("0 8 * * L", "`` is no day of the week"),
        ] {
            let error = Cron::parse(cron, "UTC").unwrap_err();
            assert!(error.contains(named), "{cron}: {error}");
        }
        let error = Cron::parse("0 8 * * *", "Mars/Olympus").unwrap_err();
        assert!(error.contains("no such time zone"), "{error}");
    }
}
