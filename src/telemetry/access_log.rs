//! One JSON object a request, written when its response has ended.
//!
//! Guarantees: the path is logged without its query (people put secrets there), no header but the
//! user agent is, and writing never blocks: lines that a slow reader leaves no room for are dropped
//! and counted.

use std::io::Write;

use serde::Serialize;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::AccessLog;

/// Everything one access line says.
#[derive(Debug, Clone, Serialize)]
pub struct AccessLine<'a> {
    /// When the request's head was read, RFC 3339.
    pub time: jiff::Timestamp,
    /// As in the response's `x-request-id`.
    pub request_id: &'a str,
    /// The client's address, without its port.
    pub client: std::net::IpAddr,
    /// The method.
    pub method: &'a str,
    /// The host that was asked for, if it was valid.
    pub host: Option<&'a str>,
    /// The path without its query.
    pub path: &'a str,
    /// The status that was sent; 499 when the client left before one was.
    pub status: u16,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the request's head to the response's last byte.
    pub duration_ms: f64,
    /// `warm`, `cold`, `joined` or `none`.
    pub wake: &'a str,
    /// How long the request was held.
    pub held_ms: f64,
    /// The instance's id, once known.
    pub instance: Option<&'a str>,
    /// The error's stable code when the gateway answered by itself.
    pub error: Option<&'a str>,
    /// Whether the response broke off before its end.
    pub aborted: bool,
    /// The client's user agent, at most 200 characters.
    pub user_agent: Option<&'a str>,
}

/// Where access lines go.
#[derive(Debug)]
pub struct AccessSink(Option<(NonBlocking, WorkerGuard)>);

// === impl AccessSink ===

impl AccessSink {
    /// As configured.
    pub fn new(config: AccessLog) -> Self {
        match config {
            AccessLog::Off => Self(None),
            AccessLog::Stdout => Self::to(std::io::stdout()),
        }
    }

    /// To any writer, from a thread of its own.
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        let builder = NonBlockingBuilder::default()
            .lossy(true)
            .thread_name("access-log");
        Self(Some(builder.finish(writer)))
    }

    /// Queues one line.
    pub fn write(&self, line: &AccessLine<'_>) {
        let Some((writer, _)) = &self.0 else { return };
        let Ok(mut bytes) = serde_json::to_vec(line) else {
            return;
        };
        bytes.push(b'\n');
        // A full queue drops the line and counts it; there is no other error.
        let _counted = writer.clone().write_all(&bytes);
    }

    /// Lines dropped so far because the reader was too slow.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |(writer, _)| {
            writer.error_counter().dropped_lines() as u64
        })
    }
}
