//! A server's side of HTTP/1.1 for requests that are heads alone, which most are.
//!
//! Guarantees: it answers as hyper would, and what it does not know as a plain request (a body, an
//! upgrade, an expectation, another version, a mistake) it leaves to hyper from that head's first
//! byte on; a connection that waits keeps no buffer; the service hears at once of a client that
//! leaves.

mod answer;
mod connection;
mod date;
mod head;

pub(super) use self::connection::serve;
pub use self::head::fuzz;
