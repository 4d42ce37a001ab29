//! An instance's log, as a stream of server-sent events.
//!
//! Guarantees: each `data:` line is decoded as a JSON string, or kept raw when it is none; comments
//! and unknown fields are skipped; a line is bounded, so that a broken server cannot fill memory.

use std::collections::VecDeque;
use std::fmt;

use bytes::{Buf as _, BytesMut};
use reqwest::Response;

use super::error::Error;
use super::handle::Client;
use super::name::InstanceRef;

const MAX_LINE_BYTES: usize = 1024 * 1024;

/// One of an instance's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogSource {
    /// What the program prints.
    #[default]
    App,
    /// What the virtual machine's hypervisor prints.
    Vmm,
    /// What Hypeman did with the instance.
    Hypeman,
}

/// A part of one of an instance's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// The number of lines before the end to begin with; the server's default is 100.
    pub tail: Option<u32>,
    /// Whether the stream goes on with new lines.
    pub follow: bool,
    /// The log.
    pub source: LogSource,
}

/// The lines of a log as they arrive.
///
/// ```no_run
/// # async fn example(client: hypeman::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use hypeman::LogQuery;
///
/// let query = LogQuery { follow: true, ..LogQuery::default() };
/// let mut lines = client.logs(&"web".parse()?, query).await?;
/// while let Some(line) = lines.next().await? {
///     println!("{line}");
/// }
/// # Ok(())
/// # }
/// ```
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

impl Client {
    /// Opens one of an instance's logs. The deadline is for the beginning of the stream; the stream
    /// itself has none.
    ///
    /// `GET /instances/{id}/logs` (seed: `Instances.Logs`), operation `logs`.
    ///
    /// # Errors
    /// 404 `log_not_found`: there is no such log yet. 500 `dependency_missing`: the host lacks a
    /// program for this.
    pub async fn logs(&self, id: &InstanceRef, query: LogQuery) -> Result<LogLines, Error> {
        let call = self.read("logs", ["instances", id.as_str(), "logs"]);
        let call = call
            .query("follow", query.follow)
            .query("source", query.source.as_str())
            .query_opt("tail", query.tail);
        Ok(LogLines {
            response: call.stream().await?,
            decoder: EventDecoder::default(),
            ready: VecDeque::new(),
        })
    }
}

// === impl LogLines ===

impl LogLines {
    /// The next line; `None` when the server has ended the stream. It is safe to drop the future
    /// and ask again: no line is lost.
    ///
    /// # Errors
    /// [`Error::Transport`]: the connection broke. [`Error::Decode`]: a line is longer than 1 MiB.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| Error::Transport {
                op: "logs",
                source: error.without_url().into(),
            })?;
            let Some(chunk) = chunk else { return Ok(None) };
            let pushed = self.decoder.push(&chunk, &mut self.ready);
            pushed.map_err(|()| Error::Decode {
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

/// Bytes in, lines out. A line may be cut anywhere between chunks.
#[derive(Debug, Default)]
struct EventDecoder {
    pending: BytesMut,
    /// The beginning of `pending` that has no line end in it.
    searched: usize,
}

impl EventDecoder {
    fn push(&mut self, chunk: &[u8], lines: &mut VecDeque<String>) -> Result<(), ()> {
        self.pending.extend_from_slice(chunk);
        loop {
            let unseen = self.pending.get(self.searched..).unwrap_or_default();
            let Some(offset) = unseen.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.pending.len();
                break;
            };
            let line = self.pending.split_to(self.searched + offset);
            self.pending.advance(1);
            self.searched = 0;
            lines.extend(data_of(&line));
        }
        if self.pending.len() > MAX_LINE_BYTES {
            Err(())
        } else {
            Ok(())
        }
    }
}

/// The log line in a line of the stream, if it has one.
fn data_of(line: &[u8]) -> Option<String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let data = line.strip_prefix(b"data:")?;
    let data = data.strip_prefix(b" ").unwrap_or(data);
    let decoded = serde_json::from_slice(data);
    Some(decoded.unwrap_or_else(|_| String::from_utf8_lossy(data).into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let (mut decoder, mut lines) = (EventDecoder::default(), VecDeque::new());
        for chunk in chunks {
            decoder.push(chunk, &mut lines).unwrap();
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
        let chunk = vec![b'x'; MAX_LINE_BYTES + 1];
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
