//! The end of a text that may be long.
//!
//! Guarantees: it holds at most twice the bytes that are kept, whatever was written.

/// Keeps the last bytes of what is written to it.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    most: usize,
}

// === impl Tail ===

impl Tail {
    /// At most this many bytes are kept.
    pub(crate) fn new(most: usize) -> Self {
        let bytes = Vec::new();
        Self { bytes, most }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(self.most);
        let kept = bytes.get(skipped..).unwrap_or_default();
        if self.bytes.len() + kept.len() > 2 * self.most {
            self.trim();
        }
        self.bytes.extend_from_slice(kept);
    }

    fn trim(&mut self) {
        let old = self.bytes.len().saturating_sub(self.most);
        self.bytes.drain(..old);
    }

    pub(crate) fn into_text(mut self) -> String {
        self.trim();
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept_however_it_was_written() {
        let mut tail = Tail::new(4);
        assert_eq!(Tail::new(4).into_text(), "");
        for piece in ["a", "bcd", "ef", "0123456789", "x"] {
            tail.push(piece.as_bytes());
            assert!(tail.bytes.len() <= 8);
        }
        assert_eq!(tail.into_text(), "789x");
        let mut short = Tail::new(4);
        short.push(b"abc");
        assert_eq!(short.into_text(), "abc");
    }
}
