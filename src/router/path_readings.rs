//! All the ways in which servers read a request's path, and whether they agree about what it meets.
//!
//! A gateway that judges one reading of a path protects nothing: the application may use another.
//! So every rule about a path is judged by each of its readings, by [`PathReadings::agree`]: in the
//! normal form (RFC 3986 §6.2.2), decoded once and twice, with and without dot segments, empty
//! segments, parameters, blanks, whatever comes after a NUL, with backslashes as slashes, and
//! whatever letter case means.
//!
//! Guarantees: [`PathReadings::agree`] gives a verdict only where all readings have it; a path that
//! has too many readings to be judged is ambiguous, so that none of them is costly; a path without
//! special bytes is judged without an allocation; nobody changes the path that is passed on.

use std::borrow::Cow;
use std::cell::OnceCell;

use super::path_steps::{STAGES, Step, is_plain, next_octet, normal, segments};

/// How many readings of one path are judged, and how many bytes all of them may have. A path of a
/// real application has two or three, one that is full of tricks has thousands.
const MOST_READINGS: usize = 256;
const MOST_BYTES: usize = 64 * 1024;

/// Servers may read the path in different ways, and the rules differ for these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path can be read in more than one way")]
pub struct AmbiguousPath;

/// A path that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    text: Box<str>,
    /// Its position among the special ones of its set, if it is one.
    special: Option<usize>,
}

/// Those paths of a set of rules that servers may themselves read in more than one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialPaths(Vec<Box<str>>);

/// One reading of a path and of the special paths of a set of rules.
type Texts<'a> = Vec<Cow<'a, [u8]>>;

/// A request's path.
#[derive(Debug)]
pub struct PathReadings<'a> {
    path: &'a [u8],
    is_plain: OnceCell<bool>,
    /// All readings, where no rule is special; `None` where there are too many.
    all: OnceCell<Option<Vec<Texts<'a>>>>,
}

/// One reading of a request's path.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    exact: &'a [Cow<'a, [u8]>],
    /// The same, where letter case means nothing.
    folded: Option<&'a [Cow<'a, [u8]>]>,
}

// === impl PathRule ===

impl SpecialPaths {
    /// A rule of this set. It is judged together with this set alone.
    pub fn rule(&mut self, path: &str) -> PathRule {
        let text: Box<str> = path.into();
        let special = (!is_plain(path.as_bytes())).then(|| {
            self.0.push(text.clone());
            self.0.len() - 1
        });
        PathRule { text, special }
    }
}

impl PathRule {
    /// The path as it is configured.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

// === impl PathReadings ===

impl<'a> PathReadings<'a> {
    /// The readings of the path of a request's target. Nothing is done before they are needed.
    pub fn of(path: &'a str) -> Self {
        Self {
            path: path.as_bytes(),
            is_plain: OnceCell::new(),
            all: OnceCell::new(),
        }
    }

    /// The verdict that all readings have. `special` are the special paths of the rules that
    /// `judge` looks at.
    pub fn agree<T: PartialEq>(
        &self,
        special: &SpecialPaths,
        judge: impl Fn(&Reading<'_>) -> T,
    ) -> Result<T, AmbiguousPath> {
        let mut verdict = None;
        let mut is_same = |exact: &[Cow<'_, [u8]>]| {
            let own;
            let folded = match exact.iter().all(|text| text.is_ascii()) {
                // These are compared letter by letter.
                true => exact,
                false => {
                    own = exact.iter().map(|text| folded(text)).collect::<Vec<_>>();
                    &own
                }
            };
            [None, Some(folded)].into_iter().all(|folded| {
                let next = judge(&Reading { exact, folded });
                match &verdict {
                    Some(first) => *first == next,
                    None => {
                        verdict = Some(next);
                        true
                    }
                }
            })
        };
        let agreed = if special.0.is_empty() && self.is_plain() {
            is_same(&[Cow::Borrowed(self.path)])
        } else {
            let own;
            let all = match special.0.is_empty() {
                true => self.all(),
                false => {
                    own = readings(self.path, &special.0);
                    own.as_deref()
                }
            };
            all.is_some_and(|all| all.iter().all(|texts| is_same(texts)))
        };
        verdict.filter(|_| agreed).ok_or(AmbiguousPath)
    }

    /// Whether dot segments lead out of `prefix`, in any reading. If not, it makes no difference to
    /// them whether the prefix is taken off before.
    pub fn leave(&self, prefix: &PathRule) -> bool {
        if self.is_plain() {
            return false;
        }
        let least = segments(prefix.text.as_bytes()).count();
        let leaves = |path: &[u8]| {
            let mut depth = 0_usize;
            segments(path).any(|segment| {
                match segment {
                    b"." => {}
                    b".." if depth <= least => return true,
                    b".." => depth -= 1,
                    _ => depth += 1,
                }
                false
            })
        };
        let all = self.all();
        all.is_none_or(|all| all.iter().flatten().any(|path| leaves(path)))
    }

    /// Whether what comes behind `prefix` has an authority in any reading once the prefix is taken off, with
    /// all slashes behind it but one: `/v1/%2fx/a` is `/%2fx/a` then, and `/a` to who decodes first.
    pub fn have_authority_behind(&self, prefix: &PathRule) -> bool {
        let behind = |path| behind_prefix(path, &prefix.text);
        let path = str::from_utf8(self.path).ok().filter(|_| !self.is_plain());
        path.and_then(behind).is_some_and(|rest| {
            let all = readings(rest.as_bytes(), &[]);
            let has_authority = |text: &Cow<'_, [u8]>| text.starts_with(b"//");
            all.is_none_or(|all| all.iter().flatten().any(has_authority))
        })
    }

    fn is_plain(&self) -> bool {
        *self.is_plain.get_or_init(|| is_plain(self.path))
    }

    fn all(&self) -> Option<&[Texts<'a>]> {
        let all = || readings(self.path, &[]);
        self.all.get_or_init(all).as_deref()
    }
}

/// The readings of a path and, by the same steps, of the special paths of rules; `None` when there
/// are too many.
fn readings<'a>(path: &'a [u8], special: &'a [Box<str>]) -> Option<Vec<Texts<'a>>> {
    let rules = special.iter().map(|rule| rule.as_bytes());
    let texts = [path].into_iter().chain(rules).map(Cow::Borrowed);
    let mut all: Vec<Texts<'a>> = vec![texts.collect()];
    for steps in STAGES {
        let (mut more, mut bytes) = (Vec::new(), 0);
        all.retain(|texts| {
            let mut stays = false;
            for step in steps {
                if bytes > MOST_BYTES || !texts.iter().any(|text| step.is_needed(text)) {
                    continue;
                }
                match changed(texts, *step) {
                    Some(changed) => {
                        bytes += changed.iter().map(|text| text.len()).sum::<usize>();
                        more.push(changed);
                    }
                    None => stays = true,
                }
            }
            stays
        });
        if bytes > MOST_BYTES {
            return None;
        }
        if more.is_empty() {
            continue;
        }
        all.append(&mut more);
        all.sort_unstable();
        all.dedup();
        if all.len() > MOST_READINGS {
            return None;
        }
    }
    Some(all)
}

/// The same after one step; `None` where it changes nothing.
fn changed<'a>(texts: &[Cow<'a, [u8]>], step: Step) -> Option<Texts<'a>> {
    let mut is_changed = false;
    let changed = texts.iter().map(|text| match step.of(text) {
        Some(text) => {
            is_changed = true;
            Cow::Owned(text)
        }
        None => text.clone(),
    });
    let changed = changed.collect();
    is_changed.then_some(changed)
}

