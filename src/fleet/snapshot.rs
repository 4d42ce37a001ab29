//! The last copy of the directory in a file, for a start without the engine.
//!
//! Guarantees: the file is written whole and is its owner's alone; one that is damaged, or of another
//! cell, is not used, and said; secrets stay sealed as the engine has them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::directory::Directory;
use super::engine::Entry;
use super::records::to_hex;
use crate::private_files;

/// How long after a change it is written, at the earliest.
const CALM: Duration = Duration::from_secs(1);
const VERSION: u32 = 1;

/// Why a file was not used.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// It is not what was written.
    #[error("{0} is damaged ({1}): it is not used; it is written anew when the directory answers")]
    Damaged(PathBuf, &'static str),
    /// It is another cell's.
    #[error("{0} is of the cell `{1}`: it is not used")]
    Foreign(PathBuf, String),
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    cell: String,
    revision: i64,
    sha256: String,
}

const FORMAT: &str = "wakegate directory";

/// Of all that is in the file.
fn digest_of(cell: &str, revision: i64, body: &[u8]) -> String {
    let mut all = Context::new(&SHA256);
    all.update(format!("{cell}\n{revision}\n").as_bytes());
    all.update(body);
    to_hex(all.finish().as_ref())
}

/// Writes a copy.
pub fn save(path: &Path, cell: &str, entries: &[Entry], revision: i64) -> io::Result<()> {
    let mut body = Vec::new();
    for entry in entries {
        // Values are JSON, or they would have told nobody anything.
        let Ok(value) = std::str::from_utf8(&entry.value) else {
            continue;
        };
        serde_json::to_writer(
            &mut body,
            &(&entry.key, value, entry.created, entry.modified),
        )?;
        body.push(b'\n');
    }
    let head = Head {
        format: FORMAT.to_owned(),
        version: VERSION,
        cell: cell.to_owned(),
        revision,
        sha256: digest_of(cell, revision, &body),
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let head = serde_json::to_vec(&head)?;
    private_files::write_by(&draft, path, &[&head, b"\n", &body])
}

/// Reads a copy; `None` where there is no file.
pub fn load(path: &Path, cell: &str) -> Result<Option<(Vec<Entry>, i64)>, SnapshotError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SnapshotError::Read(path.to_owned(), error)),
    };
    let damaged = |why| SnapshotError::Damaged(path.to_owned(), why);
    let end = text.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| damaged("it has no first line"))?;
    let (head, body) = text.split_at(end + 1);
    let head: Head = serde_json::from_slice(head).map_err(|_| damaged("its first line"))?;
    if head.format != FORMAT || head.version != VERSION {
        return Err(damaged("it is of another version"));
    }
    if head.sha256 != digest_of(&head.cell, head.revision, body) {
        return Err(damaged("its checksum"));
    }
    if head.cell != cell {
        return Err(SnapshotError::Foreign(path.to_owned(), head.cell));
    }
    let lines = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let entries: Result<Vec<Entry>, _> = lines
        .map(|line| {
            let (key, value, created, modified): (String, String, i64, i64) =
                serde_json::from_slice(line)?;
            Ok::<_, serde_json::Error>(Entry {
                key,
                value: value.into_bytes(),
                created,
                modified,
            })
        })
        .collect();
    let entries = entries.map_err(|_| damaged("a line"))?;
    Ok(Some((entries, head.revision)))
}

/// Writes a copy after each change, a second apart at least; never ends.
pub async fn keep(directory: Arc<Directory>, path: PathBuf, cell: String) {
    let mut revisions = directory.revisions();
    let mut is_failing = false;
    loop {
        if revisions.changed().await.is_err() {
            return;
        }
        sleep(CALM).await;
        revisions.borrow_and_update();
        let (copy, file, cell) = (Arc::clone(&directory), path.clone(), cell.clone());
        let written = spawn_blocking(move || {
            let (entries, revision) = copy.entries();
            save(&file, &cell, &entries, revision)
        });
        match written.await {
            Ok(Ok(())) => is_failing = false,
            Ok(Err(error)) => {
                if !std::mem::replace(&mut is_failing, true) {
                    let file = path.display();
                    tracing::warn!(%file, %error, "the copy of the directory cannot be written");
                }
            }
            Err(error) => tracing::error!(%error, "the copy of the directory was not written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(key: &str, value: &str, at: i64) -> Entry {
        let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
        Entry {
            key,
            value,
            created: at,
            modified: at,
        }
    }

    #[test]
    fn a_damaged_file_or_one_of_another_cell_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory");
        assert!(load(&path, "eu").unwrap().is_none());
        let entries = [entry("/wakegate/v1/p/\"x\n", "{\"a\":\"é\"}", 7)];
        save(&path, "eu", &entries, 9).unwrap();
        assert!(matches!(load(&path, "us"), Err(SnapshotError::Foreign(..))));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            fs::write(&path, &broken).unwrap();
            assert!(load(&path, "eu").is_err(), "{at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&path, "eu").is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory");
        let entries = [
            entry("/wakegate/v1/p/x", "{}", 7),
            entry("/wakegate/v1/i/h/\u{e9}/b", "{}", 8),
        ];
        save(&path, "eu", &entries, 9).unwrap();
        save(&path, "eu", &entries, 10).unwrap();
        assert_eq!(load(&path, "eu").unwrap(), Some((entries.to_vec(), 10)));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
