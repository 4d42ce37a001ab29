//! What names mean, and the looking up of those that are not known.
//!
//! Guarantees: a name is looked up once for everybody who asks at the same time, and all of them
//! get its answer, a failure, too; only the exact name or the full id of an instance means it; what
//! does not exist is remembered for a short time and in bounded number, so that scanning names
//! costs the control plane little; a look-up goes on while somebody waits for it and ends soon
//! after; one that ends without an answer of use says why in the log, at most once a second.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::claims::{Claimants, Claims};
use super::error::{WakeError, WakeStage};
use super::evidence::{Doubt, Evidence, address_of, why_of_no_use};
use super::plane_handle::PlaneHandle;
use super::record::PlaneAnswer;
use super::slots::Claim;
use crate::backoff::Backoff;
use crate::names::{ClientNetwork, PlaneIndex};
use hypeman::wire::Instance as Description;
use hypeman::{ControlPlane, Error as ControlPlaneError, InstanceId, InstanceRef};

const PAUSES: Backoff =
    Backoff::new(Duration::from_millis(20), Duration::from_millis(500)).with_jitter(0.25);
/// Look-ups under way at once: in all, and those that one client has begun of names that no list has.
const MAX_ASKING: usize = 10_000;
const MAX_GUESSES: usize = 64;
/// How long a failure is the answer to everybody who asks.
const FAILURE: Duration = Duration::from_secs(1);
const BETWEEN_WARNINGS: Duration = Duration::from_secs(1);
/// How long a control plane may be silent before that is worth a line.
const SILENCE: Duration = Duration::from_secs(1);
/// The longest that one look-up goes on; whoever still waits begins another.
const LONGEST: Duration = Duration::from_secs(60);

/// A name at a control plane.
pub(super) type Name = (PlaneIndex, InstanceRef);

/// The end of a look-up.
pub(super) type Found = Result<InstanceId, WakeError>;

/// What is known about a name.
enum Meaning {
    /// It meant this instance when it was looked up.
    Instance(InstanceId),
    /// It leads nowhere for a while.
    Nowhere { error: WakeError, until: Instant },
    /// It is being looked up, and whoever wants to know subscribes, and claims a place for it.
    Asking(watch::Sender<Progress>, Claimants),
}

/// What somebody who asks is told about a name.
pub(super) enum Told {
    /// It is known.
    Found(Found),
    /// It is being looked up.
    Asking(watch::Receiver<Progress>),
}

/// How far a look-up is.
#[derive(Clone)]
pub(super) struct Progress {
    /// What has been in its way so far.
    trouble: Option<WakeError>,
    found: Option<Found>,
}

/// The names that requests have asked for.
pub(super) struct Names {
    meanings: DashMap<Name, Meaning>,
    /// How many names may lead nowhere.
    max_unknown: usize,
    asking: Arc<AtomicUsize>,
    guesses: Arc<DashMap<ClientNetwork, usize>>,
    unknown_ttl: Duration,
    warnings: Warnings,
}

/// Warnings about look-ups that had no answer of use: at most one a second, since a control plane
/// that fails fails for every name.
#[derive(Default)]
struct Warnings(Mutex<Warned>);

#[derive(Default)]
struct Warned {
    at: Option<Instant>,
    /// How many were left out since then.
    more: u64,
}

/// A control plane's last word about a look-up that goes on; dropped, it is the end of that.
struct Trouble<'a> {
    warnings: &'a Warnings,
    name: &'a InstanceRef,
    began: Instant,
    error: Option<ControlPlaneError>,
    /// There is an answer of use.
    is_over: bool,
}

/// A look-up that is to be carried out.
pub(super) struct LookUp {
    pub(super) name: Name,
    progress: watch::Sender<Progress>,
    claims: Claims,
    _asking: Asking,
    _guess: Option<Guess>,
}

/// One look-up under way, until it is dropped.
struct Asking(Arc<AtomicUsize>);

/// One of a client's guesses under way, until it is dropped.
struct Guess {
    guesses: Arc<DashMap<ClientNetwork, usize>>,
    client: ClientNetwork,
}

// === impl Guess ===

impl Guess {
    /// One more, unless the client has too many under way: none of them has been counted as wrong
    /// yet.
    fn begin(guesses: &Arc<DashMap<ClientNetwork, usize>>, client: ClientNetwork) -> Option<Self> {
        let mut under_way = guesses.entry(client).or_default();
        if *under_way >= MAX_GUESSES {
            return None;
        }
        *under_way += 1;
        drop(under_way);
        let guesses = Arc::clone(guesses);
        Some(Self { guesses, client })
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        self.guesses.remove_if_mut(&self.client, |_, under_way| {
            *under_way -= 1;
            *under_way == 0
        });
    }
}

