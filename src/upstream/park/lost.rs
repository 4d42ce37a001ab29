//! A tunnel that its instance does not know any more, or may not know.
//!
//! Guarantees: it is taken anew only where nothing can be lost or come twice by that: both directions are
//! between two messages, the instance has answered a ping behind the last payload that it was sent, and of
//! what the client has sent since nothing was written to it. So nothing of that is written to a connection that
//! has slept before something was heard over it. Who is in doubt is closed.
//!
//! What TCP has acknowledged is not asked for: the kernel says it by calls for which there is no safe
//! binding, and an answer to a ping says more.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::end::End;
use super::host::{InstanceSide, ParkHost, Reopen, Reopened, Unready};
use super::parkable::{Delivery, Parkable};
use super::rest::{Rest, Seen};
use crate::telemetry::{TunnelEnd as EndedBy, UnparkCause};
use crate::upstream::carry::{at, close_for};
use crate::upstream::epoch_end::cut;
use crate::upstream::websocket::{Close, control};

/// RFC 6455 §5.2.
const PING: u8 = 9;

/// How a tunnel's instance is when somebody has woken it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woke {
    /// What the client has sent may go to it.
    Ready,
    /// It sleeps again, or is about to.
    Asleep,
    /// It does not know the connection any more, which has been given up.
    Lost,
}

/// What came of asking an instance whether it knows its connection.
enum Asked {
    Heard,
    Silent,
    Over,
    Asleep,
}

/// A ping of the gateway's own.
pub(super) fn ping(payload: &[u8]) -> Bytes {
    control(PING, payload, Some(fastrand::u32(..).to_ne_bytes()))
}

// === impl Parkable ===

impl<C, I, H> Parkable<'_, '_, C, I, H>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost + Reopen<I>,
{
    /// Whether another connection can take this one's place, and nothing is lost by that.
    pub(super) fn can_resume(&mut self) -> bool {
        let (there, back) = (&self.relay.to_instance, &self.relay.to_client);
        let is_between = there.is_between_messages() && back.is_between_messages();
        self.reconnects() && is_between && back.rest.is_empty() && self.is_delivered()
    }

    fn reconnects(&self) -> bool {
        self.park.reconnects && self.rules.is_websocket && self.host.can_reopen()
    }

    /// Whether the instance has certainly received all payload that was written to it.
    fn is_delivered(&mut self) -> bool {
        if self.relay.to_instance.take_payload() {
            self.delivery = Delivery::Unknown;
        }
        let frames = self.relay.to_client.frames.as_ref();
        if self.delivery == Delivery::Asked && frames.is_some_and(|frames| !frames.awaits_answer())
        {
            self.delivery = Delivery::Known;
        }
        self.delivery == Delivery::Known
    }

    /// Asks the instance for an answer behind the last payload, before the tunnel rests: whether it was
    /// asked just now.
    pub(super) fn ask_for_delivery(&mut self) -> bool {
        if !self.reconnects() || self.is_delivered() || self.delivery == Delivery::Asked {
            return false;
        }
        let (there, back) = (&mut self.relay.to_instance, &mut self.relay.to_client);
        let Some(frames) = back.frames.as_mut().filter(|_| there.has_border()) else {
            return false;
        };
        let token = fastrand::u64(..).to_ne_bytes();
        frames.await_answer(token);
        there.rest.extend_from_slice(&ping(&token));
        self.delivery = Delivery::Asked;
        true
    }

    /// Gives the instance's side up; false where another cannot take its place.
    pub(super) fn lose(&mut self) -> bool {
        if !self.can_resume() {
            return false;
        }
        self.relay.lose_instance();
        self.carried.forget_end();
        self.unheard_since = None;
        true
    }

    /// Whether the instance's side was given up.
    pub(super) fn is_lost(&self) -> bool {
        self.relay.instance.is_none()
    }

    /// The end, where the instance's side cannot be given up.
    pub(super) fn lose_or_end(&mut self) -> Result<Woke, (UnparkCause, End)> {
        match self.lose() {
            true => Ok(Woke::Lost),
            false => Err((UnparkCause::Restarted, End::restarted("instance restarted"))),
        }
    }

