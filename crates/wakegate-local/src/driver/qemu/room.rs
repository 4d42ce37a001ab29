//! Room on the disk for a VM's memory.
//!
//! Guarantees: a VM whose memory has room here can write to all of it; one that would have to write
//! where there is no room would be killed in the middle of it (SIGBUS, mmap(2)).

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatfs, fstatvfs};
use rustix::io::Errno;

use crate::driver::error::DriverError;
use crate::error::is_no_room;

/// File systems whose files can share blocks (statfs(2)): Btrfs and XFS. A write to a block that is
/// shared takes a new one, whatever was reserved.
const SHARING: [i64; 2] = [0x9123_683e, 0x5846_5342];

/// Makes the file as long as the memory, keeps what is in it, and has the disk's blocks for all of
/// it.
pub(super) fn reserve(path: &Path, bytes: u64) -> Result<(), DriverError> {
    match try_reserve(path, bytes) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DriverError::NoRoom { needed: bytes }),
        Err(error) if is_no_room(&error) => Err(DriverError::NoRoom { needed: bytes }),
        Err(error) => Err(DriverError::Files(error)),
    }
}

/// Whether there is room.
fn try_reserve(path: &Path, bytes: u64) -> io::Result<bool> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path)?;
    let system = fstatvfs(&file)?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let kind = fstatfs(&file)?.f_type;
    let taken = match SHARING.contains(&kind) {
        true => 0,
        false => file.metadata()?.blocks() * 512,
    };
    // Looked at first: a reservation that fails half-way keeps its first half.
    if free < bytes.saturating_sub(taken) {
        return Ok(false);
    }
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(true),
        // Not on this file system: what was free must do.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            if file.metadata()?.len() < bytes {
                file.set_len(bytes)?;
            }
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_memory_keeps_its_bytes_and_has_room_for_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"before", 1 << 20).unwrap();
        for _ in 0..2 {
            reserve(&path, 8 << 20).unwrap();
            let info = file.metadata().unwrap();
            assert_eq!(info.len(), 8 << 20);
            assert!(info.blocks() * 512 >= 8 << 20, "{} blocks", info.blocks());
        }
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[1 << 20..][..6], b"before");
    }

    #[test]
    fn a_memory_that_is_larger_than_the_disk_is_refused_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let refused = reserve(&path, 1 << 60).unwrap_err();
        assert!(matches!(refused, DriverError::NoRoom { needed } if needed == 1 << 60));
        assert_eq!(path.metadata().unwrap().blocks(), 0);
    }
}
