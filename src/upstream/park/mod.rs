//! Tunnels that outlive their instance's sleep.
//!
//! Guarantees: a tunnel without payload for a while is quiet, which lets its instance be put to sleep; when
//! that sleeps, both sides stay open, and nothing is sent to the instance. A client's payload wakes it,
//! is kept meanwhile within bounds, and goes on over the same connection, once and in order, or its
//! client is told that it did not. A client's close wakes nothing, and the instance hears of it
//! at its next wake. No tunnel is parked for longer than its rules allow.
//!
//! This is the one exception to the rule that what is open on an epoch ends with it: the connection of
//! a parked tunnel goes over into the next epoch of the same instance at the same address.

mod input;
mod left_behind;
mod open;
mod parted;
mod rest;

use std::future::poll_fn;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::parted::End;
pub use self::left_behind::LeftBehind;
pub use self::parted::Parted;
use self::rest::{Rest, Seen};
use super::carried::Carried;
use super::carry::{TunnelRules, at, close_for};
use super::epoch_end::cut;
use super::leased_stream::LeasedStream;
use super::relay::Relay;
use super::tunnel::TunnelStream;
use super::websocket::Close;
use crate::config::ParkConfig;
use crate::telemetry::{ParkOutcome, TunnelEnd as EndedBy, TunnelState, UnparkCause};
use crate::wake::{Endpoint, OpenConnection};

/// How often a client's payload waits for its instance at most, where that sleeps again meanwhile.
const MOST_WAKES: u32 = 3;

/// The rules for one tunnel that may be parked.
#[derive(Debug, Clone, Copy)]
pub struct ParkRules {
    /// How long it may be without payload before it is quiet.
    pub after: Duration,
    /// How much of its client is kept while its instance wakes.
    pub buffer: usize,
    /// How long it may be parked.
    pub max_time: Duration,
    /// How long its instance may be silent after a wake.
    pub probe: Duration,
}

/// The instance's side of a tunnel that may be parked.
pub trait InstanceSide: AsyncRead + AsyncWrite + Unpin + Send {
    /// The connection.
    fn leased(&mut self) -> &mut LeasedStream;

    /// It goes on in another epoch.
    fn attach(&mut self, open: OpenConnection) {
        self.leased().attach(open);
    }
}

/// An instance is ready for a parked tunnel.
#[derive(Debug)]
pub struct Woken {
    /// The epoch that it is in.
    pub endpoint: Endpoint,
    /// Whether it was booted: it knows none of its connections any more.
    pub is_booted: bool,
}

/// An instance is not ready for a parked tunnel, whose client is told this.
#[derive(Debug, Clone, Copy)]
pub struct Unready {
    /// What the client is told.
    pub close: Close,
    /// Whether the instance is gone.
    pub is_gone: bool,
}

/// The gateway around a tunnel that may be parked.
pub trait ParkHost: Send + Sync {
    /// The instance's live epoch.
    fn endpoint(&self) -> Option<Endpoint>;

    /// Hears of the instance's epochs.
    fn epochs(&self) -> watch::Receiver<u64>;

    /// The control plane is asked what the instance is doing.
    fn doubt(&self);

    /// Cancelled when the instance is gone.
    fn gone(&self) -> CancellationToken;

    /// Takes a place among the parked tunnels, unless it has one; whether it has one now.
    fn take_place(&mut self) -> bool;

    /// Gives that place back.
    fn leave_place(&mut self);

    /// Gives the tunnel's place at the instance back.
    fn rest(&mut self);

