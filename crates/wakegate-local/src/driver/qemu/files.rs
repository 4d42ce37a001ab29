//! The files of a VM.
//!
//! Guarantees: `state` is there exactly while the VM sleeps: it appears whole, by a rename, when
//! everything is saved, and becomes `waking` before the VM's memory changes again, which goes when
//! the VM runs. A kill of anybody at any moment leaves a VM that sleeps, one that runs, or (when its
//! own process was killed while it ran) none, and never a half-written one. A VM that is killed
//! while it falls asleep or wakes sleeps as it did the last time: the memory of that sleep is kept
//! in `last` until the next one is whole. A sleep that was not on the disk when the machine went
//! down is not believed, in its own place or in `last`: `synced` is there only while it is. Copies
//! share blocks where the file system can.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use serde::{Deserialize, Serialize};

use super::command::Shape;
use super::room;
use crate::atomic::{absent_is_fine, make_folder, remove_folder, replace, sync};
use crate::driver::error::DriverError;
use crate::driver::procfs::boot_id;

const STATE: &str = "state";
const NEW_STATE: &str = "state.new";
const RAM: &str = "ram";
const RECORD: &str = "vm.json";
/// A file that is there while the VM is being suspended.
const SUSPENDING: &str = "falling";
/// The state of a sleep that is being left.
const WAKING: &str = "waking";
/// A file that is there while this sleep is on the disk.
const SYNCED: &str = "synced";
const LAST: &str = "last";
/// A file that is there while the VM's process runs elsewhere, and names that folder.
const PLACE: &str = "place";

/// The ports of a VM that are reachable from outside.
pub(super) type Ports = BTreeSet<u16>;

/// A VM's folder.
#[derive(Debug, Clone)]
pub(super) struct VmFiles(PathBuf);

/// What is needed to run a VM again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct VmRecord {
    pub(super) shape: Shape,
    /// The ports that were open when it fell asleep.
    pub(super) ports: Ports,
    /// Whether its address is another than its memory has.
    #[serde(default)]
    pub(super) moved: bool,
    /// The boot of the machine in which it was written; an older control plane wrote none.
    #[serde(default)]
    pub(super) boot_id: String,
}

// === impl VmRecord ===

impl VmRecord {
    fn is_of_this_boot(&self) -> bool {
        self.boot_id.is_empty() || self.boot_id == boot_id()
    }
}

// === impl VmFiles ===

