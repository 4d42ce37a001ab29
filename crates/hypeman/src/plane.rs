//! The part of a control plane that waking needs, as a trait so that tests can play one.
//!
//! Guarantees of every implementation: a call has its own deadline, is not repeated inside, and
//! dropping its future abandons it (on a real server that may abort a restore, contract B.3, so the
//! caller must own it in a task).

use std::future::Future;
use std::time::Duration;

use super::error::ControlPlaneError;
use super::wire::{AutoStandbyStatus, Instance, InstanceState, WaitOutcome};
use crate::{InstanceId, InstanceRef};

/// What the wake engine asks of a Hypeman server.
pub trait ControlPlane: Send + Sync + 'static {
    /// One instance by name, id or prefix. Waits behind a running restore or standby.
    fn get(
        &self,
        instance: &InstanceRef,
    ) -> impl Future<Output = Result<Instance, ControlPlaneError>> + Send;

    /// Standby -> Running. A no-op on Running and Initializing.
    fn restore(
        &self,
        instance: &InstanceId,
    ) -> impl Future<Output = Result<Instance, ControlPlaneError>> + Send;

    /// Stopped -> Initializing: a cold boot with a new address.
    fn start(
        &self,
        instance: &InstanceId,
    ) -> impl Future<Output = Result<Instance, ControlPlaneError>> + Send;

    /// Returns when the instance has this state, at once when it cannot reach it, or after
    /// `timeout`: success is the state in the answer, never the absence of a time-out.
    fn wait(
        &self,
        instance: &InstanceId,
        state: &InstanceState,
        timeout: Duration,
    ) -> impl Future<Output = Result<WaitOutcome, ControlPlaneError>> + Send;

    /// No auto-standby before now + idle timeout. 200 alone does not prove Running.
    fn hold(
        &self,
        instance: &InstanceId,
    ) -> impl Future<Output = Result<AutoStandbyStatus, ControlPlaneError>> + Send;
}
