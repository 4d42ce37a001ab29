//! `wakegate image build`: what a VM of the qemu driver boots.
//!
//! Guarantees: an image is whole or not there, also after a loss of power (it is built beside its
//! place, and on the disk when it is renamed); one that was built is used again only for the same
//! files (path, length, time of the last change), so that another kernel, initrd, library or program
//! makes another image; it is made of this machine's own kernel and busybox, or of a kernel and an
//! initrd that the user names, with our agent and its libraries beside them under `/.wakegate`;
//! building needs no privilege but to read the kernel.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::error::ImageError;
use super::parts::{ImageSource, Parts, Places};
use crate::atomic::sync;
use crate::guest::HOME;

/// A kernel and its first file system, in a directory.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The archives, one after the other.
    pub initrd: PathBuf,
}

/// The file beside an image that says what it was made of.
const MADE_OF: &str = "made-of";

/// Directories of a file system that has none of its own.
const DIRECTORIES: [&str; 11] = [
    "bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "proc", "sys", "tmp", "run", "etc",
];

// === impl Image ===

impl Image {
    /// The image that was built into `dir`, if one was.
    pub fn at(dir: &Path) -> Option<Self> {
        let (kernel, initrd) = (dir.join("kernel"), dir.join("initrd"));
        (kernel.is_file() && initrd.is_file()).then_some(Self { kernel, initrd })
    }

    /// What it was made of; nothing when nobody knows.
    pub(crate) fn fingerprint(&self) -> String {
        fs::read_to_string(self.kernel.with_file_name(MADE_OF)).unwrap_or_default()
    }

    /// Builds an image into `dir`, unless one is there that was made of the same files.
    pub fn up_to_date(dir: &Path, source: &ImageSource) -> Result<Self, ImageError> {
        Self::made_of(dir, &Places::find(source)?)
    }

    fn made_of(dir: &Path, places: &Places) -> Result<Self, ImageError> {
        let fingerprint = places.fingerprint()?;
        let made_of = fs::read_to_string(dir.join(MADE_OF)).ok();
        match Self::at(dir) {
            Some(image) if made_of.as_ref() == Some(&fingerprint) => Ok(image),
            _ => Self::build_of(dir, places, &fingerprint),
        }
    }

    /// Builds an image into `dir`.
    pub fn build(dir: &Path, source: &ImageSource) -> Result<Self, ImageError> {
        let places = Places::find(source)?;
        Self::build_of(dir, &places, &places.fingerprint()?)
    }

    fn build_of(dir: &Path, places: &Places, fingerprint: &str) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Write {
            path: dir.to_owned(),
            source,
        };
        let parts = places.read()?;
        fs::create_dir_all(dir).map_err(failed)?;
        let place = |name: &str| (dir.join(name), dir.join(format!("{name}.new")));
        let (kernel, new_kernel) = place("kernel");
        let (initrd, new_initrd) = place("initrd");
        let (made_of, new_made_of) = place(MADE_OF);
        fs::write(&new_kernel, &parts.kernel).map_err(failed)?;
        write(&new_initrd, &parts).map_err(failed)?;
        fs::write(&new_made_of, fingerprint).map_err(failed)?;
        for new in [&new_kernel, &new_initrd, &new_made_of] {
            sync(new).map_err(failed)?;
        }
        // It goes first and comes last, so that it stands beside the image alone that it is of.
        match fs::remove_file(&made_of) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        fs::rename(&new_kernel, &kernel).map_err(failed)?;
        fs::rename(&new_initrd, &initrd).map_err(failed)?;
        fs::rename(&new_made_of, &made_of).map_err(failed)?;
        Ok(Self { kernel, initrd })
    }
}

fn write(path: &Path, parts: &Parts) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    match &parts.initrd {
        Some(initrd) => {
            out.write_all(initrd)?;
            // The next archive begins at a multiple of four bytes.
            let missing = initrd.len().next_multiple_of(4) - initrd.len();
            out.write_all([0_u8; 3].get(..missing).unwrap_or_default())?;
        }
        None => out = write_system(out, parts)?,
    }
    let mut archive = Archive::new(out);
    let home = HOME.trim_start_matches('/');
    archive.directory(home)?;
    archive.file(&format!("{home}/busybox"), &parts.busybox)?;
    archive.file(&format!("{home}/wakegate"), &parts.program)?;
    for (name, bytes) in &parts.libraries {
        archive.file(&format!("{home}/{name}"), bytes)?;
    }
    archive.file(&format!("{home}/agent"), agent(parts).as_bytes())?;
    archive.directory(&format!("{home}/modules"))?;
    for (index, (name, bytes)) in parts.modules.iter().enumerate() {
        archive.file(&format!("{home}/modules/{index:02}-{name}"), bytes)?;
    }
    archive.finish()?.flush()
}