    /// Waits until the instance is ready, and takes a place there; `what` has come from the client.
    fn wake(&mut self, what: &'static str) -> BoxFuture<'_, Result<Woken, Unready>>;
}

/// What is to be done next.
enum Next {
    /// It is carried.
    Open,
    /// It rests; whether its instance sleeps.
    Rest(bool),
    /// It is over, and nobody has to be told.
    Over,
    /// The gateway ends it.
    End(End),
}

/// One tunnel that may be parked.
struct Parkable<'a, 'h, C, I, H> {
    relay: Relay<'a, C, I>,
    rules: TunnelRules,
    park: ParkRules,
    carried: &'a Carried,
    endpoint: Endpoint,
    host: &'h mut H,
    epochs: watch::Receiver<u64>,
    stop: &'h CancellationToken,
    payload_at: Instant,
    /// Since when the instance, which has slept, has not been heard after its wake.
    unheard_since: Option<Instant>,
}

// === impl ParkRules ===

impl ParkRules {
    /// Those of a route.
    pub fn of(config: &ParkConfig) -> Self {
        Self {
            after: config.after,
            buffer: config.buffer.0,
            max_time: config.max_time,
            probe: config.probe,
        }
    }
}

impl InstanceSide for LeasedStream {
    fn leased(&mut self) -> &mut LeasedStream {
        self
    }
}

impl InstanceSide for TunnelStream {
    fn leased(&mut self) -> &mut LeasedStream {
        self.get_mut()
    }
}

/// Carries bytes both ways as [`carry`](super::carry()) does, and through the instance's sleeps.
pub async fn carry_parkable<'a, C, I, H>(
    client: C,
    instance: I,
    (rules, park): (TunnelRules, ParkRules),
    carried: &'a Carried,
    (host, endpoint): (&mut H, &Endpoint),
    stop: &CancellationToken,
) -> Parted<'a, C, I>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost,
{
    let mut tunnel = Parkable {
        relay: Relay::new(client, instance, carried, rules.is_websocket),
        rules,
        park,
        carried,
        endpoint: endpoint.clone(),
        epochs: host.epochs(),
        host,
        stop,
        payload_at: Instant::now(),
        unheard_since: None,
    };
    let mut open = carried.open(TunnelState::Open);
    let mut next = Next::Open;
    loop {
        next = match next {
            Next::Open => {
                open.goes_on();
                open = carried.open(TunnelState::Open);
                tunnel.carry(&mut open).await
            }
            Next::Rest(is_asleep) => {
                open.goes_on();
                open = carried.open(TunnelState::Parked);
                let rested = tunnel.rest(is_asleep).await;
                if matches!(rested, Next::Open) {
                    tunnel.host.leave_place();
                }
                rested
            }
            Next::Over => return Parted::nothing(tunnel.endpoint),
            Next::End(end) => return tunnel.part(end, &mut open),
        };
    }
}

// === impl Parkable ===

impl<'a, C, I, H> Parkable<'a, '_, C, I, H>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost,
{
    fn leased(&mut self) -> Option<&mut LeasedStream> {
        let side = self.relay.instance.as_mut()?;
        Some(side.get_mut().leased())
    }

    /// The quiet tunnel has payload again; false where its instance is about to sleep, or sleeps.
    fn go_on(&mut self) -> bool {
        self.leased().is_some_and(LeasedStream::go_on)
    }

    fn count(&self, cause: UnparkCause) {
        self.carried.metrics().count_unpark(cause);
    }

    /// It rests until there is payload, or it ends.
    async fn rest(&mut self, mut is_asleep: bool) -> Next {
        self.carried.metrics().count_park(ParkOutcome::Parked);
        let payload_at = self.payload_at;
        if let Some(leased) = self.leased() {
            leased.be_quiet(payload_at);
        }
        self.host.rest();
        let (gone, until) = (self.host.gone(), Instant::now() + self.park.max_time);
        let mut rest = Rest::new(is_asleep);
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
                            let close = Close { code: 1013, reason: "asleep" };
                            break (UnparkCause::Failed, End::kept(EndedBy::Sleep, close));
                        }
                        Err(ended) => break ended,
                    }
                    rest.waking = None;
                }
                Seen::FromInstance => {
                    (self.payload_at, self.unheard_since) = (Instant::now(), None);
                    if !is_asleep && self.go_on() {
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
        Next::End(end.with_instance(!is_asleep, until))
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
        let (probe, open) = (self.park.probe, endpoint.open_connection());
        if let Some(leased) = self.leased() {
            leased.attach(open);
            leased.expect_answers(probe);
        }
        self.unheard_since = Some(Instant::now());
        self.endpoint = endpoint;
        Ok(!self.endpoint.cut().is_cancelled())
    }
}

