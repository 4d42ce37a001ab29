//! Clients that ask for names which do not exist.
//!
//! Guarantees: a client that has asked for too many is refused before the control plane is asked
//! about the next; names that are known are never affected; their number is bounded by forgetting.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use super::rates::ClientRate;
use crate::config::Rate;
use crate::names::ClientNetwork;

/// The clients that asked for what does not exist.
pub(super) struct UnknownNames {
    rate: Option<ClientRate>,
    shut_out: DashMap<ClientNetwork, Instant>,
}

// === impl UnknownNames ===

impl UnknownNames {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate: ClientRate::new(rate),
            shut_out: DashMap::new(),
        }
    }

    /// The time that the client is to wait before it may ask for another unknown name.
    pub(super) fn wait(&self, client: IpAddr) -> Option<Duration> {
        if self.shut_out.is_empty() {
            return None;
        }
        let until = *self.shut_out.get(&client.into())?.value();
        until
            .checked_duration_since(Instant::now())
            .filter(|wait| !wait.is_zero())
    }

    /// Counts a client's question for a name that does not exist.
    pub(super) fn note(&self, client: IpAddr) {
        let client = ClientNetwork::from(client);
        let taken = self.rate.as_ref().map(|rate| rate.take(client));
        if let Some(Err(wait)) = taken {
            self.shut_out.insert(client, Instant::now() + wait);
        }
    }

    pub(super) fn upkeep(&self) {
        let now = Instant::now();
        self.shut_out.retain(|_, until| *until > now);
        self.rate.iter().for_each(ClientRate::upkeep);
    }
}

impl fmt::Debug for UnknownNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnknownNames({} shut out)", self.shut_out.len())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_guesses_names_is_shut_out_for_a_while_and_others_are_not() {
        let rate = Rate {
            count: NonZeroU32::new(3).unwrap(),
            per: Duration::from_secs(60),
        };
        let (names, scanner) = (UnknownNames::new(rate), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..3 {
            names.note(scanner);
            assert_eq!(names.wait(scanner), None);
        }
        names.note(scanner);
        let wait = names.wait(scanner).unwrap();
        assert!(wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(names.wait([10, 0, 1, 1].into()), None);
        tokio::time::advance(wait).await;
        assert_eq!(names.wait(scanner), None);
    }
}
