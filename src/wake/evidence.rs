//! What is known about an instance, and how surely.
//!
//! Guarantees: every answer of a control plane, whoever really gave it, is exactly one of four
//! kinds of evidence; only the control plane's own definite word is [`Evidence::Asleep`] or
//! [`Evidence::Gone`], which alone may cut a connection or end an attempt for good; whatever cannot
//! be told is [`Evidence::Unsure`], never a "no". `tests` has the table of answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::addresses::is_refused;
use super::lease::LeaseTerms;
use super::record::PlaneAnswer;
use hypeman::wire::{self, Address, Health, Idle, Ignores, InstanceState};
use hypeman::{Error as ControlPlaneError, InstanceId};

/// What an idle timeout that cannot be read is taken for: hardly longer than a request.
const UNREADABLE_IDLE: Duration = Duration::from_secs(2);

/// What is known about an instance after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// It is Running or Initializing, at an address.
    Awake(Observation),
    /// The control plane says that it does not run.
    Asleep(Rest),
    /// The control plane says that it has no such instance.
    Gone,
    /// Nobody can tell, or what was asked for could not be done now.
    Unsure(Doubt),
}

/// An instance that runs, as the control plane describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Whether its program is still coming up (`Initializing`).
    pub initializing: bool,
    /// Its address.
    pub ip: IpAddr,
    /// Its policy.
    pub terms: LeaseTerms,
    /// It was seen, or a hold placed, not before this.
    pub asked_at: Instant,
    /// Whether a hold is in force since then.
    pub held: bool,
    /// What the server's own health check says, where it has one.
    pub healthy: Option<bool>,
}

/// How an instance that does not run is at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// A restore wakes it.
    Standby,
    /// It has no snapshot: a restore boots it.
    WithoutMemory,
    /// A start boots it.
    Stopped,
    /// It is on its way to another state: Created, Paused or Shutdown.
    Passing,
}

/// Why nothing is known for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The state is Unknown, or one that this version does not know.
    UnknownState,
    /// It runs, or comes up, and has no address yet.
    NoAddress {
        /// Whether it is Running, so that it should have one.
        running: bool,
    },
    /// Its networking is off, so that nothing can reach it.
    NoNetwork,
    /// Its address is one that is never connected to.
    AddressRefused,
    /// The verb does not fit the state.
    InvalidState,
    /// The host is full.
    NoCapacity,
    /// The control plane refuses the gateway's key.
    Unauthorized,
    /// There was no connection or no answer.
    Unreachable,
    /// The control plane failed, or somebody before it did.
    Failed,
    /// The control plane's answer cannot be read.
    Unreadable,
    /// Too much else is going on at the control plane; nothing was asked.
    NoSlot,
}

/// An answer of a control plane: the evidence, and what else it brought.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) evidence: Evidence,
    /// The instance's name, which may have changed, and when it was asked for.
    pub(super) name: Option<(Arc<str>, Instant)>,
    /// Since when it sleeps, where the control plane says so.
    pub(super) asleep_since: Option<Timestamp>,
    /// What the control plane said, where it was no success.
    pub(super) answer: Option<Arc<PlaneAnswer>>,
    /// The time for which the control plane does not want to be asked again.
    pub(super) retry_after: Option<Duration>,
}

// === impl Evidence ===

impl Evidence {
    /// What the description of an instance says about the instance of this id.
    pub fn of(id: &InstanceId, described: &wire::Instance, asked_at: Instant) -> Self {
        if described.id != id.as_str() {
            // Whatever that is, it is not the control plane's word about this one.
            return Self::Unsure(Doubt::Unreadable);
        }
        let initializing = match &described.state {
            InstanceState::Running => false,
            InstanceState::Initializing => true,
            InstanceState::Standby => {
                return Self::Asleep(match described.has_snapshot {
                    Some(false) => Rest::WithoutMemory,
                    Some(true) | None => Rest::Standby,
                });
            }
            InstanceState::Stopped => return Self::Asleep(Rest::Stopped),
            InstanceState::Created | InstanceState::Paused | InstanceState::Shutdown => {
                return Self::Asleep(Rest::Passing);
            }
            InstanceState::Unknown | InstanceState::Other(_) => {
                return Self::Unsure(Doubt::UnknownState);
            }
        };
        let ip = match address_of(described) {
            Ok(ip) => ip,
            Err(Doubt::NoAddress { .. }) => {
                let running = !initializing;
                return Self::Unsure(Doubt::NoAddress { running });
            }
            Err(doubt) => return Self::Unsure(doubt),
        };
        Self::Awake(Observation {
            initializing,
            ip,
            terms: terms_of(described),
            asked_at,
            held: false,
            healthy: health_of(described),
        })
    }
}

/// The address of an instance, or why none can be used.
pub(super) fn address_of(described: &wire::Instance) -> Result<IpAddr, Doubt> {
    usable(described.address())
}

/// The address, or why it cannot be used.
pub(super) fn usable(address: Address) -> Result<IpAddr, Doubt> {
    match address {
        Address::Off => Err(Doubt::NoNetwork),
        Address::Missing | Address::Unreadable => Err(Doubt::NoAddress { running: true }),
        Address::At(ip) if is_refused(ip) => Err(Doubt::AddressRefused),
        Address::At(ip) => Ok(ip),
    }
}

