//! Clients that ask for names which do not exist.
//!
//! Guarantees: a client that has asked for too many is refused before the control plane is asked
//! about the next; names that are known are never affected; the number of clients is bounded, as
//! that of [`rates`](super::rates) is.

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
        let (client, now) = (ClientNetwork::from(client), Instant::now());
        let networks = [client, client.widened(), ClientNetwork::ALL];
        let waits = networks.iter().filter_map(|network| {
            let until = *self.shut_out.get(network)?.value();
            until.checked_duration_since(now)
        });
        waits.max().filter(|wait| !wait.is_zero())
    }

    /// Counts a client's question for a name that does not exist.
    pub(super) fn note(&self, client: IpAddr) {
        let Some(rate) = &self.rate else { return };
        let network = rate.counted_as(client.into());
        if let Err(wait) = rate.take_as(network) {
            self.shut_out.insert(network, Instant::now() + wait);
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

    #[tokio::test(start_paused = true)]
    async fn a_provider_whose_networks_are_swept_is_shut_out_as_one_and_others_are_not() {
        let rate = Rate {
            count: NonZeroU32::MIN,
            per: Duration::from_secs(3600),
        };
        let names = UnknownNames::new(rate);
        let swept = |number: u128| {
            let address = 0x2001_0db8_u128 << 96 | number << 72 | 1;
            IpAddr::from(std::net::Ipv6Addr::from(address))
        };
        let most = super::super::rates::MOST_CLIENTS as u128;
        for number in 0..=most + 1 {
            names.note(swept(number));
        }
        assert!(names.shut_out.len() <= 1, "one of the two that came last");
        assert!(names.wait(swept(most + 7)).is_some());
        assert_eq!(names.wait([192, 0, 2, 1].into()), None);
        tokio::time::advance(rate.per).await;
        names.upkeep();
        assert!(names.shut_out.is_empty());
    }
}
