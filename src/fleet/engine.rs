//! What keeps the directory: keys in order of their revisions.
//!
//! Guarantees: each change has a revision, greater than all before; a page is of the revision that was
//! asked for; a watch gives every change from its revision on, in their order, or says that it cannot;
//! a transaction is done whole or not at all.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hasher as _};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;

use super::pages::{PAGE, Pages};

/// As many operations as a transaction may have.
pub const MOST_OPERATIONS: usize = 100;

/// A key, its value, and when it was made and changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which it was made.
    pub created: i64,
    /// The revision at which it was last changed.
    pub modified: i64,
}

/// Some keys in their order, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub entries: Vec<Entry>,
    /// The revision that the engine had when it answered.
    pub revision: i64,
    /// Which cluster has answered; 0 where that is not known.
    pub cluster: u64,
    /// Whether there are more.
    pub more: bool,
}

/// Which keys are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub from: String,
    /// The first that is not among them.
    pub to: String,
    /// At most so many.
    pub limit: usize,
    /// At this revision; at the last one, if it is 0.
    pub revision: i64,
}

/// Keys that are read, and watched, together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub from: String,
    /// The first that is not among them.
    pub to: String,
}

/// Keys at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Everything {
    /// The keys.
    pub entries: Vec<Entry>,
    /// The revision at which they were so.
    pub revision: i64,
    /// Which cluster has said so; 0 where that is not known.
    pub cluster: u64,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was made or changed.
    Put(Entry),
    /// It was deleted, or its lease has ended.
    Deleted {
        /// The key.
        key: String,
        /// The revision at which it went.
        revision: i64,
    },
}

/// News of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Changes of one or more whole revisions, in their order.
    Changes(Vec<Change>),
    /// Whoever is watched answers, and has this revision.
    Alive(i64),
}

/// A change that an engine is asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The key.
    pub key: String,
    /// When it was changed.
    pub revision: i64,
    /// Whether it was deleted.
    pub is_deleted: bool,
    /// Whether something is known to have been there before it was deleted.
    pub was_there: bool,
    /// By what its value is known again; none, if it is not known as the engine has it.
    pub value: Option<u64>,
}

/// What a transaction depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// It was made at this revision.
    Created(String, i64),
    /// It was last changed at this revision.
    Modified(String, i64),
}

// === impl Compare ===

impl Compare {
    /// The key is as it was read: last changed at this revision, or not there.
    pub fn unchanged(key: &str, modified: Option<i64>) -> Self {
        match modified {
            Some(modified) => Self::Modified(key.to_owned(), modified),
            None => Self::Absent(key.to_owned()),
        }
    }
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes or changes a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease with which it goes; 0 for none.
        lease: i64,
    },
    /// Deletes a key, if there is one.
    Delete(String),
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether what it depended on was so; or else nothing was done.
    pub is_done: bool,
    /// The revision after it.
    pub revision: i64,
}

/// Why an engine has not done something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// Nobody has answered in time.
    #[error("the directory does not answer: {0}")]
    Unavailable(String),
    /// What was asked for is too old.
    #[error("the directory has forgotten what was before revision {0}")]
    Compacted(i64),
    /// The engine does not want to, and will not if it is asked again.
    #[error("the directory refuses: {0}")]
    Refused(String),
    /// What was asked for has more bytes than are taken at once.
    #[error("the directory's answer has more than {0} bytes")]
    TooLong(usize),
    /// A transaction has too many operations.
    #[error("a transaction of {0} operations is too large: at most {MOST_OPERATIONS}")]
    TooLarge(usize),
}

/// The news of a watch; after an error nothing comes.
pub type Watch = BoxStream<'static, Result<News, EngineError>>;

/// What keeps the directory.
pub trait Engine: Debug + Send + Sync + 'static {
    /// Some keys.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, EngineError>>;

    /// What becomes of the keys of these spans, from `revision` on. The changes of one span come in their order.
    fn watch_spans(
        &self,
        spans: Vec<Span>,
        revision: i64,
    ) -> BoxFuture<'_, Result<Watch, EngineError>>;

    /// What becomes of the keys that begin with `prefix`, from `revision` on.
    fn watch(&self, prefix: String, revision: i64) -> BoxFuture<'_, Result<Watch, EngineError>> {
        self.watch_spans(vec![Span::of(&prefix)], revision)
    }

    /// Does everything or nothing.
    fn commit(
        &self,
        compares: Vec<Compare>,
        operations: Vec<Operation>,
    ) -> BoxFuture<'_, Result<Outcome, EngineError>>;

    /// A lease of so many seconds.
    fn grant(&self, seconds: i64) -> BoxFuture<'_, Result<i64, EngineError>>;

    /// Makes a lease last as long again. Returns whether there is such a lease.
    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, EngineError>>;

    /// Ends a lease, and its keys with it.
    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), EngineError>>;
}

// === impl Span ===

impl Span {
    /// All keys that begin so.
    pub fn of(prefix: &str) -> Self {
        Self {
            from: prefix.to_owned(),
            to: end_of(prefix),
        }
    }

    /// Whether a key is among them.
    pub fn has(&self, key: &str) -> bool {
        *self.from <= *key && *key < *self.to
    }
}

// === impl Remembered ===

