use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
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

#[tokio::test]
async fn a_window_grows_also_where_an_instance_keeps_its_last_bytes_back() {
    let tasks = TaskTracker::new();
    let (mut stream, mut body) = response(&tasks).await;
    window(&mut stream, 0).await;
    // In frames as they are sent by one server or another.
    let begun = (FIRST - SPARE) as usize;
    let parts = begun.div_ceil(8 * 1024);
    for _ in 0..parts {
        stream.send_data(vec![0; 8 * 1024].into(), false).unwrap();
    }
    take(&mut body, parts * 8 * 1024).await;
    let left = FIRST as usize - parts * 8 * 1024;
    assert!(left >= 8 * 1024);
    assert!(window(&mut stream, left).await > (WINDOW - FRAME) as usize);
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
    windowed.windows.came(&frame(SETTINGS, ACK, 0, b""));
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
    windows.came(&frame(SETTINGS, ACK, 0, b""));
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

#[test]
fn no_window_grows_before_the_instance_has_acknowledged_the_first() {
    let mut windows = Windows::new();
    windows.went(&[0; PREFACE]);
    windows.change(&settings(WINDOW)).unwrap();
    windows.went(&frame(HEADERS, 5, 1, b"head"));
    let update = Frame::of(*update(1, 500).first_chunk().unwrap());
    let coming = [
        settings(1000),
        frame(HEADERS, 4, 1, &[0x88]),
        frame(DATA, ACK, 1, &[ACK; 100]),
        frame(SETTINGS, ACK, 0, b""),
    ];
    for byte in coming.concat() {
        assert!(!windows.changes(update));
        windows.came(&[byte]);
    }
    assert!(windows.changes(update));
}

/// An instance that keeps to its windows, and to little else.
struct Instance {
    stream: DuplexStream,
    initial: i64,
    connection: i64,
    /// What may be sent of each stream.
    windows: BTreeMap<u32, i64>,
    /// The bytes of bodies that were sent of each.
    sent: BTreeMap<u32, usize>,
    is_acknowledged: bool,
}

impl Instance {
    async fn new(mut stream: DuplexStream) -> Self {
        stream.read_exact(&mut [0; PREFACE]).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self {
            stream,
            initial: 65_535,
            connection: 65_535,
            windows: BTreeMap::new(),
            sent: BTreeMap::new(),
            is_acknowledged: false,
        }
    }

    /// What the gateway says next. It says something whenever the instance has to wait for it.
    async fn hear(&mut self) {
        let mut head = [0; HEAD];
        let reading = self.stream.read_exact(&mut head);
        let read = timeout(Duration::from_secs(60), reading).await;
        read.expect("a stream stands still").unwrap();
        let next = Frame::of(head);
        let mut payload = vec![0; next.length];
        self.stream.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| i64::from(u32::from_be_bytes(bytes.try_into().unwrap()));
        match next.kind {
            SETTINGS if next.flags & ACK == 0 => {
                for setting in payload.chunks_exact(SETTING) {
                    if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                        self.initial = number(&setting[2..]);
                        assert_eq!(self.initial, i64::from(FIRST));
                    }
                }
            }
            HEADERS => {
                self.windows.insert(next.stream, self.initial);
                self.send(HEADERS, 4, next.stream, &[0x88]).await;
            }
            0x3 => panic!("a stream is reset"),
            WINDOW_UPDATE if next.stream == 0 => self.connection += number(&payload),
            WINDOW_UPDATE => {
                if let Some(window) = self.windows.get_mut(&next.stream) {
                    *window += number(&payload);
                    assert!(*window <= i64::from(WINDOW));
                }
            }
            _ => {}
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let bytes = frame(kind, flags, stream, payload);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn acknowledge(&mut self) {
        if !std::mem::replace(&mut self.is_acknowledged, true) {
            self.send(SETTINGS, ACK, 0, &[]).await;
        }
    }

    /// So many bytes of a body, as the windows allow it, and padding where there is room for all.
    async fn data(&mut self, stream: u32, length: usize, padding: Option<u8>) {
        let mut left = length;
        loop {
            let window = self.windows[&stream].min(self.connection);
            let window = usize::try_from(window).unwrap();
            let padding = padding.filter(|padding| left + 1 + usize::from(*padding) <= window);
            let part = left.min(window);
            let mut payload: Vec<u8> = padding.into_iter().collect();
            payload.resize(payload.len() + part, b'x');
            payload.resize(payload.len() + padding.map_or(0, usize::from), 0);
            let all = i64::try_from(payload.len()).unwrap();
            *self.windows.get_mut(&stream).unwrap() -= all;
            self.connection -= all;
            *self.sent.entry(stream).or_default() += part;
            if all > 0 {
                let flags = if padding.is_some() { 8 } else { 0 };
                self.send(DATA, flags, stream, &payload).await;
            }
            left -= part;
            if left == 0 {
                return;
            }
            self.hear().await;
        }
    }
}

/// The bytes that come of a response, and whether it ends well.
async fn read(answer: h2::client::ResponseFuture) -> (usize, bool) {
    let Ok(answer) = answer.await else {
        return (0, false);
    };
    let (mut body, mut taken) = (answer.into_body(), 0);
    while let Some(data) = body.data().await {
        let Ok(data) = data else {
            return (taken, false);
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        taken += data.len();
    }
    (taken, true)
}

/// What an instance does: which of its streams, how much, with what padding.
type Deed = (u8, u32, usize, Option<u8>);

async fn play(streams: u32, deeds: Vec<Deed>, is_last_word: bool) {
    let tasks = TaskTracker::new();
    let (here, there) = tokio::io::duplex(1 << 20);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 101);
    let handshake = builder.handshake::<_, Bytes>(Windowed::new(here));
    let (handshake, instance) = tokio::join!(handshake, Instance::new(there));
    let ((sender, connection), mut instance) = (handshake.unwrap(), instance);
    tasks.spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut readers = BTreeMap::new();
    for number in 0..streams {
        let request = Request::get("http://a.test/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        readers.insert(2 * number + 1, tasks.spawn(read(answer)));
    }
    while instance.windows.len() < readers.len() {
        instance.hear().await;
    }
    let mut reset = BTreeSet::new();
    for (kind, stream, length, padding) in deeds {
        let stream = 2 * (stream % streams) + 1;
        match kind {
            0 => instance.acknowledge().await,
            1 => {
                // What the gateway may send.
                let window = u32::try_from(length).unwrap().to_be_bytes();
                let size = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window].concat();
                instance.send(SETTINGS, 0, 0, &size).await;
            }
            2 => instance.send(0x6, 0, 0, &[7; 8]).await,
            3 => instance.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]).await,
            // Of a kind that nobody knows.
            4 => instance.send(0xfa, 0xff, stream, &vec![3; length]).await,
            5 if reset.insert(stream) => instance.send(0x3, 0, stream, &[0, 0, 0, 8]).await,
            _ if reset.contains(&stream) => {}
            _ => instance.data(stream, length, padding).await,
        }
    }
    if is_last_word {
        let last = (2 * streams - 1).to_be_bytes();
        instance.send(0x7, 0, 0, &[last, [0; 4]].concat()).await;
    }
    for (stream, reader) in readers {
        if reset.contains(&stream) {
            assert!(!reader.await.unwrap().1);
            continue;
        }
        // Several windows more, to see that they go on.
        for _ in 0..3 * WINDOW / FRAME {
            instance.data(stream, FRAME as usize, None).await;
        }
        instance.send(DATA, 1, stream, &[]).await;
        let sent = instance.sent[&stream];
        assert_eq!(reader.await.unwrap(), (sent, true), "stream {stream}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_an_instance_does_a_stream_that_is_read_goes_on(
        streams in 1_u32..5,
        deeds in prop::collection::vec(
            (0_u8..14, 0_u32..5, 0_usize..16_000, prop::option::of(any::<u8>())),
            0..60,
        ),
        is_last_word in any::<bool>(),
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(streams, deeds, is_last_word));
    }

    #[test]
    fn no_more_waits_behind_what_was_taken_than_is_counted(taken in 0..3 * WINDOW as usize) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let tasks = TaskTracker::new();
            let (mut stream, mut body) = response(&tasks).await;
            let (mut sent, mut had) = (0, 0);
            // As much as the instance may send, until the reader has what it takes and some time has passed.
            loop {
                stream.reserve_capacity(ALL);
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                let part = stream.capacity().min(FRAME as usize);
                if part > 0 {
                    stream.send_data(vec![0; part].into(), false).unwrap();
                    sent += part;
                } else if had >= taken {
                    break;
                }
                if had < taken {
                    let data = body.data().await.unwrap().unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    had += data.len();
                }
            }
            prop_assert!(sent - had <= backlog(had), "{sent} {had}");
            Ok::<_, TestCaseError>(())
        })?;
    }
}
