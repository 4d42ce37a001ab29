//! A tunnel that is quiet, or whose instance sleeps, until there is payload.
//!
//! Guarantees: a client's payload is not written before its instance is ready for it and the tunnel has a
//! place there; then it is the same connection's, or the client is told that it is not.

use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::end::End;
use super::host::{InstanceSide, ParkHost, Unready, Woken};
use super::parkable::{Next, Parkable};
use super::rest::{Rest, Seen};
use crate::telemetry::{ParkOutcome, TunnelEnd as EndedBy, UnparkCause};
use crate::upstream::carry::{at, close_for};
use crate::upstream::epoch_end::cut;
use crate::upstream::websocket::Close;

/// How often a client's payload waits for its instance at most, where that sleeps again meanwhile.
const MOST_WAKES: u32 = 3;

// === impl Parkable ===

impl<C, I, H> Parkable<'_, '_, C, I, H>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost,
{
    /// It rests until there is payload, or it ends.
    pub(super) async fn rest(&mut self, mut is_asleep: bool) -> Next {
        self.carried.metrics().count_park(ParkOutcome::Parked);
        let payload_at = self.payload_at;
        if let Some(leased) = self.leased() {
            leased.be_quiet(payload_at);
        }
        self.host.rest();
        let (gone, until) = (self.host.gone(), Instant::now() + self.park.max_time);
        let buffers = self.host.buffers();
        let mut rest = Rest::new(is_asleep, buffers);
        // What is kept for the instance is counted until it has that.
        self.relay.to_instance.held = buffers.map(|buffers| buffers.hold(0));
        let mut wakes = 0;
        let (cause, end) = loop {
            if is_asleep {
                match self.attach() {
                    Some(true) => is_asleep = false,
                    Some(false) => {
                        break (UnparkCause::Restarted, End::restarted("instance restarted"));
                    }
                    None => {}
                }
            }
            rest.is_asleep = is_asleep;
            let (relay, carried) = (&mut self.relay, self.carried);
            let seen = tokio::select! {
                seen = poll_fn(|cx| rest.poll(relay, carried, cx)) => seen,
                () = cut(Some(&self.endpoint)), if !is_asleep => {
                    is_asleep = true;
                    continue;
                }
                _ = self.epochs.changed(), if is_asleep => continue,
                () = gone.cancelled() => {
                    break (UnparkCause::Gone, End::restarted("instance gone"));
                }
                () = at(Some(until)) => {
                    break (UnparkCause::Time, End::kept(EndedBy::ParkTime, close_for(EndedBy::ParkTime)));
                }
                () = at(self.rules.until) => {
                    break (UnparkCause::Time, End::kept(EndedBy::MaxLife, close_for(EndedBy::MaxLife)));
                }
                () = self.stop.cancelled() => {
                    break (UnparkCause::Gateway, End::kept(EndedBy::Gateway, Close::restart("drain")));
                }
            };
            match seen {
                Seen::Payload(what) => {
                    wakes += 1;
                    match self.wake(what, &mut rest, is_asleep).await {
                        Ok(true) => {
                            self.count(UnparkCause::Client);
                            return Next::Open;
                        }
                        Ok(false) if wakes < MOST_WAKES => {
                            is_asleep = true;
                            if let Some(leased) = self.leased() {
                                leased.be_quiet(payload_at);
                            }
                        }
                        Ok(false) => {
                            let close = Close {
                                code: 1013,
                                reason: "asleep",
                            };
                            break (UnparkCause::Failed, End::kept(EndedBy::Sleep, close));
                        }
                        Err(ended) => break ended,
                    }
                    rest.waking = None;
                }
                Seen::FromInstance => {
                    (self.payload_at, self.unheard_since) = (Instant::now(), None);
                    if !is_asleep && self.go_on() {
                        self.host.enter();
                        self.count(UnparkCause::Instance);
                        return Next::Open;
                    }
                }
                Seen::ClientOver if !is_asleep && self.go_on() => {
                    // The instance is told as always.
                    self.count(UnparkCause::Closed);
                    return Next::Open;
                }
                Seen::ClientOver => break (UnparkCause::Closed, End::by_client(&self.relay)),
                Seen::InstanceOver if !is_asleep && self.go_on() => {
                    self.count(UnparkCause::Closed);
                    return Next::Open;
                }
                Seen::InstanceOver => {
                    break (UnparkCause::Restarted, End::restarted("instance restarted"));
                }
            }
        };
        self.count(cause);
        // It may be told for as long as it could have been parked again.
        let told_until = Instant::now() + self.park.max_time;
        // Its sleep may have begun in the same moment.
        let is_awake = !is_asleep && !self.endpoint.cut().is_cancelled();
        Next::End(end.with_instance(is_awake, told_until))
    }

