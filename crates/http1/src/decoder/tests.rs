use proptest::prelude::*;

use super::*;

/// All that comes of a body whose bytes arrive in these parts: its data, the number of its
/// trailers, whether it ended, and what is left over.
type Decoded = Result<(Vec<u8>, usize, bool, Vec<u8>), ChunkError>;

fn decoded(length: BodyLength, parts: &[&[u8]]) -> Decoded {
    let mut decoder = BodyDecoder::new(length);
    let (mut input, mut data, mut fields) = (BytesMut::new(), Vec::new(), 0);
    for part in parts {
        input.extend_from_slice(part);
        loop {
            match decoder.take(&mut input)? {
                BodyPart::Data(bytes) => data.extend_from_slice(&bytes),
                BodyPart::Trailers(trailers) => fields += trailers.len(),
                BodyPart::End | BodyPart::More => break,
            }
        }
    }
    Ok((data, fields, decoder.is_over(), input.to_vec()))
}

#[test]
fn chunks_are_put_together_and_end_at_the_last_one() {
    let text = b"5;a=b\r\nhello\r\n1 \r\n!\r\n0\r\nx-a: b\r\n\r\nnext";
    let expected = (b"hello!".to_vec(), 1, true, b"next".to_vec());
    assert_eq!(decoded(BodyLength::Chunked, &[text]), Ok(expected));
}

#[test]
fn small_chunks_that_have_come_are_one_part_and_large_ones_are_their_own() {
    let parts = |text: String| {
        let (mut decoder, mut input) = (BodyDecoder::new(BodyLength::Chunked), BytesMut::new());
        input.extend_from_slice(text.as_bytes());
        let mut lengths = Vec::new();
        loop {
            match decoder.take(&mut input) {
                Ok(BodyPart::Data(data)) => lengths.push(Ok(data.len())),
                Ok(BodyPart::End | BodyPart::More) => return lengths,
                Ok(BodyPart::Trailers(_)) => {}
                Err(error) => {
                    lengths.push(Err(error));
                    return lengths;
                }
            }
        }
    };
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
    let one = chunk(1);
    assert_eq!(parts(one.repeat(1000) + "0\r\n\r\n"), [Ok(1000)]);
    assert_eq!(parts(one.repeat(3) + "2\r\nx"), [Ok(3), Ok(1)]);
    assert_eq!(parts(one.repeat(3) + "zz"), [Ok(3), Err(ChunkError::Chunk)]);
    assert_eq!(
        parts(one.repeat(3) + "1\r\nxx"),
        [Ok(4), Err(ChunkError::Chunk)]
    );
    let mixed = one.clone() + &chunk(2 * SMALL) + &chunk(SMALL) + &one;
    // What is little behind much is not worth a copy of all.
    assert_eq!(parts(mixed), [Ok(1), Ok(2 * SMALL), Ok(SMALL), Ok(1)]);
    let many = parts(one.repeat(2 * TOGETHER));
    assert_eq!(many, [Ok(TOGETHER), Ok(TOGETHER)]);
    let wasteful = parts(format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(100));
    assert_eq!(wasteful, [Ok(16), Err(ChunkError::TooLarge)]);
}

#[test]
fn a_length_is_kept_to_the_byte() {
    for (length, expected) in [(0, ""), (3, "abc"), (9, "abcdef")] {
        let (data, _, is_over, rest) =
            decoded(BodyLength::Length(length), &[b"abc", b"def"]).unwrap();
        assert_eq!(data, expected.as_bytes());
        assert_eq!(is_over, length < 9);
        assert_eq!(data.len() + rest.len(), 6);
    }
}

#[test]
fn what_ends_with_the_connection_is_never_over() {
    let all = decoded(BodyLength::UntilClose, &[b"abc", b"0\r\n\r\n"]).unwrap();
    assert_eq!(all, (b"abc0\r\n\r\n".to_vec(), 0, false, Vec::new()));
}

