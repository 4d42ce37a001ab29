//! How fast bytes go, and how many of them wait.
//!
//! Guarantees: whoever waits for another side to take something has a deadline; all bytes of bodies
//! that wait in the gateway's memory are within one budget.

mod buffers;
mod send_timeout;

pub use self::buffers::{BufferBudget, Buffered, ClientBuffers, Place};
pub use self::send_timeout::SendTimeout;
