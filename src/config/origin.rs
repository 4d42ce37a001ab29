//! What a configuration was loaded from, to say where each of its keys was written.
//!
//! Guarantees: a key's place is the one that decides: a command line's flag goes before a variable,
//! and a variable before the file; nothing is looked for until somebody asks.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::place::{Lines, Place};
use super::problem::Problem;
use super::variables::{PREFIX, Variables};

/// What a configuration was loaded from; it finds where a key was written.
#[derive(Clone)]
pub struct Origin {
    name: String,
    text: String,
    variables: Variables,
    flags: BTreeMap<String, &'static str>,
}

/// The file, read once more.
struct Parsed<'o> {
    origin: &'o Origin,
    table: Spanned<DeTable<'o>>,
    lines: Lines,
}

// === impl Origin ===

impl Origin {
    pub(super) fn new(name: &str, text: &str, variables: &Variables) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            variables: variables.clone(),
            flags: BTreeMap::new(),
        }
    }

    /// Notes that a flag of the command line has decided a key.
    pub fn set_flag(&mut self, key: &str, flag: &'static str) {
        self.flags.insert(key.to_owned(), flag);
    }

    /// Where a key's value was written, such as `listener[0].tls.cert`; else the table that it
    /// would be in, else the file.
    pub fn place_of(&self, key: &str) -> Place {
        self.parsed().place_of(key)
    }

    /// The same problems with the places that their keys were written at, in the order of the file.
    pub fn locate(&self, problems: Vec<Problem>) -> Vec<Problem> {
        if problems.is_empty() {
            return problems;
        }
        // Once for all of them: the file may be large.
        let parsed = self.parsed();
        let located = problems.into_iter().map(|problem| Problem {
            place: parsed.place_of(&problem.key),
            ..problem
        });
        let mut located: Vec<Problem> = located.collect();
        located.sort_by_key(|problem| match &problem.place {
            Place::File { at, .. } => at.unwrap_or((usize::MAX, 0)),
            Place::Named(_) => (usize::MAX, 1),
        });
        located
    }

    fn parsed(&self) -> Parsed<'_> {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        Parsed {
            origin: self,
            table,
            lines: Lines::of(&self.text),
        }
    }
}

impl Parsed<'_> {
    fn place_of(&self, key: &str) -> Place {
        let origin = self.origin;
        if let Some(flag) = origin.flags.get(key) {
            return Place::Named((*flag).to_owned());
        }
        if origin.variables.has(key) {
            return Place::Named(key.to_owned());
        }
        let steps = steps(key);
        let mut variables = variables_of(&steps).into_iter();
        if let Some(name) = variables.find(|name| origin.variables.has(name)) {
            return Place::Named(name);
        }
        let at = find(self.table.get_ref(), &steps);
        Place::File {
            name: origin.name.clone(),
            at: at.map(|at| self.lines.at(&origin.text, at)),
        }
    }
}

impl fmt::Debug for Origin {
    /// Its name: a secret may be in the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.name)
    }
}

/// The names and numbers of a key's path: `route[0].host` is `route`, 0 and `host`.
fn steps(key: &str) -> Vec<(&str, Option<usize>)> {
    let parts = key.split('.').filter(|part| !part.is_empty());
    let step = |part| match str::strip_suffix(part, "]").and_then(|part| part.split_once('[')) {
        Some((name, number)) => (name, number.parse().ok()),
        None => (part, None),
    };
    parts.map(step).collect()
}

/// The environment variables of a path.
fn variables_of(steps: &[(&str, Option<usize>)]) -> Vec<String> {
    let mut names = vec![PREFIX.trim_end_matches('_').to_owned()];
    for (name, number) in steps {
        let upper = name.to_ascii_uppercase();
        let with = |end: &str| {
            names
                .iter()
                .map(|before| format!("{before}_{upper}{end}"))
                .collect()
        };
        let mut longer: Vec<String> = match number {
            Some(number) => with(&format!("_{number}")),
            None => with(""),
        };
        if *number == Some(0) {
            longer.extend::<Vec<_>>(with(""));
        }
        names = longer;
    }
    names
}

/// The byte offset of the last step of a path that is there.
fn find(root: &DeTable<'_>, steps: &[(&str, Option<usize>)]) -> Option<usize> {
    let (mut table, mut at) = (root, None);
    for (name, number) in steps {
        let Some(value): Option<&Spanned<DeValue<'_>>> = table.get(*name) else {
            return at;
        };
        let value = match (number, value.get_ref()) {
            (Some(number), DeValue::Array(items)) => match items.get(*number) {
                Some(item) => item,
                None => return at,
            },
            _ => value,
        };
        at = Some(value.span().start);
        let Some(below) = value.get_ref().as_table() else {
            return at;
        };
        table = below;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[server]\nworkers = 2\n\n[[route]]\nhost = \"a\"\n[route.auth]\n\
                        value_file = \"x\"\n\n[[route]]\nhost = \"b\"\nwake = { ready = \"port\" }\n";

    fn place(key: &str, variables: &[(&str, &str)]) -> String {
        let pairs = variables.iter();
        let variables = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut origin = Origin::new("w.toml", TEXT, &variables.collect());
        origin.set_flag("admin.address", "--admin-listen");
        origin.place_of(key).to_string()
    }

    #[test]
    fn a_key_is_found_where_it_was_written_or_in_the_nearest_table() {
        for (key, expected) in [
            ("server.workers", "w.toml:2:11"),
            ("server.max_headers", "w.toml:1:1"),
            ("route[0].host", "w.toml:5:8"),
            ("route[0].auth.value_file", "w.toml:7:14"),
            ("route[0].auth", "w.toml:6:1"),
            ("route[1]", "w.toml:9:1"),
            ("route[1].wake.ready", "w.toml:11:18"),
            ("route[7].host", "w.toml"),
            ("hypeman[0].url", "w.toml"),
            ("", "w.toml"),
            ("admin.address", "--admin-listen"),
        ] {
            assert_eq!(place(key, &[]), expected, "{key}");
        }
    }

    #[test]
    fn a_variable_goes_before_the_file_by_each_of_its_names() {
        for (key, name) in [
            ("server.workers", "WAKEGATE_SERVER_WORKERS"),
            ("route[0].host", "WAKEGATE_ROUTE_0_HOST"),
            ("route[0].host", "WAKEGATE_ROUTE_HOST"),
            ("route[1].host", "WAKEGATE_ROUTE_1_HOST"),
            ("HYPEMAN_BASE_URL", "HYPEMAN_BASE_URL"),
        ] {
            assert_eq!(place(key, &[(name, "x")]), name);
            assert!(place(key, &[(name, "")]).starts_with("w.toml"));
        }
    }
}
