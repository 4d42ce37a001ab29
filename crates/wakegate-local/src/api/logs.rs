//! An instance's logs as server-sent events (contract A.10).
//!
//! Guarantees: each line is one event whose data is a JSON string; without `follow` the stream ends
//! after the last line; with it, when the instance is deleted; a reader that leaves ends its own
//! task.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};

use super::error::ApiError;
use super::extract::Query;
use crate::fleet::Fleet;
use crate::store::{Instance, Kind, rotation};

const LOOK_FOR_MORE: Duration = Duration::from_millis(50);

pub(super) async fn logs(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let tail = query.parsed::<usize>("tail")?.unwrap_or(100);
    let follow = query.parsed::<bool>("follow")?.unwrap_or(false);
    let file = match query.text("source").unwrap_or("app") {
        "app" => "app.log",
        "hypeman" => "hypeman.log",
        // A process has no VMM, so this log never exists.
        "vmm" => "vmm.log",
        _ => {
            return Err(ApiError::malformed(
                "parameter source in query has an error",
            ));
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
    pending: Vec<u8>,
    follow: bool,
    instance: Arc<Instance>,
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
        let open = async || {
            File::open(path)
                .await
                .map_err(|_| ApiError::log_not_found())
        };
        let mut reader = BufReader::new(open().await?);
        let (mut count, mut line) = (0_usize, Vec::new());
        while matches!(reader.read_until(b'\n', &mut line).await, Ok(length) if length > 0) {
            count += 1;
            line.clear();
        }
        let (mut reader, mut position) = (BufReader::new(open().await?), 0);
        for _ in 0..count.saturating_sub(tail) {
            line.clear();
            // A log that shrinks meanwhile is only shorter than expected.
            let read = reader.read_until(b'\n', &mut line).await;
            position += read.unwrap_or(0) as u64;
        }
        Ok(Self {
            path: path.clone(),
            reader,
            position,
            pending: Vec::new(),
            follow,
            instance,
        })
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let read = self
                .reader
                .read_until(b'\n', &mut self.pending)
                .await
                .ok()?;
            self.position += read as u64;
            let complete = self.pending.ends_with(b"\n");
            if complete || (read == 0 && !self.follow && !self.pending.is_empty()) {
                let text = String::from_utf8_lossy(&self.pending);
                let line = serde_json::to_string(text.trim_end_matches(['\r', '\n'])).ok()?;
                self.pending.clear();
                return Some(Bytes::from(format!("data: {line}\n\n")));
            }
            if read > 0 {
                continue;
            }
            if !self.follow || self.instance.is_deleted() {
                return None;
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