#[test]
fn what_is_no_chunk_is_refused() {
    for wrong in [
        "5\r\nhello!\r\n",
        "5\r\nhello\n",
        "zz\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\na: b\r\n c\r\n\r\n",
    ] {
        assert!(
            decoded(BodyLength::Chunked, &[wrong.as_bytes()]).is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn extensions_are_bounded_over_the_whole_body_and_padded_sizes_are_not_refused() {
    let body = |line: &str, data: &str, count: usize| {
        let chunk = format!("{line}\r\n{data}\r\n");
        chunk.repeat(count) + "0\r\n\r\n"
    };
    let extension = format!("1;{}", "x".repeat(1000));
    let many = body(&extension, "a", 100);
    let refused = decoded(BodyLength::Chunked, &[many.as_bytes()]);
    assert_eq!(refused, Err(ChunkError::TooLarge));
    let zeros = body(&format!("{}1", "0".repeat(1000)), "a", 100);
    let refused = decoded(BodyLength::Chunked, &[zeros.as_bytes()]);
    assert_eq!(refused, Err(ChunkError::TooLarge));
    for (line, data) in [
        (extension.as_str(), "a"),
        ("000003e8", &"x".repeat(1000)),
        ("3e8;signature=0123456789abcdef", &"x".repeat(1000)),
    ] {
        let count = if data == "a" { 16 } else { 10_000 };
        let text = body(line, data, count);
        let (read, _, is_over, _) = decoded(BodyLength::Chunked, &[text.as_bytes()]).unwrap();
        assert_eq!((read.len(), is_over), (data.len() * count, true), "{line}");
    }
}

proptest! {
    #[test]
    fn what_is_not_data_is_bounded_however_it_comes(
        lines in prop::collection::vec((0_usize..3000, 0_usize..20, 1_usize..40), 1..60),
        cuts in prop::collection::vec(1_usize..5000, 1..20),
    ) {
        let (mut text, mut waste, mut data, mut is_bounded) = (Vec::new(), 0, 0, true);
        for (extension, zeros, size) in &lines {
            let extra = "0".repeat(*zeros);
            let extension = ";".repeat(*extension);
            text.extend(format!("{extra}{size:x}{extension}\r\n").into_bytes());
            text.extend(vec![b'd'; *size]);
            text.extend(b"\r\n");
            waste += extension.len() + zeros;
            is_bounded &= waste <= 16 * 1024 + data;
            data += size;
        }
        text.extend(b"0\r\n\r\n");
        let (mut parts, mut rest, mut cuts) = (Vec::new(), &text[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (part, left) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            (parts, rest) = ([parts, vec![part]].concat(), left);
        }
        let read = decoded(BodyLength::Chunked, &parts);
        prop_assert_eq!(read.is_ok(), is_bounded, "{:?}", read);
    }

    #[test]
    fn where_a_body_is_cut_does_not_matter(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8),
        has_trailer in any::<bool>(),
        cuts in prop::collection::vec(1_usize..30, 1..20),
    ) {
        let mut text = Vec::new();
        for chunk in &chunks {
            text.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            text.extend(chunk);
            text.extend(b"\r\n");
        }
        text.extend(if has_trailer { &b"0\r\nx-t: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
        text.extend(b"rest");
        let (mut parts, mut rest, mut cuts) = (Vec::new(), &text[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (part, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            parts.push(part);
            rest = more;
        }
        let found = decoded(BodyLength::Chunked, &parts).unwrap();
        prop_assert_eq!(found, (chunks.concat(), usize::from(has_trailer), true, b"rest".to_vec()));
    }

    /// Also where they are wrong: the same bytes are the same body, or none, however they come.
    #[test]
    fn broken_chunks_are_broken_however_they_are_cut(
        bytes in prop::collection::vec(prop::sample::select(b"0159af;\r\n x:".to_vec()), 0..60),
        at in any::<prop::sample::Index>(),
    ) {
        let whole = decoded(BodyLength::Chunked, &[&bytes]);
        let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
        let parts = decoded(BodyLength::Chunked, &[head, tail]);
        prop_assert_eq!(whole.is_err(), parts.is_err());
        if let (Ok(whole), Ok(parts)) = (whole, parts) {
            prop_assert_eq!(whole, parts);
        }
    }
}
