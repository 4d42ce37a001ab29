//! One connection from its first byte to its last.
//!
//! Guarantees: all that comes before a request (a PROXY header, a `ClientHello` and the handshake,
//! HTTP/2's preface) has one deadline, `header_timeout` after the connection was accepted; nothing
//! resets it; whoever speaks HTTP in clear where TLS is spoken is told so, and nothing else is done for it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::address::canonical;
use super::challenge::is_challenge;
use super::clients::Share;
use super::h1::HandedOver;
use super::kept::Kept;
use super::proxy_protocol::{self, Addresses};
use super::service::{Downstream, RawConnection, Service, TlsSession};
use super::serving::Serving;
use super::settings::{ConnectionLimits, ListenerSettings, Tls};
use super::shared::Shared;
use super::{client_hello, h2, http};
use crate::config::{ListenerMode, ServerConfig};
use crate::fleet::PeerName;
use crate::fleet::identity::{ALPN, CallerJudge, judged_name};
use crate::flow::{PeekStream, SendTimeout};
use crate::telemetry::{HandshakeOutcome, Metrics};

/// HTTP/2's first bytes (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection of another member may be idle: who has instances' clients has requests soon.
const MEMBER_IDLE: Duration = Duration::from_secs(900);

/// How often it is looked whether a member that is connected is still believed.
const JUDGED_EVERY: Duration = Duration::from_secs(1);

/// A client's socket, whose first bytes may have been looked at.
type Socket = PeekStream<SendTimeout<TcpStream>>;

/// The kind that a connection turned out to be.
enum Opened {
    Clear(Socket, Downstream, bool),
    Secure(Box<TlsStream<Socket>>, Downstream),
    Member(Box<TlsStream<Socket>>, Downstream, Arc<CallerJudge>),
    Raw(RawConnection),
}

/// A TLS handshake; counted when it is over, however that comes about.
struct Handshake<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: HandshakeOutcome,
}

// === impl Handshake ===

impl<'a> Handshake<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        Self {
            metrics,
            began: Instant::now(),
            outcome: HandshakeOutcome::Failed,
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.metrics.count_handshake(self.outcome, took);
    }
}

/// A socket that was accepted, and what it is served with until it is known what is spoken there.
pub(super) struct Arrived<S, F> {
    /// Makes it one of the runtime's that serves it.
    pub(super) adopt: F,
    pub(super) peer: SocketAddr,
    /// The address where its socket listens.
    pub(super) at: SocketAddr,
    pub(super) settings: Arc<ListenerSettings>,
    pub(super) service: S,
}

/// A connection of which it is known what is spoken there.
struct Begun<S> {
    opened: Opened,
    accepted: Instant,
    peer: SocketAddr,
    service: S,
    share: Option<Share>,
}

/// Serves a connection until it ends or leaves HTTP, and has `kept` for as long.
///
/// Each of its stages is in a box of its own, which is written to at once, and has all that only it needs: an
/// idle connection is to be as small as what it does then.
pub(super) fn serve<S: Service>(
    arrived: Arrived<S, impl FnOnce() -> io::Result<TcpStream> + Send + 'static>,
    shared: Arc<Shared>,
    mut kept: Kept,
) -> impl Future<Output = ()> + Send {
    let config = shared.config.load_full();
    let begun = begin(arrived, Arc::clone(&shared), Arc::clone(&config));
    let begun = Box::into_pin(Box::write(Box::new_uninit(), begun));
    // What an async function is called with would be in its future twice.
    async move {
        let serving = match begun.await {
            // The box that it was in is free before it is waited for.
            Some(begun) => (*begun).serving(&mut kept, &shared, &config),
            None => return,
        };
        // What is spoken there now is none of this task's concern: it ends. Whoever met an error has said so.
        if let Ok(Some(handed_over)) = serving.await {
            handed_over.with(kept);
        }
    }
}

/// All that comes before a request; `None` when it did not come in time.
async fn begin<S: Service>(
    arrived: Arrived<S, impl FnOnce() -> io::Result<TcpStream>>,
    shared: Arc<Shared>,
    config: Arc<ServerConfig>,
) -> Option<Box<Begun<S>>> {
    let Arrived {
        adopt,
        peer,
        at,
        settings,
        service,
    } = arrived;
    let accepted = Instant::now();
    let begun = match adopt() {
        Ok(stream) => open_in_time(stream, (peer, at), &settings, &service, &shared, &config).await,
        Err(error) => Err(error),
    };
    match begun {
        Ok(begun) => begun.map(|(opened, share)| {
            Box::new(Begun {
                opened: *opened,
                accepted,
                peer,
                service,
                share,
            })
        }),
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection did not begin");
            None
        }
    }
}

