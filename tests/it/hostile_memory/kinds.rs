//! The kinds of hostile clients, one by one.
//!
//! Guarantees: each limit that a client could try to be beyond has a kind, on every protocol that
//! can be spoken to the gateway.

use http::Method;

use super::attacks::{Attack, MIB, Over, Reaches, STREAMS, get, head, many_fields, says, streams};
use super::frames::{self, END_STREAM, frame, hello, many};

pub fn attacks() -> Vec<Attack> {
    [http1(), tunnels_and_tls(), http2()]
        .into_iter()
        .flatten()
        .collect()
}

fn http1() -> Vec<Attack> {
    use Over::{Admin, Clear};
    let x = |count: usize| "x".repeat(count);
    let lines = many_fields().into_iter();
    let lines: Vec<_> = lines
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let lines = lines.concat();
    let slow_head = head("GET", "open", "/", "X-Slow: ") + &x(60_000);
    let chunked = |path| head("POST", "open", path, "Transfer-Encoding: chunked\r\n\r\n");
    let long = |host, path| head("POST", host, path, "Content-Length: 100000000\r\n\r\n");
    vec![
        says("HTTP/1: nothing at all", Reaches::Nothing, Clear, "", "", 0),
        says(
            "HTTP/1: a head that does not end",
            Reaches::Nothing,
            Clear,
            slow_head.clone(),
            "",
            0,
        ),
        says(
            "admin: a head that does not end",
            Reaches::Nothing,
            Admin,
            slow_head,
            "",
            0,
        ),
        says(
            "HTTP/1: large fields, held",
            Reaches::Hold,
            Clear,
            head("GET", "sleeps", "/", &lines) + "\r\n",
            "",
            0,
        ),
        says(
            "HTTP/1: large fields of a request that is not answered",
            Reaches::Open,
            Clear,
            head("GET", "open", "/deaf", &lines) + "\r\n",
            "",
            0,
        ),
        says(
            "HTTP/1: a body that stops",
            Reaches::Open,
            Clear,
            long("open", "/swallow") + &x(200_000),
            "",
            0,
        ),
        says(
            "HTTP/1: a body that nobody reads",
            Reaches::Open,
            Clear,
            long("open", "/deaf"),
            x(65_536),
            8 * MIB,
        ),
        says(
            "HTTP/1: a body that nobody reads, to h2c",
            Reaches::Shared,
            Clear,
            long("shared", "/deaf"),
            x(65_536),
            8 * MIB,
        ),
        says(
            "HTTP/1: a body that is held",
            Reaches::Hold,
            Clear,
            long("sleeps", "/"),
            x(65_536),
            8 * MIB,
        ),
        says(
            "HTTP/1: a chunk extension that does not end",
            Reaches::Nothing,
            Clear,
            chunked("/swallow") + "1;",
            x(65_536),
            4 * MIB,
        ),
        says(
            "HTTP/1: chunks that are extensions",
            Reaches::Nothing,
            Clear,
            chunked("/swallow"),
            format!("1;{}\r\nx\r\n", x(1000)),
            4 * MIB,
        ),
        says(
            "HTTP/1: chunks of a byte that nobody reads",
            Reaches::Open,
            Clear,
            chunked("/deaf"),
            "1\r\nx\r\n".repeat(1000),
            4 * MIB,
        ),
        says(
            "HTTP/1: trailers that do not end",
            Reaches::Nothing,
            Clear,
            chunked("/swallow") + "0\r\n",
            "x-trailer: value\r\n".repeat(1000),
            4 * MIB,
        ),
        says(
            "HTTP/1: a response that nobody reads",
            Reaches::Open,
            Clear,
            get("open", "/endless"),
            "",
            0,
        ),
        says(
            "HTTP/1: large fields of responses that nobody reads",
            Reaches::Open,
            Clear,
            get("open", "/fields"),
            get("open", "/fields").repeat(100),
            4 * MIB,
        ),
        says(
            "HTTP/1: a response of h2c that nobody reads",
            Reaches::Shared,
            Clear,
            get("shared", "/endless"),
            "",
            0,
        ),
        says(
            "HTTP/1: pipelined requests, whose responses nobody reads",
            Reaches::Open,
            Clear,
            get("open", "/"),
            get("open", "/").repeat(100),
            4 * MIB,
        ),
        says(
            "admin: pipelined requests, whose responses nobody reads",
            Reaches::Nothing,
            Admin,
            "GET /api/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(300),
            "",
            0,
        ),
    ]
}

