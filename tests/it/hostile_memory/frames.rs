//! Frames of HTTP/2 as bytes, whatever the rules say about their order.
//!
//! Guarantees: a frame's length is its payload's; fields are literals that no table keeps
//! (RFC 7541 §6.2.2).

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// The most that a frame's payload has by default (RFC 9113 §4.2).
const FRAME: usize = 16_384;
/// The largest window (RFC 9113 §6.9.1).
pub const WINDOW: u32 = (1 << 31) - 1;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&[a, b, c, kind, flags][..], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// What every connection begins with; the windows are as wide as they can be.
pub fn hello() -> Vec<u8> {
    let window = [&4_u16.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
    let more = WINDOW - 65_535;
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &frame(SETTINGS, 0, 0, &window)[..],
        &frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()),
    ]
    .concat()
}

/// A length, of which the first byte has seven bits (RFC 7541 §5.1).
fn length(of: &[u8]) -> Vec<u8> {
    let Some(mut rest) = of.len().checked_sub(127) else {
        return vec![u8::try_from(of.len()).unwrap()];
    };
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

pub fn field(name: &str, value: &str) -> Vec<u8> {
    let (name, value) = (name.as_bytes(), value.as_bytes());
    [&[0], &length(name)[..], name, &length(value), value].concat()
}

/// A request's fields.
pub fn fields(method: &str, host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", host),
    ];
    let all = own.iter().chain(more);
    all.flat_map(|(name, value)| field(name, value)).collect()
}

/// A stream's first frames, as many as its fields take.
pub fn open(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let count = block.chunks(FRAME).count();
    let parts = block.chunks(FRAME).enumerate().map(|(index, part)| {
        let end = if index + 1 == count { END_HEADERS } else { 0 };
        match index {
            0 => frame(HEADERS, flags | end, stream, part),
            _ => frame(CONTINUATION, end, stream, part),
        }
    });
    parts.collect::<Vec<_>>().concat()
}

/// A connection's first bytes and so many whole requests.
pub fn many(count: u32, method: &str, host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let block = fields(method, host, path, more);
    let opened = (0..count).map(|index| open(2 * index + 1, END_STREAM, &block));
    [hello(), opened.collect::<Vec<_>>().concat()].concat()
}
