//! What a marked connection reads.

use ::http::HeaderValue;
use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;

use super::*;

const SETTINGS: u8 = 0x4;
const DATA: u8 = 0x0;

/// Comes in parts of this many bytes at most.
struct Parts(Vec<u8>, usize);

impl AsyncRead for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.1.min(self.0.len()).min(buffer.remaining());
        buffer.put_slice(&self.0.drain(..count).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let length = payload.len();
    Head {
        length,
        kind,
        flags,
        stream,
    }
    .write(&mut out);
    [&out[..], payload].concat()
}

fn opened(rest: &[Vec<u8>]) -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(SETTINGS, 0, 0, &[0; 6]), rest.concat()].concat()
}

/// What is read of these bytes when they come in parts, by a reader with so much room.
fn marked(bytes: &[u8], part: usize, room: usize) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut marks = TrailerMarks::new(Parts(bytes.to_vec(), part));
        let (mut out, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match marks.read(&mut buffer).await.unwrap() {
                0 => return out,
                count => out.extend_from_slice(&buffer[..count]),
            }
        }
    })
}

fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[0x83, 0x86, 0x84])
}

#[test]
fn what_are_no_trailers_passes_as_it_is() {
    let bytes = opened(&[
        request(1),
        frame(DATA, 0, 1, b"data"),
        frame(HEADERS, END_STREAM, 3, &[0x82]),
        frame(CONTINUATION, END_HEADERS, 3, &[0x86, 0x84]),
        frame(DATA, END_STREAM, 1, b""),
        request(5),
    ]);
    for (part, room) in [(1, 1), (1, 100), (7, 3), (9, 9), (1000, 10), (1000, 1000)] {
        assert_eq!(marked(&bytes, part, room), bytes, "{part} {room}");
    }
}

#[test]
fn trailers_are_between_marks_whatever_their_form() {
    let field = [0, 1, b'x', 1, b'1'];
    let first = |payload: &[u8]| frame(HEADERS, END_STREAM, 1, payload);
    let middle = |payload: &[u8]| frame(CONTINUATION, 0, 1, payload);
    let last = frame(CONTINUATION, END_HEADERS, 1, &MARK);
    let (ends, update) = (END_STREAM | END_HEADERS, [0x3f, 0xe1, 0x1f]);
    let plain = [first(&MARK), middle(&field), last.clone()].concat();
    let padded = [&[3][..], &field, &[0; 3]].concat();
    let prior = [&[2, 0, 0, 0, 0, 9][..], &field, &[0; 2]].concat();
    let updated = [&update[..], &[0x20], &field].concat();
    let after_updates = first(&[&update[..], &[0x20], &MARK].concat());
    let cases = [
        (frame(HEADERS, ends, 1, &field), plain.clone()),
        (frame(HEADERS, ends | PADDED, 1, &padded), plain.clone()),
        (frame(HEADERS, ends | PADDED | PRIORITY, 1, &prior), plain),
        (
            frame(HEADERS, ends, 1, &updated),
            [after_updates, middle(&field), last.clone()].concat(),
        ),
        (
            frame(HEADERS, ends, 1, &update),
            [
                first(&[&update[..], &MARK].concat()),
                middle(&[]),
                last.clone(),
            ]
            .concat(),
        ),
        (
            frame(HEADERS, ends, 1, &[]),
            [first(&MARK), middle(&[]), last.clone()].concat(),
        ),
        (
            [
                frame(HEADERS, END_STREAM, 1, &field[..2]),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &field[2..]),
            ]
            .concat(),
            [
                first(&MARK),
                middle(&field[..2]),
                middle(&[]),
                middle(&field[2..]),
                last,
            ]
            .concat(),
        ),
    ];
    for (trailers, expected) in cases {
        let bytes = opened(&[request(1), frame(DATA, 0, 1, b"data"), trailers, request(3)]);
        let expected = opened(&[request(1), frame(DATA, 0, 1, b"data"), expected, request(3)]);
        for (part, room) in [(1, 1), (1, 100), (5, 7), (1000, 10), (1000, 1000)] {
            assert_eq!(marked(&bytes, part, room), expected, "{part} {room}");
        }
    }
}

#[test]
fn trailers_that_cannot_be_read_are_left_for_the_library_to_refuse() {
    for broken in [
        frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0]),
        frame(HEADERS, END_HEADERS | PADDED, 1, &[]),
        frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4]),
    ] {
        let bytes = opened(&[request(1), broken, request(3)]);
        assert_eq!(marked(&bytes, 1, 100), bytes);
        assert_eq!(marked(&bytes, 1000, 1000), bytes);
    }
}

#[test]
fn marks_are_taken_out_and_missing_ones_are_noticed() {
    let mut trailers = HeaderMap::new();
    trailers.append(NAME, HeaderValue::from_static(""));
    trailers.append("x-sum", HeaderValue::from_static("1"));
    assert!(!remove(&mut trailers.clone()));
    trailers.append(NAME, HeaderValue::from_static(""));
    assert!(remove(&mut trailers));
    assert_eq!(trailers.len(), 1);
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        frames in prop::collection::vec(
            (
                prop::sample::select(vec![DATA, HEADERS, CONTINUATION, SETTINGS, 0x16]),
                any::<u8>(),
                0_u32..6,
                prop::collection::vec(any::<u8>(), 0..40),
            ),
            0..12,
        ),
        part in 1_usize..60,
        room in 1_usize..60,
    ) {
        let frames = frames.iter().map(|(kind, flags, stream, payload)| {
            frame(*kind, *flags, *stream, payload)
        });
        let bytes = opened(&frames.collect::<Vec<_>>());
        prop_assert_eq!(marked(&bytes, part, room), marked(&bytes, 10_000, 10_000));
    }
}

#[test]
fn no_block_of_fields_costs_more_than_its_bytes() {
    // A block that would begin with nothing but updates of the table's size, or with one that does
    // not end, in a frame of any length.
    for (length, byte) in [
        (0x0010_0000_usize, 0x20),
        (16_000, 0x20),
        (16_000, 0x3f),
        (16_000, 0xff),
    ] {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, b"x");
        let [.., a, b, c] = length.to_be_bytes();
        let mut trailers = vec![a, b, c, HEADERS, END_STREAM | END_HEADERS, 0, 0, 0, 1];
        trailers.extend(std::iter::repeat_n(byte, length.min(20_000)));
        let bytes = opened(&[head, trailers]);
        let mut marker = TrailerMarks::new(Parts(Vec::new(), 1)).marker;
        let (mut out, mut rest) = (BytesMut::new(), &bytes[..]);
        while let Some((first, more)) = rest.split_first() {
            marker.take(&[*first], &mut out);
            assert!(marker.start.len() <= 32, "{length} {byte}");
            rest = more;
        }
        // The library sees all of it.
        assert!(out.len() >= bytes.len(), "{length} {byte}");
    }
}
