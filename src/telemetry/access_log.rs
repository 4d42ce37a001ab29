//! One line a request, written when its response has ended.
//!
//! Guarantees: the path is logged without its query (people put secrets there), no header but the
//! user agent is, what strangers wrote is visible and stays in its place, and writing never blocks: lines that a slow reader leaves no room for are dropped
//! and counted; what went wrong, or met a wake, is never left out by sampling.

use std::io::Write;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::diagnostics::QUEUED_LINES;
use super::escape::{is_invisible, write_visible};
use super::metrics::WakeKind;
use crate::config::{AccessField, AccessFormat, AccessLog, LogConfig};

/// Everything one access line can say; [`AccessField`] says what.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is an AccessField, which says it")]
pub struct AccessLine<'a> {
    pub time: jiff::Timestamp,
    pub request_id: &'a str,
    pub trace_id: Option<&'a str>,
    pub client: std::net::IpAddr,
    pub peer: std::net::IpAddr,
    pub method: &'a str,
    pub host: Option<&'a str>,
    pub path: &'a str,
    pub route: Option<&'a str>,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: f64,
    pub wake: WakeKind,
    pub held_ms: f64,
    pub instance: Option<&'a str>,
    pub instance_name: Option<&'a str>,
    pub error: Option<&'a str>,
    pub aborted: bool,
    pub ended_by: Option<&'static str>,
    pub fleet_peer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

/// Where access lines go.
#[derive(Debug)]
pub struct AccessSink(Option<Sink>);

#[derive(Debug)]
struct Sink {
    writer: NonBlocking,
    _worker: WorkerGuard,
    format: AccessFormat,
    sample: f64,
    fields: Vec<AccessField>,
}

/// A field's value.
enum Value<'a> {
    Nothing,
    Text(&'a str),
    /// Text that needs no quotes in any format but JSON's.
    Word(String),
    Whole(u64),
    Fraction(f64),
    Flag(bool),
}

// === impl AccessLine ===

impl AccessLine<'_> {
    /// What sampling may leave out.
    fn is_usual(&self) -> bool {
        self.status < 400 && !self.aborted && matches!(self.wake, WakeKind::None | WakeKind::Warm)
    }

    fn value(&self, field: AccessField) -> Value<'_> {
        let text = |text: Option<_>| text.map_or(Value::Nothing, Value::Text);
        match field {
            AccessField::Time => Value::Word(self.time.to_string()),
            AccessField::RequestId => Value::Text(self.request_id),
            AccessField::TraceId => text(self.trace_id),
            AccessField::Client => Value::Word(self.client.to_string()),
            AccessField::Peer => Value::Word(self.peer.to_string()),
            AccessField::Method => Value::Text(self.method),
            AccessField::Host => text(self.host),
            AccessField::Path => Value::Text(self.path),
            AccessField::Route => text(self.route),
            AccessField::Status => Value::Whole(self.status.into()),
            AccessField::BytesIn => Value::Whole(self.bytes_in),
            AccessField::BytesOut => Value::Whole(self.bytes_out),
            AccessField::DurationMs => Value::Fraction(self.duration_ms),
            AccessField::Wake => Value::Text(self.wake.as_str()),
            AccessField::HeldMs => Value::Fraction(self.held_ms),
            AccessField::Instance => text(self.instance),
            AccessField::InstanceName => text(self.instance_name),
            AccessField::Error => text(self.error),
            AccessField::Aborted => Value::Flag(self.aborted),
            AccessField::EndedBy => text(self.ended_by),
            AccessField::FleetPeer => text(self.fleet_peer),
            AccessField::UserAgent => text(self.user_agent),
        }
    }

    fn to_json(&self, fields: &[AccessField]) -> Vec<u8> {
        let mut line = Vec::with_capacity(512);
        for field in fields {
            line.push(if line.is_empty() { b'{' } else { b',' });
            line.push(b'"');
            line.extend_from_slice(field.as_str().as_bytes());
            line.extend_from_slice(b"\":");
            let value = self.value(*field);
            match &value {
                Value::Nothing => line.extend_from_slice(b"null"),
                Value::Text(text) => quote(&mut line, text),
                Value::Word(text) => quote(&mut line, text),
                Value::Whole(_) | Value::Fraction(_) | Value::Flag(_) => {
                    value.write_plain(&mut line);
                }
            }
        }
        line.extend_from_slice(b"}\n");
        line
    }

    fn to_logfmt(&self, fields: &[AccessField]) -> Vec<u8> {
        let mut line = Vec::with_capacity(512);
        for field in fields {
            let value = self.value(*field);
            if matches!(value, Value::Nothing) {
                continue;
            }
            if !line.is_empty() {
                line.push(b' ');
            }
            line.extend_from_slice(field.as_str().as_bytes());
            line.push(b'=');
            if let Value::Text(text) = value
                && !is_word(text)
            {
                quote(&mut line, text);
            } else {
                value.write_plain(&mut line);
            }
        }
        line.push(b'\n');
        line
    }
}

// === impl Value ===

impl Value<'_> {
    fn write_plain(&self, line: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _written = match self {
            Self::Nothing => Ok(()),
            Self::Text(text) => line.write_all(text.as_bytes()),
            Self::Word(text) => line.write_all(text.as_bytes()),
            Self::Whole(number) => write!(line, "{number}"),
            // Microseconds are as fine as any clock here.
            Self::Fraction(number) => write!(line, "{number:.3}"),
            Self::Flag(flag) => write!(line, "{flag}"),
        };
    }
}

