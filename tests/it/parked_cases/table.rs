//! What a WebSocket client can send, by the families of Autobahn's test suite, in a table of our own.
//!
//! Guarantees: each case names what of RFC 6455 it is about; what the standard refuses is marked.

/// One frame of a client's.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) first: u8,
    pub(super) payload: Vec<u8>,
    /// The bytes themselves, where they are no frame as it has to be.
    raw: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    /// Control frames before any payload, which a gateway answers for an instance that sleeps.
    pub(super) controls: Vec<Frame>,
    pub(super) frames: Vec<Frame>,
    /// The bytes are sent in pieces of so many.
    pub(super) piece: usize,
    /// The standard has the instance fail the connection.
    pub(super) is_refused: bool,
}

const FIN: u8 = 0x80;
const MORE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8a;
const MASK: [u8; 4] = [0x5a, 0, 0xff, 0x81];
const WHOLE: usize = usize::MAX;

// === impl Frame ===

impl Frame {
    pub(super) fn new(first: u8, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self {
            first,
            payload,
            raw: None,
        }
    }

    fn raw(bytes: &[u8]) -> Self {
        Self {
            raw: Some(bytes.to_vec()),
            ..Self::new(bytes[0], b"")
        }
    }

    fn bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let (length, mut bytes) = (self.payload.len(), vec![self.first]);
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match length {
            0..=125 => bytes.push(bit | length as u8),
            126..=0xffff => {
                bytes.push(bit | 0x7e);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(bit | 0x7f);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.iter().flatten());
        let mask = mask.unwrap_or_default();
        let payload = self.payload.iter().zip(mask.iter().cycle());
        bytes.extend(payload.map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// As a client sends it (§5.3).
    pub(super) fn masked(&self) -> Vec<u8> {
        match &self.raw {
            Some(raw) => raw.clone(),
            None => self.bytes(Some(MASK)),
        }
    }

    /// As a server does.
    pub(super) fn plain(&self) -> Vec<u8> {
        self.bytes(None)
    }
}

// === impl Case ===

impl Case {
    fn of(name: impl Into<String>, frames: Vec<Frame>) -> Self {
        Self {
            name: name.into(),
            controls: Vec::new(),
            frames,
            piece: WHOLE,
            is_refused: false,
        }
    }

    fn refused(name: impl Into<String>, frames: Vec<Frame>) -> Self {
        Self {
            is_refused: true,
            ..Self::of(name, frames)
        }
    }

    fn after(self, controls: Vec<Frame>) -> Self {
        Self { controls, ..self }
    }

    fn in_pieces(self, piece: usize) -> Self {
        let name = format!("{}, in pieces of {piece}", self.name);
        Self {
            name,
            piece,
            ..self
        }
    }
}

fn text(payload: &str) -> Frame {
    Frame::new(FIN | TEXT, payload.as_bytes())
}

/// A message in frames of so many bytes (§5.4).
fn cut(kind: u8, payload: &[u8], each: usize) -> Vec<Frame> {
    let parts: Vec<&[u8]> = payload.chunks(each).collect();
    let last = parts.len() - 1;
    let frames = parts.iter().enumerate().map(|(at, part)| {
        let opcode = if at == 0 { kind } else { MORE };
        let end = if at == last { FIN } else { 0 };
        Frame::new(end | opcode, part)
    });
    frames.collect()
}

/// 1: lengths of every kind (§5.2), and the least ways in which one may not be written.
pub(super) fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, word) in [(TEXT, "text"), (BINARY, "binary")] {
        for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
            let byte = if kind == TEXT { b'*' } else { 0xfe };
            let frame = Frame::new(FIN | kind, &vec![byte; length]);
            let case = Case::of(format!("1 {word} of {length}"), vec![frame]);
            if matches!(length, 1 | 126 | 65_536) {
                let piece = if length > 1000 { 997 } else { 1 };
                cases.push(case.clone().in_pieces(piece));
            }
            cases.push(case);
        }
    }
    let long = [&[0x81, 0xfe, 0, 5][..], &MASK, b"hello"].concat();
    let frame = vec![Frame::raw(&long)];
    cases.push(Case::refused("1 a length of 5 in two bytes (§5.2)", frame));
    let bare = vec![Frame::raw(b"\x81\x05hello")];
    cases.push(Case::refused("1 a frame without a mask (§5.1)", bare));
    cases
}

