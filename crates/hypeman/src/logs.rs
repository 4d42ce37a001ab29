//! An instance's logs, as a stream of server-sent events (contract A.10).
//!
//! Guarantees: each `data:` line is decoded as a JSON string, or kept raw when it is none; comments
//! and unknown fields are skipped; a line is bounded, so that a broken server cannot fill memory.

use std::collections::VecDeque;
use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};
use reqwest::Response;

use super::client::{Call, HypemanClient};
use super::error::ControlPlaneError;
use crate::InstanceRef;

const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogSource {
    /// What the program prints.
    #[default]
    App,
    /// What the VMM prints.
    Vmm,
    /// What Hypeman did.
    Hypeman,
}

/// Which part of which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// The last so many lines; the server's default is 100.
    pub tail: Option<u32>,
    /// Go on with new lines.
    pub follow: bool,
    /// Which log.
    pub source: LogSource,
}

/// Lines as they arrive.
pub struct LogLines {
    response: Response,
    decoder: EventDecoder,
    ready: VecDeque<String>,
}

impl LogSource {
    const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Vmm => "vmm",
            Self::Hypeman => "hypeman",
        }
    }
}

impl HypemanClient {
    /// Logs: `GET /instances/{id}/logs`. There is no deadline on the stream.
    pub async fn logs(
        &self,
        id: &InstanceRef,
        query: LogQuery,
    ) -> Result<LogLines, ControlPlaneError> {
        let path = ["instances", id.as_str(), "logs"];
        let mut pairs = vec![
            ("follow".to_owned(), query.follow.to_string()),
            ("source".to_owned(), query.source.as_str().to_owned()),
        ];
        pairs.extend(query.tail.map(|tail| ("tail".to_owned(), tail.to_string())));
        let call = Call {
            query: pairs,
            ..self.get_call("logs", &path)
        };
        let began = tokio::time::Instant::now();
        let opened = tokio::time::timeout(call.timeout, self.send(&call, None)).await;
        let result = opened.unwrap_or(Err(ControlPlaneError::Timeout {
            op: "logs",
            after: call.timeout,
        }));
        self.report(&call, &result, began.elapsed());
        Ok(LogLines {
            response: result?,
            decoder: EventDecoder::default(),
            ready: VecDeque::new(),
        })
    }
}

// === impl LogLines ===

impl LogLines {
    /// The next line; `None` when the server has ended the stream. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<String>, ControlPlaneError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let chunk =
                self.response
                    .chunk()
                    .await
                    .map_err(|error| ControlPlaneError::Transport {
                        op: "logs",
                        source: error.without_url().into(),
                    })?;
            let Some(chunk) = chunk else { return Ok(None) };
            self.decoder
                .push(&chunk, &mut self.ready)
                .map_err(|()| ControlPlaneError::Decode {
                    op: "logs",
                    reason: format!("a line is longer than {MAX_LINE_BYTES} bytes"),
                })?;
        }
    }
}

impl fmt::Debug for LogLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLines").finish_non_exhaustive()
    }
}

/// Bytes in, lines out; a line may be cut anywhere between chunks.
#[derive(Debug, Default)]
struct EventDecoder {
    pending: BytesMut,
}

impl EventDecoder {
    fn push(&mut self, chunk: &Bytes, lines: &mut VecDeque<String>) -> Result<(), ()> {
        self.pending.extend_from_slice(chunk);
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line = self.pending.split_to(end);
            self.pending.advance(1);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            let Some(data) = line.strip_prefix(b"data:") else {
                continue;
            };
            let data = data.strip_prefix(b" ").unwrap_or(data);
            lines.push_back(
                serde_json::from_slice(data)
                    .unwrap_or_else(|_| String::from_utf8_lossy(data).into_owned()),
            );
        }
        if self.pending.len() > MAX_LINE_BYTES {
            Err(())
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let (mut decoder, mut lines) = (EventDecoder::default(), VecDeque::new());
        for chunk in chunks {
            decoder
                .push(&Bytes::copy_from_slice(chunk), &mut lines)
                .unwrap();
        }
        lines.into()
    }

    #[test]
    fn lines_are_json_strings_or_kept_raw() {
        let stream = b": comment\nevent: x\ndata: \"a\\tb\"\n\ndata: not json\r\n\ndata:\"c\"\n\n";
        assert_eq!(decode(&[stream]), ["a\tb", "not json", "c"]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut decoder = EventDecoder::default();
        let chunk = Bytes::from(vec![b'x'; MAX_LINE_BYTES + 1]);
        assert!(decoder.push(&chunk, &mut VecDeque::new()).is_err());
    }

    proptest! {
        #[test]
        fn where_chunks_are_cut_does_not_matter(text in "[a-z\"\\\\é]{0,20}", cut in 0_usize..40) {
            let stream = format!("data: {}\n\n", serde_json::to_string(&text).unwrap()).into_bytes();
            let (head, tail) = stream.split_at(cut.min(stream.len()));
            prop_assert_eq!(decode(&[head, tail]), [text]);
        }
    }
}