impl Remembered {
    /// A change as the engine has told it.
    pub fn of(change: &Change) -> Self {
        let value = match change {
            Change::Put(entry) => Some(mark_of(&entry.value)),
            Change::Deleted { .. } => None,
        };
        Self {
            key: change.key().to_owned(),
            revision: change.revision(),
            is_deleted: matches!(change, Change::Deleted { .. }),
            was_there: true,
            value,
        }
    }

    /// What this member has done to a key, at a revision.
    pub fn by_us(operation: &Operation, revision: i64) -> Self {
        let (key, value) = match operation {
            Operation::Put { key, value, .. } => (key, Some(mark_of(value))),
            Operation::Delete(key) => (key, None),
        };
        Self {
            key: key.clone(),
            revision,
            is_deleted: value.is_none(),
            // Somebody else may have been quicker.
            was_there: false,
            value,
        }
    }

    /// The last change of a key that is there.
    pub fn of_entry(entry: &Entry) -> Self {
        Self {
            key: entry.key.clone(),
            revision: entry.modified,
            is_deleted: false,
            was_there: true,
            value: Some(mark_of(&entry.value)),
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        entry.modified == self.revision
            && self
                .value
                .is_none_or(|value| value == mark_of(&entry.value))
    }
}

/// By what a value is known again.
fn mark_of(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    hasher.finish()
}

// === impl Change ===

impl Change {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When it was.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// The first key behind all that begin with `prefix`.
pub fn end_of(prefix: &str) -> String {
    // A prefix of ours ends in a slash or a letter, so that the next character is one, too.
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = char::from_u32(u32::from(last) + 1) {
            chars.push(next);
            break;
        }
    }
    chars.into_iter().collect()
}

/// Every key that begins with `prefix`, read in pages at one revision, and that revision.
pub async fn read_all(engine: &dyn Engine, prefix: &str) -> Result<(Vec<Entry>, i64), EngineError> {
    let read = read_spans(engine, &[Span::of(prefix)]).await?;
    Ok((read.entries, read.revision))
}

/// Every key of these spans, read in pages at one revision.
pub async fn read_spans(engine: &dyn Engine, spans: &[Span]) -> Result<Everything, EngineError> {
    let (mut all, mut pages) = (Everything::default(), Pages::default());
    for span in spans {
        let mut from = span.from.clone();
        loop {
            let range = Range {
                from: from.clone(),
                to: span.to.clone(),
                limit: pages.limit(),
                revision: all.revision,
            };
            let page = match engine.range(range).await {
                // Whoever is away is away for a small one, too.
                Err(EngineError::Unavailable(_)) if pages.has_failed(PAGE) => continue,
                Err(EngineError::TooLong(_)) if pages.has_failed(1) => continue,
                page => page?,
            };
            let sizes = page.entries.iter();
            let bytes = sizes.map(|entry| entry.key.len() + entry.value.len()).sum();
            pages.has_come(page.entries.len(), bytes);
            if all.revision == 0 {
                (all.revision, all.cluster) = (page.revision, page.cluster);
            }
            let last = page.entries.last().map(|entry| entry.key.clone());
            all.entries.extend(page.entries);
            match last.filter(|_| page.more) {
                // The next key there could be.
                Some(last) => from = format!("{last}\0"),
                None => break,
            }
        }
    }
    Ok(all)
}

/// A key, how far the engine is, and which cluster it is.
pub async fn stands(engine: &dyn Engine, key: &str) -> Result<Page, EngineError> {
    engine.range(only(key, 0)).await
}

fn only(key: &str, revision: i64) -> Range {
    Range {
        from: key.to_owned(),
        to: format!("{key}\0"),
        limit: 1,
        revision,
    }
}

/// One key at a revision that may be over; `None`, too, where the engine has not come so far.
async fn read_then(
    engine: &dyn Engine,
    key: &str,
    revision: i64,
) -> Result<Option<Entry>, EngineError> {
    match engine.range(only(key, revision)).await {
        Ok(page) => Ok(page.entries.into_iter().next()),
        Err(EngineError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the engine remembers this change: one that was restored from a backup has another past, or has
/// not come so far. [`EngineError::Compacted`] where what is left of the past does not tell.
pub async fn remembers(engine: &dyn Engine, change: &Remembered) -> Result<bool, EngineError> {
    let Remembered { key, revision, .. } = change;
    // What is there now tells of the past, however much of that was forgotten.
    match read_one(engine, key).await? {
        (Some(entry), _) if change.is_deleted && entry.created <= *revision => return Ok(false),
        (Some(entry), _) if !change.is_deleted && entry.modified == *revision => {
            return Ok(change.is(&entry));
        }
        (Some(entry), _) if !change.is_deleted && entry.modified < *revision => return Ok(false),
        (None, now) if !change.is_deleted && now <= *revision => return Ok(false),
        (Some(_) | None, _) => {}
    }
    if change.is_deleted {
        if change.was_there && read_then(engine, key, revision - 1).await?.is_none() {
            return Ok(false);
        }
        return Ok(read_then(engine, key, *revision).await?.is_none());
    }
    let then = read_then(engine, key, *revision).await?;
    Ok(then.is_some_and(|entry| change.is(&entry)))
}

/// One key.
pub async fn read_one(engine: &dyn Engine, key: &str) -> Result<(Option<Entry>, i64), EngineError> {
    let page = engine.range(only(key, 0)).await?;
    Ok((page.entries.into_iter().next(), page.revision))
}
