//! What bytes go through on their way: how fast they go, and how many of them wait.
//!
//! Guarantees: whoever waits for another side to take something has a deadline; all bytes of heads
//! and bodies that wait in the gateway's memory are within one budget.

mod account;
mod buffers;
mod forward_writes;
mod h2_bytes;
mod peek;
mod places;
mod reset;
mod send_timeout;
mod trickle;
mod turn;
mod write_whole;

pub use self::account::Account;
pub use self::buffers::{BufferBudget, Buffered, ClientBuffers, Place};
pub(crate) use self::forward_writes::forward_writes;
pub use self::h2_bytes::{poll_not_reset, poll_read_stream, poll_window, stream_error};
pub use self::peek::PeekStream;
pub use self::places::{ConnectionPlace, ConnectionPlaces};
pub use self::reset::Reset;
pub use self::send_timeout::SendTimeout;
pub use self::trickle::Trickle;
pub use self::turn::{EndOfTurn, in_one_task};
pub use self::write_whole::poll_write_whole;
