//! A tunnel that is quiet, or whose instance sleeps, until there is payload.
//!
//! Guarantees: a client's payload is not written before its instance is ready for it and the tunnel has a
//! place there; then it is the same connection's, or that of a handshake made anew where that may be, or
//! the client is told that it is not. Nothing but payload wakes.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::end::End;
use super::host::{InstanceSide, ParkHost, Reopen, Unready, Woken};
use super::lost::{Woke, over};
use super::parkable::{Next, Parkable};
use super::rest::{Rest, Seen};
use crate::backoff::Backoff;
use crate::telemetry::{ParkOutcome, TunnelEnd as EndedBy, UnparkCause};
use crate::upstream::carry::at;
use crate::upstream::epoch_end::cut;
use crate::upstream::websocket::Close;

/// How often a client's payload waits for its instance at most, where that sleeps again meanwhile.
const MOST_WAKES: u32 = 3;
/// How long an instance that has woken is asked whether it knows a connection still over which nothing is to be
/// said.
const ASKED: Duration = Duration::from_secs(3);
/// Between two tries whether an instance that is awake for somebody else takes a lost tunnel anew; each epoch
/// begins with the first.
const JOINS: Backoff =
    Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).with_jitter(0.2);

// === impl Parkable ===

impl<C, I, H> Parkable<'_, '_, C, I, H>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost + Reopen<I>,
{
    /// It rests until there is payload, or it ends.
    pub(super) async fn rest(&mut self, mut is_asleep: bool) -> Next {
        self.carried.metrics().count_park(ParkOutcome::Parked);
        let payload_at = self.payload_at;
        if let Some(instance) = self.instance() {
            instance.be_quiet(payload_at);
        }
        self.host.rest();
        let (gone, until) = (self.host.gone(), Instant::now() + self.park.max_time);
        let buffers = self.host.buffers();
        let mut rest = Rest::new(is_asleep, buffers);
        // What is kept for the instance is counted until it has that.
        self.relay.to_instance.held = buffers.map(|buffers| buffers.hold(0));
        let mut wakes = 0;
        let (mut join_at, mut joins) = (None, 0);
        let mut asked_until = None;
        let (cause, end) = loop {
            if self.is_lost() {
                is_asleep = true;
                join_at = None;
                if self.may_join() {
                    // In a box, as all that a tunnel does seldom while it rests.
                    match Box::pin(self.reopen(None, Some(until), &mut rest)).await {
                        Ok(true) => {
                            self.count(UnparkCause::Reconnected);
                            return Next::Open;
                        }
                        // Its port may not be ready yet, or has no place for one more.
                        Ok(false) => {
                            let pause = JOINS.jittered(JOINS.nth(joins), fastrand::f64());
                            (join_at, joins) = (Some(Instant::now() + pause), joins + 1);
                        }
                        Err(ended) => break ended,
                    }
                }
            } else if is_asleep {
                match self.attach() {
                    Some(true) => {
                        is_asleep = false;
                        asked_until = self.ask_kernel();
                    }
                    Some(false) if self.lose() => continue,
                    Some(false) => {
                        break (UnparkCause::Restarted, End::restarted("instance restarted"));
                    }
                    None => {}
                }
            }
            rest.is_asleep = is_asleep;
            // One timer for all of them: each of thousands of tunnels has it.
            let seldom = [self.rules.until, asked_until, join_at];
            let due = seldom.into_iter().flatten().fold(until, Instant::min);
            let (relay, carried) = (&mut self.relay, self.carried);
            let seen = tokio::select! {
                seen = poll_fn(|cx| rest.poll(relay, carried, cx)) => seen,
                () = cut(Some(&self.endpoint)), if !is_asleep => {
                    is_asleep = true;
                    self.leave_kernel(&mut asked_until);
                    continue;
                }
                _ = self.epochs.changed(), if is_asleep => {
                    joins = 0;
                    continue;
                }
                () = gone.cancelled() => {
                    break (UnparkCause::Gone, End::restarted("instance gone"));
                }
                () = sleep_until(due) => {
                    let is_over = |due: Option<Instant>| due.is_some_and(|due| due <= Instant::now());
                    if is_over(Some(until)) {
                        break over(EndedBy::ParkTime);
                    }
                    if is_over(self.rules.until) {
                        break over(EndedBy::MaxLife);
                    }
                    if is_over(asked_until) {
                        self.leave_kernel(&mut asked_until);
                    }
                    continue;
                }
                () = self.stop.cancelled() => break over(EndedBy::Gateway),
            };
            match seen {
                Seen::Payload(what) => {
                    wakes += 1;
                    let woke = match self.is_lost() {
                        true => Ok(Woke::Lost),
                        false => Box::pin(self.wake(what, &mut rest, is_asleep)).await,
                    };
                    let woke = match woke {
                        Ok(Woke::Lost) => {
                            match Box::pin(self.reopen(Some(what), None, &mut rest)).await {
                                Ok(true) => {
                                    self.count(UnparkCause::Reconnected);
                                    return Next::Open;
                                }
                                Ok(false) => Ok(Woke::Asleep),
                                Err(ended) => Err(ended),
                            }
                        }
                        woke => woke,
                    };
                    match woke {
                        Ok(Woke::Ready) => {
                            self.count(UnparkCause::Client);
                            return Next::Open;
                        }
                        Ok(Woke::Asleep | Woke::Lost) if wakes < MOST_WAKES => {
                            is_asleep = true;
                            if let Some(instance) = self.instance() {
                                instance.be_quiet(payload_at);
                            }
                        }
                        Ok(Woke::Asleep | Woke::Lost) => {
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
                // Nobody is there any more.
                Seen::ClientOver if !is_asleep && self.park.is_one_way => {
                    self.count(UnparkCause::Closed);
                    return Next::Over;
                }
                Seen::ClientOver if !is_asleep && self.go_on() => {
                    // The instance is told as always.
                    self.count(UnparkCause::Closed);
                    return Next::Open;
                }
                Seen::ClientOver => break (UnparkCause::Closed, End::by_client(&self.relay)),
                Seen::InstanceOver
                    if (is_asleep || self.unheard_since.is_some()) && self.lose() => {}
                Seen::InstanceOver if !is_asleep && self.go_on() => {
                    self.count(UnparkCause::Closed);
                    return Next::Open;
                }
                Seen::InstanceOver if self.lose() => {}
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
        let instance = self.instance()?;
        instance.attach(open);
        instance.be_quiet(payload_at);
        self.unheard_since = Some(Instant::now());
        self.endpoint = endpoint;
        Some(true)
    }

    /// An instance that has woken is asked whether it knows the connection still, where nothing else would
    /// find out; until when.
    fn ask_kernel(&mut self) -> Option<Instant> {
        let is_one_way = self.park.is_one_way;
        let instance = self.instance().filter(|_| is_one_way)?;
        instance.ask_kernel(true);
        Some(Instant::now() + ASKED)
    }

    /// It is left alone again.
    fn leave_kernel(&mut self, asked_until: &mut Option<Instant>) {
        if asked_until.take().is_some()
            && let Some(instance) = self.instance()
        {
            instance.ask_kernel(false);
        }
    }

    /// Whether the instance is awake for somebody else, so that it may take a lost tunnel anew.
    fn may_join(&mut self) -> bool {
        self.epochs.mark_unchanged();
        let endpoint = self.host.endpoint();
        endpoint.is_some_and(|endpoint| !endpoint.is_resting() && !endpoint.cut().is_cancelled())
    }

    /// Waits until the instance is ready for a client's payload, which is not written before that;
    /// whether it is. What comes meanwhile is kept, or goes on to the client.
    async fn wake(
        &mut self,
        what: &'static str,
        rest: &mut Rest,
        was_asleep: bool,
    ) -> Result<Woke, (UnparkCause, End)> {
        rest.waking = Some(self.park.buffer);
        let (relay, carried) = (&mut self.relay, self.carried);
        let mut is_client_there = true;
        let mut waking = self.host.wake(what);
        let woken = loop {
            tokio::select! {
                woken = &mut waking => break Some(woken),
                seen = poll_fn(|cx| rest.poll(relay, carried, cx)), if is_client_there => match seen {
                    Seen::InstanceOver => break None,
                    // What it has sent goes to its instance all the same.
                    Seen::ClientOver => is_client_there = false,
                    Seen::Payload(_) | Seen::FromInstance => {}
                },
                () = at(self.rules.until) => return Err(over(EndedBy::MaxLife)),
                () = self.stop.cancelled() => return Err(over(EndedBy::Gateway)),
            }
        };
        drop(waking);
        let Some(woken) = woken else {
            return self.lose_or_end();
        };
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
            return match self.go_on() {
                true => self.ask_first(rest).await,
                false => Ok(Woke::Asleep),
            };
        }
        if is_booted || endpoint.ip() != self.endpoint.ip() {
            return self.lose_or_end();
        }
        let open = endpoint.open_connection();
        if let Some(instance) = self.instance() {
            instance.attach(open);
        }
        self.unheard_since = Some(Instant::now());
        self.endpoint = endpoint;
        match self.endpoint.cut().is_cancelled() {
            true => Ok(Woke::Asleep),
            false => self.ask_first(rest).await,
        }
    }
}