// === impl Warnings ===

impl Warnings {
    /// Says that a look-up had no answer of use.
    fn say(&self, name: &InstanceRef, error: &dyn fmt::Display) {
        let now = Instant::now();
        let more = {
            let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.at.is_some_and(|at| now < at + BETWEEN_WARNINGS) {
                warned.more += 1;
                return;
            }
            warned.at = Some(now);
            std::mem::take(&mut warned.more)
        };
        let more = (more > 0).then_some(more);
        tracing::warn!(%name, %error, more, "cannot look an instance up");
    }
}

// === impl Trouble ===

impl Drop for Trouble<'_> {
    /// Whoever waited has left, or got what is in the way for an answer.
    fn drop(&mut self) {
        let waited = self.began.elapsed();
        match &self.error {
            _ if self.is_over => {}
            Some(error) => self.warnings.say(self.name, &PlaneAnswer::from(error)),
            // Who leaves sooner says nothing about the control plane.
            None if waited >= SILENCE => {
                let why = format!(
                    "get: no answer, or no turn to ask, in {} s",
                    waited.as_secs()
                );
                self.warnings.say(self.name, &why);
            }
            None => {}
        }
    }
}

// === impl Asking ===

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Names ===

impl Names {
    pub(super) fn new(max_unknown: usize, unknown_ttl: Duration) -> Self {
        Self {
            meanings: DashMap::new(),
            max_unknown,
            asking: Arc::default(),
            guesses: Arc::default(),
            unknown_ttl,
            warnings: Warnings::default(),
        }
    }

    /// What an earlier look-up found.
    pub(super) fn instance(&self, name: &Name) -> Option<InstanceId> {
        match self.meanings.get(name)?.value() {
            Meaning::Instance(id) => Some(id.clone()),
            Meaning::Nowhere { .. } | Meaning::Asking(..) => None,
        }
    }

