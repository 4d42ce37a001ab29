use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio_util::task::TaskTracker;

use super::*;

const DATA: u8 = 0x0;
const ALL: usize = 1 << 20;

/// A response of [`ALL`] bytes: its end at the instance, and the gateway's.
async fn response(tasks: &TaskTracker) -> (SendStream<Bytes>, RecvStream) {
    let (here, there) = tokio::io::duplex(1 << 20);
    let serving = tasks.spawn(async move {
        let mut builder = h2::server::Builder::new();
        builder.max_send_buffer_size(ALL);
        let mut connection = builder
            .handshake::<DuplexStream, Bytes>(there)
            .await
            .unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let stream = respond.send_response(Response::new(()), false).unwrap();
        (connection, stream)
    });
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(1 << 24);
    let here = Windowed::new(here);
    let (sender, connection) = builder.handshake::<_, Bytes>(here).await.unwrap();
    tasks.spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::get("http://a.test/").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let (mut connection, stream) = serving.await.unwrap();
    tasks.spawn(async move {
        let _kept = sender;
        while connection.accept().await.is_some() {}
    });
    (stream, answer.await.unwrap().into_body())
}

/// What may be sent now, once it is not `before`.
async fn window(stream: &mut SendStream<Bytes>, before: usize) -> usize {
    stream.reserve_capacity(ALL);
    while stream.capacity() == before {
        poll_fn(|cx| stream.poll_capacity(cx))
            .await
            .unwrap()
            .unwrap();
    }
    stream.capacity()
}

async fn take(body: &mut RecvStream, bytes: usize) {
    let mut taken = 0;
    while taken < bytes {
        let data = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        taken += data.len();
    }
    assert_eq!(taken, bytes);
}

#[tokio::test]
async fn little_comes_of_a_response_until_more_than_two_frames_were_taken_and_then_much() {
    let tasks = TaskTracker::new();
    let (mut stream, mut body) = response(&tasks).await;
    let first = window(&mut stream, 0).await;
    assert_eq!(first, FIRST as usize);
    stream.send_data(vec![0; first].into(), false).unwrap();
    // Two frames are what a client that takes nothing makes the gateway read.
    take(&mut body, 2 * FRAME as usize).await;
    tokio::task::yield_now().await;
    assert_eq!(stream.capacity(), 0);
    take(&mut body, first - 2 * FRAME as usize).await;
    let then = window(&mut stream, 0).await;
    assert_eq!(then, WINDOW as usize);
    // It is the library's own from then on.
    let mut left = ALL;
    while left > 0 {
        let capacity = match stream.capacity() {
            0 => window(&mut stream, 0).await,
            capacity => capacity,
        };
        let part = capacity.min(left);
        assert!(part <= WINDOW as usize);
        stream
            .send_data(vec![0; part].into(), part == left)
            .unwrap();
        take(&mut body, part).await;
        left -= part;
    }
    assert!(body.data().await.is_none());
}

#[test]
fn what_may_wait_counts_as_the_window_that_there_is() {
    assert_eq!(backlog(0), FIRST as usize * 5 / 4);
    let two = 2 * FRAME as usize;
    assert_eq!(backlog(two), (FIRST as usize - two) * 5 / 4);
    assert_eq!(backlog(TAKEN as usize + 1), WINDOW as usize * 5 / 4);
}

/// A socket that takes so many bytes at once.
struct Narrow(Vec<u8>, usize);