/// As JSON writes a text; logfmt's readers understand it, too.
fn quote(line: &mut Vec<u8>, text: &str) {
    if text.contains(is_invisible) {
        // serde_json escapes what JSON demands, which is ASCII's first 32 characters.
        let quoted = serde_json::to_string(text).unwrap_or_default();
        write_visible(line, &quoted);
        return;
    }
    // A text can always be written to a Vec.
    let _written = serde_json::to_writer(line, text);
}

fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    !text.is_empty() && text.bytes().all(plain)
}

// === impl AccessSink ===

impl AccessSink {
    /// As configured.
    pub fn new(config: &LogConfig) -> Self {
        match config.access {
            AccessLog::Off => Self::off(),
            AccessLog::Stdout => Self::to(std::io::stdout(), config),
        }
    }

    /// Nowhere.
    pub fn off() -> Self {
        Self(None)
    }

    /// To any writer, from a thread of its own.
    pub fn to(writer: impl Write + Send + 'static, config: &LogConfig) -> Self {
        let builder = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUED_LINES)
            .thread_name("access-log");
        let (writer, worker) = builder.finish(writer);
        let fields = match config.access_fields.as_slice() {
            [] => AccessField::ALL.to_vec(),
            chosen => chosen.to_vec(),
        };
        Self(Some(Sink {
            writer,
            _worker: worker,
            format: config.access_format,
            sample: config.access_sample,
            fields,
        }))
    }

    /// Whether there is anywhere to write to.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues one line, unless sampling leaves it out.
    pub fn write(&self, line: &AccessLine<'_>) {
        let Some(sink) = &self.0 else { return };
        if line.is_usual() && sink.sample < 1.0 && fastrand::f64() >= sink.sample {
            return;
        }
        let bytes = match sink.format {
            AccessFormat::Json => line.to_json(&sink.fields),
            AccessFormat::Logfmt => line.to_logfmt(&sink.fields),
        };
        // A full queue drops the line and counts it; there is no other error.
        let _counted = sink.writer.clone().write_all(&bytes);
    }

    /// Lines dropped so far because the reader was too slow.
    pub fn dropped(&self) -> u64 {
        let sink = self.0.as_ref();
        sink.map_or(0, |sink| sink.writer.error_counter().dropped_lines() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn line() -> AccessLine<'static> {
        AccessLine {
            time: jiff::Timestamp::UNIX_EPOCH,
            request_id: "r-1",
            trace_id: None,
            client: [192, 0, 2, 1].into(),
            peer: [10, 0, 0, 1].into(),
            method: "GET",
            host: Some("a.test"),
            path: "/a b\"c",
            route: Some("{app}.test/"),
            status: 200,
            bytes_in: 0,
            bytes_out: 12,
            duration_ms: 1.23456,
            wake: WakeKind::Warm,
            held_ms: 0.0,
            instance: Some("i1"),
            instance_name: Some("app"),
            error: None,
            aborted: false,
            ended_by: None,
            fleet_peer: None,
            user_agent: Some("x=\n"),
        }
    }

    #[test]
    fn both_formats_say_the_chosen_fields_in_the_chosen_order() {
        let line = line();
        let json: serde_json::Value =
            serde_json::from_slice(&line.to_json(AccessField::ALL)).unwrap();
        assert_eq!(json.as_object().unwrap().len(), AccessField::ALL.len());
        assert_eq!(
            (&json["path"], &json["error"]),
            (&"/a b\"c".into(), &().into())
        );
        assert_eq!(json["time"], "1970-01-01T00:00:00Z");
        let fields = [
            AccessField::Status,
            AccessField::Path,
            AccessField::DurationMs,
        ];
        assert_eq!(
            line.to_json(&fields),
            b"{\"status\":200,\"path\":\"/a b\\\"c\",\"duration_ms\":1.235}\n"
        );
        let text = String::from_utf8(line.to_logfmt(AccessField::ALL)).unwrap();
        assert_eq!(
            text,
            "time=1970-01-01T00:00:00Z request_id=r-1 client=192.0.2.1 peer=10.0.0.1 method=GET host=a.test \
             path=\"/a b\\\"c\" route={app}.test/ status=200 bytes_in=0 bytes_out=12 duration_ms=1.235 \
             wake=warm held_ms=0.000 instance=i1 instance_name=app aborted=false user_agent=\"x=\\n\"\n"
        );
    }

    #[test]
    fn what_strangers_write_is_visible_in_both_formats() {
        let agent = "a\u{9b}2J\u{85}\u{202e}\u{2028}\u{7f}\u{1b}é";
        let line = AccessLine {
            user_agent: Some(agent),
            ..line()
        };
        let escaped = "\"a\\u009b2J\\u0085\\u202e\\u2028\\u007f\\u001bé\"";
        for text in [
            line.to_json(AccessField::ALL),
            line.to_logfmt(AccessField::ALL),
        ] {
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(escaped), "{text}");
        }
        let json: serde_json::Value =
            serde_json::from_slice(&line.to_json(AccessField::ALL)).unwrap();
        assert_eq!(json["user_agent"], agent);
    }

    /// A reader that reads nothing until it is released.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _told = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (go_on, stuck) = mpsc::channel();
        let sink = AccessSink::to(Stuck(stuck), &LogConfig::default());
        // The queue has room for 128,000 lines; this would never end if the writer waited.
        for _ in 0..130_000 {
            sink.write(&line());
        }
        assert!(sink.dropped() >= 1000, "{}", sink.dropped());
        drop(go_on);
    }

    #[test]
    fn sampling_leaves_out_only_what_is_usual() {
        let usual = line();
        assert!(usual.is_usual());
        for unusual in [
            AccessLine {
                status: 404,
                ..line()
            },
            AccessLine {
                aborted: true,
                ..line()
            },
            AccessLine {
                wake: WakeKind::Joined,
                ..line()
            },
        ] {
            assert!(!unusual.is_usual());
        }
    }
}
