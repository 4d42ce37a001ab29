//! Frames by their headers (RFC 6455 §5.2).
//!
//! Guarantees: a reader finds the same frames however their bytes are cut; it keeps no more than a
//! header; bytes that cannot be frames are payload from then on, and there is no place between them.
//! Extensions change payloads and reserved bits, neither of which are looked at.

/// The longest header: two bytes, a length of eight and a mask of four.
const LONGEST_HEADER: usize = 14;
/// The longest frame that is no data frame, with its header (§5.5).
pub const LONGEST_CONTROL: usize = LONGEST_HEADER + 125;

/// Bytes that cannot be frames of WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are no frames of WebSocket")]
pub struct NotWebSocket;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// The next part of a message.
    Continuation,
    /// The first part of a message: text, binary, or what an extension has made of the reserved ones.
    Data,
    /// The end of the connection.
    Close,
    /// A question whether the other side is there.
    Ping,
    /// The answer to it.
    Pong,
    /// A reserved control frame.
    Reserved,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Its kind.
    pub opcode: Opcode,
    /// Whether it is the last one of its message.
    pub is_final: bool,
    /// The mask of a frame of a client's.
    pub mask: Option<[u8; 4]>,
    /// The bytes of the header.
    pub header_length: usize,
    /// The bytes of the payload.
    pub payload_length: u64,
}

/// The payload of a ping by which its answer is known.
pub type PingToken = [u8; 8];

/// Follows the frames of one direction.
#[derive(Debug, Clone)]
pub struct FrameReader {
    state: State,
    has_closed: bool,
    /// Whether more of the last message has to come.
    is_in_message: bool,
    /// The answer that is waited for.
    awaited: Option<PingToken>,
}

#[derive(Debug, Clone)]
enum State {
    /// Between frames, or so many bytes into a header.
    Header {
        bytes: [u8; LONGEST_HEADER],
        count: usize,
    },
    /// In a payload of which so much is left.
    Payload {
        left: u64,
        is_data: bool,
        /// Whether it is the answer that is waited for, as far as it has come.
        is_answer: bool,
    },
    /// It is no WebSocket.
    Lost,
}

const BETWEEN: State = State::Header {
    bytes: [0; LONGEST_HEADER],
    count: 0,
};

// === impl Opcode ===

impl Opcode {
    fn of(bits: u8) -> Self {
        match bits {
            0 => Self::Continuation,
            1..=7 => Self::Data,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => Self::Reserved,
        }
    }

    /// Whether its payload is an application's.
    pub const fn is_data(self) -> bool {
        matches!(self, Self::Continuation | Self::Data)
    }
}

// === impl FrameHeader ===

impl FrameHeader {
    /// The header that bytes begin with; `None` as long as more of it has to come.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, NotWebSocket> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let (opcode, is_final) = (Opcode::of(first & 0x0f), first & 0x80 != 0);
        let short = second & 0x7f;
        if !opcode.is_data() && (short > 125 || !is_final) {
            return Err(NotWebSocket);
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, rest)) = rest.split_at_checked(length_bytes) else {
            return Ok(None);
        };
        let long = length
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte));
        let payload_length = match short {
            // The shortest way to write a length is the only one (§5.2).
            126 if long <= 125 => return Err(NotWebSocket),
            127 if long <= 0xffff || long >> 63 != 0 => return Err(NotWebSocket),
            126 | 127 => long,
            short => short.into(),
        };
        let mask = match second & 0x80 {
            0 => None,
            _ => match rest.first_chunk::<4>() {
                Some(mask) => Some(*mask),
                None => return Ok(None),
            },
        };
        Ok(Some(Self {
            opcode,
            is_final,
            mask,
            header_length: 2 + length_bytes + mask.map_or(0, |mask| mask.len()),
            payload_length,
        }))
    }

    /// The bytes of the whole frame, where that is one that may be looked at as a whole.
    pub fn control_length(&self) -> Option<usize> {
        let payload = usize::try_from(self.payload_length).ok()?;
        (!self.opcode.is_data()).then_some(self.header_length + payload)
    }
}

// === impl FrameReader ===

