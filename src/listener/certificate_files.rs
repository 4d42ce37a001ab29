//! The files of certificates, and how they stand.
//!
//! Guarantees: a look at them costs a directory's list and one `stat` for each file, and reads
//! none; two looks that are equal and settled are of the same contents; a pair whose files stand
//! as before is not read again; no key is in any message.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;

use super::certificate_facts::{expiry_of, names_of};
use super::tls_error::TlsError;
use crate::config::{TlsConfig, TlsSource};
use crate::file_stamp::FileStamp;
use crate::pem;
use crate::validity::validity;

/// The files of one certificate, and how they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PairFiles {
    cert: PathBuf,
    key: PathBuf,
    ocsp: Option<PathBuf>,
    stamps: Vec<FileStamp>,
}

/// How all files of a listener's certificates stand.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pairs: Vec<PairFiles>,
    client_ca: Option<FileStamp>,
    at: Timestamp,
}

/// A certificate with its key, as its files had them.
pub(super) struct Pair {
    files: PairFiles,
    /// When it was looked at, before it was read.
    at: Timestamp,
    chain: Vec<u8>,
    key: Vec<u8>,
    /// The OCSP response that is stapled.
    ocsp: Option<Vec<u8>>,
    pub(super) certified: Arc<CertifiedKey>,
    /// Its DNS names in lower case; a wildcard without its star.
    pub(super) names: Vec<String>,
    /// The time from which it holds, in seconds since 1970.
    pub(super) not_before: Option<i64>,
    /// The time when the first of its chain expires, in seconds since 1970.
    pub(super) not_after: Option<i64>,
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> TlsError {
    let path = path.to_owned();
    TlsError::Read { path, source }
}

fn stamp(path: &Path) -> Result<FileStamp, TlsError> {
    FileStamp::of(path).map_err(|source| failed(path, source))
}

// === impl PairFiles ===

impl PairFiles {
    fn of(cert: PathBuf, key: PathBuf, ocsp: Option<PathBuf>) -> Result<Self, TlsError> {
        let files = [Some(&cert), Some(&key), ocsp.as_ref()];
        let stamps = files.into_iter().flatten().map(|path| stamp(path));
        Ok(Self {
            stamps: stamps.collect::<Result<_, _>>()?,
            cert,
            key,
            ocsp,
        })
    }

    fn is_settled(&self, now: Timestamp) -> bool {
        self.stamps.iter().all(|stamp| stamp.is_settled(now))
    }

    fn certified(
        &self,
        chain: &[u8],
        key: &[u8],
        ocsp: Option<&[u8]>,
    ) -> Result<CertifiedKey, TlsError> {
        let wrong = |path: &Path, what: String| TlsError::Content {
            path: path.to_owned(),
            what,
        };
        let chain = pem::certificates(chain);
        let chain = chain.map_err(|problem| wrong(&self.cert, problem.to_string()))?;
        let key = pem::key(key).map_err(|problem| wrong(&self.key, problem.to_string()))?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let what = format!("does not fit {}: {error}", self.cert.display());
            wrong(&self.key, what)
        });
        Ok(CertifiedKey {
            ocsp: ocsp.map(<[u8]>::to_vec),
            ..certified?
        })
    }
}

// === impl Look ===

impl Look {
    /// How the files stand at `now`.
    pub(super) fn at(config: &TlsConfig, now: Timestamp) -> Result<Self, TlsError> {
        let pairs = look(&config.source)?;
        let clients = config.clients.as_ref();
        let client_ca = clients
            .map(|clients| stamp(&clients.client_ca))
            .transpose()?;
        Ok(Self {
            pairs,
            client_ca,
            at: now,
        })
    }

    /// Whether nothing has changed since: what would be read now is what was read then.
    pub(super) fn is_as(&self, before: &Self) -> bool {
        let are_settled = || {
            let mut pairs = before.pairs.iter();
            pairs.all(|pair| pair.is_settled(before.at))
                && before
                    .client_ca
                    .iter()
                    .all(|stamp| stamp.is_settled(before.at))
        };
        self.pairs == before.pairs && self.client_ca == before.client_ca && are_settled()
    }

    /// Reads the pairs, but for those of `before` whose files stand as they did.
    pub(super) fn pairs(&self, before: &[Arc<Pair>]) -> Result<Vec<Arc<Pair>>, TlsError> {
        let mut before = before.iter();
        let pairs = self.pairs.iter().map(|files| {
            // Both are in the order of names.
            let mut skipped = before.clone();
            let earlier = skipped.find(|pair| pair.files.cert == files.cert);
            if earlier.is_some() {
                before = skipped;
            }
            Pair::read(files, self.at, earlier)
        });
        pairs.collect()
    }
}

/// The files of all pairs.
fn look(source: &TlsSource) -> Result<Vec<PairFiles>, TlsError> {
    let dir = match source {
        TlsSource::Files { cert, key, ocsp } => {
            let pair = PairFiles::of(cert.clone(), key.clone(), ocsp.clone())?;
            return Ok(vec![pair]);
        }
        TlsSource::Internal { .. } | TlsSource::Acme { .. } => return Ok(Vec::new()),
        TlsSource::Directory { dir } => dir,
    };
    let mut entries = std::fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| failed(dir, source))?;
    // The order of names decides which is first.
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut found = Vec::new();
    for path in entries.into_iter().map(|entry| entry.path()) {
        let candidates = match path.is_dir() {
            true => vec![
                (path.join("fullchain.pem"), path.join("privkey.pem")),
                (path.join("tls.crt"), path.join("tls.key")),
            ],
            false if path.extension().is_some_and(|e| e == "crt" || e == "pem") => {
                vec![(path.clone(), path.with_extension("key"))]
            }
            false => Vec::new(),
        };
        for (cert, key) in candidates {
            if cert.is_file() && key.is_file() {
                let ocsp = Some(cert.with_extension("ocsp")).filter(|path| path.is_file());
                found.push(PairFiles::of(cert, key, ocsp)?);
            }
        }
    }
    if found.is_empty() {
        return Err(TlsError::Empty(dir.clone()));
    }
    Ok(found)
}

// === impl Pair ===

impl Pair {
    fn read(
        files: &PairFiles,
        at: Timestamp,
        earlier: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, TlsError> {
        if let Some(earlier) = earlier
            && earlier.files == *files
            && files.is_settled(earlier.at)
        {
            return Ok(Arc::clone(earlier));
        }
        let (chain, key) = (read(&files.cert)?, read(&files.key)?);
        let ocsp = files.ocsp.as_deref().map(read).transpose()?;
        let same = earlier
            .filter(|earlier| earlier.chain == chain && earlier.key == key && earlier.ocsp == ocsp);
        let (certified, names, not_after) = match same {
            Some(earlier) => (
                Arc::clone(&earlier.certified),
                earlier.names.clone(),
                earlier.not_after,
            ),
            None => {
                let certified = files.certified(&chain, &key, ocsp.as_deref())?;
                let names = names_of(&certified, &files.cert)?;
                let not_after = expiry_of(&certified);
                (Arc::new(certified), names, not_after)
            }
        };
        let not_before = certified.cert.first().and_then(|leaf| validity(leaf));
        Ok(Arc::new(Self {
            not_before: not_before.map(|(from, _)| from),
            files: files.clone(),
            at,
            chain,
            key,
            ocsp,
            certified,
            names,
            not_after,
        }))
    }

    /// Whether both are the same certificate of the same file.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.files.cert == other.files.cert && Arc::ptr_eq(&self.certified, &other.certified)
    }
}
