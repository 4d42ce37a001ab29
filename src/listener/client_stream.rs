//! What can be known of a client that has nothing more to say.
//!
//! Guarantees: a reset of its connection is noticed, although nothing can be read of it any more.
//! Whether a client that has closed its side still listens, TCP says only when something is sent;
//! that it cannot send what it still owes is certain before all that has come is read.

use std::fmt;
use std::future::pending;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::flow::{PeekStream, SendTimeout};

/// More than rustls has of bytes that were received and not read.
const IN_TLS: usize = 64 * 1024;

/// A client's connection.
pub(super) trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Its socket, if it has one.
    fn socket(&self) -> Option<BorrowedFd<'_>>;

    /// Bytes that may have come and are not in the socket any more, nor were they read.
    fn hidden(&self) -> usize;
}

/// Whether a client has said its last, or its connection was reset, whatever of it is still to be read.
pub(super) fn has_left(stream: &impl ClientStream) -> bool {
    let Some(socket) = stream.socket() else {
        return false;
    };
    let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut polled = [PollFd::new(&socket, closed)];
    let has_ended = poll(&mut polled, Some(&Timespec::default())).is_ok();
    has_ended && polled[0].revents().intersects(closed)
}

/// Whether a client has said its last, and less has come of it than it owes.
pub(super) fn has_left_owing(stream: &impl ClientStream, owed: u64) -> bool {
    let Some(socket) = stream.socket() else {
        return false;
    };
    // After its last word the count grows no more. Encrypted bytes are more than what is in them.
    has_left(stream)
        && ioctl_fionread(socket).is_ok_and(|come| come + (stream.hidden() as u64) < owed)
}

/// Watches a connection for a reset.
pub(super) struct ResetWatch(Pin<Box<dyn Future<Output = ()> + Send>>);

// === impl ResetWatch ===

impl ResetWatch {
    /// The watch of a connection. It has a descriptor of its own: that of the connection is waited
    /// on for reading and writing.
    pub(super) fn of(stream: &impl ClientStream) -> Self {
        let socket = stream.socket().and_then(|it| it.try_clone_to_owned().ok());
        let socket = socket.map(std::net::TcpStream::from);
        let socket = socket.and_then(|it| TcpStream::from_std(it).ok());
        Self(Box::pin(async move {
            let is_reset = match &socket {
                Some(socket) => socket.ready(Interest::ERROR).await.is_ok(),
                None => false,
            };
            if !is_reset {
                // Then a write will tell.
                pending::<()>().await;
            }
        }))
    }

    /// Ready when there was one.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResetWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetWatch")
    }
}

impl ClientStream for PeekStream<SendTimeout<TcpStream>> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.get_ref().get_ref().as_fd())
    }

    fn hidden(&self) -> usize {
        self.peeked().len()
    }
}

impl<S: ClientStream> ClientStream for Box<TlsStream<S>> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.get_ref().0.socket()
    }

    fn hidden(&self) -> usize {
        self.get_ref().0.hidden() + IN_TLS
    }
}

#[cfg(test)]
impl ClientStream for tokio::io::DuplexStream {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn hidden(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_cannot_send_what_it_owes_has_left_though_nothing_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut server = PeekStream::new(SendTimeout::new(server, Duration::from_secs(60)));
        client.write_all(&[b'x'; 1000]).await.unwrap();
        server.get_ref().get_ref().readable().await.unwrap();
        assert!(!has_left_owing(&server, 5000), "it may send the rest");
        client.shutdown().await.unwrap();
        while !has_left_owing(&server, u64::MAX) {
            tokio::task::yield_now().await;
        }
        assert!(!has_left_owing(&server, 1000), "all of it has come");
        assert!(has_left_owing(&server, 1001));
        assert_eq!(server.read(&mut [0; 400]).await.unwrap(), 400);
        assert!(!has_left_owing(&server, 600) && has_left_owing(&server, 601));
    }

    #[tokio::test]
    async fn a_reset_after_the_clients_last_word_is_noticed_and_its_last_word_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut server = PeekStream::new(SendTimeout::new(server, Duration::from_secs(60)));
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        let mut watch = ResetWatch::of(&server);
        let is_over = poll_fn(|cx| Poll::Ready(watch.poll_reset(cx).is_ready())).await;
        assert!(!is_over, "it may still read");
        server.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        client.set_zero_linger().unwrap();
        drop(client);
        poll_fn(|cx| watch.poll_reset(cx)).await;
    }
}
