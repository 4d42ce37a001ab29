//! Keys that are read anew, by many who want to know the same.
//!
//! Guarantees: of all who ask for a key at one time one asks the engine; what it says is good for a
//! second, also that it said nothing; there are never more than so many keys, and what is over goes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use tokio::time::{Instant, timeout};

use super::engine::{Engine, Entry, read_one};

/// How long whoever asks waits for the engine, and for the copy to come so far.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer is good.
const GOOD: Duration = Duration::from_secs(1);
/// As many keys as may be asked for at a time.
const MOST: usize = 4_096;

/// What an engine has said.
#[derive(Debug)]
pub(super) struct Reread {
    /// The key, if it is there.
    pub(super) entry: Option<Entry>,
    /// The revision of that.
    pub(super) revision: i64,
}

/// The answer; none, if the engine has given none in time.
type Answer = (Option<Arc<Reread>>, Instant);
type Asked = Shared<BoxFuture<'static, Answer>>;

/// A question.
struct Question {
    began: Instant,
    asked: Asked,
}

/// The questions that are under way, and answers that are good.
#[derive(Default)]
pub(super) struct Rereads(Mutex<HashMap<String, Question>>);

// === impl Question ===

impl Question {
    fn is_good(&self, now: Instant) -> bool {
        let from = self.asked.peek().map(|(_, at)| *at);
        // One that nobody waits for any more is not asked on.
        now.duration_since(from.unwrap_or(self.began)) < GOOD.max(PATIENCE)
    }
}

// === impl Rereads ===

impl Rereads {
    /// What the engine says of a key, and until when the copy of it is waited for; `None` if it says
    /// nothing.
    pub(super) async fn read(
        &self,
        engine: &Arc<dyn Engine>,
        key: String,
    ) -> Option<(Arc<Reread>, Instant)> {
        let (asked, deadline) = self.ask(engine, key)?;
        let (answer, _) = asked.await;
        Some((answer?, deadline))
    }

    fn ask(&self, engine: &Arc<dyn Engine>, key: String) -> Option<(Asked, Instant)> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(question) = all.get(&key).filter(|question| question.is_good(now)) {
            return Some((question.asked.clone(), question.began + PATIENCE));
        }
        if all.len() >= MOST {
            all.retain(|_, question| question.is_good(now));
            if all.len() >= MOST {
                return None;
            }
        }
        let (engine, asked_for) = (Arc::clone(engine), key.clone());
        let asking = async move {
            let read = timeout(PATIENCE, read_one(&*engine, &asked_for)).await;
            let answer = match read {
                Ok(Ok((entry, revision))) => Some(Arc::new(Reread { entry, revision })),
                Ok(Err(_)) | Err(_) => None,
            };
            (answer, Instant::now())
        };
        let asked = asking.boxed().shared();
        let question = Question {
            began: now,
            asked: asked.clone(),
        };
        all.insert(key, question);
        Some((asked, now + PATIENCE))
    }
}

impl fmt::Debug for Rereads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rereads").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::memory::{Faults, MemoryEngine};

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_is_asked_once_a_second_and_what_is_asked_for_is_bounded() {
        let memory = MemoryEngine::new();
        let away = Faults {
            away: true,
            ..Faults::default()
        };
        memory.set_faults(away);
        let engine: Arc<dyn Engine> = Arc::new(memory.clone());
        let all = Rereads::default();
        for _ in 0..50 {
            assert!(all.read(&engine, "a".to_owned()).await.is_none());
        }
        assert_eq!(memory.reads(), 1);
        for index in 0..2 * MOST {
            assert!(all.read(&engine, format!("k{index}")).await.is_none());
        }
        assert_eq!(memory.reads(), MOST);
        tokio::time::advance(GOOD).await;
        memory.set_faults(Faults::default());
        assert!(all.read(&engine, "new".to_owned()).await.is_some());
        assert_eq!(all.0.lock().unwrap().len(), 1, "what is over has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_whose_asker_has_gone_is_asked_on_by_the_next() {
        let memory = MemoryEngine::new();
        let slow = Faults {
            delay: Duration::from_millis(300),
            ..Faults::default()
        };
        memory.set_faults(slow);
        let engine: Arc<dyn Engine> = Arc::new(memory.clone());
        let all = Rereads::default();
        let short = Duration::from_millis(100);
        let left = timeout(short, all.read(&engine, "a".to_owned())).await;
        assert!(left.is_err());
        let (answer, deadline) = all.read(&engine, "a".to_owned()).await.unwrap();
        assert_eq!((answer.revision, memory.reads()), (1, 1));
        assert_eq!(deadline, Instant::now() + Duration::from_millis(700));
    }
}
