//! What is wrong with a configuration, found while it is read.
//!
//! Guarantees: every problem is kept, with the place that it was written at; a name that nobody
//! asked for is a problem with the nearest known name; what Kubernetes says of Services in names
//! like ours (`service_link`) is not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::problem::Problem;
use super::service_link::{has_service, is_service_link};

pub(super) const PREFIX: &str = "WAKEGATE_";

/// One load: the text, the variables, and the problems so far.
pub(super) struct Diagnostics<'a> {
    pub(super) file: &'a str,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    pub(super) variables: BTreeMap<&'a str, &'a str>,
    /// Variables that are links to Services.
    links: BTreeMap<&'a str, &'a str>,
    /// Whether there is any of ours; without one, none is looked for.
    pub(super) has_variables: bool,
    pub(super) used: BTreeSet<String>,
    pub(super) known: BTreeSet<String>,
    problems: Vec<(usize, Problem)>,
}

// === impl Diagnostics ===

impl<'a> Diagnostics<'a> {
    pub(super) fn new(
        file: &'a str,
        text: &'a str,
        variables: &'a BTreeMap<String, String>,
    ) -> Self {
        let (used, known) = (BTreeSet::new(), BTreeSet::new());
        let pairs = variables.iter();
        let (links, variables): (BTreeMap<_, _>, BTreeMap<_, _>) = pairs
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .partition(|(name, value)| is_service_link(name, value));
        Self {
            file,
            text,
            lines: std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
            has_variables: [&variables, &links]
                .iter()
                .any(|names| names.keys().any(|name| name.starts_with(PREFIX))),
            variables,
            links,
            used,
            known,
            problems: Vec::new(),
        }
    }

    /// `file:line:column` of a byte offset.
    pub(super) fn place(&self, at: usize) -> String {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line.saturating_sub(1)).copied();
        let tail = start.and_then(|start| self.text.get(start..at));
        let column = tail.map_or(0, |tail| tail.chars().count()) + 1;
        format!("{}:{line}:{column}", self.file)
    }

    pub(super) fn syntax(&mut self, span: Option<Range<usize>>, message: &str) {
        let at = span.map_or(0, |span| span.start);
        let problem = Problem {
            place: self.place(at),
            key: String::new(),
            message: message.trim().replace('\n', ", "),
            help: None,
        };
        self.problems.push((at, problem));
    }

    pub(super) fn report(
        &mut self,
        at: usize,
        place: String,
        key: String,
        message: String,
        help: Option<String>,
    ) {
        self.problems.push((
            at,
            Problem {
                place,
                key,
                message,
                help,
            },
        ));
    }

    /// A problem of several keys together.
    pub(super) fn problem(&mut self, key: &str, message: String) {
        let place = self.file.to_owned();
        self.report(usize::MAX, place, key.to_owned(), message, None);
    }

    /// Links to Services that a person should hear of: those with the name of a setting, and those
    /// without the Service's address beside them.
    pub(super) fn suspicious_links(&self) -> Vec<String> {
        let address = |name: &str| self.links.get(name).copied();
        let names = self.links.keys().filter(|name| {
            name.starts_with(PREFIX) && (self.known.contains(**name) || !has_service(name, address))
        });
        names.map(|name| (*name).to_owned()).collect()
    }

    /// Every variable that was asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> impl Iterator<Item = &String> {
        self.known.iter()
    }

    /// Every problem in the order of the file, unknown variables last.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        let strays: Vec<&str> = self
            .variables
            .keys()
            .copied()
            .filter(|name| name.starts_with(PREFIX) && !self.used.contains(*name))
            .collect();
        for name in strays {
            let help = nearest(name, self.known.iter().map(String::as_str))
                .map(|known| format!("did you mean `{known}`?"));
            let problem = Problem {
                place: name.to_owned(),
                key: String::new(),
                message: "no setting has this environment variable".to_owned(),
                help,
            };
            self.problems.push((usize::MAX, problem));
        }
        self.problems.sort_by_key(|(at, _)| *at);
        self.problems
            .into_iter()
            .map(|(_, problem)| problem)
            .collect()
    }
}

/// The known name that a person most likely meant.
pub(super) fn nearest<'n>(wrong: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 2 + name.len() / 4)
        .map(|(_, name)| name)
}
