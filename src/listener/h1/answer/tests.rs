//! Responses whose body breaks while their client is slow.

use std::future::poll_fn;
use std::net::Ipv4Addr;

use http::Version;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;

use super::*;
use crate::flow::BufferBudget;

/// Takes all at once, and is slow to flush it: as TLS is.
#[derive(Default)]
struct SlowFlush {
    written: Vec<u8>,
    has_waited: bool,
}

impl AsyncWrite for SlowFlush {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        self.has_waited = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.has_waited, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn broken() -> BoxBody<Bytes, io::Error> {
    let parts = [
        Ok(Frame::data(Bytes::from_static(b"abc"))),
        Err(io::ErrorKind::BrokenPipe.into()),
    ];
    BoxBody::new(StreamBody::new(futures_util::stream::iter(parts)))
}

#[tokio::test]
async fn a_body_that_breaks_is_never_ended_however_slow_its_client_is() {
    let buffers = BufferBudget::new(1 << 20).of(Ipv4Addr::LOCALHOST.into());
    for (version, ends_with_connection) in [(Version::HTTP_11, false), (Version::HTTP_10, true)] {
        let audience = Audience {
            version,
            is_head: false,
            is_last: false,
        };
        let mut answer = Answer::new(Response::new(broken()), audience, false);
        assert_eq!(answer.ends_with_connection(), ends_with_connection);
        let mut stream = SlowFlush::default();
        let written = poll_fn(|cx| answer.poll_write(&mut stream, &buffers, cx)).await;
        assert!(written.is_err(), "{version:?}");
        let text = String::from_utf8(stream.written).unwrap();
        assert!(text.contains("abc"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    }
}