fn tunnels_and_tls() -> Vec<Attack> {
    use Over::{Clear, HalfTls, Raw, Tls};
    let x = |count: usize| "x".repeat(count);
    let upgrade = head(
        "GET",
        "flood",
        "/",
        "Connection: upgrade\r\nUpgrade: x\r\n\r\n",
    );
    // A record of a ClientHello that has more to come.
    let hello = [&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc][..], &[0; 16_000]].concat();
    vec![
        says(
            "tunnel: takes nothing",
            Reaches::Flood,
            Clear,
            upgrade.clone(),
            "",
            0,
        ),
        says(
            "tunnel: both sides send, nobody reads",
            Reaches::Flood,
            Clear,
            upgrade,
            x(65_536),
            8 * MIB,
        ),
        says(
            "tunnel: takes nothing, raw TCP",
            Reaches::Flood,
            Raw,
            "hello\r\n\r\n",
            x(65_536),
            8 * MIB,
        ),
        says(
            "TLS: a hello that stops",
            Reaches::Nothing,
            HalfTls,
            &hello[..100],
            "",
            0,
        ),
        says(
            "TLS: a large hello that stops",
            Reaches::Nothing,
            HalfTls,
            hello,
            "",
            0,
        ),
        says(
            "TLS: HTTP/2 is agreed on, and nothing said",
            Reaches::Nothing,
            Tls { http2: true },
            "",
            "",
            0,
        ),
        says(
            "TLS: a response that nobody reads",
            Reaches::Open,
            Tls { http2: false },
            get("open", "/endless"),
            "",
            0,
        ),
        says(
            "TLS: a body that nobody reads",
            Reaches::Open,
            Tls { http2: false },
            head("POST", "open", "/deaf", "Content-Length: 100000000\r\n\r\n"),
            x(16_384),
            8 * MIB,
        ),
        says(
            "TLS: HTTP/2 responses that nobody reads",
            Reaches::Open,
            Tls { http2: true },
            many(STREAMS, "GET", "open.test", "/endless", &[]),
            "",
            0,
        ),
    ]
}

