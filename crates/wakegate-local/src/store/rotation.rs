//! Logs that do not grow for ever, while others write them.
//!
//! Guarantees: a log's older half goes to `<name>.1`, whose content before goes; where the file
//! system can cut a file's head off (fallocate(2), `COLLAPSE_RANGE`) no line is lost; elsewhere
//! what is written during the copy may be. Writers must append (`O_APPEND`), and all of ours do.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use crate::atomic::{UNFINISHED, beside};

/// The length at which a log is cut.
const LONGEST: u64 = 16 * 1024 * 1024;
/// The unit of what is cut off; the blocks of file systems are divisors of it.
const BLOCK: u64 = 1024 * 1024;

/// The file that has a log's older half.
pub(crate) fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Cuts a log that is too long; one that is not there is short enough.
pub(crate) fn rotate(path: &Path) -> io::Result<()> {
    rotate_beyond(path, LONGEST)
}

fn rotate_beyond(path: &Path, longest: u64) -> io::Result<()> {
    let length = path.metadata().map_or(0, |info| info.len());
    if length <= longest {
        return Ok(());
    }
    let mut log = File::options().read(true).write(true).open(path)?;
    let head = (length / 2 / BLOCK).max(1) * BLOCK;
    let new = beside(&older(path), UNFINISHED);
    let mut options = File::options();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    let mut copy = options.open(&new)?;
    // In its place before it goes from here: a kill between the two leaves it twice.
    let copied = io::copy(&mut io::Read::take(&log, head), &mut copy)
        .and_then(|_| fs::rename(&new, older(path)));
    if copied.is_err() {
        // There may be no room for half of it, either; what cannot be removed goes at a start.
        let _left_behind = fs::remove_file(&new);
    }
    copied?;
    if fallocate(&log, FallocateFlags::COLLAPSE_RANGE, 0, head).is_err() {
        // All of it goes to the older file.
        log.seek(SeekFrom::Start(head))?;
        io::copy(&mut log, &mut copy)?;
        log.set_len(0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_that_cannot_be_cut_stays_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        fs::create_dir_all(older(&path).join("in the way")).unwrap();
        rotate_beyond(&path, 1 << 20).unwrap_err();
        assert_eq!(fs::metadata(&path).unwrap().len(), 3 << 20);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_long_logs_older_half_moves_and_its_writer_goes_on() {
        // In the build's own directory: temporary ones may be on a file system that cannot cut.
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        fs::create_dir_all(build).unwrap();
        let dir = tempfile::tempdir_in(build).unwrap();
        let path = dir.path().join("app.log");
        let mut writer = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let line = |number: u32| format!("{number:062}\n");
        let mut number = 0;
        while number < 80_000 {
            writer.write_all(line(number).as_bytes()).unwrap();
            number += 1;
        }
        rotate_beyond(&path, 1 << 20).unwrap();
        writer.write_all(line(number).as_bytes()).unwrap();
        let old = fs::read_to_string(older(&path)).unwrap();
        let new = fs::read_to_string(&path).unwrap();
        assert!(new.len() < 4 << 20, "{}", new.len());
        let all: String = (0..=number).map(line).collect();
        assert!(all == old + &new, "no line is lost or twice");
        rotate_beyond(&path, 64 << 20).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            new,
            "it is short enough"
        );
    }
}
