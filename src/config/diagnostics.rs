//! What is wrong with a configuration, found while it is read.
//!
//! Guarantees: every problem is kept, with the place that it was written at; a name that nobody
//! asked for is a problem with the nearest known name; what Kubernetes says of Services in names
//! like ours (`service_link`) is not.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::place::{Lines, Place};
use super::problem::{Complaint, Problem};
use super::service_link::{has_service, is_service_link};
use super::variables::{PREFIX, Variables};

/// One load: the text, the variables, and the problems so far.
pub(super) struct Diagnostics<'a> {
    pub(super) file: &'a str,
    text: &'a str,
    /// Found out for the first place that is asked for.
    lines: OnceCell<Lines>,
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
    pub(super) fn new(file: &'a str, text: &'a str, all: &'a Variables) -> Self {
        let (used, known) = (BTreeSet::new(), BTreeSet::new());
        let (links, variables): (BTreeMap<_, _>, BTreeMap<_, _>) = all
            .iter()
            .partition(|(name, value)| is_service_link(name, value));
        let unreadable = all.unreadable().iter().map(|name| {
            let place = Place::Named(name.clone());
            let problem = Problem::of("bad_value", "", "is not UTF-8");
            (usize::MAX, Problem { place, ..problem })
        });
        Self {
            file,
            text,
            lines: OnceCell::new(),
            has_variables: [&variables, &links]
                .iter()
                .any(|names| names.keys().any(|name| name.starts_with(PREFIX))),
            variables,
            links,
            used,
            known,
            problems: unreadable.collect(),
        }
    }

    /// The place of a byte offset of the file.
    pub(super) fn place(&self, at: usize) -> Place {
        let lines = self.lines.get_or_init(|| Lines::of(self.text));
        Place::File {
            name: self.file.to_owned(),
            at: Some(lines.at(self.text, at)),
        }
    }

    pub(super) fn syntax(&mut self, span: Option<Range<usize>>, message: &str) {
        let at = span.map_or(0, |span| span.start);
        let message = message.trim().replace('\n', ", ");
        let place = self.place(at);
        let problem = Problem::of("syntax", "", message);
        self.problems.push((at, Problem { place, ..problem }));
    }

    pub(super) fn report(
        &mut self,
        rule: &'static str,
        (at, place): (usize, Place),
        key: String,
        complaint: Complaint,
    ) {
        let Complaint { message, mend } = complaint;
        let problem = Problem {
            rule,
            place,
            key,
            message,
            mend,
        };
        self.problems.push((at, problem));
    }

    /// How many problems there are so far.
    pub(super) fn count(&self) -> usize {
        self.problems.len()
    }

    /// A problem of several keys together.
    pub(super) fn problem(&mut self, key: &str, message: String) {
        let place = (usize::MAX, Place::file(self.file));
        self.report("conflict", place, key.to_owned(), message.into());
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
            let mend = nearest(name, self.known.iter().map(String::as_str))
                .map(|known| format!("did you mean `{known}`?"));
            let problem = Problem {
                rule: "unknown_variable",
                place: Place::Named(name.to_owned()),
                key: String::new(),
                message: "no setting has this environment variable".to_owned(),
                mend,
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