impl VmFiles {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// Makes the folder empty, whatever was there.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.remove()?;
        make_folder(&self.0)
    }

    /// Forgets the VM.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_folder(&self.0)
    }

    /// Has room on the disk for all of the memory, which becomes this long.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), DriverError> {
        room::reserve(&self.0.join(RAM), bytes)
    }

    /// Writes the record, as one of this boot of the machine.
    pub(super) fn write_record(&self, mut record: VmRecord) -> io::Result<()> {
        record.boot_id = boot_id();
        replace(&self.0.join(RECORD), &serde_json::to_vec(&record)?)
    }

    pub(super) fn record(&self) -> Option<VmRecord> {
        serde_json::from_slice(&fs::read(self.0.join(RECORD)).ok()?).ok()
    }

    /// Whether the VM sleeps here.
    pub(super) fn is_asleep(&self) -> bool {
        self.0.join(STATE).is_file()
    }

    /// The file of a sleep's state.
    pub(super) fn state(&self) -> PathBuf {
        self.0.join(STATE)
    }

    /// The file to which a state is written that may become a sleep's.
    pub(super) fn new_state(&self) -> PathBuf {
        self.0.join(NEW_STATE)
    }

    /// Notes that the VM is about to be saved.
    pub(super) fn begin_suspend(&self) -> io::Result<()> {
        self.finish_wake()?;
        absent_is_fine(fs::remove_file(self.0.join(SYNCED)))?;
        fs::write(self.0.join(SUSPENDING), b"")
    }

    /// Makes the state that was written a sleep's.
    pub(super) fn finish_suspend(&self) -> io::Result<()> {
        fs::rename(self.0.join(NEW_STATE), self.0.join(STATE))?;
        // It sleeps; the note that it was about to says nothing any more.
        let _left_behind = self.clear_suspend();
        Ok(())
    }

    /// Notes that the VM is no longer being saved, and removes what was begun.
    pub(super) fn clear_suspend(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.0.join(NEW_STATE)))?;
        absent_is_fine(fs::remove_file(self.0.join(SUSPENDING)))
    }

    /// Ends the sleep: the VM's memory is about to change.
    pub(super) fn begin_wake(&self) -> io::Result<()> {
        // A note that it falls asleep, left over by a kill, would be untrue once it runs.
        self.clear_suspend()?;
        fs::rename(self.0.join(STATE), self.0.join(WAKING))
    }

    /// Notes that the VM runs.
    pub(super) fn finish_wake(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.0.join(WAKING)))
    }

    /// Takes back [`Self::begin_wake`]: the memory has not changed.
    pub(super) fn cancel_wake(&self) -> io::Result<()> {
        fs::rename(self.0.join(WAKING), self.0.join(STATE))
    }

    /// Whether the VM is between its sleep and running.
    pub(super) fn is_waking(&self) -> bool {
        self.0.join(WAKING).is_file()
    }

    /// Waits until this sleep is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        for name in [RAM, STATE, RECORD] {
            sync(&self.0.join(name))?;
        }
        sync(&self.0)
    }

    /// Notes that this sleep, which is still the same, is on the disk.
    pub(super) fn mark_synced(&self) -> io::Result<()> {
        File::create(self.0.join(SYNCED))?;
        sync(&self.0)
    }

    pub(super) fn is_synced(&self) -> bool {
        self.0.join(SYNCED).exists()
    }

    /// Notes, on the disk, that the memory there will no longer be this sleep's. What becomes of it
    /// is of this boot of the machine, also when the sleep is of an earlier one.
    pub(super) fn clear_synced(&self) -> io::Result<()> {
        if !self.is_synced() {
            return Ok(());
        }
        if let Some(record) = self.record().filter(|record| !record.is_of_this_boot()) {
            // First, so that a kill between the two leaves a sleep that is believed.
            self.write_record(record)?;
            sync(&self.0.join(RECORD))?;
        }
        absent_is_fine(fs::remove_file(self.0.join(SYNCED)))?;
        sync(&self.0)
    }

    /// Whether its files were written since the machine was started.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.record().is_some_and(|record| record.is_of_this_boot())
    }

    /// Whether they are as they were written: no loss of power came between.
    pub(super) fn is_believable(&self) -> bool {
        self.is_synced() || self.is_of_this_boot()
    }

    /// Keeps this sleep until the next one is whole.
    pub(super) fn keep_last(&self) -> io::Result<()> {
        let last = self.last();
        let is_kept = last.is_asleep() && last.same_sleep(self) && last.is_of_this_boot();
        if !self.is_asleep() || is_kept {
            return Ok(());
        }
        self.copy_to(&last)
    }

    fn last(&self) -> Self {
        Self(self.0.join(LAST))
    }

    /// A copy is never older than what it was copied from.
    fn same_sleep(&self, original: &Self) -> bool {
        let changed = |files: &Self| files.0.join(STATE).metadata()?.modified();
        matches!((changed(self), changed(original)), (Ok(copy), Ok(of)) if copy >= of)
    }

    /// Goes back to the last sleep when the VM has broken while it fell asleep or woke. Whether it
    /// could.
    pub(super) fn restore_last(&self) -> io::Result<bool> {
        let last = self.last();
        let is_between = self.0.join(SUSPENDING).exists() || self.is_waking();
        if !is_between || !last.is_asleep() {
            return Ok(false);
        }
        // A kill after any of these steps goes on from there.
        let record = last.record().or_else(|| self.record());
        if !record.is_some_and(|record| record.is_of_this_boot()) {
            return Ok(false);
        }
        for name in [RECORD, RAM] {
            absent_is_fine(fs::rename(last.0.join(name), self.0.join(name)))?;
        }
        // Last, since it is what makes these files a VM.
        fs::rename(last.0.join(STATE), self.0.join(STATE))?;
        // It sleeps, whatever the notes say.
        let _left_behind = self.clear_suspend().and(self.finish_wake());
        Ok(true)
    }

    /// The folder where the VM's process runs: this one, or where it has waited for the VM.
    pub(super) fn place(&self) -> PathBuf {
        let elsewhere = fs::read_to_string(self.0.join(PLACE));
        elsewhere.map_or_else(|_| self.0.clone(), PathBuf::from)
    }

    /// Notes that its process runs elsewhere from now on, or here again.
    pub(super) fn set_place(&self, place: Option<&Path>) -> io::Result<()> {
        match place {
            Some(place) => replace(&self.0.join(PLACE), place.as_os_str().as_encoded_bytes()),
            None => absent_is_fine(fs::remove_file(self.0.join(PLACE))),
        }
    }

    /// Clears the folder where a process that has gone had waited for this VM.
    pub(super) fn leave_place(&self) {
        let place = self.place();
        if place == self.0 {
            return;
        }
        if let Err(error) = remove_folder(&place).and_then(|()| self.set_place(None)) {
            tracing::warn!(place = %place.display(), %error, "cannot clear a VM's former place");
        }
    }

    /// Copies a sleeping VM into another folder.
    pub(super) fn copy_to(&self, other: &Self) -> io::Result<()> {
        self.copy_with(STATE, other)
    }

    /// Copies a VM that stands still, and whose state has just been saved to [`NEW_STATE`].
    pub(super) fn copy_paused_to(&self, other: &Self) -> io::Result<()> {
        self.copy_with(NEW_STATE, other)
    }

    fn copy_with(&self, state: &str, other: &Self) -> io::Result<()> {
        let copied = self.try_copy_with(state, other);
        if copied.is_err() {
            // Half of it is of no use, and may have taken the last of the room.
            let _left_behind = other.remove();
        }
        copied
    }

    fn try_copy_with(&self, state: &str, other: &Self) -> io::Result<()> {
        other.begin()?;
        let record = self.record().ok_or(io::ErrorKind::NotFound)?;
        // Anew, since these files are of this boot of the machine, whatever they are copied from.
        other.write_record(record)?;
        copy(&self.0.join(RAM), &other.0.join(RAM))?;
        // Last, since it is what makes the copy a VM.
        copy(&self.0.join(state), &other.0.join(NEW_STATE))?;
        other.finish_suspend()
    }
}

