//! Phase 1, route: the host, the route and the client of a request, and whether it may ask at all.
//!
//! Guarantees: whatever is wrong with a request by itself is refused here, before its instance is
//! looked up: its host, a connection that is not for this host, its framing, its target, a path
//! that has no route, or missing TLS. What later phases need to know of its head is
//! in the [`Target`], so that none of them asks again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::time::Instant;

use super::active_routes::{ActiveRoute, RouteState, tls_of};
use super::admission::Admission;
use super::auth::Identity;
use super::client_address::came_over_tls;
use super::connection_cache::CachedHost;
use super::context::{Arrival, RequestContext};
use super::error::ProxyError;
use super::gateway::Gateway;
use super::https_redirect::HttpsRedirect;
use super::path_verdict::PathVerdict;
use super::peer_facts::PeerFacts;
use super::ports::{choose_port, port_of_host};
use super::preflight::Preflight;
use super::request_body::min_body_rate;
use super::request_deadline::client_timeout;
use super::request_log::RequestLog;
use super::request_target::{path_behind, routed_path};
use super::switching::Switch;
use super::tunnel_places::TunnelPlace;
use crate::client::{ClientBody, Request};
use crate::config::ViaConfig;
use crate::instance_tls::TlsHop;
use crate::names::{Hostname, PlaneIndex};
use crate::router::{AuthorityError, Match, PathReadings, RouteError};
use crate::upstream::{Field, Fields, Pseudonym, RequestBody};
use hypeman::{ControlPlane, InstanceRef};

/// The longest that another member may say that a request is held.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The instance that a request, or a connection, goes to, by its route.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) route: Arc<ActiveRoute>,
    /// The instance's name or id.
    pub(super) instance: InstanceRef,
    /// The control plane that has the instance.
    pub(super) plane: PlaneIndex,
    /// The instance's port; 0 until a request has said which.
    pub(super) port: u16,
    /// The TLS that it goes over to its instance.
    pub(super) tls: Option<TlsHop>,
    /// The client that all limits are about.
    pub(super) client: IpAddr,
    /// The longest that route and client want to wait.
    pub(super) timeout: Duration,
    /// The end of that wait.
    pub(super) deadline: Instant,
}

/// The host, the instance and the client of a request, and what else its head decides.
pub(super) struct Target {
    pub(super) destination: Destination,
    /// The host, with the forwarding fields of requests for it.
    pub(super) host: Arc<CachedHost>,
    /// Who has sent it, once that has been judged.
    pub(super) identity: Identity,
    /// What the route's rules say about the path.
    pub(super) path: PathVerdict,
    /// The fields that the request has.
    pub(super) fields: Fields,
    /// Whether the peer's own forwarding fields are believed.
    pub(super) is_trusted: bool,
    /// Whether the client came over TLS, by its own connection or by a trusted peer's word.
    pub(super) is_secure: bool,
    /// The client's wish to leave HTTP.
    pub(super) switch: Option<Switch>,
    /// Its client's place for that, where those are counted.
    pub(super) tunnel_place: Option<TunnelPlace>,
    /// The CORS preflight that the request is, where the gateway remembers those.
    pub(super) preflight: Option<Box<Preflight>>,
    /// The gateway's name in `Via`, and in which messages it is.
    pub(super) pseudonym: Pseudonym,
    pub(super) via: ViaConfig,
}

// === impl Destination ===

impl Destination {
    /// The route's rules for waking.
    pub(super) fn admission(&self) -> &Admission {
        &self.route.state().admission
    }
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Finds what a request asks for.
    pub(super) fn route(
        &self,
        mut request: Request<Option<ClientBody>>,
        mut fields: Fields,
        arrival: &Arrival<'_>,
        context: &RequestContext,
        log: &mut RequestLog,
    ) -> Result<(Target, Request<RequestBody>), ProxyError> {
        let peer = context.peer;
        let host = arrival.cache.host(&request, peer, arrival.secure)?;
        log.host = Some(host.host.clone());
        if !(arrival.covers)(host.host.as_str()) {
            return Err(ProxyError::Misdirected);
        }
        let facts = arrival.facts();
        let switch = match facts {
            None => Switch::of(&mut request, fields)?,
            Some(_) => Switch::of_peer(&mut request)?,
        };
        if switch.is_some() {
            fields = Fields::of_request(&request);
        }
        let is_trusted = context.terms.is_trusted;
        let path = PathReadings::of(routed_path(&request)?);
        let found = self.find_route(&host.host, &path, arrival, log)?;
        let (
            Match {
                route,
                mut instance,
            },
            path,
        ) = found;
        if let Some(facts) = facts {
            instance = facts.instance.clone();
        }
        let tls = tls_of(&route, &host.host)?;

        let config = route.config();
        if path.is_hook || is_hook_behind(&route, facts, request.uri())? {
            // The gateway alone calls it.
            return Err(RouteError::NoRoute.into());
        }
        let rate = request.body().is_some().then(|| {
            let server = self.parts.server.load();
            min_body_rate(&request, fields, &server, &config.limits)
        });
        let request = request.map(|body| RequestBody::new(body, rate.unwrap_or_default()));
        log.body_stats = request.body().body_stats();
        let forwarding = &config.forwarding;
        let has_forwarding = |field| fields.has(field) || fields.has(Field::Forwarded);
        let is_secure = arrival.secure
            || is_trusted
                && has_forwarding(Field::XForwardedProto)
                && came_over_tls(request.headers());
        if forwarding.redirect_http.enabled && !is_secure && facts.is_none() {
            let own = (!is_trusted).then(|| self.tls_listeners.port(arrival.local));
            let named = forwarding.redirect_http.port;
            let named = named.or_else(|| self.parts.server.load().https_port);
            let port = named.or(own.flatten());
            let redirect = HttpsRedirect::new(request.method(), &host.host, port, request.uri());
            return Err(ProxyError::Redirect(Box::new(redirect)));
        }
        let plane = self.plane_of(config, &instance, facts)?;
        let pseudonym = arrival.cache.pseudonym(plane, &instance);
        let pseudonym = pseudonym.unwrap_or_else(|| self.pseudonyms.of(plane, &instance));
        if fields.has(Field::Via) && pseudonym.is_in(request.headers()) {
            return Err(ProxyError::ForwardLoop);
        }
        let timeout = self.timeout_of(&route, arrival);
        let timeout = client_timeout(timeout, &request, fields);
        let preflight = match config.admission.preset {
            Some(_) => Preflight::of(&host.host, &request).map(Box::new),
            None => None,
        };
        let target = Target {
            destination: Destination {
                port: facts.map_or(config.port, |facts| facts.port),
                route,
                instance,
                plane,
                tls,
                client: context.client,
                timeout,
                deadline: context.started + timeout,
            },
            host,
            identity: Identity::default(),
            path,
            fields,
            is_trusted,
            is_secure,
            switch,
            tunnel_place: None,
            preflight,
            pseudonym,
            via: context.terms.via,
        };
        Ok((target, request))
    }

