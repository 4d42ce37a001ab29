//! Whose address a connection comes from.
//!
//! Guarantees: it is the control plane's word, asked after the connection was made and never older
//! than a second; so an address that has gone over to another instance is the other's at once. A
//! connection is the first instance's that it was told, for ever: when another one is at its address,
//! or none, it is nobody's from then on. Those
//! who ask at the same time share a question; an address asks ten times a second at most, and lists,
//! which are what strangers cost, are two seconds apart and shared by all who wait. Where there are
//! several control planes, that no other one has the address is never older than seconds, and one that
//! is down turns away its own instances alone.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use super::host::{AskError, Host, Listing, Resident};
use super::refusal::Refusal;
use super::task::Owner;

/// So long an answer is good for the connection that it was asked for.
const FRESH: Duration = Duration::from_secs(1);
/// The time between two questions about one address, and between two lists.
const PACE: Duration = Duration::from_millis(100);
const LIST_PACE: Duration = Duration::from_secs(2);
/// The longest that a request waits for all of it.
const PATIENCE: Duration = Duration::from_secs(15);
/// So old a list may be by which no other control plane has the address of an instance that has just
/// been confirmed, and so old while a newer one is on its way.
const RECENT: Duration = Duration::from_secs(10);
const STILL_RECENT: Duration = Duration::from_secs(30);
/// Questions to a control plane at once, and addresses that are remembered.
const MOST_QUESTIONS: usize = 16;
const MOST_ADDRESSES: usize = 4096;

/// What a connection has been told.
#[derive(Debug, Default)]
pub(super) struct Evidence(AsyncMutex<Belonging>);

/// Whose a connection is.
#[derive(Debug, Default)]
struct Belonging {
    /// When it was made, where that matters.
    made_at: Option<Timestamp>,
    told: Option<Told>,
    /// Whom it was told first.
    first: Option<Owner>,
    /// Somebody else came to its address, or nobody was there.
    is_over: bool,
}

/// An answer, and when it was asked for.
#[derive(Debug, Clone)]
struct Told {
    asked_at: Instant,
    resident: Resident,
}

/// What is known about an address.
#[derive(Debug, Default)]
struct Known {
    owner: Option<Owner>,
    asked_at: Option<Instant>,
    told: Option<Told>,
}

/// A list, and when it was asked for.
type Listed = (Instant, Arc<Listing>);

/// Finds out whose addresses are whose.
pub(super) struct Identifier {
    host: Arc<dyn Host>,
    addresses: Mutex<HashMap<IpAddr, Arc<AsyncMutex<Known>>>>,
    /// The last list.
    listed: Mutex<Option<Listed>>,
    /// Whoever asks for one has it.
    listing: AsyncMutex<()>,
    /// Of each control plane.
    questions: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

// === impl Evidence ===

impl Evidence {
    /// Of a connection that was made at this time.
    pub(super) fn since(made_at: Timestamp) -> Self {
        Self(AsyncMutex::new(Belonging {
            made_at: Some(made_at),
            ..Belonging::default()
        }))
    }
}

// === impl Identifier ===

impl Identifier {
    pub(super) fn new(host: Arc<dyn Host>) -> Self {
        Self {
            host,
            addresses: Mutex::default(),
            listed: Mutex::default(),
            listing: AsyncMutex::default(),
            questions: Mutex::default(),
        }
    }

    /// The instance at the other end of a connection, which has this evidence.
    pub(super) async fn identify(
        &self,
        address: IpAddr,
        evidence: &Evidence,
    ) -> Result<Resident, Refusal> {
        if matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            // Each link may have it.
            return Err(Refusal::OfALink);
        }
        let arrived = Instant::now();
        let mut belonging = evidence.0.lock().await;
        if belonging.is_over {
            return Err(Refusal::Moved);
        }
        let told = belonging.told.as_ref();
        if let Some(told) = told.filter(|told| arrived < told.asked_at + FRESH) {
            return Ok(told.resident.clone());
        }
        belonging.told = None;
        let asking = timeout(PATIENCE, self.ask(address, arrived));
        let answer = asking.await.map_err(|_| Refusal::AskedTooLong)?;
        if let Err(Refusal::Stranger | Refusal::Ambiguous) = answer {
            belonging.is_over = true;
        }
        let answer = answer?;
        let is_later = belonging.made_at < answer.resident.since;
        if belonging.first.is_none() && belonging.made_at.is_some() && is_later {
            // Somebody else has made the connection.
            belonging.is_over = true;
            return Err(Refusal::Moved);
        }
        let first = belonging.first.get_or_insert(answer.resident.owner.clone());
        if *first != answer.resident.owner {
            // What it has sent, the other one has not asked for.
            belonging.is_over = true;
            return Err(Refusal::Moved);
        }
        Ok(belonging.told.insert(answer).resident.clone())
    }

