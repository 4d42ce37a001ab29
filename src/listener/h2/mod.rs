//! A server's side of HTTP/2, on the `h2` crate: every request of a connection.
//!
//! Guarantees: what RFC 9113 calls malformed is refused, also where the library lets it pass; a
//! connection's requests are answered by the connection's own task, and what answers one is dropped
//! as soon as its client resets the stream; a connection that has no request for long gets a
//! GOAWAY, and is closed when nothing comes of it; a response of which its client takes nothing for
//! `send_timeout` is reset; a connection has no more in memory than its windows and send buffers
//! allow, and all of it is in the gateway's budget; windows grow only for what was taken.
//!
//! `connection.rs` has the loop, `exchange.rs` one request's way through it, `gate.rs` the socket's
//! side.

mod abandoned;
mod activity;
mod alarm;
mod body;
mod connection;
mod exchange;
mod flood_guard;
mod flow;
mod gate;
mod interim;
mod keep_alive;
mod paced_body;
mod received;
mod request;
mod response;
mod starved;
mod stream_client;
mod trailer_marks;
mod tunnel;

pub(super) use self::connection::serve;