    /// The same for a connection for `host` that is passed on as it is.
    pub(super) fn route_connection(
        &self,
        host: &str,
        arrival: &Arrival<'_>,
        context: &RequestContext,
        log: &mut RequestLog,
    ) -> Result<Destination, ProxyError> {
        let host = Hostname::parse(host).map_err(AuthorityError::from)?;
        log.host = Some(host.clone());
        let path = PathReadings::of("/");
        let found = self.find_route(&host, &path, arrival, log)?;
        let (
            Match {
                route,
                mut instance,
            },
            _,
        ) = found;
        let port = match arrival.facts() {
            Some(facts) => {
                instance = facts.instance.clone();
                facts.port
            }
            None => {
                let table = self.active_routes.load();
                if table.asks_for_auth(&host, arrival.local.port()) {
                    return Err(ProxyError::Forbidden);
                }
                port_of_host(&route, host.as_str())?
            }
        };
        let timeout = self.timeout_of(&route, arrival);
        Ok(Destination {
            port,
            plane: self.plane_of(route.config(), &instance, arrival.facts())?,
            route,
            instance,
            // It is passed on as it is.
            tls: None,
            client: context.client,
            timeout,
            deadline: context.started + timeout,
        })
    }

    /// How long a request is held at most. Where only the member that has passed it on has a route for it,
    /// that one says so.
    fn timeout_of(&self, route: &Arc<ActiveRoute>, arrival: &Arrival<'_>) -> Duration {
        let own = route.config().wake.timeout;
        let (Some(facts), Some(fleet)) = (arrival.facts(), self.fleet.get()) else {
            return own;
        };
        let default = fleet.default_route(route.config().forwarding.protocol);
        match default.is_some_and(|default| Arc::ptr_eq(default, route)) {
            true => facts.timeout.min(LONGEST),
            false => own,
        }
    }

    fn find_route(
        &self,
        host: &Hostname,
        path: &PathReadings<'_>,
        arrival: &Arrival<'_>,
        log: &mut RequestLog,
    ) -> Result<(Match<Arc<RouteState>>, PathVerdict), ProxyError> {
        let table = self.active_routes.load();
        let found = table.find(host, path, arrival.local.port());
        let default = |facts: &PeerFacts| {
            let fleet = self.fleet.get()?;
            fleet.default_route(facts.protocol).cloned()
        };
        let found = match (found, arrival.facts()) {
            // Another member has a route for it; this one only has the instance.
            (Err(error), Some(facts)) => Match {
                route: match facts.says_more {
                    true => return Err(ProxyError::PolicyNotKnown),
                    false => default(facts).ok_or(error)?,
                },
                instance: facts.instance.clone(),
            },
            (found, _) => found?,
        };
        log.route = Some(Arc::clone(&found.route));
        let verdict = found.route.state().policy.path_rules.judge(path);
        Ok((found, verdict.map_err(RouteError::from)?))
    }
}

/// Whether what the instance is sent is a hook's path, once the route's own is taken off.
fn is_hook_behind(
    route: &ActiveRoute,
    facts: Option<&PeerFacts>,
    uri: &Uri,
) -> Result<bool, RouteError> {
    let config = route.config();
    let prefix = match facts {
        None => config.forwarding.strip_path.then(|| config.path()),
        Some(facts) => facts.strip.as_deref(),
    };
    let Some(path) = path_behind(uri, prefix) else {
        return Ok(false);
    };
    let rules = &route.state().policy.path_rules;
    Ok(rules.is_hook(&PathReadings::of(&path))?)
}

// === impl Target ===

impl Target {
    /// Finds out which port the request is for, where its route lets it choose.
    pub(super) fn choose_port<B>(&mut self, request: &mut Request<B>) -> Result<(), ProxyError> {
        let Destination { route, port, .. } = &mut self.destination;
        if route.config().ports.is_none() {
            return Ok(());
        }
        let (host, may_switch) = (self.host.host.as_str(), self.switch.is_some());
        let (chosen, subprotocol) = choose_port(route, host, may_switch, request)?;
        *port = chosen;
        self.identity.subprotocol = self.identity.subprotocol.take().or(subprotocol);
        Ok(())
    }
}
