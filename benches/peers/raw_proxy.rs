//! The floor of the peers' benchmark: what a proxy costs that does nothing but read heads and copy
//! bytes. The distance from it is what wakegate's features and wakegate's own way of doing HTTP cost.
//!
//! `raw_proxy ADDRESS ORIGIN WORKERS` has so many threads, each with a listener, a runtime and idle
//! connections of its own. It parses heads with httparse, leaves out `Connection` and copies the
//! rest: no routes, no fields of its own, no limits, no time-outs.
//!
//! Guarantees: a message ends where its `Content-Length` says; a connection to the origin is used
//! again only after a whole response; what it does not know (other framing, upgrades, expectations,
//! interim responses, pipelining, HTTP/1.0) is answered with 501 or 502 and ends the connection.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::indexing_slicing,
    missing_docs,
    reason = "bench"
)]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use httparse::{EMPTY_HEADER, Header, Status};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const HEAD: usize = 16 * 1024;
const PART: usize = 64 * 1024;
const FIELDS: usize = 100;
const CLOSE: &[u8] = b"Connection: close\r\n";

/// What is used again: connections to the origin, and buffers.
#[derive(Debug, Default)]
struct Idle {
    connections: Mutex<Vec<TcpStream>>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// How long a message is.
#[derive(Debug, Default)]
struct Framing {
    /// Bytes of its head.
    head: usize,
    /// Bytes of its body.
    body: u64,
    /// Where its `Connection` line is.
    connection: Option<(usize, usize)>,
    /// Whether its sender closes the connection after it.
    closes: bool,
    /// Whether it is a request whose response has no body.
    is_head_request: bool,
}

/// Something that this proxy does not know.
#[derive(Debug)]
struct Unknown;

impl Framing {
    /// Bytes of head and body.
    fn length(&self) -> u64 {
        (self.head as u64).saturating_add(self.body)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, origin, workers] = &arguments[..] else {
        panic!("raw_proxy ADDRESS ORIGIN WORKERS");
    };
    let (address, origin) = (address.parse().unwrap(), origin.parse().unwrap());
    let workers = (0..workers.parse().unwrap()).map(|_| {
        let listener = listen(address).unwrap();
        std::thread::spawn(move || work(listener, origin))
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.join().unwrap();
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn work(listener: std::net::TcpListener, origin: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let idle = Arc::<Idle>::default();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let idle = Arc::clone(&idle);
            tokio::spawn(async move {
                // Whoever leaves has had enough.
                let _left = converse(client, &idle, origin).await;
            });
        }
    });
}

/// Serves a client's requests to the end of its connection.
async fn converse(mut client: TcpStream, idle: &Idle, origin: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    loop {
        // A connection that waits has no buffer.
        client.readable().await?;
        let mut buffer = idle.buffers.lock().unwrap().pop().unwrap_or_default();
        let goes_on = exchange(&mut client, &mut buffer, idle, origin).await?;
        buffer.clear();
        idle.buffers.lock().unwrap().push(buffer);
        if !goes_on {
            return Ok(());
        }
    }
}

/// Passes a request and its response on; whether there may be another.
async fn exchange(
    client: &mut TcpStream,
    buffer: &mut Vec<u8>,
    idle: &Idle,
    origin: SocketAddr,
) -> io::Result<bool> {
    let request = match read_head(client, buffer, request_framing).await? {
        Some(Ok(request)) if buffer.len() as u64 <= request.length() => request,
        Some(_) => return refuse(client, "501 Not Implemented").await,
        None => return Ok(false),
    };
    let pooled = idle.connections.lock().unwrap().pop();
    let mut upstream = match pooled {
        Some(upstream) => upstream,
        None => match TcpStream::connect(origin).await {
            Ok(upstream) => upstream,
            Err(_) => return refuse(client, "502 Bad Gateway").await,
        },
    };
    upstream.set_nodelay(true)?;
    copy(client, &mut upstream, buffer, &request, false).await?;
    buffer.clear();
    let framing = |buffer: &[u8]| response_framing(buffer, request.is_head_request);
    let response = match read_head(&mut upstream, buffer, framing).await? {
        Some(Ok(response)) if buffer.len() as u64 <= response.length() => response,
        Some(_) | None => return refuse(client, "502 Bad Gateway").await,
    };
    copy(&mut upstream, client, buffer, &response, request.closes).await?;
    if !response.closes {
        idle.connections.lock().unwrap().push(upstream);
    }
    Ok(!request.closes)
}

/// Reads to the end of a head at least; `None` if the connection ends before it begins.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    framing: impl Fn(&[u8]) -> Result<Option<Framing>, Unknown>,
) -> io::Result<Option<Result<Framing, Unknown>>> {
    buffer.reserve(HEAD);
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return match buffer.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        match framing(buffer) {
            Ok(Some(framing)) => return Ok(Some(Ok(framing))),
            Ok(None) if buffer.len() < HEAD => {}
            Ok(None) | Err(Unknown) => return Ok(Some(Err(Unknown))),
        }
    }
}

