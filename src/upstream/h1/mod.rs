//! Requests over HTTP/1.1: one at a time on a connection, in the task of the request.
//!
//! Guarantees: as [`super`]'s; besides, nothing is handed to another task and back but the rest of a
//! body whose response has begun; a request of which certainly nothing was sent stays whole, its
//! body included, whatever of it was read. An idle connection says at once that the instance has
//! closed it.

mod connection;
mod head;
mod partial;
mod rest;
mod sending;

pub(super) use self::connection::{Connection, Failure};
pub(super) use self::head::Head;
pub(super) use self::rest::{Rest, RestProgress};
pub(super) use self::sending::Sending;