/// What is wrong with a description that tells nothing of use, in one sentence.
pub(super) fn why_of_no_use(described: &wire::Instance, is_it: bool) -> String {
    if !is_it {
        let (name, id) = (&described.name, &described.id);
        return format!("it describes another instance, `{name}` with the id `{id}`");
    }
    match described.address() {
        Address::Off => "its networking is off".to_owned(),
        Address::Missing => format!("the instance is {} without an address", described.state),
        Address::Unreadable => "its `network.ip` is not an IP address".to_owned(),
        Address::At(ip) => format!("its address {ip} is one that is never connected to"),
    }
}

/// What the policy of an instance means for a lease.
pub(super) fn terms_of(described: &wire::Instance) -> LeaseTerms {
    LeaseTerms {
        idle_timeout: match described.idle() {
            Idle::Never => None,
            Idle::After(idle) => Some(idle),
            Idle::Unreadable => Some(UNREADABLE_IDLE),
        },
        // Any ignore list may be about us: our source address and the port are the kernel's choice
        // and the route's. Taking it so costs a hold now and then.
        counts: described.ignores() == Ignores::Nothing,
    }
}

/// Since when an instance sleeps, where the control plane says so.
pub(super) fn asleep_since(described: &wire::Instance) -> Option<Timestamp> {
    match described.state {
        InstanceState::Standby => described.current_phase_since,
        InstanceState::Stopped => described.current_phase_since.or(described.stopped_at),
        InstanceState::Running
        | InstanceState::Initializing
        | InstanceState::Created
        | InstanceState::Paused
        | InstanceState::Shutdown
        | InstanceState::Unknown
        | InstanceState::Other(_) => None,
    }
}

fn health_of(described: &wire::Instance) -> Option<bool> {
    let health = described.health_status.as_ref()?;
    match health.status {
        Health::Healthy => Some(true),
        Health::Starting | Health::Unhealthy | Health::Unknown => Some(false),
        // The server checks nothing, or in a way that this version does not know.
        Health::Disabled | Health::Other(_) => None,
    }
}

impl From<&ControlPlaneError> for Evidence {
    /// What the failure of a call about an instance says about the instance.
    fn from(error: &ControlPlaneError) -> Self {
        let doubt = match (error.status(), error.code()) {
            // Somebody else's words are about nothing, not about the gateway's key either.
            (Some(_), _) if !error.is_from_api() => Doubt::Failed,
            (Some(401 | 403), _) => Doubt::Unauthorized,
            (Some(404), _) if error.is_not_found() => return Self::Gone,
            (Some(409), "instance_in_standby") => return Self::Asleep(Rest::Standby),
            (Some(409), "insufficient_resources") => Doubt::NoCapacity,
            (Some(409), _) => Doubt::InvalidState,
            (Some(_), _) => Doubt::Failed,
            (None, _) if error.is_unreadable() => Doubt::Unreadable,
            (None, _) => Doubt::Unreachable,
        };
        Self::Unsure(doubt)
    }
}

// === impl Seen ===

impl Seen {
    /// What a description of the instance shows.
    pub(super) fn described(
        id: &InstanceId,
        described: &wire::Instance,
        asked_at: Instant,
    ) -> Self {
        let is_it = described.id == id.as_str();
        let name = is_it.then(|| (described.name.as_str().into(), asked_at));
        let evidence = Evidence::of(id, described, asked_at);
        let answer = match evidence {
            Evidence::Asleep(Rest::Stopped | Rest::Passing)
            | Evidence::Unsure(Doubt::UnknownState) => {
                Some(PlaneAnswer::of_state("get", &described.state))
            }
            Evidence::Unsure(_) => {
                let why = why_of_no_use(described, is_it);
                Some(PlaneAnswer::of_use_to_nobody("get", &why))
            }
            Evidence::Awake(_)
            | Evidence::Asleep(Rest::Standby | Rest::WithoutMemory)
            | Evidence::Gone => None,
        };
        Self {
            name,
            asleep_since: is_it.then(|| asleep_since(described)).flatten(),
            answer: answer.map(Arc::new),
            ..Self::from(evidence)
        }
    }

    /// What an answer to a call about the instance shows.
    pub(super) fn of(
        id: &InstanceId,
        answer: Result<&wire::Instance, &ControlPlaneError>,
        asked_at: Instant,
    ) -> Self {
        match answer {
            Ok(described) => Self::described(id, described, asked_at),
            Err(error) => Self::from(error),
        }
    }
}

impl From<Evidence> for Seen {
    fn from(evidence: Evidence) -> Self {
        Self {
            evidence,
            name: None,
            asleep_since: None,
            answer: None,
            retry_after: None,
        }
    }
}

impl From<&ControlPlaneError> for Seen {
    fn from(error: &ControlPlaneError) -> Self {
        Self {
            answer: Some(Arc::new(PlaneAnswer::from(error))),
            retry_after: error.retry_after(),
            ..Self::from(Evidence::from(error))
        }
    }
}

#[cfg(test)]
mod tests;
