//! What servers do to a path before they compare it, one step at a time.
//!
//! Guarantees: [`STAGES`] is the order in which servers take these steps; a reading is one step of
//! each stage. A path that [`is_plain`] is left as it is by each of them.

/// The stages of a reading, and the steps that servers take in each.
pub(super) const STAGES: [&[Step]; 10] = [
    &[Step::Keep, Step::CutParameters],
    &[
        Step::Normalize,
        Step::Decode(Times::Once, Octets::AllButSlashes),
        Step::Decode(Times::Once, Octets::All),
        Step::Decode(Times::Once, Octets::Lenient),
        Step::Decode(Times::Once, Octets::Valid),
        Step::Decode(Times::Twice, Octets::All),
        Step::Decode(Times::Twice, Octets::Lenient),
        Step::Decode(Times::Twice, Octets::Valid),
    ],
    &[Step::Keep, Step::CutAtNul],
    &[Step::Keep, Step::CutAtQuery],
    &[Step::Keep, Step::TurnBackslashes],
    &[Step::Keep, Step::CutParameters],
    &[
        Step::Keep,
        Step::TrimSpaces,
        Step::TrimSegments,
        Step::DropControls,
    ],
    &[Step::Keep, Step::DropAuthority],
    &[
        Step::Keep,
        Step::Merge,
        Step::Resolve,
        Step::MergeAndResolve,
        Step::ResolveAndMerge,
    ],
    // Windows resolves dot segments before it looks at names.
    &[Step::Keep, Step::TrimSpaces, Step::TrimSegments],
];

/// One thing that a server may do to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Path parameters go: `/a;x/b` is `/a/b` (RFC 3986 §3.3; Java's servlets).
    CutParameters,
    /// Encoded unreserved octets are decoded, other encodings get upper-case digits (RFC 3986
    /// §6.2.2.1, §6.2.2.2).
    Normalize,
    /// Percent-encodings are decoded.
    Decode(Times, Octets),
    /// The path ends before a NUL, as C's texts do.
    CutAtNul,
    /// The path ends before a decoded `?` or `#`, as where a decoded target is parsed again.
    CutAtQuery,
    /// A backslash is a slash (Windows; the WHATWG URL standard).
    TurnBackslashes,
    /// Spaces and dots at the end of a segment go (Windows).
    TrimSpaces,
    /// Blanks around a segment and dots after it go (`strip` of many languages).
    TrimSegments,
    /// The same, and control characters go anywhere (the WHATWG URL standard: tabs, line ends).
    DropControls,
    /// What begins with two slashes is a reference with an authority: `//x/a` is `/a` (RFC 3986
    /// §4.2; `new URL(target, base)` of the WHATWG, which takes more slashes for two).
    DropAuthority,
    /// Empty segments go: `//a` is `/a`.
    Merge,
    /// Dot segments are resolved (RFC 3986 §5.2.4).
    Resolve,
    /// First the one, then the other: `/a//../b` is `/b`.
    MergeAndResolve,
    /// The other way round: `/a//../b` is `/a/b`.
    ResolveAndMerge,
}

/// How often encodings are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Once,
    /// By a server and by what is behind it.
    Twice,
}

/// Which encodings are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Octets {
    All,
    /// Encoded slashes and backslashes stay encoded.
    AllButSlashes,
    /// Also what is no valid encoding: `%u0061`, overlong and full-width characters; a `%` that
    /// encodes nothing goes.
    Lenient,
    /// What is not UTF-8 afterwards goes.
    Valid,
}

/// The bytes by which servers may read a path in more than one way, wherever they are.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(
            clippy::indexing_slicing,
            clippy::cast_possible_truncation,
            reason = "below 256"
        )]
        {
            special[byte] = byte <= 0x20
                || byte >= 0x7f
                || matches!(byte as u8, b'%' | b';' | b'\\' | b'?' | b'#');
        }
        byte += 1;
    }
    special
};

