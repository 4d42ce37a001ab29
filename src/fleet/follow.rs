//! Keeps the copy of the directory as the engine has it.
//!
//! Guarantees: what is in force stays in force while the engine is away, while everything is read
//! anew, and when nothing can be made of an answer; pauses between attempts grow to two seconds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::directory::{Applied, Directory};
use super::engine::{Change, EngineError, News, Span, read_spans, stands};
use super::past::{Past, past, renew};
use super::records::Key;
use super::seal::SealKeys;
use crate::backoff::Backoff;

/// How often the file of keys is read.
const KEYS: Duration = Duration::from_secs(5);
const PAUSES: Backoff =
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2)).with_jitter(0.5);

/// A change of the copy; it is made when it is called, and says what it was.
pub type Step<'s> = &'s mut (dyn FnMut() -> Applied + Send);

/// Whoever serves by the directory.
pub trait Sink: Send + Sync + 'static {
    /// Makes the step and takes over what it says. May take a while.
    fn take(&self, step: Step<'_>);

    /// Whether that takes so little time that it needs no thread of its own.
    fn is_quick(&self) -> bool {
        false
    }
}

async fn hand<F: FnOnce() -> Applied + Send + 'static>(sink: &Arc<dyn Sink>, step: F) {
    if sink.is_quick() {
        let mut step = Some(step);
        return sink.take(&mut || step.take().map(|step| step()).unwrap_or_default());
    }
    let sink = Arc::clone(sink);
    let taken = spawn_blocking(move || {
        let mut step = Some(step);
        sink.take(&mut || step.take().map(|step| step()).unwrap_or_default());
    });
    if let Err(error) = taken.await {
        tracing::error!(%error, "a change of the directory was not taken over");
    }
}

/// Uses the keys that are in a file, also when it changes; never ends.
pub async fn follow_keys(directory: Arc<Directory>, path: PathBuf, sink: Arc<dyn Sink>) {
    let (mut used, mut said) = (None::<SealKeys>, None);
    loop {
        let file = path.clone();
        match spawn_blocking(move || SealKeys::load(&file)).await {
            Ok(Ok(keys)) => {
                said = None;
                let is_new = !used.as_ref().is_some_and(|used| used.is_like(&keys));
                // What is in force is what the file had at the start, or what was read here.
                if is_new && used.is_some() {
                    tracing::info!(?keys, "other keys of the directory's secrets");
                }
                if is_new {
                    let (copy, again) = (Arc::clone(&directory), keys.clone());
                    hand(&sink, move || copy.use_keys(again)).await;
                }
                used = Some(keys);
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                if said.replace(text.clone()).as_ref() != Some(&text) {
                    tracing::error!(%error, "the old keys of the directory's secrets stay");
                }
            }
            Err(error) => tracing::error!(%error, "the keys were not read"),
        }
        sleep(KEYS).await;
    }
}

/// Follows the engine; never ends.
pub async fn follow(directory: Arc<Directory>, sink: Arc<dyn Sink>) {
    let mut pauses = PAUSES.pauses();
    // From which revision on to watch each span; none, if everything is to be read.
    let mut next: Option<Vec<i64>> = None;
    let mut was_away = false;
    loop {
        let ended = round(&directory, &sink, &mut next, &mut was_away, &mut pauses).await;
        match ended {
            EngineError::Compacted(revision) => {
                tracing::info!(revision, "fell behind the directory: it is read anew");
                next = None;
            }
            EngineError::Unavailable(_)
            | EngineError::Refused(_)
            | EngineError::TooLong(_)
            | EngineError::TooLarge(_) => {
                if !was_away {
                    tracing::warn!(error = %ended, "what is known of the fleet stays in force");
                }
                was_away = true;
            }
        }
        sleep(pauses.advance(fastrand::f64)).await;
    }
}

