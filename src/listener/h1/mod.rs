//! A server's side of HTTP/1.0 and HTTP/1.1: every request of a connection, from its first byte to
//! its last.
//!
//! Guarantees: no connection changes hands but for a switch of protocols; what a request's head and
//! body are is the codec's word (`crates/http1`), and what has two readings is refused; an answer
//! that comes before the request has ended reaches its client; a connection that waits keeps no
//! buffer; the service hears at once of a client that leaves.

mod answer;
mod connection;
mod exchange;
mod handed_over;
mod head;
mod input;
mod refusal;

pub(super) use self::connection::serve;
pub(super) use self::handed_over::HandedOver;