/// Whether all servers read the path in one way, letter case apart.
pub(super) fn is_plain(path: &[u8]) -> bool {
    let mut last = 0;
    for &byte in path {
        let is_special = SPECIAL.get(usize::from(byte)) != Some(&false);
        // An empty segment, or one that ends in a dot.
        if is_special || byte == b'/' && matches!(last, b'/' | b'.') {
            return false;
        }
        last = byte;
    }
    last != b'.'
}

// === impl Step ===

impl Step {
    /// Whether the step may lead to another reading than those before it in its stage.
    pub(super) fn is_needed(self, path: &[u8]) -> bool {
        let Self::Decode(times, octets) = self else {
            return true;
        };
        let (mut rest, mut found) = (path, Encodings::default());
        while let Some((octet, after)) = next_octet(rest) {
            found.note(octet);
            rest = after;
        }
        let once = match octets {
            Octets::All => true,
            Octets::AllButSlashes => found.has_slash,
            Octets::Lenient | Octets::Valid => found.is_strange,
        };
        // What is strange may hide another `%`.
        let is_nested = found.has_percent || octets == Octets::Lenient && found.is_strange;
        once && (times == Times::Once || is_nested)
    }

    /// The path after this step; `None` where the step certainly changes nothing.
    pub(super) fn of(self, path: &[u8]) -> Option<Vec<u8>> {
        let has = |byte: u8| path.contains(&byte);
        match self {
            Self::Keep => None,
            Self::CutParameters => changed_segments(path, without_parameters),
            Self::Normalize => has(b'%').then(|| normalized(path)),
            Self::Decode(times, octets) => has(b'%').then(|| {
                let once = decoded(path, octets);
                match times {
                    Times::Once => once,
                    Times::Twice => decoded(&once, octets),
                }
            }),
            Self::CutAtNul => cut_at(path, |byte| byte == 0),
            Self::CutAtQuery => cut_at(path, |byte| matches!(byte, b'?' | b'#')),
            Self::TurnBackslashes => has(b'\\').then(|| {
                let turned = path.iter().map(|byte| match byte {
                    b'\\' => b'/',
                    other => *other,
                });
                turned.collect()
            }),
            Self::TrimSpaces => {
                changed_segments(path, |segment| without_end(segment, |byte| byte == b' '))
            }
            Self::TrimSegments => changed_segments(path, trimmed),
            Self::DropControls => path.iter().any(u8::is_ascii_control).then(|| {
                let kept = path.iter().copied().filter(|byte| !byte.is_ascii_control());
                each_segment(&kept.collect::<Vec<_>>(), trimmed)
            }),
            Self::DropAuthority => without_authority(path),
            Self::Merge => merged(path),
            Self::Resolve => resolved(path),
            Self::MergeAndResolve => {
                let merged = merged(path)?;
                Some(resolved(&merged).unwrap_or(merged))
            }
            Self::ResolveAndMerge => {
                let resolved = resolved(path)?;
                Some(merged(&resolved).unwrap_or(resolved))
            }
        }
    }
}

// === Octets ===

/// The next octet of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Octet {
    /// As it is.
    Raw(u8),
    /// Percent-encoded (RFC 3986 §2.1).
    Encoded(u8),
}

/// What kinds of encodings a path has.
#[derive(Debug, Default)]
struct Encodings {
    has_slash: bool,
    /// A `%`, encoded or alone.
    has_percent: bool,
    /// What is no ASCII, or what is no encoding.
    is_strange: bool,
}

impl Encodings {
    fn note(&mut self, octet: Octet) {
        match octet {
            Octet::Encoded(b'/' | b'\\') => self.has_slash = true,
            // The next round may find anything.
            Octet::Raw(b'%') | Octet::Encoded(b'%') => {
                (self.has_percent, self.is_strange) = (true, true);
            }
            Octet::Raw(0x80..) | Octet::Encoded(0x80..) => self.is_strange = true,
            Octet::Raw(_) | Octet::Encoded(_) => {}
        }
    }
}