/// Reads what has to be read and watches, until that fails.
async fn round(
    directory: &Arc<Directory>,
    sink: &Arc<dyn Sink>,
    next: &mut Option<Vec<i64>>,
    was_away: &mut bool,
    pauses: &mut crate::backoff::Pauses,
) -> EngineError {
    let engine = Arc::clone(directory.engine());
    let spans = directory.spans();
    let first = match next {
        Some(from) => from.iter().min().copied().unwrap_or_default(),
        None => match stands(&*engine, &Key::Past.text()).await {
            Ok(page) => page.revision + 1,
            Err(error) => return error,
        },
    };
    // The watch begins before everything is read: an engine that goes back meanwhile ends it, and what was read of
    // two pasts is read again.
    let mut news = match engine.watch_spans(spans.clone(), first).await {
        Ok(news) => news,
        Err(error) => return error,
    };
    let mut from = match next {
        Some(from) => from.clone(),
        None => {
            if let Err(error) = renew(directory, &*engine).await {
                return error;
            }
            let read = match read_spans(&*engine, &spans).await {
                Ok(read) => read,
                Err(error) => return error,
            };
            directory.hear();
            let (entries, revision) = (read.entries, read.revision);
            // It went back before it was watched, and would be silent until it has come as far again.
            if revision + 1 < first {
                return EngineError::Compacted(revision);
            }
            if matches!(past(directory, &*engine).await, Ok(Past::Other)) {
                directory.doubt();
            }
            let copy = Arc::clone(directory);
            hand(sink, move || tell(copy.replace(&entries, revision))).await;
            directory.is_of(read.cluster);
            // Until a change is heard there is nothing by which another past would be noticed later: if
            // this watch ends before, everything is read again.
            vec![revision + 1; spans.len()]
        }
    };
    // It may have been restored from a backup, and have come as far again since; from here on that would
    // end the watch.
    match past(directory, &*engine).await {
        Ok(Past::Same) => {}
        Ok(Past::Unknown) => return EngineError::Compacted(first),
        Ok(Past::Other) => {
            directory.doubt();
            return EngineError::Compacted(first);
        }
        Err(error) => return error,
    }
    while let Some(item) = news.next().await {
        let item = match item {
            Ok(item) => item,
            Err(error) => return error,
        };
        directory.hear();
        *pauses = PAUSES.pauses();
        if std::mem::take(was_away) {
            tracing::info!("the directory answers again");
        }
        match item {
            News::Alive(revision) => {
                let known = directory.known();
                // It may be from before everything was read.
                if revision < known && !matches!(past(directory, &*engine).await, Ok(Past::Same)) {
                    tracing::error!(
                        revision,
                        known,
                        "the directory went back: it was restored from a backup"
                    );
                    *next = None;
                    return EngineError::Compacted(revision);
                }
            }
            News::Changes(changes) => {
                let changes = only_new(changes, &spans, &mut from);
                if changes.is_empty() {
                    continue;
                }
                *next = Some(from.clone());
                let copy = Arc::clone(directory);
                hand(sink, move || tell(copy.apply(&changes))).await;
            }
        }
    }
    EngineError::Unavailable("the watch ended".to_owned())
}

/// The changes without those that are known: one watch of several spans begins where the last of them was left,
/// and spans are told of independently of each other.
fn only_new(mut changes: Vec<Change>, spans: &[Span], from: &mut [i64]) -> Vec<Change> {
    let span_of = |change: &Change| spans.iter().position(|span| span.has(change.key()));
    let next = |from: &[i64], change: &Change| span_of(change).and_then(|at| from.get(at).copied());
    changes.retain(|change| next(from, change).is_some_and(|next| change.revision() >= next));
    for change in &changes {
        if let Some(next) = span_of(change).and_then(|at| from.get_mut(at)) {
            *next = (*next).max(change.revision() + 1);
        }
    }
    changes
}

fn tell(applied: Applied) -> Applied {
    if applied.held > 0 {
        tracing::error!(
            routes = applied.held,
            "so many routes are gone from the directory at once that they stay in force: if that is \
             meant, `wakegate fleet accept`"
        );
    }
    if applied.went_back {
        tracing::error!("the directory is older than what was known of it");
    }
    applied
}
