//! Requests without a body over HTTP/1.1: one at a time on a connection, in the task of the
//! request.
//!
//! Guarantees: as [`super`]'s; besides, nothing is handed to another task and back, and the
//! request's head stays with its owner, who can send it again. That is most of what a gateway
//! carries, and costs half of what it does by way of hyper's client, which the other requests take
//! (docs/performance.md). An idle connection says at once that the instance has closed it.

mod connection;
mod head;

pub(super) use self::connection::{Connection, Failure};