fn http2() -> Vec<Attack> {
    use Over::Clear;
    let large = many_fields();
    let large: Vec<_> = large
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let block = frames::fields("GET", "open.test", "/", &[]);
    let unended = [hello(), frame(frames::HEADERS, END_STREAM, 1, &block)].concat();
    let continued = frame(
        frames::CONTINUATION,
        0,
        1,
        &frames::field("x", &"v".repeat(16_000)),
    );
    let crumbs = frame(frames::CONTINUATION, 0, 1, &frames::field("x", "v")).repeat(100);
    // An entry of the table that is used 4,000 times.
    let mut bomb = frames::fields("GET", "open.test", "/deaf", &[]);
    bomb.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
    bomb.extend([b'a'; 3968]);
    bomb.extend([0xbe; 4000]);
    let bombs = (0..100).map(|index| frames::open(2 * index + 1, END_STREAM, &bomb));
    let endless = frames::fields("GET", "open.test", "/endless", &[]);
    let resets = (0..1000).map(|index| {
        let stream = 2 * index + 1;
        let reset = frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frames::open(stream, END_STREAM, &endless), reset].concat()
    });
    let resets = resets.collect::<Vec<_>>().concat();
    let post = frames::fields("POST", "open.test", "/swallow", &[]);
    let empty = frame(frames::DATA, 0, 1, b"").repeat(100);
    let socket = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    vec![
        says(
            "HTTP/2: says nothing after its settings",
            Reaches::Nothing,
            Clear,
            hello(),
            "",
            0,
        ),
        says(
            "HTTP/2: fields that do not end",
            Reaches::Nothing,
            Clear,
            unended.clone(),
            continued,
            4 * MIB,
        ),
        says(
            "HTTP/2: CONTINUATION in crumbs",
            Reaches::Nothing,
            Clear,
            unended,
            crumbs,
            4 * MIB,
        ),
        says(
            "HTTP/2: fields that grow when they are read",
            Reaches::Nothing,
            Clear,
            [hello(), bombs.collect::<Vec<_>>().concat()].concat(),
            "",
            0,
        ),
        says(
            "HTTP/2: large fields on 100 streams, held",
            Reaches::Hold,
            Clear,
            many(100, "GET", "sleeps.test", "/", &large),
            "",
            0,
        ),
        says(
            "HTTP/2: large fields on 16 streams, not answered",
            Reaches::Open,
            Clear,
            many(STREAMS, "GET", "open.test", "/deaf", &large),
            "",
            0,
        ),
        says(
            "HTTP/2: 100 streams, held",
            Reaches::Hold,
            Clear,
            many(100, "GET", "sleeps.test", "/", &[]),
            "",
            0,
        ),
        says(
            "HTTP/2: 100 streams, not answered",
            Reaches::Open,
            Clear,
            many(100, "GET", "open.test", "/deaf", &[]),
            "",
            0,
        ),
        says(
            "HTTP/2: 100 streams to h2c, not answered",
            Reaches::Shared,
            Clear,
            many(100, "GET", "shared.test", "/deaf", &[]),
            "",
            0,
        ),
        says(
            "HTTP/2: large fields of responses that nobody reads",
            Reaches::Open,
            Clear,
            // With more, so many are refused that the connection ends before one reaches anything.
            many(300, "GET", "open.test", "/fields", &[]),
            "",
            0,
        ),
        streams(
            "HTTP/2: uploads, held",
            Reaches::Hold,
            Method::POST,
            "sleeps",
            "/",
            65_535,
        ),
        streams(
            "HTTP/2: uploads that nobody reads",
            Reaches::Open,
            Method::POST,
            "open",
            "/deaf",
            65_535,
        ),
        streams(
            "HTTP/2: uploads that nobody reads, to h2c",
            Reaches::Shared,
            Method::POST,
            "shared",
            "/deaf",
            65_535,
        ),
        streams(
            "HTTP/2: responses whose windows are shut",
            Reaches::Open,
            Method::GET,
            "open",
            "/endless",
            1,
        ),
        streams(
            "HTTP/2: responses of h2c whose windows are shut",
            Reaches::Shared,
            Method::GET,
            "shared",
            "/endless",
            1,
        ),
        says(
            "HTTP/2: responses that nobody reads",
            Reaches::Open,
            Clear,
            many(STREAMS, "GET", "open.test", "/endless", &[]),
            "",
            0,
        ),
        says(
            "HTTP/2: PINGs whose answers nobody reads",
            Reaches::Nothing,
            Clear,
            hello(),
            frame(frames::PING, 0, 0, b"are you?").repeat(1000),
            4 * MIB,
        ),
        says(
            "HTTP/2: SETTINGS whose answers nobody reads",
            Reaches::Nothing,
            Clear,
            hello(),
            frame(frames::SETTINGS, 0, 0, b"").repeat(1000),
            4 * MIB,
        ),
        says(
            "HTTP/2: empty DATA",
            Reaches::Nothing,
            Clear,
            [hello(), frames::open(1, 0, &post)].concat(),
            empty,
            4 * MIB,
        ),
        says(
            "HTTP/2: requests that are reset",
            Reaches::Nothing,
            Clear,
            [hello(), resets].concat(),
            "",
            0,
        ),
        says(
            "tunnel: WebSockets over HTTP/2 that take nothing",
            Reaches::Flood,
            Clear,
            tunnels(STREAMS, &socket),
            "",
            0,
        ),
    ]
}

/// Streams that are tunnels, which do not end with their heads.
fn tunnels(count: u32, more: &[(&str, &str)]) -> Vec<u8> {
    // The other pseudo-fields come first.
    let block = frames::fields("CONNECT", "flood.test", "/", more);
    let open = (0..count).map(|index| frames::open(2 * index + 1, 0, &block));
    [hello(), open.collect::<Vec<_>>().concat()].concat()
}
