//! Quiet tunnels: those that have had no payload for a while and may outlive their instance's sleep.
//!
//! Guarantees: a quiet tunnel is no lease and is not watched; the gateway puts its instance to sleep only
//! while nothing else is open, and no tunnel goes on in an epoch that is about to end by that: one of the
//! two sees the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Endpoint, OpenConnection};

/// How it stands with the quiet tunnels of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietLook {
    /// How many there are.
    pub tunnels: usize,
    /// How many of them are certainly among the connections that the control plane counts: none, where
    /// the instance's policy has it leave some out.
    pub counted: usize,
    /// When the last payload went.
    pub last_payload: Instant,
}

// === impl Endpoint ===

impl Endpoint {
    /// Tunnels that have had no payload for a while and may be parked.
    pub fn quiet_tunnels(&self) -> usize {
        self.0.quiet.load(Ordering::SeqCst)
    }

    /// When the gateway may put the instance to sleep, since all that it has open there are quiet
    /// tunnels: an idle timeout after the last payload, or after the epoch's beginning or a hold of
    /// ours. `None` while something else is open, or where the policy never lets it sleep.
    pub fn rest_due(&self) -> Option<Instant> {
        let idle = self.idle_timeout()?;
        if self.quiet_tunnels() == 0 || self.0.open.load(Ordering::SeqCst) > 0 {
            return None;
        }
        Some(self.last_payload() + idle)
    }

    /// When the last payload went, or the epoch began, or a hold of ours was placed.
    pub fn last_payload(&self) -> Instant {
        let payload = self.0.payload.load(Ordering::SeqCst).max(self.0.held());
        let last = self.0.base + Duration::from_nanos(payload);
        last.max(self.0.began)
    }

    /// How it stands with its quiet tunnels, for whoever asks others about the instance meanwhile.
    pub fn look_at_quiet(&self) -> QuietLook {
        let tunnels = self.quiet_tunnels();
        QuietLook {
            tunnels,
            counted: if self.counts() { tunnels } else { 0 },
            last_payload: self.last_payload(),
        }
    }

    /// The instance is about to be put to sleep: whether nothing but quiet tunnels is open, and it is with
    /// them as it was then. From then on none of them goes on in this epoch.
    pub fn begin_rest(&self, seen: QuietLook) -> bool {
        // Sequentially consistent with `OpenConnection::go_on`: one of the two sees the other.
        self.0.ending.store(true, Ordering::SeqCst);
        let may = self.0.open.load(Ordering::SeqCst) == 0 && self.look_at_quiet() == seen;
        if !may {
            self.0.ending.store(false, Ordering::SeqCst);
        }
        may
    }
}

// === impl OpenConnection ===

impl OpenConnection {
    /// What goes over it is the gateway's own, and nobody's payload.
    pub fn of_the_gateway(mut self) -> Self {
        self.is_own = true;
        self
    }

    /// It is a tunnel's that has had no payload since `payload_at`: it holds no lease and is not
    /// watched.
    pub fn be_quiet(&mut self, payload_at: Instant) {
        if std::mem::replace(&mut self.is_quiet, true) {
            return;
        }
        let epoch = &self.epoch;
        epoch.activity().remove(self.place);
        // Quiet before it is no longer open, so that it is always one of the two.
        epoch.quiet.fetch_add(1, Ordering::SeqCst);
        epoch.close(epoch.nanos(payload_at));
    }