    /// What is known about a name. If nothing is, it is being looked up from now on, by whoever
    /// called. `instances` is how many there are; `client` is who asks, `is_guess` whether it may
    /// be a guess.
    pub(super) fn ask(
        &self,
        name: &Name,
        instances: usize,
        client: ClientNetwork,
        is_guess: bool,
    ) -> (Told, Option<LookUp>) {
        let now = Instant::now();
        if self.meanings.len() >= instances.saturating_mul(2) + self.max_unknown + MAX_ASKING {
            self.meanings
                .retain(|_, meaning| !matches!(meaning, Meaning::Nowhere { .. }));
        }
        let mut entry = match self.meanings.entry(name.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                let Some((meaning, watched, look_up)) = self.begin(name, client, is_guess) else {
                    return (Told::Found(Err(WakeError::NoSlot)), None);
                };
                entry.insert(meaning);
                return (Told::Asking(watched), Some(look_up));
            }
        };
        let told = match entry.get_mut() {
            Meaning::Instance(id) => Told::Found(Ok(id.clone())),
            Meaning::Asking(progress, claimants) => {
                claimants.join(claim_of(client, now), now + LONGEST);
                Told::Asking(progress.subscribe())
            }
            Meaning::Nowhere { error, until } if *until > now => Told::Found(Err(error.clone())),
            Meaning::Nowhere { error, .. } => {
                let Some((meaning, watched, look_up)) = self.begin(name, client, is_guess) else {
                    return (Told::Found(Err(error.clone())), None);
                };
                entry.insert(meaning);
                return (Told::Asking(watched), Some(look_up));
            }
        };
        (told, None)
    }

    /// A look-up, with somebody who waits for it; `None` when there are too many at once. Whoever
    /// joins one that another has begun pays nothing for it.
    fn begin(
        &self,
        name: &Name,
        client: ClientNetwork,
        is_guess: bool,
    ) -> Option<(Meaning, watch::Receiver<Progress>, LookUp)> {
        let more = |asking: usize| (asking < MAX_ASKING).then_some(asking + 1);
        self.asking
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let asking = Asking(Arc::clone(&self.asking));
        let guess = match is_guess {
            true => Some(Guess::begin(&self.guesses, client)?),
            false => None,
        };
        let now = Instant::now();
        let (claimants, claims) = Claims::of(&[claim_of(client, now)], now + LONGEST);
        let (progress, watched) = watch::channel(Progress {
            trouble: None,
            found: None,
        });
        let look_up = LookUp {
            name: name.clone(),
            progress: progress.clone(),
            claims,
            _asking: asking,
            _guess: guess,
        };
        Some((Meaning::Asking(progress, claimants), watched, look_up))
    }

    /// Forgets that a name means this instance.
    pub(super) fn forget(&self, name: &Name, instance: &InstanceId) {
        self.meanings.remove_if(
            name,
            |_, meaning| matches!(meaning, Meaning::Instance(id) if id == instance),
        );
    }

    /// Forgets what leads nowhere any more; `is_there` says which instances the gateway has.
    pub(super) fn upkeep(&self, is_there: impl Fn(PlaneIndex, &InstanceId) -> bool) {
        let now = Instant::now();
        self.meanings.retain(|(plane, _), meaning| match meaning {
            Meaning::Instance(id) => is_there(*plane, id),
            Meaning::Nowhere { until, .. } => *until > now,
            // Its task ends it.
            Meaning::Asking(..) => true,
        });
        if self.meanings.capacity() > 4 * self.meanings.len() + 1024 {
            self.meanings.shrink_to_fit();
        }
    }

    /// Whether nobody waits for a look-up any more, which is forgotten then.
    fn is_abandoned(&self, name: &Name) -> bool {
        let nobody = |meaning: &Meaning| matches!(meaning, Meaning::Asking(progress, _) if progress.receiver_count() == 0);
        let removed = self.meanings.remove_if(name, |_, meaning| nobody(meaning));
        removed.is_some()
    }

    /// A look-up has ended.
    fn end(&self, look_up: &LookUp, found: &Found) {
        let meaning = match found {
            Ok(id) => Meaning::Instance(id.clone()),
            Err(error) => {
                let is_unknown = *error == WakeError::NotFound;
                let kept = if is_unknown {
                    self.unknown_ttl
                } else {
                    FAILURE
                };
                Meaning::Nowhere {
                    error: error.clone(),
                    until: Instant::now() + kept,
                }
            }
        };
        self.meanings.insert(look_up.name.clone(), meaning);
        // Everybody who waited may have left.
        look_up.progress.send_modify(|progress| {
            progress.found = Some(found.clone());
        });
    }

    /// Carries a look-up out; `admit` makes the instance that it finds known and returns its id.
    pub(super) async fn carry_out<P: ControlPlane>(
        &self,
        mut look_up: LookUp,
        plane: &PlaneHandle<P>,
        admit: impl FnOnce(&Description, Instant) -> Found,
    ) {
        let until = Instant::now() + LONGEST;
        let claims = std::mem::replace(&mut look_up.claims, Claims::none());
        let asking = ask(plane, &look_up, claims, &self.warnings);
        tokio::pin!(asking);
        let answer = loop {
            tokio::select! {
                biased;
                answer = timeout_at(until, asking.as_mut()) => break answer,
                () = look_up.progress.closed() => if self.is_abandoned(&look_up.name) {
                    return;
                }
            }
        };
        let found = match answer {
            Ok(Ok((described, asked_at))) => {
                let found = check(&look_up.name.1, &described);
                let found = found.and_then(|()| admit(&described, asked_at));
                if let Err(error) = &found
                    && *error != WakeError::NotFound
                {
                    let why = reason_of(&described, error);
                    self.warnings.say(&look_up.name.1, &why);
                }
                found
            }
            Ok(Err(error)) => Err(error),
            Err(_late) => {
                // Whoever still waits begins another.
                self.meanings.remove_if(&look_up.name, |_, meaning| {
                    matches!(meaning, Meaning::Asking(..))
                });
                return;
            }
        };
        self.end(&look_up, &found);
    }
}

/// The claim of a client who waits for a name's meaning.
fn claim_of(client: ClientNetwork, since: Instant) -> Claim {
    Claim {
        route: "".into(),
        client,
        since,
    }
}

/// The end of a look-up that others carry out, or what has been in its way until `deadline`.
pub(super) async fn wait_for(
    mut progress: watch::Receiver<Progress>,
    deadline: Instant,
) -> Option<Found> {
    let ended = async {
        let ended = progress.wait_for(|progress| progress.found.is_some());
        // Without an end it was given up.
        ended.await.ok()?.found.clone()
    };
    match timeout_at(deadline, ended).await {
        Ok(found) => found,
        Err(_late) => {
            let trouble = progress.borrow().trouble.clone();
            Some(Err(
                trouble.unwrap_or(WakeError::TimedOut(WakeStage::Asking))
            ))
        }
    }
}