/// Copies a file: by sharing its blocks, else by its parts that are not holes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (source, mut target) = (File::open(from)?, File::create(to)?);
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let Ok(begin) = seek(&source, SeekFrom::Data(at)) else {
            // The rest is a hole.
            break;
        };
        let end = seek(&source, SeekFrom::Hole(begin)).unwrap_or(length);
        let (mut from, mut into) = (begin, begin);
        while from < end {
            let many = usize::try_from(end - from).unwrap_or(usize::MAX);
            match copy_file_range(&source, Some(&mut from), &target, Some(&mut into), many) {
                Ok(0) => break,
                Ok(_) => {}
                // Not between these file systems.
                Err(_) => {
                    let mut part = &source;
                    part.seek(io::SeekFrom::Start(from))?;
                    target.seek(io::SeekFrom::Start(from))?;
                    io::copy(&mut io::Read::take(part, end - from), &mut target)?;
                    from = end;
                }
            }
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use std::time::Duration;

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"at the beginning", 0).unwrap();
        file.write_all_at(b"in the middle", 32 << 20).unwrap();
        file.sync_all().unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        let blocks = fs::metadata(&to).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
    }

    /// A VM that sleeps with this memory.
    fn sleeper(folder: &Path, memory: &[u8]) -> VmFiles {
        let files = VmFiles::new(folder.join("vm"));
        files.begin().unwrap();
        for name in [RAM, NEW_STATE] {
            fs::write(files.folder().join(name), memory).unwrap();
        }
        date(&files, &boot_id());
        files.finish_suspend().unwrap();
        files
    }

    /// Gives the VM a record that was written in this boot of the machine.
    fn date(files: &VmFiles, boot: &str) {
        let record = format!(
            "{{\"shape\":{{\"memory_bytes\":1,\"vcpus\":1,\"accelerator\":\"tcg\",\
             \"network\":\"none\",\"port\":1}},\"ports\":[],\"boot_id\":\"{boot}\"}}"
        );
        fs::write(files.folder().join(RECORD), record).unwrap();
    }

    fn wake(files: &VmFiles) {
        files.begin_wake().unwrap();
        files.finish_wake().unwrap();
    }

    #[test]
    fn a_vm_that_breaks_while_it_wakes_sleeps_as_it_did_before() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        files.begin_wake().unwrap();
        assert!(!files.restore_last().unwrap(), "there is no other sleep");
        files.cancel_wake().unwrap();
        files.keep_last().unwrap();
        files.begin_wake().unwrap();
        fs::write(files.folder().join(RAM), b"changed").unwrap();
        assert!(files.restore_last().unwrap());
        assert!(files.is_asleep() && !files.is_waking());
        assert_eq!(fs::read(files.folder().join(RAM)).unwrap(), b"one");
    }

    #[test]
    fn a_sleep_of_another_boot_is_believed_only_when_it_was_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        for boot in [boot_id(), String::new()] {
            date(&files, &boot);
            assert!(files.is_believable(), "{boot}");
        }
        date(&files, "another");
        assert!(!files.is_believable());
        files.clear_synced().unwrap();
        assert!(!files.is_believable(), "nothing makes it so");
        files.sync().unwrap();
        files.mark_synced().unwrap();
        assert!(files.is_believable());
        let copy = VmFiles::new(dir.path().join("copy"));
        files.copy_to(&copy).unwrap();
        assert!(!copy.is_synced(), "it is not on the disk yet");
        for _ in 0..2 {
            files.clear_synced().unwrap();
            assert!(!files.is_synced());
            assert!(files.is_believable(), "it changes in this boot");
        }
        date(&files, "another");
        assert!(!files.is_believable());
    }

    #[test]
    fn a_vm_that_breaks_as_it_wakes_after_the_machine_was_started_anew_sleeps_as_it_did_before() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        files.keep_last().unwrap();
        files.sync().unwrap();
        files.mark_synced().unwrap();
        // The machine goes down: what was kept may be another than it was.
        for files in [&files, &files.last()] {
            date(files, "another");
        }
        fs::write(files.last().0.join(RAM), b"broken").unwrap();
        assert!(files.is_believable());
        fs::write(files.0.join(SUSPENDING), b"").unwrap();
        assert!(!files.restore_last().unwrap(), "that is not believed");
        files.keep_last().unwrap();
        files.clear_synced().unwrap();
        files.begin_wake().unwrap();
        assert!(files.is_of_this_boot());
        fs::write(files.0.join(RAM), b"changed").unwrap();
        assert!(files.restore_last().unwrap());
        assert!(files.is_asleep() && files.is_believable());
        assert_eq!(fs::read(files.0.join(RAM)).unwrap(), b"one");
    }

    #[test]
    fn a_vm_that_runs_does_not_fall_back_for_a_note_that_a_kill_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        files.keep_last().unwrap();
        wake(&files);
        files.begin_suspend().unwrap();
        // Killed when the state was in its place, and before the note was removed.
        fs::write(files.state(), b"two").unwrap();
        wake(&files);
        assert!(!files.restore_last().unwrap());
    }

    #[test]
    fn a_copy_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        fs::remove_file(files.state()).unwrap();
        let copy = VmFiles::new(dir.path().join("copy"));
        files.copy_to(&copy).unwrap_err();
        assert!(!copy.folder().exists());
    }

    #[test]
    fn a_vm_that_breaks_while_it_falls_asleep_sleeps_as_it_did_before() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        files.keep_last().unwrap();
        wake(&files);
        let ram = files.folder().join(RAM);
        fs::write(&ram, b"changed").unwrap();
        assert!(
            !files.restore_last().unwrap(),
            "it ran, and was not falling"
        );
        files.begin_suspend().unwrap();
        fs::write(files.folder().join(NEW_STATE), b"half").unwrap();
        assert!(files.restore_last().unwrap());
        assert!(files.is_asleep());
        assert_eq!(fs::read(&ram).unwrap(), b"one");
        assert!(!files.restore_last().unwrap(), "it has fallen already");
    }

    #[test]
    fn falling_back_goes_on_where_a_kill_stopped_it() {
        for steps in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let files = sleeper(dir.path(), b"one");
            files.keep_last().unwrap();
            wake(&files);
            files.begin_suspend().unwrap();
            for name in [RECORD, RAM, STATE].into_iter().take(steps) {
                fs::rename(files.last().0.join(name), files.folder().join(name)).unwrap();
            }
            let is_through = files.is_asleep();
            assert_eq!(files.restore_last().unwrap(), !is_through, "{steps} steps");
            assert!(files.is_asleep(), "{steps} steps");
            assert_eq!(fs::read(files.folder().join(RAM)).unwrap(), b"one");
        }
    }

    #[test]
    fn each_sleep_is_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = sleeper(dir.path(), b"one");
        files.keep_last().unwrap();
        let copy = files.last().0.join(RAM);
        fs::write(&copy, b"the same file").unwrap();
        files.keep_last().unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"the same file");
        wake(&files);
        fs::write(files.folder().join(NEW_STATE), b"two").unwrap();
        files.finish_suspend().unwrap();
        // No real sleep is over within a tick of the file system's clock.
        let state = File::options().write(true).open(files.state()).unwrap();
        let modified = state.metadata().unwrap().modified().unwrap();
        state
            .set_modified(modified + Duration::from_secs(1))
            .unwrap();
        files.keep_last().unwrap();
        assert_eq!(
            fs::read(&copy).unwrap(),
            b"one",
            "copied anew from the VM's own"
        );
    }

    #[test]
    fn a_vm_sleeps_only_once_its_state_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let files = VmFiles::new(dir.path().join("vm"));
        files.begin().unwrap();
        fs::write(files.folder().join(NEW_STATE), b"half").unwrap();
        assert!(!files.is_asleep());
        files.finish_suspend().unwrap();
        assert!(files.is_asleep());
        files.begin_wake().unwrap();
        assert!(!files.is_asleep() && files.is_waking());
        assert!(files.begin_wake().is_err(), "nobody wakes it twice");
        files.cancel_wake().unwrap();
        assert!(files.is_asleep() && !files.is_waking());
    }
}
