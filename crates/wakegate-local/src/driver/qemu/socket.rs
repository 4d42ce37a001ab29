//! Sockets in an instance's folder.
//!
//! Guarantees: a folder may be longer than a socket's address (108 bytes, unix(7)); of what comes
//! from a VM no more than a line of bounded length is kept.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// The longest line that anybody has reason to send.
const LONGEST_LINE: u64 = 1 << 20;

/// Reads the next line that is not too long; `false` at the end.
pub(super) async fn next_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut is_rest = false;
    loop {
        line.clear();
        let read = reader.take(LONGEST_LINE).read_until(b'\n', line).await?;
        let is_whole = line.ends_with(b"\n");
        if read == 0 || (is_whole && !is_rest) {
            return Ok(read > 0);
        }
        is_rest = !is_whole;
    }
}

/// Connects to the socket `name` in `folder`, as soon as it is there, for as long as `alive` says.
pub(super) async fn connect(
    folder: &Path,
    name: &str,
    alive: impl Fn() -> bool,
) -> io::Result<UnixStream> {
    let directory = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if !alive() => return Err(error),
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

/// Listens at the socket `name` in `folder`, whatever was there.
pub(super) fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let directory = File::open(folder)?;
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_not_kept() {
        let long = "x".repeat(3 << 20);
        let text = format!("one\n{long}\ntwo\nhalf");
        let mut reader = tokio::io::BufReader::new(text.as_bytes());
        let mut line = Vec::new();
        for expected in ["one\n", "two\n"] {
            assert!(next_line(&mut reader, &mut line).await.unwrap());
            assert_eq!(line, expected.as_bytes());
        }
        assert!(!next_line(&mut reader, &mut line).await.unwrap());
        assert!(line.capacity() <= 4 << 20, "{}", line.capacity());
    }
}
