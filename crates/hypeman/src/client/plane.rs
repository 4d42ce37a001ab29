//! The part of a server that wakes instances, as a trait.
//!
//! Guarantees of every implementation: a call has its own deadline and is not repeated inside;
//! dropping its future abandons it, which on a real server may abort a restore, so a task must own
//! a restore that should go on.

use std::future::Future;
use std::time::Duration;

use super::error::Error;
use super::name::{InstanceId, InstanceRef};
use super::wire::{AutoStandbyStatus, Instance, InstanceState, WaitOutcome};

/// What a program that wakes instances asks of a server.
///
/// [`Client`](crate::Client) implements it. A test implements it with a few lines of its own, and
/// needs no server and no sockets then; `examples/fake_control_plane.rs` shows how.
pub trait ControlPlane: Send + Sync + 'static {
    /// Reads an instance by its name, id or id prefix, after a restore or standby that is going on.
    fn get(&self, instance: &InstanceRef) -> impl Future<Output = Result<Instance, Error>> + Send;

    /// Brings an instance from `Standby` to `Running`. Nothing happens to one that is `Running` or
    /// `Initializing`.
    fn restore(
        &self,
        instance: &InstanceId,
    ) -> impl Future<Output = Result<Instance, Error>> + Send;

    /// Boots a `Stopped` instance, whose address is a new one then.
    fn start(&self, instance: &InstanceId) -> impl Future<Output = Result<Instance, Error>> + Send;

    /// Returns when the instance has this state, at once when it cannot come into it, or after
    /// `timeout`. Success is the state in the answer, never the absence of a time-out.
    fn wait(
        &self,
        instance: &InstanceId,
        state: &InstanceState,
        timeout: Duration,
    ) -> impl Future<Output = Result<WaitOutcome, Error>> + Send;

    /// Keeps the instance from auto-standby for one idle time from now. Success alone does not
    /// prove that it is `Running`.
    fn hold(
        &self,
        instance: &InstanceId,
    ) -> impl Future<Output = Result<AutoStandbyStatus, Error>> + Send;
}
