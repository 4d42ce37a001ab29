//! Why an image cannot be built.
//!
//! Guarantees: a part that is missing is named together with the package that has it.

use std::io;
use std::path::PathBuf;

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The machine lacks a part: its name, and the package that has it.
    #[error("{0} not found; install {1}, or name one")]
    Missing(&'static str, &'static str),
    /// A file cannot be read or written.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A module is compressed, and no program unpacks it.
    #[error("cannot unpack {}: {why}", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
}