impl AsyncWrite for Narrow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.1);
        self.0.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (before, most) = (self.0.len(), self.1);
        for slice in slices {
            let left = most - (self.0.len() - before);
            self.0.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        Poll::Ready(Ok(self.0.len() - before))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn settings(window: u32) -> Vec<u8> {
    let push = [&2_u16.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    let size = [
        &INITIAL_WINDOW_SIZE.to_be_bytes()[..],
        &window.to_be_bytes(),
    ]
    .concat();
    frame(SETTINGS, 0, 0, &[push, size].concat())
}

fn update(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// What goes out of these parts, of which two come at once.
async fn written(parts: &[&[u8]], room: usize) -> Vec<u8> {
    let mut windowed = Windowed::new(Narrow(Vec::new(), room));
    let (mut place, mut gone) = (0, 0);
    while let Some(one) = parts.get(place) {
        let other = parts.get(place + 1).copied().unwrap_or_default();
        let slices = [io::IoSlice::new(&one[gone..]), io::IoSlice::new(other)];
        gone += windowed.write_vectored(&slices).await.unwrap();
        while let Some(one) = parts.get(place).filter(|one| one.len() <= gone) {
            (place, gone) = (place + 1, gone - one.len());
        }
    }
    windowed.flush().await.unwrap();
    windowed.stream.0
}

#[tokio::test]
async fn the_first_update_of_each_stream_has_the_rest_of_its_window_and_no_other_has() {
    let parts = |window, more| {
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            settings(window),
            update(0, 1000),
            frame(HEADERS, 5, 1, b"head"),
            update(1, more),
            // Trailers open nothing.
            frame(HEADERS, 5, 1, b"tail"),
            update(1, 500),
            frame(SETTINGS, ACK, 0, b""),
        ]
    };
    let (before, after) = (parts(WINDOW, 500), parts(FIRST, 500 + WINDOW - FIRST));
    let before = before.each_ref().map(Vec::as_slice);
    for room in [1 << 20, 30, 1] {
        assert_eq!(written(&before, room).await, after.concat());
    }
}

#[tokio::test]
async fn where_the_instance_was_not_told_the_small_window_nothing_is_given_besides() {
    let all = [
        vec![0; PREFACE],
        settings(65_535),
        frame(HEADERS, 5, 1, b"head"),
        update(1, 500),
    ];
    let parts = all.each_ref().map(Vec::as_slice);
    assert_eq!(written(&parts, 1 << 20).await, all.concat());
}

#[test]
fn streams_that_ended_without_an_update_are_forgotten() {
    let mut windows = Windows::new();
    windows.went(&[0; PREFACE]);
    windows.change(&settings(WINDOW)).unwrap();
    for stream in 0..10_000 {
        windows.went(&frame(HEADERS, 5, 2 * stream + 1, b"head"));
    }
    assert_eq!(windows.young.len(), YOUNG);
    assert!(windows.changes(Frame::of(*update(19_999, 1).first_chunk().unwrap())));
}

proptest! {
    #[test]
    fn an_instance_is_never_given_more_than_the_library_counts_with(
        all in prop::collection::vec((0_u8..5, 0_u32..6, 0_usize..60), 1..60),
        parts in prop::collection::vec(1_usize..50, 1..20),
        room in 1_usize..40,
    ) {
        let mut bytes = [vec![b'p'; PREFACE], settings(WINDOW)].concat();
        for (kind, stream, length) in all {
            let stream = 2 * stream + 1;
            bytes.extend(match kind {
                0 => frame(HEADERS, 4, stream, &vec![1; length]),
                1 => frame(DATA, 0, stream, &vec![8; length]),
                2 => update(0, 7),
                _ => update(stream, 7),
            });
        }
        let (mut rest, mut sizes, mut pieces) = (&bytes[..], parts.iter().cycle(), Vec::new());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let out = runtime.block_on(written(&pieces, room));
        prop_assert_eq!(out.len(), bytes.len());
        let (mut before, mut after) = (&bytes[PREFACE..], &out[PREFACE..]);
        let is_small = after[HEAD + SETTING + 2..HEAD + 2 * SETTING] == FIRST.to_be_bytes();
        let mut given = std::collections::HashMap::new();
        while let Some(head) = before.first_chunk() {
            let next = Frame::of(*head);
            let (one, behind) = before.split_at(HEAD + next.length);
            let (other, out) = after.split_at(HEAD + next.length);
            prop_assert_eq!(&one[..HEAD], &other[..HEAD]);
            match next.kind {
                WINDOW_UPDATE => {
                    let more = u32::from_be_bytes(other[HEAD..].try_into().unwrap()) - 7;
                    prop_assert!(more == 0 || is_small && more == WINDOW - FIRST);
                    prop_assert!(more == 0 || next.stream > 0);
                    *given.entry(next.stream).or_insert(0) += more;
                }
                SETTINGS => {}
                _ => prop_assert_eq!(one, other),
            }
            (before, after) = (behind, out);
        }
        prop_assert!(given.values().all(|more| *more <= WINDOW - FIRST));
    }
}
