//! Sockets in an instance's folder.
//!
//! Guarantees: a folder may be longer than a socket's address (108 bytes, unix(7)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

const LOOK_AGAIN: Duration = Duration::from_micros(500);

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
