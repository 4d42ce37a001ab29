//! How common servers read a path: what `PathReadings` is compared with, by its tests and
//! by its fuzz target, which includes this file.
//!
//! Guarantees: each reader is written after one server's documentation or source, and shares nothing
//! with the code that it tests. They are for tests alone.

/// A server's name, and the path that it routes by.
pub(super) type Server = (&'static str, fn(&[u8]) -> Vec<u8>);

/// Servers that are as different as they come.
pub(super) const SERVERS: &[Server] = &[
    // `net/http` decodes once; `ServeMux` cleans by `path.Clean`.
    ("go", |path| clean(&decode(path))),
    // gorilla/mux with `SkipClean`, and most frameworks: decoded once, as it is.
    ("decoding", decode),
    // `merge_slashes on`: decoded once, dots and slashes in one go, NUL refused by newer ones only.
    ("nginx", |path| clean(&until(&decode(path), b"\0"))),
    // Jetty, Tomcat: parameters go before anything is decoded.
    ("tomcat", |path| clean(&decode(&without_parameters(path)))),
    // Spring's older matchers: they go after it.
    ("spring", |path| clean(&without_parameters(&decode(path)))),
    // Decoded once, backslashes are slashes, blanks and dots at the end of names go.
    ("iis", |path| {
        let path = clean(&slashes(&decode(path)));
        each(&path, |name| {
            let end = name.iter().rposition(|byte| !matches!(byte, b' ' | b'.'));
            name[..end.map_or(0, |end| end + 1)].to_vec()
        })
        .to_ascii_lowercase()
    }),
    // A decoding proxy in front of a decoding application.
    ("chain", |path| clean(&decode(&clean(&decode(path))))),
    // The same without any cleaning but at the end.
    ("late chain", |path| clean(&decode(&decode(path)))),
    // C's texts end at a NUL, and the file system resolves the rest.
    ("cgi", |path| clean(&until(&decode(path), b"\0"))),
    // An application that parses the decoded path again.
    ("reparsing", |path| clean(&until(&decode(path), b"?#"))),
    // `new URL(…).pathname`: tabs and line ends go, backslashes are slashes, dots are resolved
    // without merging slashes, nothing else is decoded; then Express's routes, letter case aside.
    ("express", |path| {
        let path: Vec<u8> = slashes(path)
            .into_iter()
            .filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n'))
            .collect();
        unreserved(&dots(&path)).to_ascii_lowercase()
    }),
    // `new URL(req.url, base).pathname`: the same, and two slashes or more begin an authority.
    ("node", |path| {
        let path: Vec<u8> = slashes(path)
            .into_iter()
            .filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n'))
            .collect();
        unreserved(&dots(&authority(&path, true)))
    }),
    // `urlsplit(target).path` and then `unquote`: two slashes begin an authority.
    ("python", |path| decode(&authority(path, false))),
    // Dot segments stay where they are.
    ("literal", unreserved),
];

fn digit(byte: Option<&u8>) -> Option<u8> {
    Some(char::from(*byte?).to_digit(16)? as u8)
}

fn decode(path: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < path.len() {
        let (high, low) = (digit(path.get(at + 1)), digit(path.get(at + 2)));
        match (path[at], high, low) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The normal form's octets (RFC 3986 §6.2.2.1, §6.2.2.2).
fn unreserved(path: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < path.len() {
        let (high, low) = (digit(path.get(at + 1)), digit(path.get(at + 2)));
        match (path[at], high, low) {
            (b'%', Some(high), Some(low)) => {
                let byte = high * 16 + low;
                match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    true => out.push(byte),
                    false => out.extend(format!("%{byte:02X}").bytes()),
                }
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn slashes(path: &[u8]) -> Vec<u8> {
    let turned = path.iter().map(|byte| match byte {
        b'\\' => b'/',
        other => *other,
    });
    turned.collect()
}

/// Without an authority, before which there may be any number of slashes where `any` is set.
fn authority(path: &[u8], any: bool) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(b"//") else {
        return path.to_vec();
    };
    let slashes = rest.iter().take_while(|byte| any && **byte == b'/').count();
    let mut names = rest[slashes..].splitn(2, |byte| *byte == b'/').skip(1);
    match names.next() {
        Some(path) => [b"/", path].concat(),
        None => b"/".to_vec(),
    }
}

fn until(path: &[u8], ends: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| ends.contains(byte));
    path[..end.unwrap_or(path.len())].to_vec()
}

fn each(path: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let names: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').map(change).collect();
    names.join(&b'/')
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    each(path, |name| until(name, b";"))
}

/// Without empty segments and dot segments.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let mut out = Vec::new();
    for name in names {
        out.push(b'/');
        out.extend(name);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// Without dot segments, encoded ones among them.
fn dots(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/').skip(1) {
        match unreserved(name).as_slice() {
            b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    let mut out = Vec::new();
    for name in names {
        out.push(b'/');
        out.extend(name);
    }
    out
}
