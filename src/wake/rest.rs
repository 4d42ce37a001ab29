//! Sleeps that the gateway makes.
//!
//! Guarantees: the instance's task carries them out, so that nothing else is asked of the control
//! plane about the instance meanwhile, and a request either keeps it awake or wakes it again.

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use hypeman::Error as ControlPlaneError;

/// Why an instance was not put to sleep.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// Somebody asks for it.
    #[error("somebody asks for it")]
    Busy,
    /// The control plane refuses.
    #[error(transparent)]
    ControlPlane(ControlPlaneError),
    /// The gateway drains, or the instance is gone.
    #[error("the gateway drains, or the instance is gone")]
    Ended,
}

/// A sleep that is asked for.
pub(super) struct RestRequest {
    /// Whether it may sleep at this moment.
    pub(super) may: Box<dyn FnOnce() -> bool + Send>,
    /// The call that puts it to sleep.
    pub(super) standby: BoxFuture<'static, Result<(), ControlPlaneError>>,
    pub(super) reply: oneshot::Sender<Result<(), RestError>>,
}

impl fmt::Debug for RestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestRequest")
    }
}
