//! Orders certificates for the names that routes have, and renews them.
//!
//! Guarantees: the clock is looked at once a minute, since a host may sleep or set it; each name has its
//! own pauses; an order that does not end is given up; what another gateway has ordered is taken; a name
//! that is asked for on demand has its first order at once; after a failure the CA's directory and the
//! account's file are read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
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
use super::http_client::noting_pause;
use super::on_demand::Demanded;
use super::renewal_info::{self, Suggestion};
use super::schedule::{pause, pause_of_old, renew_at};
use super::store::{AcmeStore, Stored};
use crate::config::{AcmeConfig, can_be_certified};
use crate::names::ClientNetwork;
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
    /// The wall clock.
    clock: Clock,
}

/// Says what time it is.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

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
        Self::with_clock(config, store, metrics, Box::new(Timestamp::now))
    }

    fn with_clock(
        config: AcmeConfig,
        store: Arc<AcmeStore>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Arc<Self> {
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
            clock,
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
        let is_fresh = || self.demanded().is_fresh(name, (self.clock)()) && self.has(name);
        self.config.on_demand && can_be_certified(name) && !is_known() && !is_fresh()
    }

    /// Whether a name has a certificate.
    pub fn has(&self, name: &str) -> bool {
        self.store.find(name).is_some()
    }

    /// Orders a certificate for a name that a client asks for and whose instance exists, and waits for its
    /// end.
    pub async fn demand(&self, name: &str, client: IpAddr) {
        let mut ended = self.ended.subscribe();
        let is_kept = self.store.keeps(name);
        let client = ClientNetwork::from(client);
        if !self.demanded().ask(name, is_kept, client, (self.clock)()) {
            tracing::debug!(name, %client, "too many new names want certificates");
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
            let account = self.account(None).await?;
            let life = (stored.not_before, stored.not_after);
            let at = renewal_info::ask(&account, &of, name, life).await?;
            Ok::<_, OrderError>(at)
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
        let ask_at = (self.clock)() + pause;
        let suggestion = Suggestion { of, at, ask_at };
        self.suggestions().insert(name.to_owned(), suggestion);
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a name is ordered next.
    fn due_at(&self, name: &str, failure: Option<&Failure>) -> Timestamp {
        let now = (self.clock)();
        let failure = failure.filter(|failure| failure.is_believed_at(now));
        // What its file does not have any more is served, and ordered.
        let stored = self.store.stored(name).filter(|stored| stored.is_kept);
        let renewal = stored.and_then(|one| {
            let suggested = self.suggestion(name, &one).and_then(|one| one.at);
            let own = renew_at(name, one.not_before, one.not_after);
            suggested.or_else(|| Timestamp::from_second(own).ok())
        });
        let renewal = renewal.unwrap_or(Timestamp::UNIX_EPOCH);
        failure.map_or(renewal, |failure| failure.next.max(renewal))
    }

    /// Lets go of failures after which another gateway has succeeded.
    fn forget_settled(&self) {
        let now = (self.clock)();
        self.failures().retain(|name, failure| {
            failure.error.is_none()
                || self.due_at(name, None) <= now
                || self.store.failure(name).is_some()
        });
    }

    /// Orders what is due, for ever. An order that takes long keeps no other name waiting.
    pub async fn run(self: Arc<Self>) {
        let mut names = self.names.subscribe();
        let mut orders = FuturesUnordered::new();
        let (mut busy, mut recalled) = (BTreeSet::new(), BTreeSet::new());
        let mut swept: Option<Instant> = None;
        loop {
            names.mark_unchanged();
            self.demanded().forget_old((self.clock)());
            let wanted = self.all_names();
            self.store.refresh(&wanted);
            // One that waits for a name may find it now.
            self.ended.send_replace(());
            self.failures().retain(|name, _| wanted.contains(name));
            self.suggestions().retain(|name, _| wanted.contains(name));
            self.forget_settled();
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                self.store.sweep().await;
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
            let now = (self.clock)();
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
        let lock = match self.store.try_lock(name).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return self.note(name, None, ELSEWHERE),
            Err(error) => {
                let is_away = error.kind() == ErrorKind::NotConnected;
                let error = OrderError::kept(&self.store, error);
                return match is_away {
                    true => self.wait_for_store(name, &error),
                    false => self.fail(name, &error, None).await,
                };
            }
        };
        // Another gateway may have had the lock until a moment ago.
        self.refresh();
        self.recall(name);
        let failure = self.failures().get(name).cloned();
        if self.due_at(name, failure.as_ref()) > (self.clock)() {
            return;
        }
        let ordering = async {
            let readable = self.store.is_open(name);
            readable.map_err(|error| OrderError::kept(&self.store, error))?;
            let account = self.account(None).await?;
            let stored = self.store.stored(name);
            // Where the CA says when to renew, it also wants to know what is replaced.
            let replaces = stored.and_then(|stored| stored.identifier.clone());
            let (config, store) = (&self.config, &self.store);
            match order(config, store, &account, (name, &lock), replaces.clone()).await {
                Err(error) if error.is_of_unknown_account() => {
                    let account = self.account(Some(account.id())).await?;
                    order(config, store, &account, (name, &lock), replaces).await
                }
                done => done,
            }
        };
        let (done, asked) = noting_pause(timeout(ORDER, ordering)).await;
        match done {
            Ok(Ok(())) => self.take(name).await,
            failed => {
                // It may be the directory that has changed.
                *self.account.lock().await = None;
                let too_long = || OrderError::Refused("the order took too long".to_owned());
                let error = failed.map_err(|_| too_long()).and_then(|done| done);
                if let Err(error) = error {
                    self.fail(name, &error, asked).await;
                }
            }
        }
        drop(lock);
    }

    /// Takes the certificate that the CA has issued.
    async fn take(&self, name: &str) {
        self.refresh();
        if !self.all_names().contains(name) {
            // It is kept for when somebody wants it again.
            self.metrics.count_order(OrderOutcome::Ok);
            tracing::info!(
                name,
                "a new certificate for a name that is not wanted any more"
            );
            return;
        }
        let now = (self.clock)();
        let left = self.store.stored(name).filter(|stored| stored.is_kept);
        let left = left.map_or(0, |stored| stored.not_after - now.as_second());
        if left <= 0 {
            let told = "the certificate that the CA has issued cannot be used, or has expired by this \
                        gateway's clock";
            let error = OrderError::Refused(told.to_owned());
            return self.fail(name, &error, None).await;
        }
        self.failures().remove(name);
        let noted = match self.due_at(name, None) <= now {
            true => {
                let pause = pause_of_old(left);
                tracing::warn!(
                    name,
                    ?pause,
                    "a new certificate is to be renewed already: is the clock right?"
                );
                self.note(name, None, pause);
                let failure = self.failures().get(name).cloned();
                match failure {
                    Some(failure) => self.store.save_failure(name, &failure).await,
                    None => Ok(()),
                }
            }
            false => self.store.forget_failure(name).await,
        };
        if let Err(error) = noted {
            tracing::warn!(name, %error, "what has failed before cannot be forgotten");
        }
        self.metrics.count_order(OrderOutcome::Ok);
        tracing::info!(name, "a new certificate");
    }

    /// The account at the CA, but none that has `gone`.
    async fn account(&self, gone: Option<&str>) -> Result<Account, OrderError> {
        let mut kept = self.account.lock().await;
        if let Some(account) = kept.as_ref().filter(|kept| gone != Some(kept.id())) {
            return Ok(account.clone());
        }
        let account = account(&self.config, &self.store, gone).await?;
        *kept = Some(account.clone());
        Ok(account)
    }

    /// An order has failed; `asked` is how long the CA wants to be left alone.
    async fn fail(&self, name: &str, error: &OrderError, asked: Option<Duration>) {
        self.metrics.count_order(OrderOutcome::Failed);
        let count = self.failures().get(name).map_or(0, |failure| failure.count) + 1;
        let pause = pause(count, asked);
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
        if let Some(kept) = kept
            && let Err(error) = self.store.save_failure(name, &kept).await
        {
            tracing::warn!(name, %error, "after a restart this is tried again sooner");
        }
    }

    /// What others have ordered cannot be known now, nor that they do not.
    fn wait_for_store(&self, name: &str, error: &OrderError) {
        let count = self.failures().get(name).map_or(0, |failure| failure.count);
        tracing::debug!(name, %error, "no certificate is ordered");
        self.note(name, Some((count, error.to_string())), LOOK);
    }

    /// What was known of a name before this gateway was started, or has failed at another one.
    fn recall(&self, name: &str) {
        let kept = self.store.failure(name);
        let Some(kept) = kept.filter(|kept| kept.is_believed_at((self.clock)())) else {
            return;
        };
        let mut failures = self.failures();
        if failures.get(name).is_none_or(|own| own.next < kept.next) {
            failures.insert(name.to_owned(), kept);
        }
    }

    /// The next try is after `pause`.
    fn note(&self, name: &str, failed: Option<(u32, String)>, pause: Duration) {
        let now = (self.clock)();
        let next = SignedDuration::try_from(pause).ok();
        let next = next.and_then(|pause| now.checked_add(pause).ok());
        let next = next.unwrap_or(Timestamp::MAX);
        let mut failures = self.failures();
        let kept = failures.entry(name.to_owned()).or_insert(Failure {
            count: 0,
            at: None,
            next,
            error: None,
        });
        (kept.at, kept.next) = (Some(now), next);
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

#[cfg(test)]
mod tests;
