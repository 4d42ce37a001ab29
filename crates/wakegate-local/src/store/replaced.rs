//! An instance's memory that takes the place of another one, and may have to give it back.
//!
//! Guarantees: a kill at any moment leaves the old memory with the old record or the new one with
//! the new record; what was stays on disk until it is forgotten, and comes back without any room on
//! the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::draft::RECORD;
use crate::atomic::{FORMER, UNFINISHED, absent_is_fine, beside, exchange, remove_folder, replace};

/// The folder of a memory, in that of its instance or snapshot.
pub(crate) const MEMORY: &str = "vm";
/// A record that takes its place together with the memory in whose folder it is.
const NEXT: &str = "record.next";
/// The record of before a memory was replaced, while that can be taken back.
const REPLACED: &str = ".tmp-replaced-record.json";

/// The place of a memory that is to replace that of an instance; it is empty.
pub(super) fn draft_memory(folder: &Path) -> io::Result<PathBuf> {
    let draft = beside(&folder.join(MEMORY), UNFINISHED);
    remove_folder(&draft)?;
    Ok(draft)
}

/// Replaces the memory in an instance's folder by its draft, together with the record: both or
/// neither, whenever this process is killed. What was stays on disk until [`forget_replaced`].
pub(super) fn replace_memory<T: Serialize>(folder: &Path, record: &T) -> io::Result<()> {
    let memory = folder.join(MEMORY);
    let draft = beside(&memory, UNFINISHED);
    // It moves with the folder, and from there to its own place.
    replace(&draft.join(NEXT), &serde_json::to_vec_pretty(record)?)?;
    keep_record(folder)?;
    exchange(&draft, &memory)?;
    if let Err(error) = fs::rename(memory.join(NEXT), folder.join(RECORD)) {
        put_back(&memory, &draft)?;
        return Err(error);
    }
    Ok(())
}

/// Takes an instance's memory, if it has one, out of its place, and saves the record of one that
/// has none. Whoever is killed between the two has the record. What was stays on disk until
/// [`forget_replaced`].
pub(super) fn set_memory_aside<T: Serialize>(folder: &Path, record: &T) -> io::Result<()> {
    let draft = draft_memory(folder)?;
    keep_record(folder)?;
    replace(&folder.join(RECORD), &serde_json::to_vec_pretty(record)?)?;
    let aside = absent_is_fine(fs::rename(folder.join(MEMORY), &draft));
    if aside.is_err() {
        fs::rename(folder.join(REPLACED), folder.join(RECORD))?;
    }
    aside
}

/// Takes [`replace_memory`] or [`set_memory_aside`] back, both memory and record or neither,
/// whenever this process is killed. It takes no room.
pub(super) fn undo_replacement(folder: &Path) -> io::Result<()> {
    let memory = folder.join(MEMORY);
    let (draft, former) = (beside(&memory, UNFINISHED), beside(&memory, FORMER));
    let replaced = folder.join(REPLACED);
    match [&former, &draft].into_iter().find(|old| old.exists()) {
        Some(old) => {
            fs::rename(&replaced, old.join(NEXT))?;
            put_back(&memory, &draft)?;
            fs::rename(memory.join(NEXT), folder.join(RECORD))?;
        }
        // There was no memory.
        None => {
            fs::rename(&replaced, folder.join(RECORD))?;
            absent_is_fine(fs::rename(&memory, &draft))?;
        }
    }
    forget_replaced(folder);
    Ok(())
}

/// Removes what an instance was before its memory was replaced.
pub(super) fn forget_replaced(folder: &Path) {
    let memory = folder.join(MEMORY);
    let old = [beside(&memory, UNFINISHED), beside(&memory, FORMER)];
    let removed = old.iter().map(|old| remove_folder(old));
    let record = absent_is_fine(fs::remove_file(folder.join(REPLACED)));
    for error in removed.chain([record]).filter_map(Result::err) {
        // It goes at the next start.
        tracing::warn!(folder = %memory.display(), %error, "cannot remove an old memory");
    }
}

/// Keeps the record of before a memory is replaced.
fn keep_record(folder: &Path) -> io::Result<()> {
    let replaced = folder.join(REPLACED);
    absent_is_fine(fs::remove_file(&replaced))?;
    fs::hard_link(folder.join(RECORD), &replaced)
}

/// Undoes an exchange: `memory` is the new one, or has gone meanwhile, and the old one is at
/// `draft`, or still on its way there where the file system cannot exchange, or there was none.
fn put_back(memory: &Path, draft: &Path) -> io::Result<()> {
    let former = beside(memory, FORMER);
    match (former.exists(), memory.exists()) {
        (true, _) => {
            absent_is_fine(fs::rename(memory, draft)).and_then(|()| fs::rename(&former, memory))
        }
        (false, true) => exchange(memory, draft),
        (false, false) => fs::rename(draft, memory),
    }
}