/// The text without letter case, as it is for readers of Unicode: also `ſ` is an `s`.
fn folded<'a>(text: &Cow<'a, [u8]>) -> Cow<'a, [u8]> {
    if text.is_ascii() {
        return text.clone();
    }
    let mut folded = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        let upper = chunk.valid().chars().flat_map(char::to_uppercase);
        let lower = upper.flat_map(char::to_lowercase).collect::<String>();
        folded.extend(lower.bytes());
        folded.extend(chunk.invalid());
    }
    Cow::Owned(folded)
}

// === impl Reading ===

impl Reading<'_> {
    /// The path of this reading.
    pub fn text(&self) -> &[u8] {
        let texts = self.folded.unwrap_or(self.exact);
        texts.first().map(|text| &**text).unwrap_or_default()
    }

    /// The same reading where letter case means something.
    pub fn exact(self) -> Self {
        Self {
            folded: None,
            ..self
        }
    }

    /// Whether the path is the rule's or below it, on a segment border.
    pub fn is_below(&self, rule: &PathRule) -> bool {
        let prefix = self.form(rule);
        let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
        let parts = self.text().split_at_checked(prefix.len());
        parts.is_some_and(|(start, rest)| {
            self.is_same(start, prefix) && (rest.is_empty() || rest.starts_with(b"/"))
        })
    }

    /// Whether the path is the rule's.
    pub fn is(&self, rule: &PathRule) -> bool {
        self.is_same(self.text(), self.form(rule))
    }

    /// The rule's path, read in the same way.
    fn form<'b>(&'b self, rule: &'b PathRule) -> &'b [u8] {
        let texts = self.folded.unwrap_or(self.exact);
        let special = rule.special.and_then(|position| texts.get(position + 1));
        special.map_or(rule.text.as_bytes(), |text| text)
    }

    fn is_same(&self, one: &[u8], other: &[u8]) -> bool {
        match self.folded {
            None => one == other,
            Some(_) => one.eq_ignore_ascii_case(other),
        }
    }
}

/// A target that is below `prefix` without it. Of several slashes behind it one is left: two would begin an
/// authority (RFC 3986 §4.2).
pub fn behind_prefix<'a>(target: &'a str, prefix: &str) -> Option<Cow<'a, str>> {
    let rest = after_prefix(target, prefix)?;
    Some(match rest.starts_with('/') && !rest.starts_with("//") {
        true => rest.into(),
        false => format!("/{}", rest.trim_start_matches('/')).into(),
    })
}

/// What comes after `prefix` in a target that is below it, also where that is spelled with other
/// encodings (RFC 3986 §6.2.2.2).
fn after_prefix<'a>(target: &'a str, prefix: &str) -> Option<&'a str> {
    let (mut rest, mut prefix) = (target.as_bytes(), prefix.as_bytes());
    while let Some((expected, after)) = next_octet(prefix) {
        prefix = after;
        let (octet, after) = next_octet(rest)?;
        rest = after;
        if normal(octet) != normal(expected) {
            return None;
        }
    }
    target.get(target.len() - rest.len()..)
}

#[cfg(test)]
mod tests;