/// 2: pings and pongs (§5.5.2, §5.5.3).
pub(super) fn pings() -> Vec<Case> {
    let ping = |payload: &[u8]| Frame::new(PING, payload);
    let mut cases = Vec::new();
    for payload in [
        &b""[..],
        b"hello",
        &[0, 255, 254, 1, 0x7f, 0x80],
        &[0xfe; 125],
    ] {
        let name = format!("2 a ping of {}", payload.len());
        cases.push(Case::of(name, vec![]).after(vec![ping(payload)]));
    }
    let ten = (0..10).map(|number: u8| ping(&[number; 9])).collect();
    cases.push(Case::of("2 ten pings", vec![]).after(ten));
    let single = Case::of("2 a ping", vec![]).after(vec![ping(&[7; 125])]);
    cases.push(single.in_pieces(1));
    let pong = |payload: &[u8]| Frame::new(PONG, payload);
    for payload in [&b""[..], b"unsolicited"] {
        let name = format!(
            "2 a pong of {} that nobody wants, then a ping",
            payload.len()
        );
        let controls = vec![pong(payload), ping(b"and this")];
        cases.push(Case::of(name, vec![]).after(controls));
    }
    let controls = vec![ping(b"first"), pong(b""), ping(b"second")];
    let case = Case::of(
        "2 pings before a message",
        vec![text("message"), ping(b"third")],
    );
    cases.push(case.after(controls));
    let long = Frame::new(PING, &[b'x'; 126]);
    cases.push(Case::refused("2 a ping of 126 (§5.5)", vec![long]));
    let bare = Frame::raw(b"\x89\x02hi");
    cases.push(Case::refused("2 a ping without a mask (§5.1)", vec![bare]));
    cases
}

/// 3: reserved bits (§5.2), and 4: reserved opcodes (§5.2, §11.8).
pub(super) fn reserved() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..=7_u8 {
        let first = FIN | bits << 4 | [TEXT, BINARY, PING & 0xf][usize::from(bits) % 3];
        let frame = Frame::new(first, b"reserved");
        cases.push(Case::refused(
            format!("3 reserved bits {bits}"),
            vec![frame],
        ));
    }
    for (first, what) in [(PING, "a ping"), (PONG, "a pong"), (CLOSE, "a close")] {
        let frame = Frame::new(first | 0x40, &[3, 232]);
        let name = format!("3 {what} with a reserved bit");
        cases.push(Case::refused(name, vec![frame]));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let payload: &[u8] = if opcode % 2 == 0 { b"" } else { b"unknown" };
        let frame = Frame::new(FIN | opcode, payload);
        cases.push(Case::refused(format!("4 opcode {opcode}"), vec![frame]));
    }
    cases
}

/// 5: messages in parts, and what may be between them (§5.4).
pub(super) fn fragmentation() -> Vec<Case> {
    let ping = |number: u8| Frame::new(PING, &[number; 3]);
    let two = || cut(TEXT, b"fragment1fragment2", 9);
    let mut cases = vec![Case::of("5 two parts", two())];
    cases.push(Case::of("5 two parts", two()).in_pieces(1));
    let between = |frames: Vec<Frame>| {
        let frames = frames.into_iter().zip(0..);
        let frames = frames.flat_map(|(frame, number)| [frame, ping(number)]);
        frames.collect::<Vec<_>>()
    };
    cases.push(Case::of("5 a ping behind each part", between(two())));
    let many = between(cut(BINARY, &[9; 200], 10));
    cases.push(Case::of("5 twenty parts and pings", many.clone()));
    cases.push(Case::of("5 twenty parts and pings", many).in_pieces(7));
    let mut empty = cut(TEXT, b"abc", 1);
    empty.insert(1, Frame::new(MORE, b""));
    empty.insert(0, Frame::new(PONG, b"nobody's"));
    let pong = empty.remove(0);
    cases.push(Case::of("5 an empty part", empty).after(vec![pong]));
    let broken = Frame::new(PING & 0xf, b"half a ping");
    cases.push(Case::refused("5 a ping in parts (§5.5)", vec![broken]));
    for first in [FIN | MORE, MORE] {
        let frames = vec![Frame::new(first, b"of what?"), text("and on")];
        let name = format!("5 a part of nothing, {first:#x}");
        cases.push(Case::refused(name, frames));
    }
    let within = vec![Frame::new(TEXT, b"half"), text("another")];
    cases.push(Case::refused("5 a message within another", within));
    cases
}