    /// Asks, or takes what others were told who have asked after this request `arrived`.
    async fn ask(&self, address: IpAddr, arrived: Instant) -> Result<Told, Refusal> {
        let known = self.known(address);
        let mut known = known.lock().await;
        if let Some(told) = known.told.as_ref().filter(|told| told.asked_at >= arrived) {
            return Ok(told.clone());
        }
        known.told = None;
        if let Some(before) = known.asked_at {
            sleep_until(before + PACE).await;
        }
        known.asked_at = Some(Instant::now());
        let owner = known.owner.take();
        if let Some(owner) = owner.or_else(|| self.host.last_seen_at(address))
            && let Some(told) = self.confirm(&owner, address).await?
            && self.is_alone(&owner, address).await
        {
            (known.owner, known.told) = (Some(owner), Some(told.clone()));
            return Ok(told);
        }
        let listing = self.list().await;
        let owner = match owners_at(&listing, address) {
            [] => {
                let missing = listing.missing.clone();
                return Err(missing.map_or(Refusal::Stranger, Refusal::Ask));
            }
            [owner] => owner.clone(),
            [..] => return Err(Refusal::Ambiguous),
        };
        let told = self.confirm(&owner, address).await?;
        let told = told.ok_or(Refusal::Stranger)?;
        (known.owner, known.told) = (Some(owner), Some(told.clone()));
        Ok(told)
    }

    async fn confirm(&self, owner: &Owner, address: IpAddr) -> Result<Option<Told>, AskError> {
        let questions = self.questions_to(&owner.hypeman);
        let _turn = questions.acquire().await;
        let asked_at = Instant::now();
        let resident = self.host.confirm(owner, address).await?;
        Ok(resident.map(|resident| Told { asked_at, resident }))
    }

    /// Whether no other control plane has an instance at the address of this one.
    async fn is_alone(&self, owner: &Owner, address: IpAddr) -> bool {
        if self.host.planes() == 1 {
            return true;
        }
        let listing = self.recent_list().await;
        // One that has just begun is in no list yet.
        owners_at(&listing, address).iter().all(|one| one == owner)
    }

    async fn recent_list(&self) -> Arc<Listing> {
        if let Some((asked_at, listing)) = self.last_list() {
            let age = asked_at.elapsed();
            if age < RECENT || (age < STILL_RECENT && self.listing.try_lock().is_err()) {
                return listing;
            }
        }
        self.list().await
    }

    /// Who is at which address, by lists that are asked for from now on.
    async fn list(&self) -> Arc<Listing> {
        let arrived = Instant::now();
        let _turn = self.listing.lock().await;
        if let Some((asked_at, listing)) = self.last_list() {
            if asked_at >= arrived {
                return listing;
            }
            sleep_until(asked_at + LIST_PACE).await;
        }
        let asked_at = Instant::now();
        let listing = Arc::new(self.host.list().await);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        *listed = Some((asked_at, Arc::clone(&listing)));
        listing
    }

    fn last_list(&self) -> Option<Listed> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.clone()
    }

    /// Control planes are as many as the configuration has.
    fn questions_to(&self, hypeman: &Arc<str>) -> Arc<Semaphore> {
        let all = self.questions.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Semaphore::new(MOST_QUESTIONS));
        Arc::clone(all.entry(Arc::clone(hypeman)).or_insert_with(fresh))
    }

    fn known(&self, address: IpAddr) -> Arc<AsyncMutex<Known>> {
        let mut all = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&address) {
            all.retain(|_, known| Arc::strong_count(known) > 1);
        }
        Arc::clone(all.entry(address).or_default())
    }
}

fn owners_at(listing: &Listing, address: IpAddr) -> &[Owner] {
    listing.at.get(&address).map_or(&[], Vec::as_slice)
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
