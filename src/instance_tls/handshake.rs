//! A handshake with an instance, by its route's profile and for one name.
//!
//! Guarantees: a connection is of the protocol that it was made for; connections for different
//! names, or by different rules, are never taken for each other.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::alpn::Alpn;
use super::profile::TlsProfile;
use super::stream::{InstanceStream, Socket};

/// The TLS of a route's last hop, to the instance of one name. Cheap to clone.
#[derive(Clone)]
pub struct TlsHop {
    profile: Arc<TlsProfile>,
    name: ServerName<'static>,
    /// What a request that does not leave HTTP is sent over.
    alpn: Alpn,
}

// === impl TlsHop ===

impl TlsHop {
    /// By this profile, to the instance of this name, which is a host name or an IP address; `None`
    /// if no certificate can have it.
    pub fn new(profile: Arc<TlsProfile>, name: &str, alpn: Alpn) -> Option<Self> {
        let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let name = ServerName::try_from(address.unwrap_or(name)).ok()?;
        Some(Self {
            profile,
            name: name.to_owned(),
            alpn,
        })
    }

    /// The same for another protocol.
    pub fn speaking(&self, alpn: Alpn) -> Self {
        let (profile, name) = (Arc::clone(&self.profile), self.name.clone());
        Self {
            profile,
            name,
            alpn,
        }
    }

    /// The protocol.
    pub fn alpn(&self) -> Alpn {
        self.alpn
    }

    /// Whether both go by the same rules, for whatever names and protocols.
    pub fn has_same_profile(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.profile, &other.profile)
    }

    /// The address of the rules that it goes by, for hashes.
    pub fn profile_address(&self) -> usize {
        Arc::as_ptr(&self.profile).addr()
    }

    /// Agrees on TLS over a connection. The caller keeps the time. [`super::verdict()`] reads the
    /// error.
    pub async fn secure(&self, stream: InstanceStream) -> io::Result<InstanceStream> {
        let stream = stream.into_clear()?;
        // Small messages must not wait for more; a socket that cannot do this still works.
        let _slower = stream.set_nodelay(true);
        let connector = TlsConnector::from(self.profile.client_config(self.alpn));
        let stream = connector.connect(self.name.clone(), Socket::new(stream));
        let stream = stream.await?;
        // An instance that chooses nothing speaks HTTP/1.1.
        let chosen = stream.get_ref().1.alpn_protocol();
        let is_fitting = match self.alpn {
            Alpn::Http1 => chosen.is_none_or(|chosen| chosen == self.alpn.name()),
            Alpn::H2 => chosen == Some(self.alpn.name()),
        };
        match is_fitting {
            true => Ok(InstanceStream::of_tls(stream, self.alpn)),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                rustls::Error::NoApplicationProtocol,
            )),
        }
    }
}

impl PartialEq for TlsHop {
    fn eq(&self, other: &Self) -> bool {
        self.has_same_profile(other) && self.name == other.name && self.alpn == other.alpn
    }
}

impl Eq for TlsHop {}

impl fmt::Debug for TlsHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsHop({:?}, {:?})", self.name.to_str(), self.alpn)
    }
}