/// 6: text that is cut anywhere, and what is no text (§5.6, §8.1).
pub(super) fn utf8() -> Vec<Case> {
    let good = "κόσμε \u{10ffff} \u{feff} ⠁ 日本語";
    let mut cases = vec![Case::of("6 text", vec![text(good)]).in_pieces(1)];
    for each in [1, 2, 3] {
        let frames = cut(TEXT, good.as_bytes(), each);
        cases.push(Case::of(format!("6 text in parts of {each}"), frames));
    }
    for (what, bytes) in [
        ("a lone continuation", &b"\x80"[..]),
        ("an overlong slash", b"\xc0\xaf"),
        ("a surrogate", b"abc\xed\xa0\x80def"),
        ("too far", b"\xf4\x90\x80\x80"),
        ("an impossible byte", b"a\xfeb"),
        ("half a letter", "κ".as_bytes().split_at(1).0),
    ] {
        let whole = vec![Frame::new(FIN | TEXT, bytes)];
        cases.push(Case::refused(format!("6 {what} (§8.1)"), whole));
    }
    let parts = vec![Frame::new(TEXT, b"good"), Frame::new(FIN | MORE, b"\xff")];
    cases.push(Case::refused("6 what is no text in the second part", parts));
    cases
}

/// 9: long messages, and 10: such in many frames (§5.4).
pub(super) fn large() -> Vec<Case> {
    let bytes: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    let letters = "ä€𝄞!".repeat(26_000);
    let quarter = &bytes[..1 << 18];
    vec![
        Case::of("9 a mebibyte", vec![Frame::new(FIN | BINARY, &bytes)]),
        Case::of("9 long text", vec![text(&letters)]),
        Case::of("9 long text", vec![text(&letters)]).in_pieces(1448),
        Case::of(
            "9 a quarter in parts of 64",
            cut(BINARY, &quarter[..1 << 16], 64),
        ),
        Case::of("9 a quarter in parts of 4096", cut(BINARY, quarter, 4096)),
        Case::of(
            "9 text in parts of 1000",
            cut(TEXT, letters.as_bytes(), 1000),
        ),
        Case::of(
            "10 65536 in parts of 1300",
            cut(TEXT, &vec![b'*'; 65_536], 1300),
        ),
        Case::of(
            "10 65536 in parts of 1300",
            cut(BINARY, &vec![0; 65_536], 1300),
        )
        .in_pieces(536),
    ]
}

/// A client's close, and the code that it is answered with.
pub(super) struct Closing {
    pub(super) name: String,
    pub(super) frame: Frame,
    pub(super) code: u16,
}

/// 7: closes (§5.5.1, §7.4).
pub(super) fn closes() -> Vec<Closing> {
    let closing = |name: String, payload: &[u8], code: u16| Closing {
        name,
        frame: Frame::new(CLOSE, payload),
        code,
    };
    let with = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    let mut all = vec![closing("7 without a code".to_owned(), b"", 1000)];
    for code in [
        1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999,
    ] {
        all.push(closing(format!("7 {code}"), &with(code, b"reason"), code));
    }
    let longest = with(1000, &[b'x'; 123]);
    all.push(closing("7 the longest reason".to_owned(), &longest, 1000));
    // What may not be in a close is a mistake of the client's (§7.4.1, §7.4.2).
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        all.push(closing(
            format!("7 {code}, which may not be"),
            &with(code, b""),
            1002,
        ));
    }
    all.push(closing("7 half a code (§5.5.1)".to_owned(), b"\x03", 1002));
    all
}
