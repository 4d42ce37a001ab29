//! Orders certificates for the names that routes have, and renews them.
//!
//! Guarantees: the clock is looked at once a minute, since a host may sleep; each name has its own
//! pauses; an order that does not end is given up; what another gateway has ordered is taken; a name
//! that is asked for on demand has its first order at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use instant_acme::Account;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex as TurnMutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::account::{OrderError, account, order};
use super::failure::Failure;
use super::http_client::RetryAfter;
use super::on_demand::Demanded;
use super::renewal_info::{self, Suggestion};
use super::schedule::{pause, renew_at};
use super::store::{AcmeStore, Stored};
use crate::config::{AcmeConfig, can_be_certified};
use crate::telemetry::{Metrics, OrderOutcome};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(60);
/// The same where something is due at once.
const SHORTEST: Duration = Duration::from_secs(1);
/// Between two looks for what dead gateways have left in the directory.
const SWEEP: Duration = Duration::from_secs(3600);
/// The longest that an order takes.
const ORDER: Duration = Duration::from_secs(600);
/// Orders at once.
const AT_ONCE: usize = 8;
/// While another gateway orders a name, it is looked at again after this.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// The longest that a CA takes to say when to renew, and how often it is asked.
const ASK: Duration = Duration::from_secs(60);
const ASK_AGAIN: SignedDuration = SignedDuration::from_hours(6);
const ASK_SOONER: SignedDuration = SignedDuration::from_hours(1);
/// The longest text of a failure that is kept, in characters.
const TEXT: usize = 500;

/// Orders certificates.
pub struct Acme {
    config: AcmeConfig,
    store: Arc<AcmeStore>,
    metrics: Arc<Metrics>,
    names: watch::Sender<BTreeSet<String>>,
    demanded: Mutex<Demanded>,
    failures: Mutex<BTreeMap<String, Failure>>,
    suggestions: Mutex<BTreeMap<String, Suggestion>>,
    /// Tells that an order has ended.
    ended: watch::Sender<()>,
    account: TurnMutex<Option<Account>>,
    retry_after: RetryAfter,
}

/// What is known of a name's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateState {
    /// The name.
    pub name: String,
    /// When the certificate expires; `None` when there is none yet.
    pub not_after: Option<Timestamp>,
    /// When the next is ordered.
    pub next_attempt: Timestamp,
    /// Why the last order failed, if none has succeeded since.
    pub error: Option<String>,
}

// === impl Acme ===

