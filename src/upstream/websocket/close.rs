//! The frame that closes a connection (RFC 6455 §5.5.1).
//!
//! Guarantees: a frame to an instance is masked, as a client's has to be (§5.3), and one to a client
//! is not; a reason is never too long for its frame.

use bytes::Bytes;

/// The most bytes of a reason: a control frame has 125 and the code takes two.
const LONGEST_REASON: usize = 123;

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// The code (§7.4).
    pub code: u16,
    /// A few words for people.
    pub reason: &'static str,
}

// === impl Close ===

impl Close {
    /// The gateway goes away, or does not keep the connection any longer.
    pub const fn going_away(reason: &'static str) -> Self {
        Self { code: 1001, reason }
    }

    /// The other side is not there any more, and may be soon again.
    pub const fn restart(reason: &'static str) -> Self {
        Self { code: 1012, reason }
    }

    /// The other side does not speak WebSocket.
    pub const fn protocol_error() -> Self {
        let (code, reason) = (1002, "protocol error");
        Self { code, reason }
    }

    fn payload(self) -> Vec<u8> {
        let mut length = self.reason.len().min(LONGEST_REASON);
        while !self.reason.is_char_boundary(length) {
            length -= 1;
        }
        let reason = self.reason.get(..length).unwrap_or_default();
        let code = self.code.to_be_bytes();
        [&code[..], reason.as_bytes()].concat()
    }

    /// The frame for a client.
    pub fn to_client(self) -> Bytes {
        control(8, &self.payload(), None)
    }

    /// The frame for an instance.
    pub fn to_instance(self) -> Bytes {
        control(8, &self.payload(), Some(fastrand::u32(..).to_ne_bytes()))
    }
}

/// A control frame; of a payload that is too long for one the beginning.
pub fn control(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Bytes {
    let payload = payload.get(..125).unwrap_or(payload);
    // It is 125 at most.
    let length = u8::try_from(payload.len()).unwrap_or_default();
    let mut bytes = vec![0x80 | opcode];
    match mask {
        None => {
            bytes.push(length);
            bytes.extend(payload);
        }
        Some(mask) => {
            bytes.push(0x80 | length);
            bytes.extend(mask);
            bytes.extend(masked(payload, mask));
        }
    }
    bytes.into()
}

/// A payload with a mask on it, or without it again (§5.3).
pub fn masked(payload: &[u8], mask: [u8; 4]) -> impl Iterator<Item = u8> + '_ {
    let mask = mask.into_iter().cycle();
    payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::websocket::{FrameHeader, FrameReader};

    #[test]
    fn a_close_has_its_code_and_its_reason_and_is_masked_only_for_an_instance() {
        let close = Close::going_away("idle");
        assert_eq!(&close.to_client()[..], b"\x88\x06\x03\xe9idle");
        let bytes = close.to_instance();
        let header = FrameHeader::parse(&bytes).unwrap().unwrap();
        let payload = masked(&bytes[header.header_length..], header.mask.unwrap());
        assert_eq!(payload.collect::<Vec<_>>(), b"\x03\xe9idle");
        let mut reader = FrameReader::new();
        reader.read(&bytes);
        assert!(reader.has_closed() && reader.is_between());
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_letters() {
        let reason = "ä".repeat(100).leak();
        let bytes = Close::restart(reason).to_client();
        assert_eq!(bytes.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&bytes[4..]).is_ok());
    }
}
