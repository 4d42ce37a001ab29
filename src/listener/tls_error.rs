//! Why TLS cannot be set up.
//!
//! Guarantees: no key is in any message; each message names the file or directory that is at fault.

use std::path::PathBuf;

/// Certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path of the file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {what}")]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// A description of what is wrong.
        what: String,
    },
    /// A directory has no pair of a certificate and a key.
    #[error(
        "{0} has no certificate: put `name.crt` with `name.key`, or a folder with `fullchain.pem` \
         and `privkey.pem`, or with `tls.crt` and `tls.key`, into it"
    )]
    Empty(PathBuf),
    /// This machine's own CA cannot make certificates.
    #[error("the internal CA in {dir} cannot be used: {what}")]
    Internal {
        /// The directory that it is kept in.
        dir: PathBuf,
        /// A description of what is wrong.
        what: String,
    },
    /// The cryptography cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}
