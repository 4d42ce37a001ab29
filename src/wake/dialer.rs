//! How the engine touches an instance, as a trait so that tests can play the network.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::descriptors;

/// Connections to instances.
pub trait Dialer: Send + Sync + 'static {
    /// What a connection is.
    type Stream: Send + fmt::Debug + 'static;

    /// Opens a connection. The caller keeps the time.
    fn connect(&self, address: SocketAddr)
    -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Asks for `target` with GET on a connection of its own; the response's status.
    fn get(
        &self,
        address: SocketAddr,
        target: &str,
    ) -> impl Future<Output = io::Result<u16>> + Send;
}

/// Over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

// === impl Tcp ===

impl Dialer for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        descriptors::unless_last(TcpStream::connect(address).await?)
    }

    async fn get(&self, address: SocketAddr, target: &str) -> io::Result<u16> {
        let stream = descriptors::unless_last(TcpStream::connect(address).await?)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let request = http::Request::get(target)
            .header(HOST, address.to_string())
            .header(USER_AGENT, "wakegate")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let answered = sender.send_request(request);
        // The connection is driven for as long as the answer's head takes, and no longer.
        tokio::pin!(answered, connection);
        tokio::select! {
            biased;
            response = &mut answered => {
                response.map(|response| response.status().as_u16()).map_err(io::Error::other)
            }
            ended = &mut connection => {
                ended.map_err(io::Error::other)?;
                answered.await.map(|response| response.status().as_u16()).map_err(io::Error::other)
            }
        }
    }
}