/// Takes the next octet off a path.
pub(super) fn next_octet(path: &[u8]) -> Option<(Octet, &[u8])> {
    let (&first, tail) = path.split_first()?;
    if first == b'%'
        && let [high, low, rest @ ..] = tail
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some((Octet::Encoded(high << 4 | low), rest));
    }
    Some((Octet::Raw(first), tail))
}

/// An octet in the normal form: unreserved ones are the same encoded or not (RFC 3986 §6.2.2.2).
pub(super) fn normal(octet: Octet) -> Octet {
    match octet {
        Octet::Encoded(byte) if is_unreserved(byte) => Octet::Raw(byte),
        Octet::Raw(_) | Octet::Encoded(_) => octet,
    }
}

fn digit(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push(text: &mut Vec<u8>, octet: Octet) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    match octet {
        Octet::Raw(byte) => text.push(byte),
        Octet::Encoded(byte) => {
            let digits = [byte >> 4, byte & 0xf].map(|digit| DIGITS.get(usize::from(digit)));
            text.push(b'%');
            text.extend(digits.into_iter().flatten().map(|digit| *digit as u8));
        }
    }
}

fn normalized(path: &[u8]) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(path.len()), path);
    while let Some((octet, after)) = next_octet(rest) {
        push(&mut text, normal(octet));
        rest = after;
    }
    text
}

fn decoded(path: &[u8], octets: Octets) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(path.len()), path);
    let is_lenient = octets == Octets::Lenient;
    while let Some((octet, after)) = next_octet(rest) {
        rest = after;
        match octet {
            Octet::Encoded(b'/' | b'\\') if octets == Octets::AllButSlashes => {
                push(&mut text, octet);
            }
            Octet::Raw(b'%') if is_lenient => {
                if let Some((character, after)) = wide(rest) {
                    text.extend(character.encode_utf8(&mut [0; 4]).bytes());
                    rest = after;
                }
            }
            Octet::Raw(byte) | Octet::Encoded(byte) => text.push(byte),
        }
    }
    match octets {
        Octets::Lenient if !text.is_ascii() => narrowed(&text),
        Octets::Valid if !text.is_ascii() => text
            .utf8_chunks()
            .flat_map(|chunk| chunk.valid().bytes())
            .collect(),
        Octets::All | Octets::AllButSlashes | Octets::Lenient | Octets::Valid => text,
    }
}

/// The character of `u0061`, which comes after a `%` (IIS, older ECMAScript).
fn wide(rest: &[u8]) -> Option<(char, &[u8])> {
    let [b'u' | b'U', a, b, c, d, after @ ..] = rest else {
        return None;
    };
    let mut value = 0;
    for digit in [a, b, c, d] {
        value = value << 4 | char::from(*digit).to_digit(16)?;
    }
    Some((char::from_u32(value)?, after))
}

/// Overlong and full-width characters as what they look like.
fn narrowed(text: &[u8]) -> Vec<u8> {
    let (mut all, mut rest) = (Vec::with_capacity(text.len()), text);
    let bits = |byte: &u8| u32::from(byte & 0x3f);
    while let [first, tail @ ..] = rest {
        let overlong = match (first, tail) {
            // Old decoders looked at no more than six bits of what follows.
            (0xc0 | 0xc1, [a, after @ ..]) => Some((u32::from(first & 1) << 6 | bits(a), after)),
            (0xe0, [a @ 0x80..=0x9f, b @ 0x80..=0xbf, after @ ..]) => {
                Some((bits(a) << 6 | bits(b), after))
            }
            (
                0xf0,
                [
                    a @ 0x80..=0x8f,
                    b @ 0x80..=0xbf,
                    c @ 0x80..=0xbf,
                    after @ ..,
                ],
            ) => Some((bits(a) << 12 | bits(b) << 6 | bits(c), after)),
            // U+FF01 to U+FF5E are `!` to `~`.
            (0xef, [a @ 0xbc..=0xbd, b @ 0x80..=0xbf, after @ ..]) => {
                let ascii = (bits(a) << 6 | bits(b)).checked_sub(0xf00);
                let ascii = ascii.map(|offset| offset + 0x20);
                ascii
                    .filter(|ascii| (0x21..=0x7e).contains(ascii))
                    .map(|ascii| (ascii, after))
            }
            _ => None,
        };
        match overlong.and_then(|(value, after)| Some((char::from_u32(value)?, after))) {
            Some((character, after)) => {
                all.extend(character.encode_utf8(&mut [0; 4]).bytes());
                rest = after;
            }
            None => {
                all.push(*first);
                rest = tail;
            }
        }
    }
    all
}

