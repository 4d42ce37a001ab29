//! What is at a path of an instance (seed: `PathInfo`).
//!
//! Guarantees: a path that is not there is an answer, not an error; symbolic links are followed
//! only when that is asked for. Used by the control plane for processes and by the agent in a VM.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// The answer of `stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathInfo {
    exists: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_dir: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_file: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_symlink: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link_target: Option<String>,
    /// The Unix mode bits, in decimal on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

// === impl PathInfo ===

impl PathInfo {
    /// Looks now; blocks for as long as the file system does.
    pub(crate) fn look(path: &str, follow: bool) -> Self {
        let found = match follow {
            true => fs::metadata(path),
            false => fs::symlink_metadata(path),
        };
        let info = match found {
            Ok(info) => info,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                return Self {
                    error: Some(error.to_string()),
                    ..Self::default()
                };
            }
        };
        let target = info
            .is_symlink()
            .then(|| fs::read_link(path).ok())
            .flatten();
        Self {
            exists: true,
            error: None,
            is_dir: Some(info.is_dir()),
            is_file: Some(info.is_file()),
            is_symlink: Some(info.is_symlink()),
            link_target: target.map(|target| target.display().to_string()),
            mode: Some(info.mode() & 0o7777),
            size: Some(info.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_itself_or_what_it_leads_to_and_what_is_missing_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, b"twelve bytes").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let link = link.to_str().unwrap();
        let itself = PathInfo::look(link, false);
        assert_eq!(itself.link_target.as_deref(), file.to_str());
        assert_eq!(itself.is_symlink, Some(true));
        let followed = PathInfo::look(link, true);
        assert_eq!((followed.is_file, followed.size), (Some(true), Some(12)));
        let missing = PathInfo::look("/nowhere/at/all", true);
        assert_eq!(
            serde_json::to_string(&missing).unwrap(),
            r#"{"exists":false}"#
        );
        let odd = PathInfo::look(&format!("{}/x", file.display()), true);
        assert!(!odd.exists && odd.error.is_some());
    }
}