/// Starts our program with the libraries that came with it, whatever else the system holds.
fn agent(parts: &Parts) -> String {
    let loader = match parts.libraries.is_empty() {
        true => String::new(),
        false => format!("{HOME}/ld.so --library-path {HOME} "),
    };
    format!("#!{HOME}/busybox sh\nexec {loader}{HOME}/wakegate \"$@\"\n")
}

/// Busybox's commands, and what the kernel needs to open a console.
fn write_system<W: io::Write>(out: W, parts: &Parts) -> io::Result<W> {
    let mut archive = Archive::new(out);
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    archive.device("dev/console", 5, 1)?;
    for command in &parts.commands {
        archive.link(&format!("bin/{command}"), &format!("{HOME}/busybox"))?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    fn file(path: PathBuf, text: &str) -> PathBuf {
        fs::write(&path, text).unwrap();
        path
    }

    /// A machine of small files.
    fn machine(dir: &Path) -> Places {
        let busybox = file(dir.join("busybox"), "#!/bin/sh\necho ls\n");
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
        let module = file(dir.join("virtio.ko"), "a module");
        let library = file(dir.join("libc.so.6"), "a library");
        Places {
            kernel: file(dir.join("kernel-a"), "kernel-a"),
            initrd: Some(file(dir.join("initrd-a"), "initrd-a")),
            modules: vec![("virtio.ko".to_owned(), module)],
            busybox,
            program: file(dir.join("wakegate"), "a program"),
            libraries: vec![("libc.so.6".to_owned(), library)],
        }
    }

    fn kernel(place: &Path, places: &Places) -> Vec<u8> {
        fs::read(Image::made_of(place, places).unwrap().kernel).unwrap()
    }

    fn initrd(place: &Path, places: &Places) -> Vec<u8> {
        fs::read(Image::made_of(place, places).unwrap().initrd).unwrap()
    }

    fn has(bytes: &[u8], text: &str) -> bool {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }

    #[test]
    fn an_image_is_used_again_for_the_same_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut places, place) = (machine(dir.path()), dir.path().join("image"));
        let first = initrd(&place, &places);
        let built = || place.join("initrd").metadata().unwrap().modified().unwrap();
        let before = built();
        assert!(initrd(&place, &places) == first);
        assert_eq!(built(), before, "it was not built again");

        // Another kernel, and back.
        let former = places.kernel.clone();
        places.kernel = file(dir.path().join("kernel-b"), "kernel-b");
        assert_eq!(kernel(&place, &places), b"kernel-b");
        places.kernel = former;
        assert_eq!(kernel(&place, &places), b"kernel-a");
        // Another initrd, and none.
        places.initrd = Some(file(dir.path().join("initrd-b"), "initrd-b"));
        assert!(initrd(&place, &places).starts_with(b"initrd-b"));
        places.initrd = None;
        assert!(!has(&initrd(&place, &places), "initrd-b"));
        // Other bytes at the same path.
        file(dir.path().join("virtio.ko"), "a newer module");
        assert!(has(&initrd(&place, &places), "a newer module"));
        // As many bytes as before: the time alone tells.
        let library = file(dir.path().join("libc.so.6"), "A LIBRARY");
        let library = File::options().write(true).open(library).unwrap();
        let before = library.metadata().unwrap().modified().unwrap();
        library
            .set_modified(before + Duration::from_secs(5))
            .unwrap();
        assert!(has(&initrd(&place, &places), "A LIBRARY"));
    }

    #[test]
    fn a_part_that_is_not_there_is_an_error_although_an_image_is() {
        let dir = tempfile::tempdir().unwrap();
        let (mut places, place) = (machine(dir.path()), dir.path().join("image"));
        Image::made_of(&place, &places).unwrap();
        let nowhere = PathBuf::from("/nonexistent/kernel");
        let former = std::mem::replace(&mut places.kernel, nowhere);
        let refused = Image::made_of(&place, &places).unwrap_err().to_string();
        assert!(refused.contains("/nonexistent/kernel"), "{refused}");
        places.kernel = former;
        places.initrd = Some("/nonexistent/initrd".into());
        let refused = Image::made_of(&place, &places).unwrap_err().to_string();
        assert!(refused.contains("/nonexistent/initrd"), "{refused}");
        let source = ImageSource {
            program: places.program.clone(),
            kernel: Some(places.kernel.clone()),
            modules: Some("/nonexistent/modules".into()),
            initrd: None,
        };
        let refused = Image::up_to_date(&place, &source).unwrap_err().to_string();
        assert!(refused.contains("/nonexistent/modules"), "{refused}");
    }

    #[test]
    fn an_image_whose_building_was_cut_off_is_built_again() {
        let dir = tempfile::tempdir().unwrap();
        let (places, place) = (machine(dir.path()), dir.path().join("image"));
        Image::made_of(&place, &places).unwrap();
        // Killed between the first rename and the last.
        fs::remove_file(place.join(MADE_OF)).unwrap();
        file(place.join("kernel"), "of another image");
        assert_eq!(kernel(&place, &places), b"kernel-a");
    }
}
