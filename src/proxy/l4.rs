//! Connections that are passed on as they are: TLS that the instance terminates, and anything else.
//!
//! Guarantees: such a connection wakes, waits and is refused like a request, by the same limits;
//! its first bytes stay unread by the instance until it is ready; each side's end is passed on to
//! the other; one that was parked and is lost ends with a reset; it ends with its instance's epoch or with the gateway; its one line says what was
//! carried, and who ended it.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::context::{Arrival, RawKind, RequestContext, ServerTerms};
use super::dispatch::{Sent, Transport, dispatch};
use super::error::ProxyError;
use super::error_response;
use super::gateway::Gateway;
use super::parking::Parking;
use super::request_log::{Kind, RequestLog};
use super::transaction::Transaction;
use super::wake_info::WakeInfo;
use crate::config::ViaConfig;
use crate::flow::Reset;
use crate::hold::Slot;
use crate::instance_tls::InstanceStream;
use crate::names::RequestId;
use crate::telemetry::TunnelEnd;
use crate::upstream::{ForwardError, Hop, LeasedStream, TunnelRules, Upstream, carry};
use crate::wake::{Endpoint, OpenConnection};
use hypeman::ControlPlane;

/// What a client of TLS is sent instead of a handshake (RFC 8446 §6): a fatal alert, "internal
/// error" or "unrecognized name".
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// Opens a connection to the instance for a client's connection.
pub(super) struct Opener(Arc<Upstream>);

impl Opener {
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        Self(Arc::clone(upstream))
    }
}

impl Transport for Opener {
    type Stream = InstanceStream;
    type Request = ();
    type Response = LeasedStream;

    async fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(InstanceStream, OpenConnection)>,
        (): &mut (),
        _now: Instant,
    ) -> Result<LeasedStream, ForwardError> {
        let connected = self.0.connect(endpoint, hop, given).await;
        connected.map_err(ForwardError::Connect)
    }

    fn may_repeat(&self, (): &()) -> bool {
        true
    }

    fn status(&self, _: &LeasedStream) -> u16 {
        200
    }
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Passes a connection for `host` on to its instance, until it ends.
    pub async fn proxy_tcp(
        self: &Arc<Self>,
        mut client: impl AsyncRead + AsyncWrite + Reset + Unpin + Send,
        host: &str,
        kind: RawKind,
        arrival: &Arrival<'_>,
    ) {
        let mut transaction = Transaction::new(
            &self.parts,
            Kind::Connection(kind),
            (
                arrival.client.ip(),
                arrival.client.ip(),
                // Nothing of either is said on it.
                ServerTerms {
                    is_trusted: false,
                    via: ViaConfig::Off,
                },
            ),
            RequestId::generate(),
            None,
        );
        let about = (host, kind);
        let result = self.proxy_tcp_inner(&mut client, about, arrival, &mut transaction);
        let Err(error) = result.await else {
            return;
        };
        let description = error_response::describe(&error);
        let Transaction { context, log, .. } = &mut transaction;
        log.status = description.status.as_u16();
        log.error = Some(description.code);
        tracing::debug!(request = %context.request_id, %error, host, "refused");
        if kind == RawKind::Tls {
            let is_unknown = matches!(error, ProxyError::Route(_) | ProxyError::Authority(_));
            let alert = match is_unknown {
                true => UNRECOGNIZED_NAME,
                false => INTERNAL_ERROR,
            };
            // A client that has gone does not need it.
            let _sent = client.write_all(&[21, 3, 3, 0, 2, 2, alert]).await;
        }
        let _sent = client.shutdown().await;
    }

    /// The phases of a connection: those of a request that concern it, and the passing on.
    async fn proxy_tcp_inner(
        self: &Arc<Self>,
        client: &mut (impl AsyncRead + AsyncWrite + Reset + Unpin + Send),
        (host, kind): (&str, RawKind),
        arrival: &Arrival<'_>,
        transaction: &mut Transaction,
    ) -> Result<(), ProxyError> {
        let Transaction {
            context, wake, log, ..
        } = transaction;
        let mut destination = self.route_connection(host, arrival, context, log)?;
        let config = Arc::clone(destination.route.config());
        let _place = self.tunnel_places.take(&config, destination.client)?;
        let mut rules = TunnelRules::of(&config.tunnel, false);
        if let Some(elsewhere) = self.connection_elsewhere(&destination) {
            let connecting =
                self.connect_by_peer(elsewhere, &destination, kind, arrival, context, log);
            // In a box: most gateways have no peers.
            if let Some((stream, may_park)) = Box::pin(connecting).await? {
                if may_park {
                    // Whoever has parked it knows for how long it is idle.
                    rules.idle = None;
                }
                // What ends the instance's epoch ends the stream.
                let passing = self.pass_on(client, stream, None, rules, (context, *wake), log);
                let is_broken = passing.await;
                if is_broken && may_park {
                    client.reset_when_closed();
                }
                return Ok(());
            }
            destination.plane = self.own_plane(&config, &destination.instance);
        }
        let resolved = self.resolve(&destination, arrival, log).await?;
        let look_up = self.look_up_of(&destination, arrival.from_peer);
        let mut pending = self.pending_connection(&destination, &resolved, &look_up);
        let admitted = pending.admit(wake).await?;
        let opener = Opener::new(&self.parts.upstream);
        let sent = dispatch(&opener, &mut pending, arrival, admitted, &mut (), wake, log).await?;
        let Sent {
            response,
            endpoint,
            slot,
        } = sent;
        let of = (&resolved, &pending.resolved.instance);
        let may_wake = pending.may_wake;
        let park = Parking::of(self, &destination, of, (may_wake, None), None);
        if let Some(park) = park {
            let mut park = park.counting(arrival.buffers.cloned());
            let (carried, tunnels) = (log.carry(context, *wake), &self.parts.tunnels);
            let place = (&endpoint, slot);
            let carrying = park.carry(&mut *client, response, rules, &carried, place);
            let parted = carrying.await;
            let is_broken = parted.is_broken();
            let left = parted.say().await;
            if is_broken {
                client.reset_when_closed();
            }
            tunnels.spawn(park.leave(left));
            return Ok(());
        }
        let place = Some((&endpoint, slot));
        let passing = self.pass_on(client, response, place, rules, (context, *wake), log);
        let _is_broken = passing.await;
        Ok(())
    }

    /// Passes bytes on both ways, until both sides have ended, or the instance's epoch or the
    /// gateway ends, or the route's rules say so; whether the instance's side has broken off.
    async fn pass_on(
        &self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        instance: impl AsyncRead + AsyncWrite + Unpin + Send,
        place: Option<(&Endpoint, Slot)>,
        rules: TunnelRules,
        (context, wake): (&RequestContext, WakeInfo),
        log: &mut RequestLog,
    ) -> bool {
        let carried = log.carry(context, wake);
        let stop = &self.parts.cut;
        let endpoint = place.as_ref().map(|(endpoint, _)| *endpoint);
        let farewell = carry(client, instance, rules, &carried, (None, endpoint), stop).await;
        drop(place);
        farewell.say(endpoint).await;
        carried.ended_by() == TunnelEnd::Instance && !carried.is_complete()
    }
}
