//! Hostile clients.
//!
//! Guarantees: a client says what its kind says, as far as the gateway takes it, and is there until
//! it is dropped; it sends a few mebibytes at most, so that what it costs is memory and not the
//! time that reading takes.

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::site::Site;

pub const MIB: usize = 1 << 20;
/// Streams on a connection whose bodies, together, are as much as a connection's window.
pub const STREAMS: u32 = 16;
const UPLOAD: Bytes = Bytes::from_static(&[b'x'; 240 * 1024]);
/// How long a gateway takes nothing until its client stops.
const BLOCKED: Duration = Duration::from_millis(300);

/// A kind of hostile clients.
pub struct Attack {
    pub name: &'static str,
    pub reaches: Reaches,
    how: How,
}

/// What an attack must reach to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaches {
    /// It is for the gateway alone.
    Nothing,
    /// The application of HTTP/1.1.
    Open,
    /// The application of HTTP/2.
    Shared,
    /// The queue of requests for an instance that sleeps.
    Hold,
    /// The application that sends without an end.
    Flood,
}

/// How a client connects.
#[derive(Debug, Clone, Copy)]
pub enum Over {
    Clear,
    /// Without a handshake.
    HalfTls,
    Tls {
        http2: bool,
    },
    Raw,
    Admin,
}

enum How {
    /// Sends `first`, then `again` until so many bytes have gone, and reads nothing.
    Says {
        over: Over,
        first: Vec<u8>,
        again: Vec<u8>,
        most: usize,
    },
    /// Streams by the rules of HTTP/2, whose windows are `window` and of which nothing is taken.
    Streams {
        method: Method,
        host: &'static str,
        path: &'static str,
        window: u32,
    },
}

/// What is there until it is dropped.
pub type Client = Box<dyn Any + Send>;

impl Attack {
    /// Says what the gateway takes.
    pub async fn begin(&self, site: &Site, index: usize) -> Client {
        match &self.how {
            How::Says {
                over,
                first,
                again,
                most,
            } => {
                let to = match over {
                    Over::Clear => site.gateway.listen,
                    Over::HalfTls => site.tls,
                    Over::Raw => site.raw,
                    Over::Admin => site.gateway.admin,
                    Over::Tls { http2 } => {
                        let mut stream = site.connect_tls(*http2, index).await;
                        say(&mut stream, first, again, *most).await;
                        return Box::new(stream);
                    }
                };
                let mut stream = site.connect(to, index).await;
                say(&mut stream, first, again, *most).await;
                Box::new(stream)
            }
            How::Streams {
                method,
                host,
                path,
                window,
            } => {
                let socket = site.connect(site.gateway.listen, index).await;
                let mut builder = h2::client::Builder::new();
                builder.initial_window_size(*window);
                let (sender, connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
                let mut tasks = JoinSet::new();
                tasks.spawn(async move { drop(connection.await) });
                for _ in 0..STREAMS {
                    let mut sender = sender.clone().ready().await.unwrap();
                    let request = Request::builder()
                        .method(method)
                        .uri(format!("http://{host}.test{path}"))
                        .body(())
                        .unwrap();
                    let has_body = *method == Method::POST;
                    let (answer, mut body) = sender.send_request(request, !has_body).unwrap();
                    if has_body {
                        body.send_data(UPLOAD, true).unwrap();
                    }
                    tasks.spawn(async move {
                        let _kept = (answer.await, body);
                        std::future::pending::<()>().await;
                    });
                }
                Box::new((sender, tasks))
            }
        }
    }
}

/// Writes until everything has gone, or nothing goes any more.
async fn say(stream: &mut (impl AsyncWrite + Unpin), first: &[u8], again: &[u8], most: usize) {
    let mut rest = first;
    let mut sent = 0;
    loop {
        if rest.is_empty() {
            rest = again;
        }
        if rest.is_empty() || (sent >= most && sent >= first.len()) {
            // What it was cut for, if it was.
            let _flushed = timeout(BLOCKED, stream.flush()).await;
            return;
        }
        match timeout(BLOCKED, stream.write(rest)).await {
            Ok(Ok(count @ 1..)) => {
                rest = &rest[count..];
                sent += count;
            }
            // It was cut, or is not read.
            Ok(Ok(0) | Err(_)) | Err(_) => return,
        }
    }
}

/// A request's head, without the empty line.
pub fn head(method: &str, host: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}.test\r\n{more}")
}

pub fn get(host: &str, path: &str) -> String {
    head("GET", host, path, "\r\n")
}

/// As many fields as are allowed, and nearly as many bytes.
pub fn many_fields() -> Vec<(String, String)> {
    let each = |index| (format!("x-large-{index}"), "v".repeat(600));
    (0..90).map(each).collect()
}

pub fn says(
    name: &'static str,
    reaches: Reaches,
    over: Over,
    first: impl Into<Vec<u8>>,
    again: impl Into<Vec<u8>>,
    most: usize,
) -> Attack {
    let how = How::Says {
        over,
        first: first.into(),
        again: again.into(),
        most,
    };
    Attack { name, reaches, how }
}

pub fn streams(
    name: &'static str,
    reaches: Reaches,
    method: Method,
    host: &'static str,
    path: &'static str,
    window: u32,
) -> Attack {
    let how = How::Streams {
        method,
        host,
        path,
        window,
    };
    Attack { name, reaches, how }
}
