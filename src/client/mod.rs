//! What a client's connection lends to a request: its body, and the connection itself when the
//! request leaves HTTP; and what it says of bytes that are no request.
//!
//! Guarantees: nobody who forwards a request knows which version of HTTP its client speaks; a body
//! that its connection cannot deliver ends in an error and never in an end.

mod body;
mod original_names;
mod refusal;
mod request;
mod upgrade;

pub use self::body::{BodyFeed, ClientBody, ClientBodyError, ClientBodySource};
pub use self::original_names::OriginalNames;
pub use self::refusal::{Refusal, RefusalReason};
pub use self::request::Request;
pub use self::upgrade::{ClientIo, ClientUpgrade, UpgradeError, UpgradeOffer, UpgradedClient};

/// A client's request, which may have a body. In a box: each of the futures that hand it on would
/// have its room, for as long as the request is answered.
pub type ClientRequest = Box<Request<Option<ClientBody>>>;