/// Passes a message on of which `buffer` has the head and what came with it.
async fn copy(
    from: &mut TcpStream,
    to: &mut TcpStream,
    buffer: &mut Vec<u8>,
    message: &Framing,
    says_close: bool,
) -> io::Result<()> {
    let mut left = message.length() - buffer.len() as u64;
    let end = message.head - 2;
    if says_close {
        buffer.splice(end..end, CLOSE.iter().copied());
    }
    if let Some((begin, end)) = message.connection {
        buffer.drain(begin..end);
    }
    to.write_all(buffer).await?;
    while left > 0 {
        buffer.clear();
        buffer.reserve(PART);
        let read = (&mut *from).take(left).read_buf(buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read as u64;
        to.write_all(buffer).await?;
    }
    Ok(())
}

async fn refuse(client: &mut TcpStream, status: &str) -> io::Result<bool> {
    let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    client.write_all(answer.as_bytes()).await?;
    Ok(false)
}

fn request_framing(buffer: &[u8]) -> Result<Option<Framing>, Unknown> {
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let Status::Complete(head) = request.parse(buffer).map_err(|_| Unknown)? else {
        return Ok(None);
    };
    if request.version != Some(1) || request.method == Some("CONNECT") {
        return Err(Unknown);
    }
    let is_head_request = request.method == Some("HEAD");
    let (framing, _) = framing(buffer, head, request.headers)?;
    Ok(Some(Framing {
        is_head_request,
        ..framing
    }))
}

fn response_framing(buffer: &[u8], to_head: bool) -> Result<Option<Framing>, Unknown> {
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let Status::Complete(head) = response.parse(buffer).map_err(|_| Unknown)? else {
        return Ok(None);
    };
    if response.version != Some(1) || response.code.is_none_or(|code| code < 200) {
        return Err(Unknown);
    }
    let bodiless = to_head || matches!(response.code, Some(204 | 304));
    let (framing, has_length) = framing(buffer, head, response.headers)?;
    match (bodiless, has_length) {
        (true, _) => Ok(Some(Framing { body: 0, ..framing })),
        (false, true) => Ok(Some(framing)),
        // It would end with the connection.
        (false, false) => Err(Unknown),
    }
}

/// What the fields say, and whether they say a length.
fn framing(buffer: &[u8], head: usize, fields: &[Header<'_>]) -> Result<(Framing, bool), Unknown> {
    let mut framing = Framing {
        head,
        ..Framing::default()
    };
    let mut length = None;
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            if length.is_some() || !field.value.iter().all(u8::is_ascii_digit) {
                return Err(Unknown);
            }
            let text = std::str::from_utf8(field.value).map_err(|_| Unknown)?;
            length = Some(text.parse().map_err(|_| Unknown)?);
        } else if is("connection") {
            framing.closes = field.value.eq_ignore_ascii_case(b"close");
            let is_known = framing.closes || field.value.eq_ignore_ascii_case(b"keep-alive");
            if framing.connection.is_some() || !is_known {
                return Err(Unknown);
            }
            framing.connection = Some(line(buffer, field));
        } else if is("transfer-encoding") || is("upgrade") || is("expect") {
            return Err(Unknown);
        }
    }
    framing.body = length.unwrap_or(0);
    Ok((framing, length.is_some()))
}

/// Where a field's line begins and ends, its line break included.
fn line(buffer: &[u8], field: &Header<'_>) -> (usize, usize) {
    let begin = field.name.as_ptr().addr() - buffer.as_ptr().addr();
    let rest = &buffer[begin..];
    let length = rest.iter().position(|byte| *byte == b'\n');
    (
        begin,
        begin + length.map_or(rest.len(), |length| length + 1),
    )
}
