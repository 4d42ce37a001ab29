//! Reads keys out of a TOML table and out of the environment.
//!
//! Guarantees: every key that was asked for is known, every other key is a problem with the nearest
//! known key; an environment variable wins over the file; nothing stops at the first problem.
//!
//! A key's variable is `WAKEGATE_` and its path in capitals: `wake.timeout` is
//! `WAKEGATE_WAKE_TIMEOUT`, `route[0].host` is `WAKEGATE_ROUTE_0_HOST`, and for the first of a list
//! the number may be left out. Lists of plain values are separated by commas. What Kubernetes
//! says of Services in such names (`service_link`) is not read.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, nearest};
use super::place::Place;
use super::problem::Complaint;
use super::variables::PREFIX;
use super::whole::{Whole, to_whole};
use hypeman::GoDuration;

/// One table of the configuration, in the file, in the environment, or in both.
pub(super) struct Section<'b, 'a> {
    diagnostics: &'b mut Diagnostics<'a>,
    table: Option<&'b DeTable<'a>>,
    /// Where the table begins in the file.
    start: Option<usize>,
    path: String,
    /// Upper-case variable prefixes, each ending in `_`.
    prefixes: Vec<String>,
    /// The keys that were read.
    keys: Vec<&'static str>,
    /// Whether its other keys were read in a table that says the same.
    is_read: bool,
}

/// A plain value and where it came from.
struct PlainValue {
    text: String,
    kind: &'static str,
    source: Source,
}

/// Where a value came from. Its place is found out only if it is a problem.
enum Source {
    Variable(String),
    /// The file, at this byte.
    File(usize),
}

/// What each kind of value is called in a sentence.
fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {kind}")
}

// === impl Section ===

impl<'b, 'a> Section<'b, 'a> {
    pub(super) fn root(diagnostics: &'b mut Diagnostics<'a>, table: &'b DeTable<'a>) -> Self {
        let prefixes = vec![PREFIX.to_owned()];
        Self {
            diagnostics,
            table: Some(table),
            start: None,
            path: String::new(),
            prefixes,
            keys: Vec::new(),
            is_read: false,
        }
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn variable(&mut self, key: &str) -> Option<(String, String)> {
        if !self.diagnostics.has_variables {
            return None;
        }
        let names: Vec<String> = self
            .prefixes
            .iter()
            .map(|p| format!("{p}{}", key.to_ascii_uppercase()))
            .collect();
        let mut found: Option<(String, String)> = None;
        for name in names {
            if let Some(value) = self.diagnostics.variables.get(name.as_str()).copied() {
                let is_new = self.diagnostics.used.insert(name.clone());
                match &found {
                    Some((other, earlier)) if is_new && earlier != value => {
                        let place = (usize::MAX, Place::Named(name.clone()));
                        let complaint = Complaint::new(
                            format!("is the same setting as {other}, with another value"),
                            "unset one of them",
                        );
                        let path = self.key_path(key);
                        self.diagnostics.report("conflict", place, path, complaint);
                    }
                    Some(_) => {}
                    None => found = Some((name.clone(), value.to_owned())),
                }
            }
            self.diagnostics.known.insert(name);
        }
        found
    }

    /// The place of a byte offset of the file.
    fn place(&self, at: usize) -> (usize, Place) {
        (at, self.diagnostics.place(at))
    }

    /// Reports what is wrong with a key's value in the file.
    fn report(&mut self, rule: &'static str, at: usize, key: &str, complaint: Complaint) {
        let (place, path) = (self.place(at), self.key_path(key));
        self.diagnostics.report(rule, place, path, complaint);
    }

    /// Whether the environment has a value for a key that may be a table in the file.
    fn has_variable(&mut self, key: &str) -> bool {
        self.variable(key).is_some()
    }

    /// Whether the file has this table.
    pub(super) fn is_in_file(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file has this key, which may be a table's.
    pub(super) fn has_in_file(&self, key: &str) -> bool {
        self.in_file(key).is_some()
    }

    /// Whether the file or the environment has a plain value of this key.
    pub(super) fn has(&mut self, key: &str) -> bool {
        self.has_variable(key) || self.has_in_file(key)
    }

    /// Whether the value of this key is this word.
    pub(super) fn is_word(&mut self, key: &str, word: &str) -> bool {
        let in_file = self.in_file(key).and_then(|value| value.get_ref().as_str());
        let variable = self.variable(key).map(|(_, text)| text);
        variable.as_deref().or(in_file) == Some(word)
    }

    fn in_file(&self, key: &str) -> Option<&'b Spanned<DeValue<'a>>> {
        self.table.and_then(|table| table.get(key))
    }

    fn plain(&mut self, key: &'static str) -> Option<PlainValue> {
        self.keys.push(key);
        if let Some((name, text)) = self.variable(key) {
            return Some(PlainValue {
                text,
                kind: "variable",
                source: Source::Variable(name),
            });
        }
        let value = self.in_file(key)?;
        let (at, kind) = (value.span().start, value.get_ref().type_str());
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => {
                let text = number.to_string();
                to_whole(&text).map_or(text, |number| number.to_string())
            }
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                let message = format!("is {}, not a single value", with_article(kind));
                self.report("wrong_type", at, key, message.into());
                return None;
            }
        };
        let source = Source::File(at);
        Some(PlainValue { text, kind, source })
    }

