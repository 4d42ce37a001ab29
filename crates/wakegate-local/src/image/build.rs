//! `wakegate image build`: what a VM of the qemu driver boots.
//!
//! Guarantees: an image is whole or not there (it is built beside its place and renamed); it is
//! made of this machine's own kernel and busybox, or of a kernel and an initrd that the user names,
//! with our agent and its libraries beside them under `/.wakegate`; building needs no privilege but
//! to read the kernel.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::error::ImageError;
use super::parts::{ImageSource, Parts, find};
use crate::guest::HOME;

/// A kernel and its first file system, in a directory.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The archives, one after the other.
    pub initrd: PathBuf,
}

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

    /// Builds an image into `dir` when there is none, or when `program` is newer than it.
    pub fn up_to_date(dir: &Path, source: &ImageSource) -> Result<Self, ImageError> {
        let changed = |path: &Path| path.metadata().and_then(|info| info.modified()).ok();
        match Self::at(dir) {
            Some(image) if changed(&image.initrd) > changed(&source.program) => Ok(image),
            _ => Self::build(dir, source),
        }
    }

    /// Builds an image into `dir`.
    pub fn build(dir: &Path, source: &ImageSource) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Write {
            path: dir.to_owned(),
            source,
        };
        let parts = find(source)?;
        fs::create_dir_all(dir).map_err(failed)?;
        let place = |name: &str| (dir.join(name), dir.join(format!("{name}.new")));
        let ((kernel, new_kernel), (initrd, new_initrd)) = (place("kernel"), place("initrd"));
        fs::write(&new_kernel, &parts.kernel).map_err(failed)?;
        write(&new_initrd, &parts).map_err(failed)?;
        // The initrd is the newer one: an image is up to date when it is.
        fs::rename(&new_kernel, &kernel).map_err(failed)?;
        fs::rename(&new_initrd, &initrd).map_err(failed)?;
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
