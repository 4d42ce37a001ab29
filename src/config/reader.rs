//! Reads keys out of a TOML table and out of the environment.
//!
//! Guarantees: every key that was asked for is known, every other key is a problem with the nearest
//! known key; an environment variable wins over the file; nothing stops at the first problem.
//!
//! A key's variable is `WAKEGATE_` and its path in capitals: `wake.timeout` is
//! `WAKEGATE_WAKE_TIMEOUT`, `route[0].host` is `WAKEGATE_ROUTE_0_HOST`, and for the first of a list
//! the number may be left out. Lists of plain values are separated by commas. What Kubernetes
//! says of Services in such names (`service_link`) is not read.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, PREFIX, nearest};
use hypeman::GoDuration;

/// One table of the configuration, in the file, in the environment, or in both.
pub(super) struct Section<'b, 'a> {
    diagnostics: &'b mut Diagnostics<'a>,
    table: Option<&'b DeTable<'a>>,
    path: String,
    /// Upper-case variable prefixes, each ending in `_`.
    prefixes: Vec<String>,
    /// The keys that were read.
    keys: Vec<&'static str>,
}

/// A plain value and where it came from.
struct PlainValue {
    text: String,
    kind: &'static str,
    place: String,
    at: usize,
}

// === impl Section ===

impl<'b, 'a> Section<'b, 'a> {
    pub(super) fn root(diagnostics: &'b mut Diagnostics<'a>, table: &'b DeTable<'a>) -> Self {
        let prefixes = vec![PREFIX.to_owned()];
        Self {
            diagnostics,
            table: Some(table),
            path: String::new(),
            prefixes,
            keys: Vec::new(),
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
        let mut found = None;
        for name in names {
            if let Some(value) = self.diagnostics.variables.get(name.as_str()) {
                self.diagnostics.used.insert(name.clone());
                found.get_or_insert((name.clone(), (*value).to_owned()));
            }
            self.diagnostics.known.insert(name);
        }
        found
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

    fn in_file(&self, key: &str) -> Option<&'b Spanned<DeValue<'a>>> {
        self.table.and_then(|table| table.get(key))
    }

    fn plain(&mut self, key: &'static str) -> Option<PlainValue> {
        self.keys.push(key);
        if let Some((name, text)) = self.variable(key) {
            return Some(PlainValue {
                text,
                kind: "variable",
                place: name,
                at: usize::MAX,
            });
        }
        let value = self.in_file(key)?;
        let (at, kind) = (value.span().start, value.get_ref().type_str());
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                let (place, path) = (self.diagnostics.place(at), self.key_path(key));
                self.diagnostics.report(
                    at,
                    place,
                    path,
                    format!("is {kind}, not a plain value"),
                    None,
                );
                return None;
            }
        };
        Some(PlainValue {
            text,
            kind,
            place: self.diagnostics.place(at),
            at,
        })
    }

    fn refuse(&mut self, key: &str, found: &PlainValue, message: impl Display) {
        let path = self.key_path(key);
        self.diagnostics.report(
            found.at,
            found.place.clone(),
            path,
            message.to_string(),
            None,
        );
    }

    /// Reports a problem with a key's value after it was read.
    pub(super) fn problem(&mut self, key: &'static str, message: impl Display) {
        self.keys.push(key);
        let in_file = self.in_file(key).map(|value| (value, value.get_ref()));
        // Of a table or a list no variable is the value.
        let is_plain = in_file.is_none_or(|(_, kind)| !kind.is_table() && !kind.is_array());
        let variable = is_plain.then(|| self.variable(key)).flatten();
        let (at, place) = match (variable, in_file) {
            (Some((name, _)), _) => (usize::MAX, name),
            (None, Some((value, _))) => {
                let at = value.span().start;
                (at, self.diagnostics.place(at))
            }
            (None, None) => (usize::MAX, self.diagnostics.file.to_owned()),
        };
        let path = self.key_path(key);
        self.diagnostics
            .report(at, place, path, message.to_string(), None);
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let found = self.plain(key)?;
        if matches!(found.kind, "string" | "variable") {
            return Some(found.text);
        }
        self.refuse(
            key,
            &found,
            format_args!("is {}, write it in quotes", found.kind),
        );
        None
    }