/// Finishes or undoes [`replace_memory`] in an instance's folder.
pub(super) fn settle_memory(folder: &Path) -> io::Result<()> {
    let memory = folder.join(MEMORY);
    let former = beside(&memory, FORMER);
    if former.exists() {
        match memory.exists() {
            true => remove_folder(&former)?,
            false => fs::rename(&former, &memory)?,
        }
    }
    absent_is_fine(fs::rename(memory.join(NEXT), folder.join(RECORD)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::tests::names;
    use crate::store::disk::{Kind, Store};

    /// A store whose instance has this memory and record, and a draft of others.
    fn with_drafted_memory(root: &Path) -> Store {
        let store = Store::open(root).unwrap();
        store.create(Kind::Instance, "a", &"old").unwrap();
        for (content, folder) in [
            ("old", store.memory(Kind::Instance, "a")),
            ("new", store.draft_memory("a").unwrap()),
        ] {
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("ram"), content).unwrap();
        }
        store
    }

    /// The record and the memory of the instance, which is all that there is.
    fn instance(store: &Store) -> (String, String) {
        let folder = store.folder(Kind::Instance, "a");
        assert_eq!(names(&folder), [RECORD, MEMORY]);
        let memory = folder.join(MEMORY);
        assert_eq!(names(&memory), ["ram"]);
        let record = store.load::<String>(Kind::Instance).unwrap().remove(0);
        (record, fs::read_to_string(memory.join("ram")).unwrap())
    }

    #[test]
    fn a_memory_and_its_record_are_replaced_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = with_drafted_memory(dir.path());
        store.replace_memory("a", &"new").unwrap();
        store.forget_replaced("a");
        assert_eq!(instance(&store), ("new".to_owned(), "new".to_owned()));
    }

    #[test]
    fn a_replaced_memory_comes_back_with_its_record_until_it_is_forgotten() {
        type Step = fn(&Store);
        let nothing: Step = |_| {};
        // Where the file system cannot exchange, the old one is in another place.
        let in_two_steps: Step = |store| {
            let memory = store.memory(Kind::Instance, "a");
            fs::rename(beside(&memory, UNFINISHED), beside(&memory, FORMER)).unwrap();
        };
        let without_a_new_one: Step =
            |store| fs::remove_dir_all(store.memory(Kind::Instance, "a")).unwrap();
        for meanwhile in [nothing, in_two_steps, without_a_new_one] {
            let dir = tempfile::tempdir().unwrap();
            let store = with_drafted_memory(dir.path());
            store.replace_memory("a", &"new").unwrap();
            store.save(Kind::Instance, "a", &"newer").unwrap();
            meanwhile(&store);
            store.undo_replacement("a").unwrap();
            assert_eq!(instance(&store), ("old".to_owned(), "old".to_owned()));
        }
    }

    #[test]
    fn a_memory_that_was_set_aside_comes_back_with_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let store = with_drafted_memory(dir.path());
        store.set_memory_aside("a", &"none").unwrap();
        assert!(!store.memory(Kind::Instance, "a").exists());
        assert_eq!(store.load::<String>(Kind::Instance).unwrap(), ["none"]);
        store.undo_replacement("a").unwrap();
        assert_eq!(instance(&store), ("old".to_owned(), "old".to_owned()));
        store.set_memory_aside("a", &"none").unwrap();
        store.forget_replaced("a");
        assert_eq!(names(&store.folder(Kind::Instance, "a")), [RECORD]);
    }

    #[test]
    fn an_instance_that_had_no_memory_has_none_when_its_replacement_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let store = with_drafted_memory(dir.path());
        fs::remove_dir_all(store.memory(Kind::Instance, "a")).unwrap();
        store.replace_memory("a", &"new").unwrap();
        store.undo_replacement("a").unwrap();
        assert_eq!(names(&store.folder(Kind::Instance, "a")), [RECORD]);
        assert_eq!(store.load::<String>(Kind::Instance).unwrap(), ["old"]);
    }

    #[test]
    fn a_replacement_that_was_not_undone_before_a_kill_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = with_drafted_memory(dir.path());
        store.replace_memory("a", &"new").unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(instance(&store), ("new".to_owned(), "new".to_owned()));
    }

    #[test]
    fn a_memory_whose_record_cannot_be_replaced_is_the_old_one_again() {
        type Steps = fn(&Path, &Path);
        let (at_once, in_two_steps): (Steps, Steps) = (
            |draft, memory| exchange(draft, memory).unwrap(),
            |draft, memory| {
                fs::rename(memory, beside(memory, FORMER)).unwrap();
                fs::rename(draft, memory).unwrap();
            },
        );
        for steps in [at_once, in_two_steps] {
            let dir = tempfile::tempdir().unwrap();
            let store = with_drafted_memory(dir.path());
            let memory = store.memory(Kind::Instance, "a");
            let draft = beside(&memory, UNFINISHED);
            steps(&draft, &memory);
            put_back(&memory, &draft).unwrap();
            assert_eq!(fs::read_to_string(memory.join("ram")).unwrap(), "old");
            assert!(draft.join("ram").exists());
            store.draft_memory("a").unwrap();
            assert_eq!(instance(&store), ("old".to_owned(), "old".to_owned()));
        }
    }

    #[test]
    fn a_kill_between_the_steps_leaves_the_old_memory_and_record_or_the_new_ones() {
        type Steps = fn(&Path, &Path);
        let (before, between, after): (Steps, Steps, Steps) = (
            |draft, _| fs::write(draft.join(NEXT), b"\"new\"").unwrap(),
            |_, memory| fs::rename(memory, beside(memory, FORMER)).unwrap(),
            |draft, memory| exchange(draft, memory).unwrap(),
        );
        for (steps, result) in [
            ([before].as_slice(), "old"),
            (&[before, between], "old"),
            (&[before, after], "new"),
            (&[before, between, after], "new"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let store = with_drafted_memory(dir.path());
            let memory = store.memory(Kind::Instance, "a");
            for step in steps {
                step(&beside(&memory, UNFINISHED), &memory);
            }
            drop(store);
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(instance(&store), (result.to_owned(), result.to_owned()));
        }
    }
}
