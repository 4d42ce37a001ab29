//! What an instance's workload itself wants of the task: to be held awake, or to be put to sleep.
//!
//! Guarantees: a hold of the workload's wakes nothing; while the instance is put to sleep nobody is
//! told anything about it, and whoever asks afterwards wakes it.

use futures_util::future::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;

use super::state::{Done, Driver};
use crate::wake::dialer::Dialer;
use crate::wake::machine::Event;
use crate::wake::rest::{RestError, RestRequest};
use hypeman::ControlPlane;

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    /// The workload's hold has changed.
    pub(super) fn held_by_workload(&mut self) {
        if self.endpoint.is_some() {
            self.arm();
        } else if self.instance.is_held(Instant::now()) {
            // It may be awake all the same: nobody has asked for it yet.
            self.step(Event::Look);
        }
    }

    /// Puts the instance to sleep, if nobody asks for it. Its epoch ends before the call begins, so
    /// that no request goes to an instance that is about to freeze.
    pub(super) fn rest(&mut self, request: RestRequest) {
        let RestRequest {
            may,
            standby,
            reply,
        } = request;
        let is_busy = self.machine.stage().is_some() || self.calling || self.waiters.len() > 0;
        // From now on nobody enters who is not counted, so nothing is sent between the look and the end.
        let endpoint = self.endpoint.as_ref().filter(|_| !is_busy);
        if let Some(endpoint) = endpoint {
            endpoint.set_resting(true);
        }
        if is_busy || !may() {
            if let Some(endpoint) = endpoint {
                endpoint.set_resting(false);
            }
            let _left = reply.send(Err(RestError::Busy));
            return;
        }
        self.machine.retired();
        self.cut();
        (self.calling, self.resting) = (true, true);
        let resting = standby.map(|answer| Done::Rested(answer, reply));
        self.operations.push(resting.boxed());
    }

    /// The control plane has put it to sleep, or says why not: whoever asks finds out.
    pub(super) fn rested(&mut self, is_asleep: bool) {
        (self.calling, self.resting) = (false, false);
        if is_asleep {
            self.asleep_since = Some(Timestamp::now());
        }
    }
}
