//! An instance's logs as server-sent events (contract A.10).
//!
//! Guarantees: each line is one event whose data is a JSON string, and one that is longer than
//! 64 KiB is several, so that a program which never ends its line takes no memory here; without
//! `follow` the stream ends after the line that was the last one when it began; with it, when the
//! instance is deleted; a reader that leaves ends its own task.

use std::io::{ErrorKind, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader,
};

use super::error::ApiError;
use super::extract::{Query, malformed_parameter};
use crate::fleet::Fleet;
use crate::store::{Instance, Kind, rotation};

const LOOK_FOR_MORE: Duration = Duration::from_millis(50);
/// The longest event, in bytes of the log.
const LONGEST: usize = 64 * 1024;

pub(super) async fn logs(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let tail = query.number("tail")?.unwrap_or(100);
    let follow = query.flag("follow")?.unwrap_or(false);
    let file = match query.text("source").unwrap_or("app") {
        "app" => "app.log",
        "hypeman" => "hypeman.log",
        // A process has no VMM, so this log never exists.
        "vmm" => "vmm.log",
        _ => {
            let rule = "it must be app, vmm or hypeman";
            return Err(malformed_parameter("source", rule));
        }
    };
    let instance = fleet.resolve(&id).await?;
    let folder = fleet.store.folder(Kind::Instance, &instance.id);
    let path = folder.join(file);
    let lines = Lines::open(&path, tail, follow, instance).await?;
    let body = Body::from_stream(stream::unfold(lines, async |mut lines| {
        let event = lines.next().await?;
        Some((Ok::<_, std::io::Error>(event), lines))
    }));
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-cache"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, body).into_response())
}

struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// The number of bytes that were read.
    position: u64,
    /// The end of the log, for a reader that does not follow it.
    end: Option<u64>,
    pending: Vec<u8>,
    instance: Arc<Instance>,
}

/// The bytes at the beginning of `pending` that are the next event, and of these the ones that are
/// its text; `None` when more of the line is to come.
fn next_event(pending: &[u8], is_last: bool) -> Option<(usize, &[u8])> {
    if let Some(line) = pending.strip_suffix(b"\n") {
        return Some((pending.len(), line.strip_suffix(b"\r").unwrap_or(line)));
    }
    if is_last && !pending.is_empty() {
        return Some((pending.len(), pending));
    }
    if pending.len() < LONGEST {
        return None;
    }
    // A character that is not whole yet is in the next one.
    let whole = match std::str::from_utf8(pending) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Ok(_) | Err(_) => pending.len(),
    };
    pending.get(..whole).map(|text| (whole, text))
}

/// Goes on to the next line. Returns the number of bytes that were skipped.
async fn skip_line(reader: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let bytes = reader.fill_buf().await?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(bytes.len(), |end| end + 1);
        reader.consume(length);
        skipped += length as u64;
        if end.is_some() || length == 0 {
            return Ok(skipped);
        }
    }
}

// === impl Lines ===

impl Lines {
    /// Opens a log at the beginning of its last `tail` lines.
    async fn open(
        path: &PathBuf,
        tail: usize,
        follow: bool,
        instance: Arc<Instance>,
    ) -> Result<Self, ApiError> {
        let failed = |error: std::io::Error| {
            if error.kind() == ErrorKind::NotFound {
                return ApiError::log_not_found();
            }
            tracing::warn!(log = %path.display(), %error, "cannot read a log");
            ApiError::internal("failed to read the log")
        };
        let file = File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        let (mut reader, mut count) = (BufReader::new(file).take(length), 0_usize);
        while skip_line(&mut reader).await.map_err(failed)? > 0 {
            count += 1;
        }
        let file = File::open(path).await.map_err(failed)?;
        let (mut reader, mut position) = (BufReader::new(file), 0);
        for _ in 0..count.saturating_sub(tail) {
            // A log that shrinks meanwhile is only shorter than expected.
            position += skip_line(&mut reader).await.map_err(failed)?;
        }
        Ok(Self {
            path: path.clone(),
            reader,
            position,
            end: (!follow).then_some(length),
            pending: Vec::new(),
            instance,
        })
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let left = self
                .end
                .map_or(u64::MAX, |end| end.saturating_sub(self.position));
            let room = LONGEST.saturating_sub(self.pending.len()) as u64;
            let mut reader = (&mut self.reader).take(room.min(left));
            let read = reader.read_until(b'\n', &mut self.pending).await.ok()?;
            self.position += read as u64;
            let is_last = read == 0 && (self.end.is_some() || self.instance.is_deleted());
            if let Some((length, text)) = next_event(&self.pending, is_last) {
                let line = serde_json::to_string(&String::from_utf8_lossy(text)).ok()?;
                self.pending.drain(..length);
                return Some(Bytes::from(format!("data: {line}\n\n")));
            }
            if is_last {
                return None;
            }
            if read > 0 {
                continue;
            }
            self.follow_cut().await;
            tokio::time::sleep(LOOK_FOR_MORE).await;
        }
    }

    /// Goes back to where it was when the log's head was cut off meanwhile.
    async fn follow_cut(&mut self) {
        let length = async |path: &PathBuf| tokio::fs::metadata(path).await.map(|info| info.len());
        let Ok(now) = length(&self.path).await else {
            return;
        };
        if now >= self.position {
            return;
        }
        // What was cut off is all that the older file has.
        let cut = length(&rotation::older(&self.path)).await.unwrap_or(0);
        let position = self.position.saturating_sub(cut).min(now);
        if self.reader.seek(SeekFrom::Start(position)).await.is_ok() {
            self.position = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_or_as_much_of_it_as_is_taken_at_once() {
        for (pending, is_last, event) in [
            (b"".as_slice(), false, None),
            (b"", true, None),
            (b"half", false, None),
            (b"half", true, Some((4, b"half".as_slice()))),
            (b"line\n", false, Some((5, b"line"))),
            (b"line\r\n", false, Some((6, b"line"))),
            (b"\n", false, Some((1, b""))),
            (b"a\rb\r\r\n", false, Some((6, b"a\rb\r"))),
        ] {
            assert_eq!(next_event(pending, is_last), event, "{pending:?}");
        }
        let mut long = vec![b'x'; LONGEST - 1];
        assert_eq!(next_event(&long, false), None);
        long.push(b'x');
        assert_eq!(next_event(&long, false).unwrap().0, LONGEST);
        // The first of the two bytes of a letter, and one that begins none.
        for (byte, length) in [(0xc3, LONGEST - 1), (0xff, LONGEST)] {
            long[LONGEST - 1] = byte;
            assert_eq!(next_event(&long, false).unwrap().0, length, "{byte}");
        }
    }
}