/// Asks until there is an answer about the name.
async fn ask<P: ControlPlane>(
    plane: &PlaneHandle<P>,
    look_up: &LookUp,
    mut claims: Claims,
    warnings: &Warnings,
) -> Result<(Box<Description>, Instant), WakeError> {
    let (_, name) = &look_up.name;
    let mut trouble = Trouble {
        warnings,
        name,
        began: Instant::now(),
        error: None,
        is_over: false,
    };
    let mut pauses = PAUSES.pauses();
    loop {
        let asked_at = Instant::now();
        let answer = plane.question(&mut claims, plane.get_surely(name));
        let Some(answer) = answer.await else {
            trouble.is_over = true;
            return Err(WakeError::NoSlot);
        };
        let error = match answer {
            Ok(described) => {
                trouble.is_over = true;
                return Ok((described, asked_at));
            }
            // The name is nobody's; that several ids begin with it concerns nobody here.
            Err(error) if error.is_from_api() && error.code() == "ambiguous" => {
                trouble.is_over = true;
                return Err(WakeError::NotFound);
            }
            Err(error) => error,
        };
        let refusal = match Evidence::from(&error) {
            Evidence::Gone => {
                trouble.is_over = true;
                return Err(WakeError::NotFound);
            }
            Evidence::Unsure(Doubt::Unauthorized) => WakeError::Unauthorized,
            Evidence::Unsure(Doubt::Unreachable) => WakeError::ControlPlaneDown,
            Evidence::Unsure(Doubt::Unreadable) => WakeError::Unreadable,
            Evidence::Unsure(_) | Evidence::Awake(_) | Evidence::Asleep(_) => WakeError::Failed,
        };
        let is_others = error.status().is_some() && !error.is_from_api();
        // A conflict is about a state, which passes.
        let may_pass = error.is_retryable() || is_others || error.status() == Some(409);
        let error = trouble.error.insert(error);
        if !may_pass {
            return Err(refusal);
        }
        tracing::debug!(%name, %error, "cannot look an instance up yet");
        look_up
            .progress
            .send_modify(|progress| progress.trouble = Some(refusal));
        let pause = pauses.advance(fastrand::f64);
        sleep(pause.max(error.retry_after().unwrap_or_default())).await;
    }
}

/// What is wrong with an instance that was found and cannot be used, in one sentence.
fn reason_of(described: &Description, error: &WakeError) -> String {
    match (error, InstanceId::parse(&described.id)) {
        (WakeError::Unreadable, Err(_)) => {
            format!("its id is none: {:?}", head_of(&described.id))
        }
        (WakeError::AddressRefused | WakeError::Unusable, _) => why_of_no_use(described, true),
        _ => error.to_string(),
    }
}

/// Enough of a text to know it by.
fn head_of(text: &str) -> &str {
    let end = text.char_indices().nth(40).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}

/// Whether an answer is about the instance of exactly this name or id, and it can be reached.
fn check(name: &InstanceRef, described: &Description) -> Result<(), WakeError> {
    if described.name != name.as_str() && described.id != name.as_str() {
        // The server also looks for ids that begin with the text: that is somebody else.
        return Err(WakeError::NotFound);
    }
    match address_of(described) {
        Ok(_) | Err(Doubt::NoAddress { .. }) => Ok(()),
        Err(Doubt::AddressRefused) => Err(WakeError::AddressRefused),
        Err(_) => Err(WakeError::Unusable),
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Names({})", self.meanings.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn whoever_joins_a_look_up_claims_a_place_for_it_too() {
        let names = Names::new(10, Duration::from_secs(1));
        let name = (PlaneIndex(0), InstanceRef::parse("shop").unwrap());
        let [first, second] = [1, 2].map(|net| ClientNetwork::from(IpAddr::from([10, net, 0, 1])));
        let (_, look_up) = names.ask(&name, 0, first, false);
        let mut claims = look_up.unwrap().claims;
        let (claim, _) = claims.next().now_or_never().expect("whoever began it");
        assert_eq!(claim.client, first);
        for client in [first, second, second] {
            let (told, again) = names.ask(&name, 0, client, false);
            assert!(matches!(told, Told::Asking(_)) && again.is_none());
        }
        let (claim, _) = claims.next().now_or_never().expect("somebody has joined");
        assert_eq!(claim.client, second);
        assert!(claims.next().now_or_never().is_none(), "each once");
    }
}
