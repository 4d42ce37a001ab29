//! Whose address a connection comes from.
//!
//! Guarantees: it is the control plane's word, asked after the connection was made and never older
//! than a second; so an address that has gone over to another instance is the other's at once. A
//! connection is the first instance's that it was told, for ever: when another one is at its address,
//! or none, it is nobody's from then on. Those
//! who ask at the same time share a question; an address asks ten times a second at most, and lists,
//! which are what strangers cost, are two seconds apart.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use super::host::{AskError, Host, Resident};
use super::refusal::Refusal;
use super::task::Owner;

/// So long an answer is good for the connection that it was asked for.
const FRESH: Duration = Duration::from_secs(1);
/// The time between two questions about one address, and between two lists.
const PACE: Duration = Duration::from_millis(100);
const LIST_PACE: Duration = Duration::from_secs(2);
/// The longest that a request waits for all of it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Questions at once, and addresses that are remembered.
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

type Listed = Result<HashMap<IpAddr, Vec<Owner>>, AskError>;

/// Finds out whose addresses are whose.
pub(super) struct Identifier {
    host: Arc<dyn Host>,
    addresses: Mutex<HashMap<IpAddr, Arc<AsyncMutex<Known>>>>,
    lists: AsyncMutex<Option<(Instant, Listed)>>,
    questions: Semaphore,
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
            lists: AsyncMutex::default(),
            questions: Semaphore::new(MOST_QUESTIONS),
        }
    }

    /// The instance at the other end of a connection, which has this evidence.
    pub(super) async fn identify(
        &self,
        address: IpAddr,
        evidence: &Evidence,
    ) -> Result<Resident, Refusal> {
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
        let _turn = self.questions.acquire().await;
        known.asked_at = Some(Instant::now());
        // Where there are several control planes, each may have the address.
        if self.host.planes() == 1 {
            let owner = known.owner.take();
            let owner = owner.or_else(|| self.host.last_seen_at(address));
            if let Some(owner) = owner
                && let Some(told) = self.confirm(&owner, address).await?
            {
                (known.owner, known.told) = (Some(owner), Some(told.clone()));
                return Ok(told);
            }
        }
        let owners = self.listed(address).await?;
        let owner = match &*owners {
            [] => return Err(Refusal::Stranger),
            [owner] => owner.clone(),
            [..] => return Err(Refusal::Ambiguous),
        };
        let told = self.confirm(&owner, address).await?;
        let told = told.ok_or(Refusal::Stranger)?;
        (known.owner, known.told) = (Some(owner), Some(told.clone()));
        Ok(told)
    }

    async fn confirm(&self, owner: &Owner, address: IpAddr) -> Result<Option<Told>, AskError> {
        let asked_at = Instant::now();
        let resident = self.host.confirm(owner, address).await?;
        Ok(resident.map(|resident| Told { asked_at, resident }))
    }

    /// Who is at the address, by lists that are asked for from now on.
    async fn listed(&self, address: IpAddr) -> Result<Vec<Owner>, AskError> {
        let arrived = Instant::now();
        let mut lists = self.lists.lock().await;
        if let Some((asked_at, listed)) = &*lists
            && *asked_at >= arrived
        {
            return of(listed, address);
        }
        if let Some((before, _)) = &*lists {
            sleep_until(*before + LIST_PACE).await;
        }
        let asked_at = Instant::now();
        let listed = self.host.list().await;
        let owners = of(&listed, address);
        *lists = Some((asked_at, listed));
        owners
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

fn of(listed: &Listed, address: IpAddr) -> Result<Vec<Owner>, AskError> {
    let listed = listed.as_ref().map_err(Clone::clone)?;
    Ok(listed.get(&address).cloned().unwrap_or_default())
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
