//! What a host has published and its list suddenly lacks.
//!
//! Guarantees: a few keys go at once; many stay until the list has lacked them for half a minute and in
//! several looks, and are then asked for one by one; what is there again is forgotten; what an operator has
//! accepted goes. A list that is empty, or much too short, takes nothing away by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::copy::is_too_many;

/// What goes within this goes at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How long a list has to lack what many keys are about, and in how many looks.
const LONG: Duration = Duration::from_secs(30);
const LOOKS: u32 = 5;
/// Of so many keys it is asked at one look whether they are gone.
const ASKED: usize = 200;

/// The keys that a list lacks and that stay.
#[derive(Debug, Default)]
pub(super) struct Unlisted {
    kept: BTreeMap<String, Lacked>,
    /// What has gone without being asked for, and when.
    lately: VecDeque<(Instant, usize)>,
    /// What operators had accepted when the first of these was missed.
    accepted: i64,
}

#[derive(Debug, Clone, Copy)]
struct Lacked {
    since: Instant,
    looks: u32,
}

/// What is to be done with the keys that a list lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// They may go.
    pub(super) gone: BTreeSet<String>,
    /// They may go if they are not there when they are asked for.
    pub(super) doubtful: BTreeSet<String>,
    /// How many have begun to be missed.
    pub(super) begun: usize,
}

// === impl Unlisted ===

impl Unlisted {
    /// How many keys stay.
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }

    /// Judges the keys that a whole list lacks, of so many that are published. `accepted` is the revision up to
    /// which an operator has accepted what is gone.
    pub(super) fn judge(
        &mut self,
        lacked: &BTreeSet<String>,
        known: usize,
        (max_shrink, accepted): (f64, i64),
    ) -> Verdict {
        let (now, mut verdict) = (Instant::now(), Verdict::default());
        let is_old = |(at, _): &(Instant, usize)| now.duration_since(*at) > AT_ONCE;
        while self.lately.front().is_some_and(is_old) {
            self.lately.pop_front();
        }
        self.kept.retain(|key, _| lacked.contains(key));
        if self.kept.is_empty() {
            self.accepted = accepted;
        } else if self.accepted != accepted {
            self.accepted = accepted;
            verdict
                .gone
                .extend(std::mem::take(&mut self.kept).into_keys());
            // What an operator has let go counts no more.
            self.lately.clear();
        }
        let known = known.saturating_sub(verdict.gone.len());
        let is_new = |key: &&String| !self.kept.contains_key(*key) && !verdict.gone.contains(*key);
        let new: Vec<String> = lacked.iter().filter(is_new).cloned().collect();
        let lately: usize = self.lately.iter().map(|(_, count)| count).sum();
        let is_many = is_too_many(new.len() + lately, known + lately, max_shrink);
        if self.kept.is_empty() && !is_many {
            if !new.is_empty() {
                self.lately.push_back((now, new.len()));
            }
            verdict.gone.extend(new);
        } else {
            verdict.begun = new.len();
            let begins = Lacked {
                since: now,
                looks: 0,
            };
            self.kept.extend(new.into_iter().map(|key| (key, begins)));
        }
        for (key, lacked) in &mut self.kept {
            lacked.looks = lacked.looks.saturating_add(1);
            let is_long = now.duration_since(lacked.since) >= LONG && lacked.looks >= LOOKS;
            if is_long && verdict.doubtful.len() < ASKED {
                verdict.doubtful.insert(key.clone());
            }
        }
        verdict
    }

    /// These were asked for and are gone.
    pub(super) fn are_gone(&mut self, keys: &BTreeSet<String>) {
        self.kept.retain(|key, _| !keys.contains(key));
    }

    /// This one was asked for, and is there, or nobody can tell: it is asked for again after as long.
    pub(super) fn stays(&mut self, key: &str) {
        if let Some(lacked) = self.kept.get_mut(key) {
            *lacked = Lacked {
                since: Instant::now(),
                looks: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SHARE: f64 = 0.1;

    fn keys(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
        numbers.map(|number| format!("i/h/{number:04}")).collect()
    }

    /// Looks once a second, with what the last one says.
    async fn looks(unlisted: &mut Unlisted, lacked: &BTreeSet<String>, count: u32) -> Verdict {
        let mut last = Verdict::default();
        for _ in 0..count {
            advance(Duration::from_secs(1)).await;
            last = unlisted.judge(lacked, 100, (SHARE, 0));
            assert!(last.gone.is_empty(), "{last:?}");
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_list_takes_nothing_away_before_it_is_confirmed() {
        let (mut unlisted, all) = (Unlisted::default(), keys(0..100));
        let first = unlisted.judge(&all, 100, (SHARE, 0));
        assert_eq!(
            (first.gone.len(), first.begun, unlisted.count()),
            (0, 100, 100)
        );
        assert!(looks(&mut unlisted, &all, 29).await.doubtful.is_empty());
        let asked = looks(&mut unlisted, &all, 1).await.doubtful;
        assert_eq!(asked, all);
        // One is there after all, the others are gone.
        unlisted.stays("i/h/0007");
        let gone: BTreeSet<String> = all
            .iter()
            .filter(|key| *key != "i/h/0007")
            .cloned()
            .collect();
        unlisted.are_gone(&gone);
        let left = keys(7..8);
        assert!(looks(&mut unlisted, &left, 29).await.doubtful.is_empty());
        assert_eq!(looks(&mut unlisted, &left, 1).await.doubtful, left);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_listed_again_has_never_been_gone() {
        let (mut unlisted, all) = (Unlisted::default(), keys(0..100));
        unlisted.judge(&all, 100, (SHARE, 0));
        looks(&mut unlisted, &all, 20).await;
        looks(&mut unlisted, &BTreeSet::new(), 1).await;
        assert_eq!(unlisted.count(), 0);
        assert!(looks(&mut unlisted, &all, 20).await.doubtful.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn two_looks_far_from_each_other_confirm_nothing() {
        let (mut unlisted, all) = (Unlisted::default(), keys(0..100));
        unlisted.judge(&all, 100, (SHARE, 0));
        advance(Duration::from_secs(300)).await;
        assert!(looks(&mut unlisted, &all, 3).await.doubtful.is_empty());
        assert_eq!(looks(&mut unlisted, &all, 1).await.doubtful, all);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_go_at_once_and_many_few_do_not() {
        let mut unlisted = Unlisted::default();
        let few = unlisted.judge(&keys(0..15), 200, (SHARE, 0));
        assert_eq!(few.gone.len(), 15);
        let more = unlisted.judge(&keys(15..30), 185, (SHARE, 0));
        assert_eq!((more.gone.len(), more.begun), (0, 15));
        // Much later they would have been few again.
        let mut unlisted = Unlisted::default();
        unlisted.judge(&keys(0..15), 200, (SHARE, 0));
        advance(Duration::from_secs(11)).await;
        assert_eq!(
            unlisted.judge(&keys(15..30), 185, (SHARE, 0)).gone.len(),
            15
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_operator_accepts_goes_and_what_goes_afterwards_does_not() {
        let mut unlisted = Unlisted::default();
        // An acceptance of before is about something else.
        let held = unlisted.judge(&keys(0..50), 100, (SHARE, 7));
        assert_eq!((held.gone.len(), held.begun), (0, 50));
        let accepted = unlisted.judge(&keys(0..50), 100, (SHARE, 9));
        assert_eq!(accepted.gone, keys(0..50));
        let next = unlisted.judge(&keys(50..100), 50, (SHARE, 9));
        assert_eq!((next.gone.len(), next.begun), (0, 50));
    }
}