impl Acme {
    /// One that keeps its certificates in `store` and orders nothing before it runs.
    pub fn new(config: AcmeConfig, store: Arc<AcmeStore>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            config,
            store,
            metrics,
            names: watch::Sender::default(),
            demanded: Mutex::default(),
            failures: Mutex::default(),
            suggestions: Mutex::default(),
            ended: watch::Sender::default(),
            account: TurnMutex::default(),
            retry_after: RetryAfter::default(),
        })
    }

    /// Certificates are for these names from now on.
    pub fn set_names(&self, names: BTreeSet<String>) {
        self.names.send_if_modified(|before| {
            let differs = *before != names;
            *before = names;
            differs
        });
        self.refresh();
    }

    /// Whether a client's name is one that may need an order on demand: whoever asks for it is to be
    /// looked at.
    pub fn wants(&self, name: &str) -> bool {
        let is_known = || self.names.borrow().contains(name);
        let is_fresh = || self.demanded().is_fresh(name, Timestamp::now()) && self.has(name);
        self.config.on_demand && can_be_certified(name) && !is_known() && !is_fresh()
    }

    /// Whether a name has a certificate.
    pub fn has(&self, name: &str) -> bool {
        self.store.find(name).is_some()
    }

    /// Orders a certificate for a name whose instance exists, and waits for its end.
    pub async fn demand(&self, name: &str) {
        let mut ended = self.ended.subscribe();
        let is_kept = self.store.keeps(name);
        if !self.demanded().ask(name, is_kept, Timestamp::now()) {
            tracing::debug!(name, "too many new names want certificates");
            return;
        }
        if self.has(name) {
            return;
        }
        // The names are looked at anew.
        self.names.send_modify(|_| ());
        let has_failed = || {
            let failures = self.failures();
            failures
                .get(name)
                .is_some_and(|failure| failure.error.is_some())
        };
        while !self.has(name) && !has_failed() && ended.changed().await.is_ok() {}
    }

    /// Takes what other gateways have ordered meanwhile.
    pub fn refresh(&self) {
        self.store.refresh(&self.all_names());
    }

    /// The names of routes, and those that were asked for.
    fn all_names(&self) -> BTreeSet<String> {
        let mut names = self.names.borrow().clone();
        names.extend(self.demanded().names().cloned());
        names
    }

    /// What is known of each name.
    pub fn states(&self) -> Vec<CertificateState> {
        let (names, failures) = (self.all_names(), self.failures().clone());
        let states = names.into_iter().map(|name| {
            let not_after = self.store.stored(&name).map(|stored| stored.not_after);
            let failure = failures.get(&name);
            CertificateState {
                not_after: not_after.and_then(|second| Timestamp::from_second(second).ok()),
                next_attempt: self.due_at(&name, failure),
                error: failure.and_then(|failure| failure.error.clone()),
                name,
            }
        });
        states.collect()
    }

    fn demanded(&self) -> MutexGuard<'_, Demanded> {
        self.demanded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suggestions(&self) -> MutexGuard<'_, BTreeMap<String, Suggestion>> {
        self.suggestions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What the CA has said of the certificate that a name has.
    fn suggestion(&self, name: &str, stored: &Stored) -> Option<Suggestion> {
        let of = stored.identifier.as_ref()?;
        let suggestions = self.suggestions();
        suggestions.get(name).filter(|one| one.of == *of).cloned()
    }

    /// Whether the CA is to be asked when a name's certificate is to be renewed.
    fn is_to_be_asked(&self, name: &str, now: Timestamp) -> bool {
        let stored = self.store.stored(name);
        let stored = stored.filter(|stored| stored.identifier.is_some());
        stored.is_some_and(|stored| {
            let suggestion = self.suggestion(name, &stored);
            suggestion.is_none_or(|suggestion| suggestion.ask_at <= now)
        })
    }

    /// Asks when a name's certificate is to be renewed.
    async fn ask(&self, name: &str) {
        let Some(stored) = self.store.stored(name) else {
            return;
        };
        let Some(of) = stored.identifier.clone() else {
            return;
        };
        let asking = async {
            let account = self.account().await?;
            let at = renewal_info::ask(&account, &of, name, stored.not_before);
            Ok::<_, OrderError>(at.await?)
        };
        let before = || self.suggestion(name, &stored).and_then(|before| before.at);
        let (at, pause) = match timeout(ASK, asking).await {
            Ok(Ok(at)) => (at, ASK_AGAIN),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "the CA does not say when to renew");
                (before(), ASK_SOONER)
            }
            Err(_) => (before(), ASK_SOONER),
        };
        let ask_at = Timestamp::now() + pause;
        let suggestion = Suggestion { of, at, ask_at };
        self.suggestions().insert(name.to_owned(), suggestion);
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a name is ordered next.
    fn due_at(&self, name: &str, failure: Option<&Failure>) -> Timestamp {
        let stored = self.store.stored(name);
        let renewal = stored.and_then(|one| {
            let suggested = self.suggestion(name, &one).and_then(|one| one.at);
            let own = renew_at(name, one.not_before, one.not_after);
            suggested.or_else(|| Timestamp::from_second(own).ok())
        });
        let renewal = renewal.unwrap_or(Timestamp::UNIX_EPOCH);
        failure.map_or(renewal, |failure| failure.next.max(renewal))
    }

    /// Orders what is due, for ever. An order that takes long keeps no other name waiting.
    pub async fn run(self: Arc<Self>) {
        let mut names = self.names.subscribe();
        let mut orders = FuturesUnordered::new();
        let (mut busy, mut recalled) = (BTreeSet::new(), BTreeSet::new());
        let mut swept: Option<Instant> = None;
        loop {
            names.mark_unchanged();
            self.demanded().forget_old(Timestamp::now());
            let wanted = self.all_names();
            self.store.refresh(&wanted);
            // One that waits for a name may find it now.
            self.ended.send_replace(());
            self.failures().retain(|name, _| wanted.contains(name));
            self.suggestions().retain(|name, _| wanted.contains(name));
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                self.store.sweep();
                swept = Some(Instant::now());
            }
            for name in wanted.difference(&recalled) {
                self.recall(name);
            }
            recalled.clone_from(&wanted);
            let idle = wanted.iter().filter(|name| !busy.contains(*name));
            let due_at = |name: &String| self.due_at(name, self.failures().get(name));
            let mut idle: Vec<_> = idle.map(|name| (due_at(name), name.clone())).collect();
            idle.sort();
            let now = Timestamp::now();
            let mut wait = LOOK;
            for (due, name) in idle {
                if busy.len() >= AT_ONCE {
                    break;
                }
                let is_due = due <= now;
                if !is_due {
                    let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
                    wait = wait.min(left.clamp(SHORTEST, LOOK));
                    if !self.is_to_be_asked(&name, now) {
                        continue;
                    }
                }
                busy.insert(name.clone());
                let acme = &self;
                orders.push(async move {
                    match is_due {
                        true => acme.attempt(&name).await,
                        false => acme.ask(&name).await,
                    }
                    name
                });
            }
            tokio::select! {
                () = sleep(wait) => {}
                Some(name) = orders.next() => {
                    busy.remove(&name);
                    self.ended.send_replace(());
                }
                changed = names.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Orders a name, unless another gateway does.
    async fn attempt(&self, name: &str) {
        let lock = match self.store.try_lock(name) {
            Ok(Some(lock)) => lock,
            Ok(None) => return self.note(name, None, ELSEWHERE),
            Err(error) => return self.fail(name, &error.into()),
        };
        // Another gateway may have had the lock until a moment ago.
        self.refresh();
        self.recall(name);
        let failure = self.failures().get(name).cloned();
        if self.due_at(name, failure.as_ref()) > Timestamp::now() {
            return;
        }
        let ordering = async {
            let account = self.account().await?;
            let stored = self.store.stored(name);
            let suggestion = stored.and_then(|stored| self.suggestion(name, &stored));
            // Where the CA says when to renew, it also wants to know what is replaced.
            let replaces = suggestion.filter(|one| one.at.is_some()).map(|one| one.of);
            order(&self.config, &self.store, &account, name, replaces).await
        };
        match timeout(ORDER, ordering).await {
            Ok(Ok(())) => {
                self.retry_after.take();
                self.refresh();
                if self.due_at(name, None) <= Timestamp::now() {
                    let told = "the certificate that the CA has issued cannot be used, or is about to expire";
                    return self.fail(name, &OrderError::Refused(told.to_owned()));
                }
                self.failures().remove(name);
                if let Err(error) = self.store.forget_failure(name) {
                    tracing::warn!(name, %error, "what has failed before cannot be forgotten");
                }
                self.metrics.count_order(OrderOutcome::Ok);
                tracing::info!(name, "a new certificate");
            }
            Ok(Err(error)) => self.fail(name, &error),
            Err(_) => self.fail(
                name,
                &OrderError::Refused("the order took too long".to_owned()),
            ),
        }
        drop(lock);
    }

    async fn account(&self) -> Result<Account, OrderError> {
        let mut kept = self.account.lock().await;
        if let Some(account) = &*kept {
            return Ok(account.clone());
        }
        let account = account(&self.config, &self.store, &self.retry_after).await?;
        *kept = Some(account.clone());
        Ok(account)
    }

    fn fail(&self, name: &str, error: &OrderError) {
        self.metrics.count_order(OrderOutcome::Failed);
        let count = self.failures().get(name).map_or(0, |failure| failure.count) + 1;
        let pause = pause(count, self.retry_after.take());
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(deeper) = cause {
            let more = deeper.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = deeper.source();
        }
        let text: String = text.chars().take(TEXT).collect();
        let again = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        tracing::warn!(name, error = %text, again_in = %again, "no certificate was issued");
        self.note(name, Some((count, text)), pause);
        let kept = self.failures().get(name).cloned();
        let saved = kept.map(|kept| self.store.save_failure(name, &kept));
        if let Some(Err(error)) = saved {
            tracing::warn!(name, %error, "after a restart this is tried again sooner");
        }
    }

    /// What was known of a name before this gateway was started, or has failed at another one.
    fn recall(&self, name: &str) {
        let kept = self.store.failure(name);
        let Some(kept) = kept.and_then(|kept| kept.believed_at(Timestamp::now())) else {
            return;
        };
        let mut failures = self.failures();
        if failures.get(name).is_none_or(|own| own.next < kept.next) {
            failures.insert(name.to_owned(), kept);
        }
    }

    /// The next try is after `pause`.
    fn note(&self, name: &str, failed: Option<(u32, String)>, pause: Duration) {
        let next = Timestamp::now() + SignedDuration::try_from(pause).unwrap_or_default();
        let mut failures = self.failures();
        let kept = failures.entry(name.to_owned()).or_insert(Failure {
            count: 0,
            next,
            error: None,
        });
        kept.next = next;
        if let Some((count, error)) = failed {
            (kept.count, kept.error) = (count, Some(error));
        }
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acme({:?})", self.store)
    }
}