    /// Goes over into the epoch that somebody has begun meanwhile: whether that could be done; `None`
    /// where there is none.
    fn attach(&mut self) -> Option<bool> {
        self.epochs.mark_unchanged();
        let endpoint = self.host.endpoint()?;
        if endpoint.epoch() == self.endpoint.epoch() || endpoint.cut().is_cancelled() {
            return None;
        }
        if endpoint.ip() != self.endpoint.ip() {
            return Some(false);
        }
        let (payload_at, open) = (self.payload_at, endpoint.open_connection());
        let leased = self.leased()?;
        leased.attach(open);
        leased.be_quiet(payload_at);
        self.unheard_since = Some(Instant::now());
        self.endpoint = endpoint;
        Some(true)
    }

    /// Waits until the instance is ready for a client's payload, which is not written before that;
    /// whether it is. What comes meanwhile is kept, or goes on to the client.
    async fn wake(
        &mut self,
        what: &'static str,
        rest: &mut Rest,
        was_asleep: bool,
    ) -> Result<bool, (UnparkCause, End)> {
        rest.waking = Some(self.park.buffer);
        let restarted = || (UnparkCause::Restarted, End::restarted("instance restarted"));
        let (relay, carried) = (&mut self.relay, self.carried);
        let mut is_client_there = true;
        let mut waking = self.host.wake(what);
        let woken = loop {
            tokio::select! {
                woken = &mut waking => break woken,
                seen = poll_fn(|cx| rest.poll(relay, carried, cx)), if is_client_there => match seen {
                    Seen::InstanceOver => return Err(restarted()),
                    // What it has sent goes to its instance all the same.
                    Seen::ClientOver => is_client_there = false,
                    Seen::Payload(_) | Seen::FromInstance => {}
                },
                () = at(self.rules.until) => {
                    let end = End::kept(EndedBy::MaxLife, close_for(EndedBy::MaxLife));
                    return Err((UnparkCause::Time, end));
                }
                () = self.stop.cancelled() => {
                    let end = End::kept(EndedBy::Gateway, Close::restart("drain"));
                    return Err((UnparkCause::Gateway, end));
                }
            }
        };
        drop(waking);
        let Woken {
            endpoint,
            is_booted,
        } = match woken {
            Ok(woken) => woken,
            Err(Unready { close, is_gone }) => {
                let cause = match is_gone {
                    true => UnparkCause::Gone,
                    false => UnparkCause::Failed,
                };
                return Err((cause, End::kept(EndedBy::Sleep, close)));
            }
        };
        let is_same = endpoint.epoch() == self.endpoint.epoch();
        if is_same && !was_asleep {
            return Ok(self.go_on());
        }
        if is_booted || endpoint.ip() != self.endpoint.ip() {
            return Err(restarted());
        }
        let open = endpoint.open_connection();
        if let Some(leased) = self.leased() {
            leased.attach(open);
        }
        self.unheard_since = Some(Instant::now());
        self.endpoint = endpoint;
        Ok(!self.endpoint.cut().is_cancelled())
    }
}
