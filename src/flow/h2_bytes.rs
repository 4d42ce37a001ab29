//! The bytes of a stream of HTTP/2 that carries another protocol.
//!
//! Guarantees: the other side's window grows for what was taken alone; a stream that the other side has
//! reset is an error and not an end.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::ReadBuf;

/// An error of a stream as one of a connection.
pub fn stream_error(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or(io::ErrorKind::BrokenPipe.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

/// The error of a stream that the other side has reset.
pub fn poll_not_reset<B: Buf>(send: &mut SendStream<B>, cx: &mut Context<'_>) -> io::Result<()> {
    match send.poll_reset(cx) {
        Poll::Pending => Ok(()),
        Poll::Ready(reset) => {
            Err(reset.map_or_else(stream_error, |reason| stream_error(reason.into())))
        }
    }
}

/// Waits until something can be sent; how many bytes, `most` at most.
pub fn poll_window<B: Buf>(
    send: &mut SendStream<B>,
    most: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    send.reserve_capacity(most);
    while send.capacity() == 0 {
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(stream_error(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    Poll::Ready(Ok(send.capacity().min(most)))
}

/// Reads into `buffer`, from what has come before and was not read, `rest`, first. `went` hears of what
/// is taken off the stream.
pub fn poll_read_stream(
    receive: &mut RecvStream,
    rest: &mut Bytes,
    buffer: &mut ReadBuf<'_>,
    cx: &mut Context<'_>,
    went: impl Fn(usize),
) -> Poll<io::Result<()>> {
    while rest.is_empty() {
        match ready!(receive.poll_data(cx)) {
            Some(Ok(data)) => {
                went(data.len());
                *rest = data;
            }
            Some(Err(error)) => return Poll::Ready(Err(stream_error(error))),
            None => return Poll::Ready(Ok(())),
        }
    }
    let count = rest.len().min(buffer.remaining());
    buffer.put_slice(&rest.split_to(count));
    // A stream that is over needs no window.
    let _over = receive.flow_control().release_capacity(count);
    Poll::Ready(Ok(()))
}
