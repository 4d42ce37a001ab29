//! Why an image cannot be built.
//!
//! Guarantees: a part that is missing is named together with the package that has it.

use std::io;
use std::path::PathBuf;

/// An image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A part that the machine lacks.
    #[error("{0} not found; install {1}, or name one")]
    Missing(&'static str, &'static str),
    /// A file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A module that is compressed, and no program to unpack it.
    #[error("cannot unpack {}: {why}", path.display())]
    Unpack {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}
