//! What is wrong with a configuration, said so that it can be mended at once.
//!
//! Guarantees: each [`Problem`] names its source (file and line, environment variable or flag), its
//! key, what is wrong, and where there is any, what to do; its rule is a word that stays the same.
//! A problem never quotes a secret's value.

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::place::Place;

/// One problem, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The kind of problem, for programs: `unknown_key`, say.
    pub rule: &'static str,
    /// Where it was written.
    pub place: Place,
    /// The key's path, such as `route[0].wake.timeout`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do, when more can be said than the message does.
    pub mend: Option<String>,
}

/// The configuration cannot be used; holds every problem that was found, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

/// Why a value is refused.
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) mend: Option<String>,
}

// === impl Complaint ===

impl Complaint {
    pub(super) fn new(message: impl Into<String>, mend: impl Into<String>) -> Self {
        let (message, mend) = (message.into(), Some(mend.into()));
        Self { message, mend }
    }
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        let mend = None;
        Self { message, mend }
    }
}

// === impl Problem ===

impl Problem {
    /// A problem of a key that is yet to be located ([`Origin::locate`](super::Origin::locate)).
    pub fn of(rule: &'static str, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            rule,
            place: Place::file(""),
            key: key.into(),
            message: message.into(),
            mend: None,
        }
    }

    /// The same, with what to do.
    pub fn with_mend(self, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { mend, ..self }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, before: &str, after: &str) -> fmt::Result {
        let place = self.place.to_string();
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(mend) = &self.mend {
            write!(f, "{before}{mend}{after}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "\n    ", "")
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let place = self.place.fields();
        let mut fields = to.serialize_struct("Problem", 8)?;
        fields.serialize_field("rule", self.rule)?;
        fields.serialize_field("file", &place.file)?;
        fields.serialize_field("line", &place.line)?;
        fields.serialize_field("column", &place.column)?;
        fields.serialize_field("variable", &place.variable)?;
        fields.serialize_field("key", &Some(&self.key).filter(|key| !key.is_empty()))?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("mend", &self.mend)?;
        fields.end()
    }
}

// === impl ConfigError ===

/// `1 problem`, `2 problems`.
fn count(problems: &[Problem]) -> String {
    let plural = if problems.len() == 1 { "" } else { "s" };
    format!("{} problem{plural}", problems.len())
}

impl ConfigError {
    /// The same on one line, for a log.
    pub fn to_line(&self) -> String {
        struct Line<'p>(&'p Problem);
        impl fmt::Display for Line<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, " (", ")")
            }
        }
        let problems = self.problems.iter();
        let problems: Vec<String> = problems.map(|one| Line(one).to_string()).collect();
        let count = count(&self.problems);
        format!("{count} in the configuration: {}", problems.join("; "))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} in the configuration", count(&self.problems))?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_line_for_logs_lines_for_people_and_fields_for_programs() {
        let name = "w.toml".to_owned();
        let one = Problem {
            place: Place::File {
                name,
                at: Some((2, 1)),
            },
            ..Problem::of("unknown_key", "wake.timout", "there is no such key")
                .with_mend("did you mean `timeout`?")
        };
        let fields = serde_json::to_value(&one).unwrap();
        assert_eq!(
            fields,
            serde_json::json!({
                "rule": "unknown_key", "file": "w.toml", "line": 2, "column": 1, "variable": null,
                "key": "wake.timout", "message": "there is no such key",
                "mend": "did you mean `timeout`?",
            })
        );
        let place = Place::Named("WAKEGATE_X".to_owned());
        let other = Problem {
            place,
            ..Problem::of("unknown_variable", "", "no setting has it")
        };
        let fields = serde_json::to_value(&other).unwrap();
        assert_eq!(
            (&fields["file"], &fields["variable"], &fields["key"]),
            (&().into(), &"WAKEGATE_X".into(), &().into())
        );
        let problems = vec![one, other];
        let error = ConfigError { problems };
        assert_eq!(
            error.to_string(),
            "2 problems in the configuration\n  w.toml:2:1: `wake.timout`: there is no such key\n    \
             did you mean `timeout`?\n  WAKEGATE_X: no setting has it\n"
        );
        assert_eq!(
            error.to_line(),
            "2 problems in the configuration: w.toml:2:1: `wake.timout`: there is no such key (did \
             you mean `timeout`?); WAKEGATE_X: no setting has it"
        );
    }
}