    fn refuse(&mut self, rule: &'static str, key: &str, found: &PlainValue, complaint: Complaint) {
        let path = self.key_path(key);
        let place = match &found.source {
            Source::Variable(name) => (usize::MAX, Place::Named(name.clone())),
            Source::File(at) => self.place(*at),
        };
        self.diagnostics.report(rule, place, path, complaint);
    }

    /// Reports a problem with a key's value after it was read, or with its absence.
    pub(super) fn problem(&mut self, key: &'static str, message: impl Display) {
        self.keys.push(key);
        let in_file = self.in_file(key).map(|value| (value, value.get_ref()));
        // Of a table or a list no variable is the value.
        let is_plain = in_file.is_none_or(|(_, kind)| !kind.is_table() && !kind.is_array());
        let variable = is_plain.then(|| self.variable(key)).flatten();
        let (rule, place) = match (variable, in_file) {
            (Some((name, _)), _) => ("bad_value", (usize::MAX, Place::Named(name))),
            (None, Some((value, _))) => ("bad_value", self.place(value.span().start)),
            // The table that it is missing from.
            (None, None) => match self.start {
                Some(start) => ("missing", self.place(start)),
                None => ("missing", (usize::MAX, Place::file(self.diagnostics.file))),
            },
        };
        let path = self.key_path(key);
        let complaint = message.to_string().into();
        self.diagnostics.report(rule, place, path, complaint);
    }

    /// A value that is written in quotes, as it stands there.
    fn quoted(&mut self, key: &'static str) -> Option<PlainValue> {
        let found = self.plain(key)?;
        if matches!(found.kind, "string" | "variable") {
            return Some(found);
        }
        let message = format!("is {}, not a text", with_article(found.kind));
        let complaint = Complaint::new(message, format!("write \"{}\", in quotes", found.text));
        self.refuse("wrong_type", key, &found, complaint);
        None
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.quoted(key).map(|found| found.text)
    }