    /// A text that `T` can read.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.plain(key)?;
        if !matches!(found.kind, "string" | "variable") {
            self.refuse(
                key,
                &found,
                format_args!("is {}, write it in quotes", found.kind),
            );
            return None;
        }
        match parse(&found.text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.refuse(key, &found, message);
                None
            }
        }
    }

    /// A Go duration above zero.
    pub(super) fn duration(&mut self, key: &'static str, slot: &mut Duration) {
        let parse = |text: &str| match text.parse::<GoDuration>() {
            Ok(value) => value
                .to_std()
                .filter(|d| !d.is_zero())
                .ok_or_else(|| format!("`{text}` must be longer than zero")),
            Err(error) => Err(error.to_string()),
        };
        if let Some(value) = self.parsed(key, parse) {
            *slot = value;
        }
    }

    /// A whole number.
    pub(super) fn number<T: FromStr>(&mut self, key: &'static str) -> Option<T> {
        let found = self.plain(key)?;
        let fitting = matches!(found.kind, "integer" | "variable");
        match found.text.replace('_', "").parse() {
            Ok(value) if fitting => Some(value),
            _ => {
                let message = format_args!("`{}` is not a whole number in range", found.text);
                self.refuse(key, &found, message);
                None
            }
        }
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
            .map_err(|message| self.refuse(key, &found, message))
            .ok()
    }

    /// A share from 0 to 1.
    pub(super) fn share(&mut self, key: &'static str) -> Option<f64> {
        let found = self.plain(key)?;
        let fitting = matches!(found.kind, "integer" | "float" | "variable");
        match found.text.parse() {
            Ok(share) if fitting && (0.0..=1.0).contains(&share) => Some(share),
            _ => {
                let message = format_args!("`{}` is not a number from 0 to 1", found.text);
                self.refuse(key, &found, message);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, slot: &mut bool) {
        let Some(found) = self.plain(key) else { return };
        match (found.kind, found.text.as_str()) {
            ("boolean" | "variable", "true") => *slot = true,
            ("boolean" | "variable", "false") => *slot = false,
            _ => self.refuse(
                key,
                &found,
                format_args!("`{}` is not true or false", found.text),
            ),
        }
    }

    /// A list of texts that `T` can read.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        self.keys.push(key);
        let mut found = Vec::new();
        if let Some((name, text)) = self.variable(key) {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            found.extend(items.map(|item| (usize::MAX, name.clone(), item.to_owned())));
        } else {
            let value = self.in_file(key)?;
            let at = value.span().start;
            let DeValue::Array(items) = value.get_ref() else {
                let (place, path) = (self.diagnostics.place(at), self.key_path(key));
                self.diagnostics
                    .report(at, place, path, "is not a list".to_owned(), None);
                return None;
            };
            for item in items {
                let at = item.span().start;
                let text = match item.get_ref() {
                    DeValue::String(text) => text.to_string(),
                    DeValue::Integer(number) => number.to_string(),
                    DeValue::Boolean(_)
                    | DeValue::Float(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_)
                    | DeValue::Table(_) => String::new(),
                };
                found.push((at, self.diagnostics.place(at), text));
            }
        }
        let mut values = Vec::new();
        for (at, place, text) in found {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(message) => {
                    let path = self.key_path(key);
                    self.diagnostics.report(at, place, path, message, None);
                }
            }
        }
        Some(values)
    }

    /// Reads one table below this one, and reports what of it nobody asked for.
    fn below(
        &mut self,
        table: Option<&'b DeTable<'a>>,
        path: String,
        prefixes: Vec<String>,
        read: impl FnOnce(&mut Section<'_, 'a>),
    ) {
        let mut below = Section {
            diagnostics: self.diagnostics,
            table,
            path,
            prefixes,
            keys: Vec::new(),
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
                if let DeValue::Table(table) = value.get_ref() {
                    Some(table)
                } else {
                    let at = value.span().start;
                    let (place, path) = (self.diagnostics.place(at), self.key_path(key));
                    let message = format!("is {}, not a table", value.get_ref().type_str());
                    let help = Some(format!("write `[{path}]` above its keys"));
                    self.diagnostics.report(at, place, path, message, help);
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
            self.flag(key, slot);
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

    /// A list of tables; one call of `read` for each, in the file or in the environment.
    pub(super) fn tables(&mut self, key: &'static str, mut read: impl FnMut(&mut Section<'_, 'a>)) {
        self.keys.push(key);
        let upper = key.to_ascii_uppercase();
        let mut tables = Vec::new();
        if let Some(value) = self.in_file(key) {
            let items = value
                .get_ref()
                .as_array()
                .map(|items| items.iter().collect::<Vec<_>>());
            let as_tables = items.and_then(|items| {
                items
                    .into_iter()
                    .map(|item| item.get_ref().as_table())
                    .collect::<Option<Vec<_>>>()
            });
            if let Some(as_tables) = as_tables {
                tables = as_tables;
            } else {
                let at = value.span().start;
                let (place, path) = (self.diagnostics.place(at), self.key_path(key));
                let help = Some(format!("write `[[{path}]]` above each one's keys"));
                self.diagnostics.report(
                    at,
                    place,
                    path,
                    "is not a list of tables".to_owned(),
                    help,
                );
            }
        }
        let stems: Vec<String> = self
            .prefixes
            .iter()
            .map(|prefix| format!("{prefix}{upper}_"))
            .collect();
        let in_environment = self
            .diagnostics
            .variables
            .keys()
            .filter_map(|name| stems.iter().find_map(|stem| name.strip_prefix(stem)))
            .map(|rest| rest.split('_').next().and_then(|n| n.parse().ok()))
            .map(|index| index.map_or(1, |index: usize| index.saturating_add(1)))
            .filter(|count| *count <= 1024)
            .max()
            .unwrap_or(0);
        for index in 0..tables.len().max(in_environment) {
            let mut prefixes: Vec<String> =
                stems.iter().map(|stem| format!("{stem}{index}_")).collect();
            if index == 0 {
                prefixes.extend(stems.iter().cloned());
            }
            let path = self.key_path(&format!("{key}[{index}]"));
            let table = tables.get(index).copied();
            self.below(table, path, prefixes, &mut read);
        }
    }

    /// Reports every key of the file that nobody asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for (key, _) in table {
            let name: &str = key.get_ref();
            if self.keys.contains(&name) {
                continue;
            }
            let at = key.span().start;
            let help = match nearest(name, self.keys.iter().copied()) {
                Some(key) => format!("did you mean `{key}`?"),
                None => format!("the keys here are: {}", self.keys.join(", ")),
            };
            let (place, path) = (self.diagnostics.place(at), self.key_path(name));
            self.diagnostics.report(
                at,
                place,
                path,
                "there is no such key".to_owned(),
                Some(help),
            );
        }
    }
}