/// What the connection turned out to be, if it did in time.
async fn open_in_time<S: Service>(
    stream: TcpStream,
    (peer, at): (SocketAddr, SocketAddr),
    settings: &ListenerSettings,
    service: &S,
    shared: &Shared,
    config: &ServerConfig,
) -> io::Result<Option<(Box<Opened>, Option<Share>)>> {
    let trusted = config.trusts(peer.ip());
    let opening = pin!(async {
        let local = match at.ip().is_unspecified() {
            true => canonical(stream.local_addr()?),
            false => at,
        };
        let mut addresses = Addresses {
            client: peer,
            local,
        };
        let stream = SendTimeout::new(stream, config.send_timeout);
        let mut stream = PeekStream::new(stream);
        if settings.proxy_protocol && trusted {
            let header = proxy_protocol::read(&mut stream).await?;
            addresses = header.unwrap_or(addresses);
        }
        // A trusted proxy's own connections are many clients', and so are a member's.
        let is_many = trusted || settings.members.is_some();
        let share = match is_many && addresses.client == peer {
            true => None,
            false => Some(shared.share(addresses.client.ip(), config.max_connections_per_client)?),
        };
        let opened = open(stream, addresses, settings, service, &shared.metrics).await?;
        Ok::<_, io::Error>((Box::new(opened), share))
    });
    let drain_grace = async {
        shared.drain.draining().cancelled().await;
        sleep(config.drain_idle_timeout).await;
    };
    tokio::select! {
        opened = timeout(config.header_timeout, opening) => opened.ok().transpose(),
        () = drain_grace => Ok(None),
    }
}

// === impl Begun ===

impl<S: Service> Begun<S> {
    /// Serves what the connection turned out to be.
    fn serving<'a>(
        self,
        kept: &mut Kept,
        shared: &'a Shared,
        config: &'a ServerConfig,
    ) -> Serving<'a> {
        let Self {
            opened,
            accepted,
            peer,
            service,
            share,
        } = self;
        kept.is_of(share);
        let drain = &shared.drain;
        let own_limits = |from: &Downstream, idle_timeout| ConnectionLimits {
            idle_timeout,
            buffers: shared.buffers.of(from.client.ip()),
            is_of_member: from.peer.is_some(),
        };
        let (idle, h2_idle) = (
            config.idle_timeout_of(peer.ip()),
            config.h2_idle_timeout_of(peer.ip()),
        );
        match opened {
            Opened::Clear(stream, from, true) => {
                let own = own_limits(&from, h2_idle);
                let stream = (stream, accepted);
                let serving = h2::serve(stream, from, service, config, own, drain);
                Serving::of(serving.map(move |served| over(peer, served)))
            }
            Opened::Clear(stream, from, false) => {
                let own = own_limits(&from, idle);
                http::serve_h1(stream, from, service, config, own, drain)
            }
            Opened::Secure(stream, from) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                let own = own_limits(&from, h2_idle);
                let stream = (stream, accepted);
                let serving = h2::serve(stream, from, service, config, own, drain);
                Serving::of(serving.map(move |served| over(peer, served)))
            }
            Opened::Member(stream, from, judge) => {
                let own = own_limits(&from, MEMBER_IDLE);
                let chain = stream.get_ref().1.peer_certificates();
                let leaf = chain.and_then(|chain| Some(chain.first()?.clone().into_owned()));
                let stream = (stream, accepted);
                Serving::of(async move {
                    let served = tokio::select! {
                        served = h2::serve(stream, from, service, config, own, drain) => served,
                        reason = not_believed(&judge, leaf) => Err(io::Error::other(reason)),
                    };
                    over(peer, served)
                })
            }
            Opened::Secure(stream, from) => {
                let own = own_limits(&from, idle);
                http::serve_h1(stream, from, service, config, own, drain)
            }
            Opened::Raw(raw) => Serving::of(async move {
                let buffers = shared.buffers.of(raw.from.client.ip());
                drain
                    .cut()
                    .run_until_cancelled(service.proxy_tcp(raw, buffers))
                    .await;
                Ok(None)
            }),
        }
    }
}

/// How a connection has ended that leaves HTTP never.
fn over(peer: SocketAddr, served: io::Result<()>) -> io::Result<Option<HandedOver>> {
    if let Err(error) = &served {
        // A client's mistake or departure.
        tracing::debug!(%peer, %error, "connection ended");
    }
    served.map(|()| None)
}

/// Reads as much as it takes to know the kind of a connection.
async fn open<S: Service>(
    mut stream: Socket,
    Addresses { client, local }: Addresses,
    settings: &ListenerSettings,
    service: &S,
    metrics: &Metrics,
) -> io::Result<Opened> {
    let from = |tls| Downstream {
        tls,
        is_asking: settings.mode == ListenerMode::Wake,
        ..Downstream::in_clear(client, local)
    };
    if let Some(members) = &settings.members {
        let greeting = greet_member(stream, &members.config, metrics);
        let (stream, name) = Box::pin(greeting).await?;
        let peer = Some(Arc::new(name));
        let from = Downstream { peer, ..from(None) };
        return Ok(Opened::Member(stream, from, Arc::clone(&members.judge)));
    }
    match (&settings.mode, &settings.tls) {
        (ListenerMode::Tcp { host }, _) => Ok(Opened::Raw(RawConnection {
            stream,
            host: Arc::clone(host),
            tls: false,
            from: from(None),
        })),
        (ListenerMode::TlsPassthrough, _) => {
            let host = Box::pin(client_hello::read(&mut stream))
                .await?
                .ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "the client named no host")
                })?;
            Ok(Opened::Raw(RawConnection {
                stream,
                host,
                tls: true,
                from: from(None),
            }))
        }
        (ListenerMode::Http | ListenerMode::Wake, None) => {
            let h2 = speaks_h2(&mut stream).await?;
            Ok(Opened::Clear(stream, from(None), h2))
        }
        (ListenerMode::Http | ListenerMode::Wake, Some(tls)) => {
            let counted = Handshake::new(metrics);
            if begins_in_clear(&mut stream).await? {
                // It is counted as the handshake that did not come.
                drop(counted);
                let h2 = speaks_h2(&mut stream).await?;
                let from = Downstream {
                    is_misplaced: true,
                    ..from(None)
                };
                return Ok(Opened::Clear(stream, from, h2));
            }
            let from_where = (client.ip(), local.port());
            let (stream, session) =
                Box::pin(handshake(stream, tls, service, from_where, counted)).await?;
            Ok(Opened::Secure(stream, from(Some(Box::new(session)))))
        }
    }
}

