//! How a file stands, so that it need not be read again.
//!
//! Guarantees: a look costs one `stat`; two looks that are equal and settled are of the same
//! contents.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

/// The age from which a file that changes again certainly has another time: file systems' clocks
/// are coarse, some have whole seconds.
const SETTLED: SignedDuration = SignedDuration::from_secs(3);

/// How a file stands: what changes when its contents do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl FileStamp ===

impl FileStamp {
    /// How the file stands now.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether the file is not so young that it could change once more without a trace.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        let changed = self.changed.max(self.modified).0;
        Timestamp::from_second(changed).is_ok_and(|changed| now.duration_since(changed) > SETTLED)
    }
}
