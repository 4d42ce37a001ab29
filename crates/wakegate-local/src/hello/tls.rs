//! TLS for the demo server, as an application that terminates its own would have it.
//!
//! Guarantees: a client whose handshake fails takes nobody else's place.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

/// Handshakes that are over and not served yet.
const READY: usize = 64;

/// A socket whose connections have had their handshake.
pub(super) struct Secured {
    address: io::Result<SocketAddr>,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    _handshakes: TaskTracker,
}

/// The configuration that the environment names, if it does.
pub(super) fn from_environment(
    variable: impl Fn(&'static str) -> Option<String>,
) -> io::Result<Option<Arc<ServerConfig>>> {
    let files = variable("HELLO_TLS_CERT").zip(variable("HELLO_TLS_KEY"));
    let Some((cert, key)) = files else {
        return Ok(None);
    };
    let (cert, key) = (PathBuf::from(cert), PathBuf::from(key));
    let chain = CertificateDer::pem_file_iter(cert).map_err(io::Error::other)?;
    let chain = chain
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    Ok(Some(Arc::new(config)))
}

// === impl Secured ===

impl Secured {
    pub(super) fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        let (address, acceptor) = (listener.local_addr(), TlsAcceptor::from(config));
        let (done, ready) = mpsc::channel(READY);
        let handshakes = TaskTracker::new();
        let tracker = handshakes.clone();
        handshakes.spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tracker.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // The server has ended.
                        let _gone = done.send((stream, peer)).await;
                    }
                });
            }
        });
        Self {
            address,
            ready,
            _handshakes: handshakes,
        }
    }
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // Nobody accepts any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.address.as_ref();
        address
            .copied()
            .map_err(|error| io::Error::from(error.kind()))
    }
}
