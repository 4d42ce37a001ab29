//! Keeps the copy as the directory has it, and its file as the copy is.
//!
//! Guarantees: what is known stays while the directory is away; a value is written by an offer only where
//! nobody else was quicker; what an engine that was set back has lost is given back to it; values that are
//! sealed with an old key are sealed anew once the first key is another.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::copy::{Keys, Offer, PREFIX, Vault, depends, is_passing, key_of};
use crate::backoff::{Backoff, Pauses};
use crate::fleet::engine::{Change, EngineError, News, Operation, read_all, stands};
use crate::fleet::seal::SealKeys;
use crate::fleet::snapshot;

/// How often the file of keys is read.
const KEYS: Duration = Duration::from_secs(5);
/// How long after a change the copy is written, at the earliest.
const CALM: Duration = Duration::from_secs(1);
const PAUSES: Backoff =
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2)).with_jitter(0.5);

// === impl Vault ===

impl Vault {
    /// Follows the directory; never ends.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(
            self.follow(),
            self.write_offers(),
            self.follow_keys(),
            self.keep_file()
        );
    }

    async fn follow(&self) {
        let mut pauses = PAUSES.pauses();
        let mut was_away = false;
        loop {
            let ended = self.round(&mut was_away, &mut pauses).await;
            if !std::mem::replace(&mut was_away, true) {
                tracing::warn!(error = %ended, "the certificates of before stay in force");
            }
            sleep(pauses.advance(fastrand::f64)).await;
        }
    }

    /// Reads everything and watches, until that fails.
    async fn round(&self, was_away: &mut bool, pauses: &mut Pauses) -> EngineError {
        let first = match stands(&*self.engine, PREFIX).await {
            Ok((revision, _)) => revision + 1,
            Err(error) => return error,
        };
        // An engine that goes back while everything is read ends the watch, which begins before.
        let mut news = match self.engine.watch(PREFIX.to_owned(), first).await {
            Ok(news) => news,
            Err(error) => return error,
        };
        let (entries, revision) = match read_all(&*self.engine, PREFIX).await {
            Ok(read) => read,
            Err(error) => return error,
        };
        // It went back before it was watched, and would be silent until it has come as far again.
        if revision + 1 < first {
            return EngineError::Compacted(revision);
        }
        let lost = self.state_mut().replace(entries, revision);
        if !lost.is_empty() {
            let count = lost.len();
            tracing::warn!(count, "the directory has lost values, which it gets back");
        }
        for (name, entry) in lost {
            let offer = Offer {
                sealed: entry.value,
                replaces: None,
            };
            self.offers().insert(name, offer);
        }
        self.offered.notify_one();
        self.seal_anew();
        self.known.send_replace(revision);
        self.tell();
        while let Some(item) = news.next().await {
            let item = match item {
                Ok(item) => item,
                Err(error) => return error,
            };
            *pauses = PAUSES.pauses();
            if std::mem::take(was_away) {
                tracing::info!("the directory answers again");
            }
            match item {
                News::Alive(beat) => {
                    // It may be from before everything was read.
                    let known = self.state().revision;
                    let is_behind = beat < known
                        && !matches!(stands(&*self.engine, PREFIX).await, Ok((now, _)) if now >= known);
                    if is_behind {
                        return EngineError::Compacted(beat);
                    }
                }
                News::Changes(mut changes) => {
                    changes.retain(|change| change.revision() > revision);
                    self.apply(changes);
                }
            }
        }
        EngineError::Unavailable("the watch ended".to_owned())
    }

    fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state_mut();
        let mut known = state.revision;
        for change in changes {
            known = known.max(change.revision());
            match change {
                Change::Put(entry) => state.put(entry),
                Change::Deleted { key, revision } => {
                    if let Some(name) = key.strip_prefix(PREFIX) {
                        state.delete(name, revision);
                    }
                }
            }
        }
        state.revision = known;
        drop(state);
        self.known.send_replace(known);
        self.tell();
    }

    /// Offers what is sealed with an old key again; of several fronts one is the first.
    fn seal_anew(&self) {
        let keys = self.keys.load();
        let old: Vec<(String, i64)> = {
            let state = self.state();
            let lasting = state.entries.iter().filter(|(name, _)| !is_passing(name));
            let old = lasting.filter(|(_, entry)| !keys.seal.is_current(&entry.value));
            old.map(|(name, entry)| (name.clone(), entry.modified))
                .collect()
        };
        for (name, modified) in old {
            // What cannot be opened is told by whoever wants it.
            if let Ok(Some(value)) = self.read(&name)
                && let Err(error) = self.offer(&name, &value, Some(modified))
            {
                tracing::warn!(%error, "a value stays sealed with an old key");
            }
        }
    }

    async fn write_offers(&self) {
        let mut pauses = PAUSES.pauses();
        loop {
            self.offered.notified().await;
            loop {
                let Some((name, offer)) = self.offers().pop_first() else {
                    break;
                };
                match self.write_offer(&name, &offer).await {
                    Ok(()) => pauses = PAUSES.pauses(),
                    Err(EngineError::Refused(why)) => {
                        tracing::warn!(name, why, "the directory does not take a value");
                    }
                    Err(_) => {
                        // Another one may have been offered meanwhile.
                        self.offers().entry(name).or_insert(offer);
                        sleep(pauses.advance(fastrand::f64)).await;
                    }
                }
            }
        }
    }

    async fn write_offer(&self, name: &str, offer: &Offer) -> Result<(), EngineError> {
        let put = Operation::Put {
            key: key_of(name),
            value: offer.sealed.clone(),
            lease: 0,
        };
        let compares = vec![depends(name, offer.replaces)];
        let outcome = self.engine.commit(compares, vec![put]).await?;
        if outcome.is_done {
            self.keep(name, offer.sealed.clone(), outcome.revision);
        }
        Ok(())
    }

    /// Uses the keys that are in their file, also when it changes.
    async fn follow_keys(&self) {
        let Some(path) = &self.key_file else { return };
        loop {
            sleep(KEYS).await;
            let file = path.clone();
            // What is wrong with the file is told by whoever opens policies with it.
            let Ok(Ok(seal)) = spawn_blocking(move || SealKeys::load(&file)).await else {
                continue;
            };
            let used = self.keys.load();
            if !used.seal.is_like(&seal) {
                let generation = used.generation + 1;
                self.keys.store(Arc::new(Keys { seal, generation }));
                self.seal_anew();
                self.tell();
            }
        }
    }

    /// Writes the copy after each change, a second apart at least.
    async fn keep_file(&self) {
        let Some(path) = &self.file else { return };
        let mut changes = self.changes();
        let (mut written, mut is_failing) = (None, false);
        while changes.changed().await.is_ok() {
            sleep(CALM).await;
            changes.borrow_and_update();
            let lasting = self.lasting();
            // Locks and challenges come and go.
            if written.as_ref() == Some(&lasting.0) {
                continue;
            }
            let (file, cell, copy) = (path.clone(), self.cell.clone(), lasting.0.clone());
            let writing =
                spawn_blocking(move || snapshot::save(&file, &cell, &copy, lasting.1)).await;
            match writing {
                Ok(Ok(())) => {
                    is_failing = false;
                    written = Some(lasting.0);
                }
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        let file = path.display();
                        tracing::warn!(%file, %error, "the copy of the fleet's certificates cannot be written");
                    }
                }
                Err(error) => tracing::error!(%error, "the copy was not written"),
            }
        }
    }
}