// === Segments ===

fn cut_at(path: &[u8], ends: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let end = path.iter().position(|byte| ends(*byte))?;
    path.get(..end).map(<[u8]>::to_vec)
}

fn without_parameters(segment: &[u8]) -> &[u8] {
    segment
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
}

/// Spaces, controls, and the two that Latin-1 has besides.
fn is_blank(byte: u8) -> bool {
    byte <= 0x20 || matches!(byte, 0x7f | 0x85 | 0xa0)
}

fn trimmed(mut segment: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = segment
        && is_blank(*first)
    {
        segment = rest;
    }
    without_end(segment, is_blank)
}

/// The segment without blanks at its end, and without dots unless it has nothing else.
fn without_end(mut segment: &[u8], is_blank: impl Fn(u8) -> bool) -> &[u8] {
    while let [rest @ .., last] = segment
        && is_blank(*last)
    {
        segment = rest;
    }
    if segment.iter().all(|byte| *byte == b'.') {
        return segment;
    }
    while let [rest @ .., last] = segment
        && (is_blank(*last) || *last == b'.')
    {
        segment = rest;
    }
    segment
}

/// The segments of a path; the last one is empty where the path ends in a slash.
pub(super) fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.split(|byte| *byte == b'/')
}

fn joined<'a>(segments: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut path = Vec::new();
    for segment in segments {
        path.push(b'/');
        path.extend(segment);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

fn each_segment(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Vec<u8> {
    joined(segments(path).map(change))
}

/// The same, `None` where nothing changes.
fn changed_segments(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Option<Vec<u8>> {
    let changes = |segment: &[u8]| change(segment).len() != segment.len();
    segments(path)
        .any(changes)
        .then(|| each_segment(path, change))
}

/// Without the authority that a reference begins with; `None` where it begins with none.
fn without_authority(path: &[u8]) -> Option<Vec<u8>> {
    let mut rest = path.strip_prefix(b"//")?;
    while let Some(after) = rest.strip_prefix(b"/") {
        rest = after;
    }
    let end = rest.iter().position(|byte| *byte == b'/');
    let path = end.and_then(|end| rest.get(end..));
    Some(path.unwrap_or(b"/").to_vec())
}

/// Without empty segments; a slash at the end stays. `None` where there is none.
fn merged(path: &[u8]) -> Option<Vec<u8>> {
    path.windows(2).any(|pair| pair == b"//").then(|| {
        let kept = segments(path).filter(|segment| !segment.is_empty());
        let mut merged = joined(kept);
        if path.ends_with(b"/") && merged.len() > 1 {
            merged.push(b'/');
        }
        merged
    })
}

/// Without dot segments. `None` where there is none.
fn resolved(path: &[u8]) -> Option<Vec<u8>> {
    if !segments(path).any(|segment| matches!(segment, b"." | b"..")) {
        return None;
    }
    let (mut kept, mut all) = (Vec::new(), segments(path).peekable());
    while let Some(segment) = all.next() {
        let is_last = all.peek().is_none();
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            other => {
                kept.push(other);
                continue;
            }
        }
        if is_last {
            kept.push(b"");
        }
    }
    Some(joined(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(step: Step, path: &str, expected: &str) {
        let bytes = step.of(path.as_bytes());
        let bytes = bytes.unwrap_or_else(|| path.as_bytes().to_vec());
        assert_eq!(bytes.escape_ascii().to_string(), expected, "{path}");
    }

    #[test]
    fn octets_are_decoded_as_far_as_the_step_says() {
        let decode = |times, octets| Step::Decode(times, octets);
        check(Step::Normalize, "/%61%2f%c3%A9%zz%", "/a%2F%C3%A9%zz%");
        let path = "/%61%2f%5c%2561%zz";
        check(
            decode(Times::Once, Octets::AllButSlashes),
            path,
            "/a%2F%5C%61%zz",
        );
        check(decode(Times::Once, Octets::All), path, "/a/\\\\%61%zz");
        check(decode(Times::Twice, Octets::All), path, "/a/\\\\a%zz");
        check(decode(Times::Once, Octets::All), "/%%36%31", "/%61");
    }

    #[test]
    fn what_is_no_valid_encoding_is_decoded_as_lenient_servers_do() {
        let lenient = Step::Decode(Times::Once, Octets::Lenient);
        for path in [
            "/%u0061",
            "/%c1%a1",
            "/%e0%81%a1",
            "/%f0%80%81%a1",
            "/%ef%bd%81",
            "/%uff41",
            "/%a",
        ] {
            check(lenient, path, "/a");
        }
        check(lenient, "/%c0%af", "//");
        check(lenient, "/caf%c3%a9", "/caf\\xc3\\xa9");
        check(
            Step::Decode(Times::Once, Octets::Valid),
            "/adm%ffin%c3",
            "/admin",
        );
    }

    #[test]
    fn segments_are_cut_trimmed_merged_and_resolved() {
        check(Step::CutParameters, "/a;x=1/b;/c", "/a/b/c");
        check(Step::CutAtNul, "/a\0b", "/a");
        check(Step::CutAtQuery, "/a?b", "/a");
        check(Step::TurnBackslashes, "/a\\b", "/a/b");
        check(Step::TrimSegments, "/ a. ./.. /b.\0/...", "/a/../b/...");
        check(Step::TrimSpaces, "/ a. ./.. /b.\0", "/ a/../b.\\x00");
        check(Step::DropControls, "/a\tb ", "/ab");
        check(Step::DropAuthority, "//x/a", "/a");
        check(Step::DropAuthority, "///x@y:1//a", "//a");
        check(Step::DropAuthority, "//x", "/");
        check(Step::DropAuthority, "///", "/");
        check(Step::DropAuthority, "/x//a", "/x//a");
        check(Step::Merge, "//a///b//", "/a/b/");
        check(Step::Merge, "//", "/");
        check(Step::Resolve, "/a/./b/../../../c/..", "/");
        check(Step::Resolve, "/a/b/.", "/a/b/");
        check(Step::Resolve, "/a//../b", "/a/b");
        check(Step::MergeAndResolve, "/a//../b", "/b");
        check(Step::ResolveAndMerge, "//a//../b", "/a/b");
    }

    #[test]
    fn a_plain_path_has_none_of_what_the_steps_look_for() {
        for path in ["/", "/a", "/a/", "/a.b/.c/~d/@e:f,g=h+i!$&'()*-_", "/..a"] {
            assert!(is_plain(path.as_bytes()), "{path}");
        }
        for path in [
            "/.", "/a/..", "/a/./b", "//", "/a//b", "/a;b", "/a%20", "/a\\b", "/a b", "/é", "/a.",
        ] {
            assert!(!is_plain(path.as_bytes()), "{path}");
        }
        for step in STAGES.iter().flat_map(|steps| steps.iter()) {
            let path = b"/a.b/.c/~d";
            assert!(step.of(path).is_none_or(|after| after == path), "{step:?}");
        }
    }
}
