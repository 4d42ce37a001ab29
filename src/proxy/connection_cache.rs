//! What one request of a connection leaves for the next.
//!
//! Guarantees: what is cached is what would be worked out again; a request that differs in anything
//! that matters is looked at anew. A connection's requests are for one host, most of the time: the
//! first one's is cached.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Version};

use crate::client::Request;
use crate::hold::Gate;
use crate::instance_tls::InstanceStream;
use crate::names::{Hostname, PlaneIndex};
use crate::router::{AuthorityError, host_named};
use crate::upstream::{ClientConnection, ForwardedElement, Pseudonym};
use crate::wake::Instance;
use hypeman::InstanceRef;

/// The host and the instance of one connection's first request.
#[derive(Debug, Default)]
pub struct ConnectionCache {
    client: ClientConnection,
    host: OnceLock<Arc<CachedHost>>,
    target: OnceLock<Arc<CachedTarget>>,
}

/// The instance that the connection's first request went to.
#[derive(Debug)]
pub(super) struct CachedTarget {
    plane: PlaneIndex,
    name: InstanceRef,
    port: u16,
    pseudonym: Pseudonym,
    pub(super) instance: Arc<Instance<InstanceStream>>,
    /// The gate of the instance's port.
    pub(super) gate: Arc<Gate>,
}

/// The host that the connection's first request was for.
#[derive(Debug)]
pub(super) struct CachedHost {
    pub(super) host: Hostname,
    /// The forwarding fields of requests for it.
    pub(super) forwarded: Arc<ForwardedElement>,
}

// === impl ConnectionCache ===

impl ConnectionCache {
    /// That of one request of a connection that another member of the fleet has.
    pub fn of_client(client: ClientConnection) -> Self {
        Self {
            client,
            ..Self::default()
        }
    }

    /// Forgets the host and the instance, and so keeps nothing of theirs alive.
    pub fn forget(&mut self) {
        self.host = OnceLock::new();
        self.target = OnceLock::new();
    }

    /// The name of the connection.
    pub(super) fn client(&self) -> ClientConnection {
        self.client
    }

    /// The host that a request is for.
    pub(super) fn host<B>(
        &self,
        request: &Request<B>,
        client: IpAddr,
        secure: bool,
    ) -> Result<Arc<CachedHost>, AuthorityError> {
        let name = only_name(request);
        if let Some(cached) = self.host.get()
            && name == Some(cached.forwarded.named())
        {
            return Ok(Arc::clone(cached));
        }
        let host = host_named(request.version(), request.uri(), request.values(HOST))?;
        let authority = request.uri().authority().map(Authority::as_str);
        // A copy: what is cached must not keep the buffer that the head was read into.
        let field = || request.values(HOST).next();
        let field = authority.map(str::as_bytes).or_else(field);
        let field = field.and_then(|field| HeaderValue::from_bytes(field).ok());
        let fresh = Arc::new(CachedHost {
            forwarded: Arc::new(ForwardedElement::of(client, secure, &host, field)),
            host,
        });
        if name.is_some() {
            let _first = self.host.set(Arc::clone(&fresh));
        }
        Ok(fresh)
    }

    /// The instance that `name` means, with the gate of its port, if the first request asked for it by that name
    /// and it still means it.
    pub(super) fn target(
        &self,
        (plane, port): (PlaneIndex, u16),
        name: &InstanceRef,
    ) -> Option<Arc<CachedTarget>> {
        let first = self.target.get()?;
        let is_same = (first.plane, first.port) == (plane, port)
            && first.name == *name
            && first.instance.is_meant_by(name);
        is_same.then(|| Arc::clone(first))
    }

    /// The gateway's name in `Via` where this destination is concerned, if the first request went
    /// there.
    pub(super) fn pseudonym(&self, plane: PlaneIndex, name: &InstanceRef) -> Option<Pseudonym> {
        let first = self.target.get()?;
        (first.plane == plane && first.name == *name).then_some(first.pseudonym)
    }

    /// Caches the first request's instance: the next one most likely goes there, too.
    pub(super) fn remember(
        &self,
        (plane, port): (PlaneIndex, u16),
        (name, pseudonym): (&InstanceRef, Pseudonym),
        instance: Arc<Instance<InstanceStream>>,
        gate: Arc<Gate>,
    ) -> Arc<CachedTarget> {
        let target = Arc::new(CachedTarget {
            plane,
            name: name.clone(),
            port,
            pseudonym,
            instance,
            gate,
        });
        let _first = self.target.set(Arc::clone(&target));
        target
    }
}

/// The one place of a request that names its host; `None` where two could, or none does.
fn only_name<B>(request: &Request<B>) -> Option<&[u8]> {
    let authority = request.uri().authority().map(Authority::as_str);
    let (first, second) = request.first_two(HOST);
    match (authority, first, second) {
        (None, Some(field), None) => Some(field),
        (Some(authority), None, None) if request.version() >= Version::HTTP_2 => {
            Some(authority.as_bytes())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::router::host_of;

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = target.parse().unwrap();
        for host in hosts {
            let value = HeaderValue::from_str(host).unwrap();
            request.headers_mut().append(HOST, value);
        }
        request
    }

    #[test]
    fn the_same_name_is_worked_out_once_and_another_one_anew() {
        let (cache, client) = (ConnectionCache::default(), IpAddr::from([192, 0, 2, 1]));
        let ask = |host| cache.host(&request(Version::HTTP_11, "/", &[host]), client, false);
        let first = ask("a.test").unwrap();
        assert!(Arc::ptr_eq(&first, &ask("a.test").unwrap()));
        assert_eq!(ask("b.test").unwrap().host.as_str(), "b.test");
        assert!(ask("b test").is_err());
    }

    #[test]
    fn what_is_let_go_of_is_worked_out_again_and_the_connection_keeps_its_name() {
        let (mut cache, client) = (ConnectionCache::default(), IpAddr::from([192, 0, 2, 1]));
        let name = cache.client();
        let request = request(Version::HTTP_11, "/", &["a.test"]);
        let first = cache.host(&request, client, false).unwrap();
        cache.forget();
        assert_eq!(Arc::strong_count(&first), 1);
        let second = cache.host(&request, client, false).unwrap();
        assert_eq!((&second.host, cache.client()), (&first.host, name));
    }

    proptest! {
        #[test]
        fn a_cache_never_changes_whom_a_request_is_for(
            requests in prop::collection::vec(
                (
                    prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
                    prop::sample::select(vec!["/", "http://a.test/", "http://b.test:80/"]),
                    prop::collection::vec(
                        prop::sample::select(vec!["a.test", "A.test", "a.test:80", "b.test", "u@a.test", ""]),
                        0..3,
                    ),
                ),
                1..20,
            )
        ) {
            let cache = ConnectionCache::default();
            for (version, target, hosts) in requests {
                let request = request(version, target, &hosts);
                let fresh = host_of(request.version(), request.uri(), request.headers());
                let found = cache.host(&request, IpAddr::from([192, 0, 2, 1]), false);
                prop_assert_eq!(found.map(|cached| cached.host.clone()), fresh);
            }
        }
    }
}
