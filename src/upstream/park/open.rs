//! A tunnel that is carried until it is quiet.
//!
//! Guarantees: its rules are those of any tunnel while it is carried; an instance that has slept and does not
//! answer after its wake has lost the connection, which its client is told.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::end::End;
use super::host::{InstanceSide, ParkHost, Reopen};
use super::lost::ping;
use super::parkable::{Delivery, Next, Parkable};
use crate::deadline::Deadline;
use crate::telemetry::{ParkOutcome, TunnelEnd as EndedBy};
use crate::upstream::carried::OpenTunnel;
use crate::upstream::carry::{VERDICT, at, close_for};
use crate::upstream::epoch_end::cut;
use crate::upstream::websocket::Close;

/// How long the answer to a ping behind the last payload is waited for: a tunnel of which it does not come
/// is parked all the same, and is not taken anew.
const DELIVERY: Duration = Duration::from_secs(1);

enum Step {
    Copied(std::io::Result<()>),
    Idle,
    Quiet,
}

// === impl Parkable ===

impl<C, I, H> Parkable<'_, '_, C, I, H>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost + Reopen<I>,
{
    /// Carries bytes both ways until it rests or ends.
    pub(super) async fn carry(&mut self, open: &mut OpenTunnel<'_>) -> Next {
        let (park, began) = (self.park, Instant::now());
        let mut quiet = Deadline::new(began + park.after);
        let mut idle = self
            .rules
            .idle
            .map(|idle| (idle, Deadline::new(began + idle)));
        let mut asked = None;
        // One wait for all turns of the loop: it remembers what has ended.
        let carried = self.carried;
        let mut forsaken = pin!(carried.is_forsaken());
        self.payload_at = began;
        self.relay.to_client.takes_no_end = false;
        if self.unheard_since.is_some() {
            self.unheard_since = Some(began);
            if let Some(instance) = self.instance() {
                instance.expect_answers(Some(park.probe));
            }
        }
        loop {
            let (relay, payload_at) = (&mut self.relay, &mut self.payload_at);
            let delivery = &mut self.delivery;
            let step = poll_fn(|cx| {
                if let Poll::Ready(copied) = relay.poll_copy(cx) {
                    return Poll::Ready(Step::Copied(copied));
                }
                let is_from_client = relay.to_instance.take_payload();
                if is_from_client {
                    *delivery = Delivery::Unknown;
                }
                if relay.to_client.take_payload() || is_from_client {
                    *payload_at = Instant::now();
                    quiet.set(*payload_at + park.after);
                    if let Some((limit, idle)) = &mut idle {
                        idle.set(*payload_at + *limit);
                    }
                }
                if let Some((_, idle)) = &mut idle
                    && idle.poll_over(cx).is_ready()
                {
                    return Poll::Ready(Step::Idle);
                }
                quiet.poll_over(cx).map(|()| Step::Quiet)
            });
            let wait = match asked {
                None => park.probe / 2,
                Some(true) => park.probe,
                // It is left to the kernel, whose time begins with what was sent last.
                Some(false) => park.probe * 2,
            };
            let answer_due = self.unheard_since.map(|since| since + wait);
            tokio::select! {
                step = step => match step {
                    Step::Copied(Ok(())) => {
                        open.complete();
                        return Next::Over;
                    }
                    Step::Copied(Err(error)) => {
                        // In a box, as what is seldom needed.
                        if let Some(next) = Box::pin(self.broke(&error, open)).await {
                            return next;
                        }
                    }
                    Step::Idle => return ended(EndedBy::Idle),
                    Step::Quiet if !self.may_rest() => quiet.set(Instant::now() + park.after),
                    Step::Quiet if self.ask_for_delivery() => {
                        quiet.set(Instant::now() + park.after.min(DELIVERY));
                    }
                    Step::Quiet => match self.host.take_place() {
                        true => return Next::Rest(false),
                        false => {
                            self.carried.metrics().count_park(ParkOutcome::Full);
                            quiet.set(Instant::now() + park.after);
                        }
                    },
                },
                () = cut(Some(&self.endpoint)) => return self.was_cut(),
                () = &mut forsaken => {
                    tracing::debug!("one side has ended and the other is silent");
                    open.over();
                    return Next::Over;
                }
                () = at(answer_due) => {
                    if self.is_heard() {
                        continue;
                    }
                    match asked {
                        None => asked = Some(self.ask()),
                        Some(true) => return Next::End(End::restarted("instance restarted")),
                        Some(false) => self.trust(),
                    }
                }
                () = at(self.rules.until) => return ended(EndedBy::MaxLife),
                () = self.stop.cancelled() => return ended(EndedBy::Gateway),
            }
        }
    }

    /// Whether it may be quiet: nothing is under way, and its instance has been heard after its wake.
    fn may_rest(&mut self) -> bool {
        let is_heard = self.is_heard();
        let relay = &self.relay;
        let is_at_border = relay.to_client.is_at_border() && relay.to_instance.is_at_border();
        is_at_border && is_heard
    }

    /// A ping of the gateway's own: whoever speaks WebSocket answers it. Where bytes are all that is
    /// known, it is left to the kernel to find out. Whether there is to be an answer.
    fn ask(&mut self) -> bool {
        let flow = &mut self.relay.to_instance;
        let may_ask = flow.has_border() && flow.is_at_border();
        if may_ask {
            flow.rest.extend_from_slice(&ping(b""));
        }
        may_ask
    }

    /// One of both sides has broken; `None` where it goes on all the same.
    async fn broke(&mut self, error: &std::io::Error, open: &mut OpenTunnel<'_>) -> Option<Next> {
        let is_end = self.relay.to_client.take_held_end();
        if self.carried.ended_by() == EndedBy::Instance {
            if self.unheard_since.is_some() && !is_end {
                return Some(Next::End(End::restarted("instance restarted")));
            }
            if self.relay.to_client.lacks_close() {
                self.host.doubt();
                let asleep = timeout(VERDICT, cut(Some(&self.endpoint))).await;
                if asleep.is_ok() {
                    let may_rest = self.can_resume() && self.host.take_place();
                    return Some(match may_rest && self.lose() {
                        true => Next::Rest(true),
                        false => Next::End(End::restarted("sleep")),
                    });
                }
            }
        }
        if is_end {
            return None;
        }
        tracing::debug!(%error, "a tunnel or connection broke");
        open.over();
        Some(Next::Over)
    }

    /// The instance's epoch has ended under it: somebody has put it to sleep, or it is gone.
    fn was_cut(&mut self) -> Next {
        if self.host.gone().is_cancelled() {
            return Next::End(End::restarted("instance gone"));
        }
        if self.host.take_place() {
            return Next::Rest(true);
        }
        self.carried.metrics().count_park(ParkOutcome::Full);
        Next::End(End::restarted("sleep"))
    }
}

/// The gateway ends it while its instance is awake.
fn ended(by: EndedBy) -> Next {
    let close: Close = close_for(by);
    Next::End(End::kept(by, close))
}