    /// Asks an instance that was woken and not heard since. Only then may the client's payload go to it.
    pub(super) async fn ask_first(&mut self, rest: &mut Rest) -> Result<Woke, (UnparkCause, End)> {
        if self.is_heard() || !self.can_resume() {
            return Ok(Woke::Ready);
        }
        let (since, probe) = (Instant::now(), self.park.probe);
        self.unheard_since = Some(since);
        if let Some(instance) = self.instance() {
            instance.expect_answers(Some(probe));
        }
        let question = ping(b"");
        rest.question(&mut self.relay, &question);
        let gone = self.host.gone();
        let (relay, carried) = (&mut self.relay, self.carried);
        let asked = poll_fn(|cx| {
            loop {
                let seen = rest.poll(relay, carried, cx);
                if matches!(seen, Poll::Ready(Seen::InstanceOver)) {
                    return Poll::Ready(Asked::Over);
                }
                let side = relay.instance.as_mut();
                if side.is_some_and(|side| side.get_mut().last_heard() > since) {
                    return Poll::Ready(Asked::Heard);
                }
                match seen {
                    // Whatever is sent is for nobody then.
                    Poll::Ready(Seen::ClientOver) => return Poll::Ready(Asked::Heard),
                    Poll::Ready(_) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let asked = tokio::select! {
            asked = asked => asked,
            () = at(Some(since + probe)) => Asked::Silent,
            () = cut(Some(&self.endpoint)) => Asked::Asleep,
            () = gone.cancelled() => {
                return Err((UnparkCause::Gone, End::restarted("instance gone")));
            }
            () = at(self.rules.until) => return Err(over(EndedBy::MaxLife)),
            () = self.stop.cancelled() => return Err(over(EndedBy::Gateway)),
        };
        rest.take_back(&mut self.relay, &question);
        match asked {
            Asked::Heard => {
                self.unheard_since = None;
                if let Some(instance) = self.instance() {
                    instance.expect_answers(None);
                }
                Ok(Woke::Ready)
            }
            Asked::Asleep => Ok(Woke::Asleep),
            Asked::Silent | Asked::Over => self.lose_or_end(),
        }
    }

    /// Has the instance take the tunnel anew: whether it has. For nothing of the client's nobody is woken.
    pub(super) async fn reopen(
        &mut self,
        what: Option<&'static str>,
        until: Option<Instant>,
        rest: &mut Rest,
    ) -> Result<bool, (UnparkCause, End)> {
        rest.waking = Some(self.park.buffer);
        let gone = self.host.gone();
        let (relay, carried) = (&mut self.relay, self.carried);
        let mut is_client_there = true;
        let mut opening = self.host.reopen(what);
        let opened = loop {
            tokio::select! {
                opened = &mut opening => break opened,
                // Whatever is seen of it now is looked at later.
                _ = poll_fn(|cx| rest.poll(relay, carried, cx)), if is_client_there => {
                    is_client_there = false;
                }
                () = gone.cancelled() => {
                    return Err((UnparkCause::Gone, End::restarted("instance gone")));
                }
                () = at(until) => return Err(over(EndedBy::ParkTime)),
                () = at(self.rules.until) => return Err(over(EndedBy::MaxLife)),
                () = self.stop.cancelled() => return Err(over(EndedBy::Gateway)),
            }
        };
        drop(opening);
        rest.waking = None;
        let Reopened { instance, endpoint } = match opened {
            Ok(Some(reopened)) => reopened,
            Ok(None) => return Ok(false),
            Err(Unready { close, is_gone }) => {
                let cause = match is_gone {
                    true => UnparkCause::Gone,
                    false => UnparkCause::Failed,
                };
                return Err((cause, End::kept(EndedBy::Sleep, close)));
            }
        };
        self.relay.regain_instance(instance, self.carried);
        self.endpoint = endpoint;
        self.unheard_since = None;
        self.delivery = Delivery::Known;
        Ok(true)
    }
}

/// The gateway ends it while its instance is woken.
pub(super) fn over(by: EndedBy) -> (UnparkCause, End) {
    let (cause, close) = match by == EndedBy::Gateway {
        true => (UnparkCause::Gateway, Close::restart("drain")),
        false => (UnparkCause::Time, close_for(by)),
    };
    (cause, End::kept(by, close))
}
