//! What comes over a WebSocket of a history.
//!
//! Guarantees: it finds the same however the bytes are cut; messages within each other are a mistake.

use wakegate::upstream::{FrameHeader, Opcode, masked};

/// Whole messages and control frames of a stream of bytes.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    message: Vec<u8>,
    is_in_message: bool,
}

impl Frames {
    pub fn take(&mut self, more: &[u8]) -> Vec<(Opcode, Vec<u8>)> {
        self.bytes.extend(more);
        let mut found = Vec::new();
        while let Some(header) = FrameHeader::parse(&self.bytes).unwrap() {
            let end = header.header_length + usize::try_from(header.payload_length).unwrap();
            if self.bytes.len() < end {
                break;
            }
            let frame: Vec<u8> = self.bytes.drain(..end).collect();
            let payload = &frame[header.header_length..];
            let payload: Vec<u8> = match header.mask {
                Some(mask) => masked(payload, mask).collect(),
                None => payload.to_vec(),
            };
            if !header.opcode.is_data() {
                found.push((header.opcode, payload));
                continue;
            }
            let begins = header.opcode == Opcode::Data;
            assert_ne!(begins, self.is_in_message, "messages within each other");
            self.message.extend(payload);
            self.is_in_message = !header.is_final;
            if header.is_final {
                found.push((Opcode::Data, std::mem::take(&mut self.message)));
            }
        }
        found
    }
}
