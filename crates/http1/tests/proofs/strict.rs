//! A reader of RFC 9112 without any leniency.
//!
//! Guarantees: it shares no code with the codec. Lines end with CR LF, a head has one framing field
//! at most, chunks have no extension, and whatever else is doubtful is an error that says so.

/// One message, as the strict reader understands it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The three parts of the start line.
    pub(crate) start: [String; 3],
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// Where it ends, counted from the beginning of the bytes.
    pub(crate) end: usize,
    /// Whether the connection goes on after it.
    pub(crate) persists: bool,
}

/// The request that a response answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) is_head: bool,
    /// Its sender knows HTTP/1.0 only: no chunks, and no persistence unless it is said.
    pub(crate) is_old: bool,
}

type Read<T> = Result<T, String>;

/// All requests; there has to be nothing else.
pub(crate) fn requests(bytes: &[u8]) -> Read<Vec<Message>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let message = request(bytes, at)?;
        at = message.end;
        all.push(message);
    }
    Ok(all)
}

fn request(bytes: &[u8], at: usize) -> Read<Message> {
    let (line, at) = line(bytes, at)?;
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(format!("not three parts: {}", text(line)));
    };
    if !is_token(method) || target.is_empty() || version != b"HTTP/1.1" {
        return Err(format!("no request line: {}", text(line)));
    }
    if target.iter().any(|byte| *byte <= b' ' || *byte == 127) {
        return Err(format!("white space or control in {}", text(target)));
    }
    let (fields, at) = fields(bytes, at)?;
    let (body, trailers, end) = match framing(&fields)? {
        Framing::None => (Vec::new(), Vec::new(), at),
        Framing::Length(length) => (exactly(bytes, at, length)?, Vec::new(), at + length),
        Framing::Chunked => chunks(bytes, at)?,
    };
    Ok(Message {
        start: [text(method), text(target), text(version)],
        persists: !says(&fields, "close"),
        fields,
        body,
        trailers,
        end,
    })
}

/// One response at the beginning of `bytes`, which are all that came until the connection's end.
pub(crate) fn response(bytes: &[u8], asked: Asked) -> Read<Message> {
    let (line, at) = line(bytes, 0)?;
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (version, status, reason) = (parts.next(), parts.next(), parts.next());
    let (Some(version), Some(status), Some(reason)) = (version, status, reason) else {
        return Err(format!("no status line: {}", text(line)));
    };
    // Whoever knows HTTP/1.0 alone may be told either.
    let is_version = version == b"HTTP/1.1" || asked.is_old && version == b"HTTP/1.0";
    if !is_version {
        return Err(format!("no version: {}", text(version)));
    }
    if status.len() != 3 || !status.iter().all(u8::is_ascii_digit) {
        return Err(format!("no status: {}", text(status)));
    }
    if reason.iter().any(|byte| !is_of_value(*byte)) {
        return Err(format!("no reason: {}", text(reason)));
    }
    let (fields, at) = fields(bytes, at)?;
    let framing = framing(&fields)?;
    let has_field = !matches!(framing, Framing::None);
    let is_bodiless = status[0] == b'1' || status == b"204" || status == b"304";
    if has_field && (status[0] == b'1' || status == b"204") {
        return Err("a length or coding where none may be (RFC 9110 §8.6)".into());
    }
    if asked.is_old && matches!(framing, Framing::Chunked) {
        return Err("a coding to HTTP/1.0 (RFC 9112 §6.1)".into());
    }
    let nothing = (Vec::new(), Vec::new());
    let mut is_closed = false;
    let ((body, trailers), end) = match framing {
        _ if is_bodiless || asked.is_head => (nothing, at),
        Framing::Length(length) => ((exactly(bytes, at, length)?, Vec::new()), at + length),
        Framing::Chunked => {
            let (body, trailers, end) = chunks(bytes, at)?;
            ((body, trailers), end)
        }
        Framing::None => {
            is_closed = true;
            ((bytes[at..].to_vec(), Vec::new()), bytes.len())
        }
    };
    let goes_on = !asked.is_old || says(&fields, "keep-alive");
    Ok(Message {
        start: [text(version), text(status), text(reason)],
        persists: goes_on && !says(&fields, "close") && !is_closed,
        fields,
        body,
        trailers,
        end,
    })
}

/// The line that begins at `at`, without its end, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Read<(&[u8], usize)> {
    let rest = &bytes[at..];
    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
        return Err(format!("a line without an end: {}", text(rest)));
    };
    let line = &rest[..end];
    match line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        true => Err(format!("CR, LF or NUL in a line: {}", text(line))),
        false => Ok((line, at + end + 2)),
    }
}

type Lines = Vec<(String, Vec<u8>)>;

/// Field lines until the empty line.
fn fields(bytes: &[u8], mut at: usize) -> Read<(Lines, usize)> {
    let mut fields = Vec::new();
    loop {
        let (one, next) = line(bytes, at)?;
        at = next;
        if one.is_empty() {
            return Ok((fields, at));
        }
        let Some(colon) = one.iter().position(|byte| *byte == b':') else {
            return Err(format!("no colon: {}", text(one)));
        };
        let (name, value) = (&one[..colon], &one[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let edges = [value.first(), value.last()];
        if edges.iter().flatten().any(|byte| is_blank(**byte)) {
            return Err(format!("white space around a value: {}", text(one)));
        }
        if !is_token(name) || !value.iter().copied().all(is_of_value) {
            return Err(format!("no field: {}", text(one)));
        }
        fields.push((text(name), value.to_vec()));
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
}

fn framing(fields: &Lines) -> Read<Framing> {
    let all = |wanted: &str| {
        let same = fields
            .iter()
            .filter(|field| field.0.eq_ignore_ascii_case(wanted));
        same.map(|field| &*field.1).collect::<Vec<_>>()
    };
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::None),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([length], []) => {
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let number = text(length).parse().ok().filter(|_| is_number);
            let number = number.ok_or_else(|| format!("no length: {}", text(length)))?;
            Ok(Framing::Length(number))
        }
        (lengths, codings) => Err(format!("{lengths:?} and {codings:?} frame one body")),
    }
}

fn exactly(bytes: &[u8], at: usize, length: usize) -> Read<Vec<u8>> {
    let body = at
        .checked_add(length)
        .and_then(|end| bytes.get(at..end))
        .ok_or("the body is shorter than its length")?;
    Ok(body.to_vec())
}

fn chunks(bytes: &[u8], mut at: usize) -> Read<(Vec<u8>, Lines, usize)> {
    let mut body = Vec::new();
    loop {
        let (size, next) = line(bytes, at)?;
        if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("no chunk's size: {}", text(size)));
        }
        let size = usize::from_str_radix(&text(size), 16).map_err(|error| error.to_string())?;
        if size == 0 {
            let (trailers, end) = fields(bytes, next)?;
            return Ok((body, trailers, end));
        }
        body.extend(exactly(bytes, next, size)?);
        at = next + size;
        if bytes.get(at..at + 2) != Some(b"\r\n") {
            return Err("a chunk does not end with CR LF".into());
        }
        at += 2;
    }
}

/// Whether an option is among those of Connection.
fn says(fields: &Lines, option: &str) -> bool {
    fields
        .iter()
        .filter(|field| field.0.eq_ignore_ascii_case("connection"))
        .flat_map(|field| field.1.split(|byte| *byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

fn is_token(bytes: &[u8]) -> bool {
    let is = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_of_value(byte: u8) -> bool {
    is_blank(byte) || byte > 32 && byte != 127
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