    /// A text that `parse` can read.
    pub(super) fn parsed<T, E: Into<Complaint>>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let found = self.quoted(key)?;
        parse(&found.text)
            .map_err(|error| self.refuse("bad_value", key, &found, error.into()))
            .ok()
    }

    /// A Go duration above zero.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let found = self.plain(key)?;
        if !matches!(found.kind, "string" | "variable") {
            let message = format!("is {}, not a duration", with_article(found.kind));
            let mend = match found.kind {
                "integer" => format!("write it with its unit, in quotes: \"{}s\"", found.text),
                _ => "write it with its unit, in quotes: \"30s\", \"250ms\"".to_owned(),
            };
            self.refuse("wrong_type", key, &found, Complaint::new(message, mend));
            return None;
        }
        let text = &found.text;
        let value = match text.parse::<GoDuration>() {
            Ok(value) => value
                .to_std()
                .filter(|d| !d.is_zero())
                .ok_or_else(|| format!("`{text}` must be longer than zero")),
            Err(error) => Err(error.to_string()),
        };
        value
            .map_err(|message| self.refuse("bad_value", key, &found, message.into()))
            .ok()
    }

    /// A whole number.
    pub(super) fn number<T: Whole>(&mut self, key: &'static str) -> Option<T> {
        let found = self.plain(key)?;
        if !matches!(found.kind, "integer" | "variable") {
            let message = format!("is {}, not a whole number", with_article(found.kind));
            let complaint = match (found.kind, to_whole(&found.text)) {
                ("string", Some(number)) => {
                    Complaint::new(message, format!("write {number}, without quotes"))
                }
                _ => message.into(),
            };
            self.refuse("wrong_type", key, &found, complaint);
            return None;
        }
        T::read(&found.text)
            .map_err(|message| self.refuse("bad_value", key, &found, message.into()))
            .ok()
    }

    /// A port that something can be reached at.
    pub(super) fn port(&mut self, key: &'static str) -> Option<u16> {
        let port = self.number::<u16>(key)?;
        if port == 0 {
            self.problem(key, "is 0, and a port is 1 to 65535");
            return None;
        }
        Some(port)
    }

    /// A word in quotes or a whole number, that `T` can read.
    pub(super) fn word_or_number<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.plain(key)?;
        let is_fitting = matches!(found.kind, "string" | "integer" | "variable");
        let value = match is_fitting {
            true => parse(&found.text),
            false => Err(format!("is {}, not a word or a number", found.kind)),
        };
        value
            .map_err(|message| self.refuse("bad_value", key, &found, message.into()))
            .ok()
    }

    /// A share from 0 to 1.
    pub(super) fn share(&mut self, key: &'static str) -> Option<f64> {
        let found = self.plain(key)?;
        let fitting = matches!(found.kind, "integer" | "float" | "variable");
        match found.text.parse() {
            Ok(share) if fitting && (0.0..=1.0).contains(&share) => Some(share),
            _ => {
                let message = format!("`{}` is not a number from 0 to 1", found.text);
                self.refuse("bad_value", key, &found, message.into());
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let found = self.plain(key)?;
        match (found.kind, found.text.as_str()) {
            ("boolean" | "variable", "true") => Some(true),
            ("boolean" | "variable", "false") => Some(false),
            _ => {
                let message = format!("`{}` is not true or false", found.text);
                self.refuse("bad_value", key, &found, message.into());
                None
            }
        }
    }

    /// A list of texts that `parse` can read.
    pub(super) fn list<T, E: Into<Complaint>>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        self.keys.push(key);
        let mut found = Vec::new();
        if let Some((name, text)) = self.variable(key) {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            let place = (usize::MAX, Place::Named(name));
            found.extend(items.map(|item| (place.clone(), item.to_owned())));
        } else {
            let value = self.in_file(key)?;
            let DeValue::Array(items) = value.get_ref() else {
                let complaint = Complaint::new(
                    format!(
                        "is {}, not a list",
                        with_article(value.get_ref().type_str())
                    ),
                    "write it in square brackets, also if it is the only one",
                );
                self.report("wrong_type", value.span().start, key, complaint);
                return None;
            };
            for item in items {
                let at = item.span().start;
                let text = match item.get_ref() {
                    DeValue::String(text) => text.to_string(),
                    DeValue::Integer(number) => number.to_string(),
                    other @ (DeValue::Boolean(_)
                    | DeValue::Float(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_)
                    | DeValue::Table(_)) => {
                        let message = format!("has {} in it", with_article(other.type_str()));
                        let complaint = Complaint::new(message, "write each item in quotes");
                        self.report("wrong_type", at, key, complaint);
                        continue;
                    }
                };
                found.push((self.place(at), text));
            }
        }
        let mut values = Vec::new();
        for (place, text) in found {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(error) => {
                    let path = self.key_path(key);
                    self.diagnostics
                        .report("bad_value", place, path, error.into());
                }
            }
        }
        Some(values)
    }

    /// A table of texts that `parse` can read. In the environment it is `name=text`, separated by
    /// commas.
    pub(super) fn map<T, E: Into<Complaint>>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<BTreeMap<String, T>> {
        self.keys.push(key);
        let mut found = Vec::new();
        if let Some((variable, text)) = self.variable(key) {
            let items = text.split(',').map(str::trim);
            for item in items.filter(|item| !item.is_empty()) {
                let (name, text) = item.split_once('=').unwrap_or((item, ""));
                let place = (usize::MAX, Place::Named(variable.clone()));
                found.push((place, name.trim().to_owned(), text.trim().to_owned()));
            }
        } else {
            let value = self.in_file(key)?;
            let DeValue::Table(table) = value.get_ref() else {
                let kind = with_article(value.get_ref().type_str());
                let mend = "write `{ name = \"text\" }`";
                let complaint = Complaint::new(format!("is {kind}, not a table"), mend);
                self.report("wrong_type", value.span().start, key, complaint);
                return None;
            };
            for (name, value) in table {
                let at = value.span().start;
                let DeValue::String(text) = value.get_ref() else {
                    let kind = with_article(value.get_ref().type_str());
                    let complaint =
                        Complaint::new(format!("has {kind} in it"), "write each text in quotes");
                    self.report("wrong_type", at, key, complaint);
                    continue;
                };
                found.push((self.place(at), name.get_ref().to_string(), text.to_string()));
            }
        }
        let mut values = BTreeMap::new();
        for (place, name, text) in found {
            match parse(&text) {
                Ok(value) => {
                    values.insert(name, value);
                }
                Err(error) => {
                    let path = self.key_path(&format!("{key}.{name}"));
                    self.diagnostics
                        .report("bad_value", place, path, error.into());
                }
            }
        }
        Some(values)
    }

    /// Reads one table below this one, and reports what of it nobody asked for.
    fn below<'s>(
        &'s mut self,
        table: Option<(usize, &'s DeTable<'a>)>,
        path: String,
        prefixes: Vec<String>,
        read: impl FnOnce(&mut Section<'_, 'a>),
    ) {
        let (start, table) = table.unzip();
        let mut below = Section {
            diagnostics: self.diagnostics,
            table,
            start: start.or(self.start),
            path,
            prefixes,
            keys: Vec::new(),
            is_read: false,
        };
        read(&mut below);
        below.finish();
    }

    /// A table below this one; read even when absent, for the environment's sake.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'a>)) {
        self.keys.push(key);
        let table = match self.in_file(key) {
            None => None,
            Some(value) => {
                let at = value.span().start;
                if let DeValue::Table(table) = value.get_ref() {
                    Some((at, table))
                } else {
                    let kind = with_article(value.get_ref().type_str());
                    let mend = format!("write `[{}]` above its keys", self.key_path(key));
                    let complaint = Complaint::new(format!("is {kind}, not a table"), mend);
                    self.report("wrong_type", at, key, complaint);
                    None
                }
            }
        };
        let prefixes: Vec<String> = self
            .prefixes
            .iter()
            .map(|p| format!("{p}{}_", key.to_ascii_uppercase()))
            .collect();
        let path = self.key_path(key);
        self.below(table, path, prefixes, read);
    }

    /// A table, or `true` or `false` in its place.
    pub(super) fn section_or_flag(
        &mut self,
        key: &'static str,
        slot: &mut bool,
        read: impl FnOnce(&mut Section<'_, 'a>, &mut bool),
    ) {
        let plain = self
            .in_file(key)
            .is_some_and(|value| !value.get_ref().is_table());
        if plain || self.has_variable(key) {
            *slot = self.flag(key).unwrap_or(*slot);
        }
        if plain {
            return;
        }
        self.section(key, |section| read(section, slot));
    }

    /// A text in the place of a table; nothing when there is a table or nothing at all.
    pub(super) fn text_or_section(&mut self, key: &'static str) -> Option<String> {
        let table = self
            .in_file(key)
            .is_none_or(|value| value.get_ref().is_table());
        match table && !self.has_variable(key) {
            true => None,
            false => self.text(key),
        }
    }

    /// Reports every key of the file that nobody asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table.filter(|_| !self.is_read) else {
            return;
        };
        for (key, _) in table {
            let name: &str = key.get_ref();
            if self.keys.contains(&name) {
                continue;
            }
            let mend = match nearest(name, self.keys.iter().copied()) {
                Some(key) => format!("did you mean `{key}`?"),
                None => format!("the keys here are: {}", self.keys.join(", ")),
            };
            let (at, name) = (key.span().start, name.to_owned());
            let (place, path) = ((at, self.diagnostics.place(at)), self.key_path(&name));
            let complaint = Complaint::new("there is no such key", mend);
            self.diagnostics
                .report("unknown_key", place, path, complaint);
        }
    }
}

mod tables;
