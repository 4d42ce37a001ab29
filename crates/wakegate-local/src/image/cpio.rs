//! Archives of the form `newc`, which the kernel unpacks as its first file system.
//!
//! Guarantees: the same entries give the same bytes (times are 0, owners root); archives may be put
//! one after the other (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_600;

/// Writes one archive.
pub(super) struct Archive<W> {
    out: W,
    written: usize,
    inode: u32,
}

// === impl Archive ===

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
        }
    }

    /// A directory; its parent must have been written.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY, (0, 0), &[])
    }

    /// A file that may be executed.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, EXECUTABLE, (0, 0), bytes)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub(super) fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, DEVICE, (major, minor), &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let name_length = u32::try_from(name.len() + 1).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let links = 1;
        let fields = [
            self.inode,
            mode,
            0, // owner
            0, // group
            links,
            0, // time
            length,
            0, // the archive's own device
            0,
            device.0,
            device.1,
            name_length,
            0, // no checksum
        ];
        let mut head = String::from("070701");
        for field in fields {
            use std::fmt::Write as _;
            write!(head, "{field:08X}").map_err(io::Error::other)?;
        }
        self.put(head.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()?;
        self.put(bytes)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.put([0_u8; 3].get(..missing).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_entries_aligned_and_ends_with_the_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin").unwrap();
        archive.file("bin/x", b"12345").unwrap();
        archive.link("bin/y", "x").unwrap();
        archive.device("console", 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.contains("TRAILER!!!"));
        let at = text.find("bin/x").unwrap();
        // Head and name fill 110 + 6 bytes, a multiple of four.
        assert_eq!((at + 6) % 4, 0);
        assert_eq!(&bytes[at + 6..at + 11], b"12345");
    }
}
