//! What an instance's workload itself wants of the task: to be held awake, or to be put to sleep.
//!
//! Guarantees: a hold of the workload's wakes nothing; while the instance is put to sleep nobody is
//! told anything about it, and whoever asks afterwards wakes it.

use futures_util::future::FutureExt as _;
use jiff::Timestamp;

use super::state::{Done, Driver};
use crate::wake::dialer::Dialer;
use crate::wake::machine::Event;
use crate::wake::rest::{RestError, RestRequest};
use hypeman::ControlPlane;

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    /// The workload's hold has changed.
    pub(super) fn held_by_workload(&mut self) {
        match self.endpoint.is_some() {
            true => self.arm(),
            // It may be awake all the same: nobody has asked for it yet.
            false => self.step(Event::Look),
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
        if is_busy || !may() {
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
