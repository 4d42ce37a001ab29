//! Text that strangers wrote, in lines that people read.
//!
//! Guarantees: a line of a log is one line, whatever is in it; nothing in it moves a terminal's
//! cursor, colours it, or changes the order in which what follows is read.

use std::io::{self, Write};

/// Whether nobody sees a character: controls, separators of lines, and what joins, parts or turns
/// the direction of what follows (Unicode's categories Cc, Zl, Zp and the parts of Cf that are not
/// letters').
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with each invisible character but tabs escaped.
pub fn visible(text: &str) -> String {
    let mut line = Vec::with_capacity(text.len());
    write_escaped(&mut line, text, |c| c != '\t' && is_invisible(c));
    String::from_utf8_lossy(&line).into_owned()
}

/// Writes text with each invisible character as JSON's escape of it (RFC 8259 §7), which logfmt's
/// readers understand, too.
pub(super) fn write_visible(line: &mut Vec<u8>, text: &str) {
    write_escaped(line, text, is_invisible);
}

fn write_escaped(line: &mut Vec<u8>, text: &str, is_hidden: impl Fn(char) -> bool) {
    if !text.contains(&is_hidden) {
        line.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A text can always be written to a Vec.
                let _written = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// A writer of whole events, each of which becomes one line. Lines after an event's first, as of
/// an error that shows its place, are set in; for systemd's journal, to which each line is an entry
/// of its own, they go on in the first.
#[derive(Debug, Clone)]
pub(super) struct Visible<W> {
    writer: W,
    /// Whether events are coloured. `tracing-subscriber` then escapes what is in them itself.
    has_colour: bool,
    /// The event's priority, where the journal reads it.
    priority: Option<u8>,
}

/// What an event's further lines begin with.
const INDENT: &[u8] = b"\n    ";
/// The same in the journal.
const JOINT: &[u8] = b"; ";

// === impl Visible ===

impl<W> Visible<W> {
    pub(super) fn new(writer: W, has_colour: bool) -> Self {
        Self {
            writer,
            has_colour,
            priority: None,
        }
    }

    /// The same for an event that the journal reads, with its priority (sd-daemon(3): 3 is an
    /// error).
    pub(super) fn with_priority(self, priority: u8) -> Self {
        Self {
            priority: Some(priority),
            ..self
        }
    }
}

impl<W: Write> Write for Visible<W> {
    /// Takes an event whole: `tracing` writes each with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (lines, end) = match text.strip_suffix('\n') {
            Some(lines) => (lines, &b"\n"[..]),
            None => (&*text, &b""[..]),
        };
        let is_hidden = |c| match c {
            '\t' => false,
            '\u{1b}' => !self.has_colour,
            c => is_invisible(c),
        };
        let mut out = Vec::with_capacity(event.len() + 16);
        if let Some(priority) = self.priority {
            // A number can always be written to a Vec.
            let _written = write!(out, "<{priority}>");
        }
        let mut separator: &[u8] = b"";
        for line in lines.split('\n') {
            out.extend_from_slice(separator);
            let line = match self.priority {
                None => {
                    separator = INDENT;
                    line
                }
                Some(_) => {
                    separator = JOINT;
                    line.trim_start()
                }
            };
            write_escaped(&mut out, line, is_hidden);
        }
        out.extend_from_slice(end);
        self.writer.write_all(&out)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_escaped_and_what_people_write_stays() {
        let visible = |text: &str| {
            let mut line = Vec::new();
            write_visible(&mut line, text);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(visible("Größe 日本 🦀"), "Größe 日本 🦀");
        assert_eq!(
            visible("a\u{9b}b\u{85}c\u{202e}d\u{2028}e\u{2029}f\u{2066}g\u{feff}h"),
            "a\\u009bb\\u0085c\\u202ed\\u2028e\\u2029f\\u2066g\\ufeffh"
        );
        assert_eq!(visible("\u{e0041}"), "\\udb40\\udc41");
    }

    #[test]
    fn an_event_is_one_line_and_its_further_lines_are_set_in() {
        let mut writer = Visible::new(Vec::new(), false);
        let forged = "WARN a: error=no\n2026 ERROR forged\r\u{9b}2J\u{1b}[31m\n";
        writer.write_all(forged.as_bytes()).unwrap();
        let text = String::from_utf8(writer.writer).unwrap();
        assert_eq!(
            text,
            "WARN a: error=no\n    2026 ERROR forged\\u000d\\u009b2J\\u001b[31m\n"
        );
    }

    #[test]
    fn an_event_is_one_entry_of_the_journal_with_its_priority() {
        let mut writer = Visible::new(Vec::new(), false).with_priority(3);
        let event = "ERROR not reloaded problem=w.toml:6:1: no such key\n    did you mean `a`?\n";
        writer.write_all(event.as_bytes()).unwrap();
        let text = String::from_utf8(writer.writer).unwrap();
        assert_eq!(
            text,
            "<3>ERROR not reloaded problem=w.toml:6:1: no such key; did you mean `a`?\n"
        );
    }
}