impl FrameReader {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self {
            state: BETWEEN,
            has_closed: false,
            is_in_message: false,
            awaited: None,
        }
    }

    /// Waits for the answer to a ping with this payload from now on.
    pub fn await_answer(&mut self, token: PingToken) {
        self.awaited = Some(token);
    }

    /// Whether that is still waited for.
    pub fn awaits_answer(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether nothing of a message is outstanding, and none of its frames.
    pub fn is_between_messages(&self) -> bool {
        self.is_between() && !self.is_in_message
    }

    /// Whether nothing of a frame is outstanding.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Header { count: 0, .. })
    }

    /// Whether the bytes so far cannot be frames.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Whether a frame has come that closes the connection: nothing may follow it.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Follows some bytes; whether any of them is payload.
    pub fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut has_payload = false;
        while !bytes.is_empty() {
            let (count, is_payload) = self.step(bytes);
            has_payload |= is_payload;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        has_payload
    }

    /// How many of the bytes that come next belong to the frame that is under way.
    pub fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        let (mut ahead, mut total) = (self.clone(), 0);
        while total < bytes.len() && !ahead.is_between() {
            total += ahead.step(bytes.get(total..).unwrap_or_default()).0;
        }
        total
    }

    /// Follows bytes as far as the next border of a header or payload; how many those are, and whether
    /// they are payload, or the beginning of some.
    fn step(&mut self, bytes: &[u8]) -> (usize, bool) {
        match &mut self.state {
            State::Header {
                bytes: header,
                count,
            } => {
                let before = *count;
                let room = header.get_mut(before..).unwrap_or_default();
                let taken = room.len().min(bytes.len());
                for (room, byte) in room.iter_mut().zip(bytes) {
                    *room = *byte;
                }
                let there = header.get(..before + taken).unwrap_or_default();
                match FrameHeader::parse(there) {
                    Ok(None) => {
                        *count += taken;
                        (taken, false)
                    }
                    Ok(Some(header)) => {
                        let is_data = header.opcode.is_data();
                        self.has_closed |= header.opcode == Opcode::Close;
                        if is_data {
                            self.is_in_message = !header.is_final;
                        }
                        let awaited = self.awaited.map_or(0, |token| token.len() as u64);
                        let is_pong = header.opcode == Opcode::Pong && header.mask.is_none();
                        self.state = match header.payload_length {
                            0 => BETWEEN,
                            left => State::Payload {
                                left,
                                is_data,
                                is_answer: is_pong && left == awaited,
                            },
                        };
                        (header.header_length - before, header.opcode.is_data())
                    }
                    Err(NotWebSocket) => {
                        self.state = State::Lost;
                        (bytes.len(), true)
                    }
                }
            }
            State::Payload {
                left,
                is_data,
                is_answer,
            } => {
                let taken = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let is_data = *is_data;
                if *is_answer {
                    let awaited = self.awaited.unwrap_or_default();
                    let come = awaited
                        .len()
                        .saturating_sub(usize::try_from(*left).unwrap_or(0));
                    let rest = awaited.iter().skip(come);
                    *is_answer = rest.zip(bytes).all(|(awaited, byte)| awaited == byte);
                }
                *left -= taken as u64;
                if *left == 0 {
                    if *is_answer {
                        self.awaited = None;
                    }
                    self.state = BETWEEN;
                }
                (taken, is_data)
            }
            State::Lost => (bytes.len(), true),
        }
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of this opcode, as it is on the wire.
    fn frame(opcode: u8, is_final: bool, length: usize, masked: bool) -> Vec<u8> {
        let mut bytes = vec![opcode | u8::from(is_final) << 7];
        let bit = u8::from(masked) << 7;
        match length {
            0..=125 => bytes.push(bit | u8::try_from(length).unwrap()),
            126..=0xffff => {
                bytes.push(bit | 0x7e);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(bit | 0x7f);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.resize(bytes.len() + length, 0x81);
        bytes
    }

    #[test]
    fn what_cannot_be_a_frame_is_payload_and_has_no_place_between() {
        for wrong in [
            &[0x09, 0][..],
            &[0x88, 126],
            &[0x81, 126, 0, 125],
            &[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x81, 127, 0x80, 0, 0, 0, 0, 1, 0, 0],
        ] {
            let mut reader = FrameReader::new();
            assert!(!reader.read(&frame(9, true, 4, false)));
            assert!(reader.read(wrong) && reader.is_lost(), "{wrong:?}");
            assert!(reader.read(&[0x89, 0]) && !reader.is_between());
            assert_eq!(reader.rest_of_frame(&[0x89, 0]), 2);
        }
    }

    #[test]
    fn control_frames_are_no_payload_wherever_they_stand() {
        let mut reader = FrameReader::new();
        assert!(reader.read(&frame(1, false, 10, true)));
        assert!(!reader.read(&frame(9, true, 125, true)) && reader.is_between());
        assert!(
            reader.read(&frame(0, true, 0, true)),
            "an empty part is one"
        );
        assert!(!reader.read(&frame(10, true, 0, false)) && !reader.has_closed());
        assert!(!reader.read(&frame(8, true, 2, false)) && reader.has_closed());
    }

    #[test]
    fn an_answer_is_known_by_its_payload_however_it_is_cut_and_no_other_is_taken_for_it() {
        let token = *b"01234567";
        let pong = |payload: &[u8]| super::super::control(10, payload, None);
        for other in [
            pong(b"0123456"),
            pong(b"01234568"),
            pong(b"11234567"),
            super::super::control(9, &token, None),
            super::super::control(10, &token, Some([0; 4])),
        ] {
            let mut reader = FrameReader::new();
            reader.await_answer(token);
            reader.read(&other);
            assert!(reader.awaits_answer() && reader.is_between(), "{other:?}");
            for byte in pong(&token) {
                assert!(reader.awaits_answer());
                reader.read(&[byte]);
            }
            assert!(!reader.awaits_answer());
        }
    }

    #[test]
    fn a_message_of_several_frames_has_borders_of_frames_within() {
        let mut reader = FrameReader::new();
        for (opcode, is_final, is_over) in [
            (1, false, false),
            (9, true, false),
            (0, false, false),
            (0, true, true),
            (2, true, true),
        ] {
            reader.read(&frame(opcode, is_final, 3, true));
            assert!(reader.is_between());
            assert_eq!(reader.is_between_messages(), is_over, "{opcode}");
        }
    }

    #[test]
    fn a_payload_is_one_from_its_first_byte_to_its_last() {
        let mut reader = FrameReader::new();
        let bytes = frame(2, true, 300, true);
        assert!(!reader.read(&bytes[..7]), "only a part of a header");
        assert!(reader.read(&bytes[7..8]) && reader.read(&bytes[8..307]));
        assert!(!reader.is_between());
        assert_eq!(reader.rest_of_frame(&[0; 9]), 1);
        assert!(reader.read(&bytes[307..]) && reader.is_between());
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_their_bytes_are_cut(
            frames in prop::collection::vec(
                (
                    prop::sample::select(vec![0_u8, 1, 2, 8, 9, 10]),
                    any::<bool>(),
                    prop::sample::select(vec![0_usize, 1, 125, 126, 300, 65_535, 65_536, 70_000]),
                    any::<bool>(),
                ),
                1..8,
            ),
            cuts in prop::collection::vec(1_usize..5_000, 1..40),
        ) {
            let frames: Vec<_> = frames
                .into_iter()
                .map(|(opcode, is_final, length, masked)| match opcode {
                    8.. => (opcode, true, length.min(125), masked),
                    _ => (opcode, is_final, length, masked),
                })
                .collect();
            let all: Vec<Vec<u8>> = frames
                .iter()
                .map(|(opcode, is_final, length, masked)| frame(*opcode, *is_final, *length, *masked))
                .collect();
            // Where frames end, and which bytes are an application's.
            let mut ends = vec![0];
            for frame in &all {
                ends.push(ends.last().unwrap() + frame.len());
            }
            let bytes = all.concat();
            let (mut reader, mut at) = (FrameReader::new(), 0);
            for cut in cuts.into_iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let next = (at + cut).min(bytes.len());
                let rest = reader.rest_of_frame(&bytes[at..]);
                let end = ends.iter().find(|end| **end >= at).unwrap();
                prop_assert_eq!(at + rest, *end);
                let has_payload = reader.read(&bytes[at..next]);
                prop_assert_eq!(reader.is_between(), ends.contains(&next));
                prop_assert!(!reader.is_lost());
                let is_payload = frames.iter().zip(ends.windows(2)).any(|(frame, place)| {
                    let header = place[1] - place[0] - frame.2;
                    // From the last byte of its header on.
                    let begins = place[0] + header - 1;
                    frame.0 < 8 && begins < next && place[1] > at
                });
                prop_assert_eq!(has_payload, is_payload, "{} to {}", at, next);
                at = next;
            }
            prop_assert_eq!(reader.has_closed(), frames.iter().any(|frame| frame.0 == 8));
        }

        #[test]
        fn no_bytes_make_a_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut reader = FrameReader::new();
            let rest = reader.rest_of_frame(&bytes);
            prop_assert!(rest <= bytes.len());
            reader.read(&bytes);
            let mut other = FrameReader::new();
            for byte in &bytes {
                other.read(&[*byte]);
            }
            prop_assert_eq!(reader.is_between(), other.is_between());
            prop_assert_eq!(reader.is_lost(), other.is_lost());
        }
    }
}
