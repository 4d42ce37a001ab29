//! TLS towards instances: whom a route believes, what it shows, and the streams that come of it.
//!
//! Guarantees: a certificate is verified by name, time, issuer and revocation before a byte of a
//! request goes, unless the route says otherwise; a refusal is definite, and says why; a handshake
//! that the other side breaks off before it has said anything of TLS is no refusal; files are read
//! whole, and again when they change; no key is in any message.

mod alpn;
mod error;
mod handshake;
mod profile;
mod profiles;
mod stream;
mod verdict;

pub use alpn::Alpn;
pub use error::TlsSetupError;
pub use handshake::TlsHop;
pub use profile::TlsProfile;
pub use profiles::TlsProfiles;
pub use stream::InstanceStream;
pub use verdict::{Verdict, refusal_of_client_certificate, verdict};