/// Agrees on TLS; `service` is told of the host that the client names.
async fn handshake<S: Service>(
    stream: Socket,
    tls: &Tls,
    service: &S,
    (client, port): (IpAddr, u16),
    mut handshake: Handshake<'_>,
) -> io::Result<(Box<TlsStream<Socket>>, TlsSession)> {
    let client_hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let sni: Option<Arc<str>> = client_hello.client_hello().server_name().map(Arc::from);
    if is_challenge(&client_hello.client_hello()) {
        // Where there are none, the handshake finds no protocol in common.
        let config = tls.challenges.as_ref().map(Arc::clone);
        let config = config.unwrap_or_else(|| tls.config.config(&client_hello.client_hello()));
        let mut stream = client_hello.into_stream(config).await?;
        handshake.outcome = HandshakeOutcome::Full;
        stream.shutdown().await?;
        return Err(io::Error::other("a challenge was answered"));
    }
    if let Some(sni) = &sni {
        service.on_client_hello(sni, client, port);
        if tls.certificates.is_acme() {
            service.before_handshake(sni, client, port).await;
        }
    }
    let config = tls.config.config(&client_hello.client_hello());
    let stream = client_hello.into_stream(config).await?;
    handshake.outcome = match stream.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => HandshakeOutcome::Resumed,
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => {
            HandshakeOutcome::Full
        }
    };
    drop(handshake);
    let chain = stream.get_ref().1.peer_certificates();
    let session = TlsSession {
        certificates: Arc::clone(&tls.certificates),
        sni,
        client: chain.and_then(|chain| client_certificate(chain.first()?)),
    };
    Ok((Box::new(stream), session))
}

/// Agrees on TLS with another member of the fleet, who has shown who it is.
async fn greet_member(
    stream: Socket,
    config: &Arc<rustls::ServerConfig>,
    metrics: &Metrics,
) -> io::Result<(Box<TlsStream<Socket>>, PeerName)> {
    let mut handshake = Handshake::new(metrics);
    let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
    let session = stream.get_ref().1;
    let name = session
        .peer_certificates()
        .and_then(|chain| judged_name(chain.first()?));
    let speaks_it = session.alpn_protocol() == Some(ALPN);
    let Some(name) = name.filter(|_| speaks_it) else {
        return Err(io::Error::other("it speaks no protocol of members"));
    };
    handshake.outcome = HandshakeOutcome::Full;
    Ok((Box::new(stream), name))
}

/// Ends when a member that is connected would not be let in any more; why not.
async fn not_believed(judge: &CallerJudge, leaf: Option<CertificateDer<'static>>) -> String {
    let Some(leaf) = leaf else {
        return "it shows no certificate".to_owned();
    };
    loop {
        sleep(JUDGED_EVERY).await;
        if let Err(reason) = judge.judge(&leaf) {
            tracing::warn!(%reason, code = "peer_refused",
                "the connection of a member of the fleet is closed: it is not believed any more");
            return reason;
        }
    }
}

/// A structured field's byte sequence (RFC 9440 §2.1, RFC 8941 §3.3.5).
fn client_certificate(leaf: &CertificateDer<'_>) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!(":{}:", BASE64.encode(leaf))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether the client begins with a letter, as a method does and no record of TLS (RFC 8446 §5.1).
async fn begins_in_clear(stream: &mut Socket) -> io::Result<bool> {
    if stream.peeked().is_empty() {
        stream.peek_more(4096).await?;
    }
    Ok(stream.peeked().first().is_some_and(u8::is_ascii_alphabetic))
}

/// Whether the client begins with HTTP/2's preface ("prior knowledge", RFC 9113 §3.3).
async fn speaks_h2(stream: &mut Socket) -> io::Result<bool> {
    loop {
        let peeked = stream.peeked();
        let start = peeked.get(..PREFACE.len()).unwrap_or(peeked);
        if !PREFACE.starts_with(start) {
            return Ok(false);
        }
        if start.len() == PREFACE.len() {
            return Ok(true);
        }
        stream.peek_more(4096).await?;
    }
}
