//! What a client sends to an instance that is at rest.
//!
//! Guarantees: what is found does not depend on how the bytes were cut; nothing of a payload is looked at
//! but how it begins; whatever is no control frame of a client's as the standard has it is payload, so that nothing
//! is ever kept from an instance without waking it, and what is to be refused it refuses itself.

use crate::upstream::websocket::{FrameHeader, FrameReader, Opcode};

/// What the bytes that come next are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It cannot be told yet.
    More,
    /// A whole control frame of so many bytes.
    Control(Opcode, usize),
    /// Payload, which is this, for people.
    Payload(&'static str),
}

/// What comes next, behind what `frames` has seen go to the instance; without frames all is payload.
pub(super) fn look(bytes: &[u8], frames: Option<&FrameReader>) -> Found {
    let Some(first) = bytes.first() else {
        return Found::More;
    };
    let Some(frames) = frames.filter(|frames| !frames.is_lost()) else {
        return Found::Payload("bytes");
    };
    if !frames.is_between() {
        return Found::Payload("the rest of a frame");
    }
    let header = match FrameHeader::parse(bytes) {
        Ok(Some(header)) => header,
        Ok(None) => return Found::More,
        Err(_) => return Found::Payload("what is no frame"),
    };
    match header.control_length() {
        // Unmasked, with reserved bits or a reserved opcode (RFC 6455 §5.1, §5.2).
        Some(_)
            if header.mask.is_none() || first & 0x70 != 0 || header.opcode == Opcode::Reserved =>
        {
            Found::Payload("what no client may send")
        }
        Some(length) if length <= bytes.len() => Found::Control(header.opcode, length),
        Some(_) => Found::More,
        None => Found::Payload(match first & 0x0f {
            0 => "a part of a message",
            1 => "a text frame",
            2 => "a binary frame",
            _ => "a data frame",
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::websocket::control;

    fn data(opcode: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode, 0x80 | length, 1, 2, 3, 4];
        frame.resize(frame.len() + usize::from(length), 7);
        frame
    }

    #[test]
    fn whatever_is_no_control_frame_is_payload() {
        let between = FrameReader::new();
        let found = |bytes: &[u8]| look(bytes, Some(&between));
        assert_eq!(found(b""), Found::More);
        assert_eq!(found(&data(1, 5)), Found::Payload("a text frame"));
        assert_eq!(found(&data(2, 5)[..6]), Found::Payload("a binary frame"));
        assert_eq!(found(&data(2, 5)[..5]), Found::More, "half a header");
        assert_eq!(found(&data(0, 0)), Found::Payload("a part of a message"));
        assert_eq!(found(b"\x09\x7fx"), Found::Payload("what is no frame"));
        for refused in [&b"\x89\x00"[..], b"\x8b\x80\0\0\0\0", b"\xc9\x80\0\0\0\0"] {
            assert_eq!(found(refused), Found::Payload("what no client may send"));
        }
        assert_eq!(look(b"x", None), Found::Payload("bytes"));
        let mut within = FrameReader::new();
        within.read(&data(1, 5)[..8]);
        let rest = look(&[0x89, 0], Some(&within));
        assert_eq!(rest, Found::Payload("the rest of a frame"));
    }

    proptest! {
        #[test]
        fn control_frames_are_found_whole_and_the_first_payload_however_the_bytes_are_cut(
            controls in prop::collection::vec((8_u8..=10, 0_usize..=125), 0..6),
            opcode in 0_u8..=2,
            cuts in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (opcode, length) in &controls {
                bytes.extend(control(*opcode, &vec![0x55; *length], Some([9, 8, 7, 6])));
            }
            let payload_at = bytes.len();
            bytes.extend(data(opcode, 20));
            let (frames, mut rest, mut taken) = (FrameReader::new(), Vec::new(), 0);
            let (mut input, mut found) = (&bytes[..], Vec::new());
            for cut in cuts.into_iter().cycle() {
                let seen = look(&rest, Some(&frames));
                match seen {
                    Found::More => {
                        prop_assert!(!input.is_empty(), "something is missing");
                        let (part, after) = input.split_at(cut.min(input.len()));
                        rest.extend(part);
                        input = after;
                    }
                    Found::Control(opcode, length) => {
                        found.push((opcode, length));
                        rest.drain(..length);
                        taken += length;
                    }
                    Found::Payload(_) => break,
                }
            }
            prop_assert_eq!(taken, payload_at, "nothing before the payload is left");
            let expected: Vec<_> = controls.iter().map(|(opcode, length)| {
                let opcode = [Opcode::Close, Opcode::Ping, Opcode::Pong][usize::from(*opcode) - 8];
                (opcode, 6 + length)
            }).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
