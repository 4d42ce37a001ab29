//! What keeps the directory: keys in order of their revisions.
//!
//! Guarantees: each change has a revision, greater than all before; a page is of the revision that was
//! asked for; a watch gives every change from its revision on, in their order, or says that it cannot;
//! a transaction is done whole or not at all.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;

/// As many operations as a transaction may have.
pub const MOST_OPERATIONS: usize = 100;
/// As many keys as a page has.
pub const PAGE: usize = 1_000;

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

    /// What becomes of the keys that begin with `prefix`, from `revision` on.
    fn watch(&self, prefix: String, revision: i64) -> BoxFuture<'_, Result<Watch, EngineError>>;

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
    let (mut all, mut revision) = (Vec::new(), 0);
    let mut range = Range {
        from: prefix.to_owned(),
        to: end_of(prefix),
        limit: PAGE,
        revision: 0,
    };
    loop {
        let page = engine.range(range.clone()).await?;
        if revision == 0 {
            revision = page.revision;
            range.revision = revision;
        }
        let last = page.entries.last().map(|entry| entry.key.clone());
        all.extend(page.entries);
        match last.filter(|_| page.more) {
            // The next key there could be.
            Some(last) => range.from = format!("{last}\0"),
            None => return Ok((all, revision)),
        }
    }
}

/// One key at a revision that may be over; `None`, too, where the engine has not come so far.
async fn read_then(
    engine: &dyn Engine,
    key: &str,
    revision: i64,
) -> Result<Option<Entry>, EngineError> {
    let range = Range {
        from: key.to_owned(),
        to: format!("{key}\0"),
        limit: 1,
        revision,
    };
    match engine.range(range).await {
        Ok(page) => Ok(page.entries.into_iter().next()),
        Err(EngineError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the engine remembers this change: one that was restored from a backup has another past, or has
/// not come so far.
pub async fn remembers(engine: &dyn Engine, change: &Remembered) -> Result<bool, EngineError> {
    let Remembered { key, revision, .. } = change;
    if change.is_deleted {
        let before = read_then(engine, key, revision - 1).await?;
        return Ok(before.is_some() && read_then(engine, key, *revision).await?.is_none());
    }
    // What is there now is remembered however much was forgotten.
    match read_one(engine, key).await?.0 {
        Some(entry) if entry.modified == *revision => return Ok(true),
        Some(entry) if entry.modified < *revision => return Ok(false),
        Some(_) | None => {}
    }
    let then = read_then(engine, key, *revision).await?;
    Ok(then.is_some_and(|entry| entry.modified == *revision))
}

/// One key.
pub async fn read_one(engine: &dyn Engine, key: &str) -> Result<(Option<Entry>, i64), EngineError> {
    let range = Range {
        from: key.to_owned(),
        to: format!("{key}\0"),
        limit: 1,
        revision: 0,
    };
    let page = engine.range(range).await?;
    Ok((page.entries.into_iter().next(), page.revision))
}