    /// The quiet tunnel has payload again; false where its instance is about to be put to sleep, or is
    /// asleep: nothing may go over it then.
    pub fn go_on(&mut self) -> bool {
        let epoch = &self.epoch;
        if self.is_quiet {
            epoch.open.fetch_add(1, Ordering::SeqCst);
            if epoch.ending.load(Ordering::SeqCst) {
                epoch.open.fetch_sub(1, Ordering::SeqCst);
                return false;
            }
            let now = epoch.nanos(Instant::now());
            self.last_byte.store(now, Ordering::Relaxed);
            self.place = epoch.activity().insert(Arc::clone(&self.last_byte));
            epoch.quiet.fetch_sub(1, Ordering::SeqCst);
            self.is_quiet = false;
            if !epoch.watched.swap(true, Ordering::SeqCst) {
                epoch.opened.notify_one();
            }
            epoch.parking.change();
        }
        !epoch.cut.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{IDLE, endpoint, pass};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_tunnels_are_no_lease_and_let_the_instance_sleep_an_idle_timeout_after_their_payload()
     {
        let endpoint = endpoint(true, Some(IDLE));
        let began = Instant::now();
        let (mut one, mut other) = (endpoint.open_connection(), endpoint.open_connection());
        assert_eq!(endpoint.rest_due(), None, "nothing is quiet");
        pass(3).await;
        let payload_at = Instant::now();
        pass(20).await;
        assert!(endpoint.is_leased(Instant::now()));
        one.be_quiet(payload_at);
        assert_eq!(endpoint.rest_due(), None, "the other is open");
        assert!(!endpoint.begin_rest(endpoint.look_at_quiet()));
        other.be_quiet(began);
        assert_eq!(endpoint.rest_due(), Some(payload_at + IDLE));
        assert_eq!(
            (endpoint.open_connections(), endpoint.quiet_tunnels()),
            (0, 2)
        );
        pass(10).await;
        assert!(!endpoint.is_leased(Instant::now()), "nothing is open");
        drop(one);
        assert_eq!(endpoint.quiet_tunnels(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_goes_on_or_its_instance_sleeps_and_never_both() {
        let endpoint = endpoint(true, Some(IDLE));
        let mut tunnel = endpoint.open_connection();
        tunnel.be_quiet(Instant::now());
        assert!(tunnel.go_on());
        assert!(!endpoint.begin_rest(endpoint.look_at_quiet()), "it goes on");
        tunnel.be_quiet(Instant::now());
        assert!(endpoint.begin_rest(endpoint.look_at_quiet()));
        assert!(!tunnel.go_on(), "it is about to sleep");
        endpoint.cut().cancel();
        assert!(!tunnel.go_on());
        assert_eq!(
            (endpoint.open_connections(), endpoint.quiet_tunnels()),
            (0, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_sleeps_where_it_is_not_with_its_tunnels_as_it_was_when_others_were_asked() {
        let endpoint = endpoint(true, Some(IDLE));
        let (mut one, mut other) = (endpoint.open_connection(), endpoint.open_connection());
        one.be_quiet(Instant::now());
        other.be_quiet(Instant::now());
        let seen = endpoint.look_at_quiet();
        assert_eq!((seen.tunnels, seen.counted), (2, 2));
        // The control plane may have counted somebody else's connection in its place.
        drop(one);
        assert!(
            !endpoint.begin_rest(seen),
            "one of them is not there any more"
        );
        let seen = endpoint.look_at_quiet();
        pass(1).await;
        assert!(other.go_on());
        other.be_quiet(Instant::now());
        assert!(!endpoint.begin_rest(seen), "it has had payload");
        assert!(endpoint.begin_rest(endpoint.look_at_quiet()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_not_taken_for_counted_where_the_policy_leaves_connections_out() {
        let endpoint = endpoint(false, Some(IDLE));
        let mut tunnel = endpoint.open_connection();
        tunnel.be_quiet(Instant::now());
        let seen = endpoint.look_at_quiet();
        assert_eq!((seen.tunnels, seen.counted), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_from_its_last_byte_and_what_the_gateway_asks_itself_does_not() {
        let endpoint = endpoint(true, Some(IDLE));
        let mut tunnel = endpoint.open_connection();
        tunnel.be_quiet(Instant::now());
        pass(2).await;
        let request = endpoint.open_connection();
        request.sent(Instant::now());
        let last = Instant::now();
        pass(5).await;
        drop(request);
        assert_eq!(endpoint.rest_due(), Some(last + IDLE));
        pass(5).await;
        let hook = endpoint.open_connection().of_the_gateway();
        assert_eq!(endpoint.rest_due(), None);
        drop(hook);
        assert_eq!(endpoint.rest_due(), Some(last + IDLE));
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_never_sleeps_is_not_put_to_sleep() {
        let endpoint = endpoint(true, None);
        let mut tunnel = endpoint.open_connection();
        tunnel.be_quiet(Instant::now());
        assert_eq!(endpoint.rest_due(), None);
    }
}
