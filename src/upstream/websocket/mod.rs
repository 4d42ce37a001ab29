//! WebSocket as a gateway sees it: where frames begin and end, and how a connection is closed.
//!
//! Guarantees: nothing of a payload is looked at or kept; what is no WebSocket is told as such and
//! never guessed at.

mod close;
mod frames;

pub use self::close::{Close, control, masked};
pub use self::frames::{
    FrameHeader, FrameReader, LONGEST_CONTROL, NotWebSocket, Opcode, PingToken,
};
