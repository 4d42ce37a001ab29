//! The parts of an image, and where this machine keeps them.
//!
//! Guarantees: the kernel's modules are those of the kernel's own version; a part that is not there
//! is named together with the package that has it; every file that an image is made of is in its
//! fingerprint.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::without_debug_information;
use super::error::ImageError;

/// Modules in the order in which they can be loaded; one that is built in has no file.
const MODULES: [&str; 7] = [
    // Before `virtio`, which needs its symbols.
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
];

/// What an image is to be made of.
#[derive(Debug, Clone)]
pub struct ImageSource {
    /// This program, for the agent and the demo server.
    pub program: PathBuf,
    /// A kernel, instead of the machine's newest.
    pub kernel: Option<PathBuf>,
    /// The directory of the kernel's modules, instead of `/lib/modules/<its version>`.
    pub modules: Option<PathBuf>,
    /// A file system, instead of busybox's commands.
    pub initrd: Option<PathBuf>,
}

/// The files that an image is made of.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    /// Names in the image, and files.
    pub(super) modules: Vec<(String, PathBuf)>,
    pub(super) busybox: PathBuf,
    pub(super) program: PathBuf,
    pub(super) libraries: Vec<(String, PathBuf)>,
}

/// The bytes that an image is made of.
pub(super) struct Parts {
    pub(super) kernel: Vec<u8>,
    pub(super) initrd: Option<Vec<u8>>,
    pub(super) modules: Vec<(String, Vec<u8>)>,
    pub(super) busybox: Vec<u8>,
    pub(super) commands: Vec<String>,
    pub(super) program: Vec<u8>,
    pub(super) libraries: Vec<(String, Vec<u8>)>,
}

fn cannot_read(path: &Path, source: io::Error) -> ImageError {
    ImageError::Read {
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(|source| cannot_read(path, source))
}

// === impl Places ===

impl Places {
    /// Finds the parts, of which those that the user names must be there.
    pub(super) fn find(source: &ImageSource) -> Result<Self, ImageError> {
        let kernel = match &source.kernel {
            Some(path) => path.clone(),
            None => newest_kernel(Path::new("/boot"))?,
        };
        let modules = match &source.modules {
            Some(dir) => {
                fs::read_dir(dir).map_err(|error| cannot_read(dir, error))?;
                find_modules(dir)
            }
            None => modules_of(&kernel).map_or_else(Vec::new, |dir| find_modules(&dir)),
        };
        Ok(Self {
            kernel,
            initrd: source.initrd.clone(),
            modules,
            busybox: busybox()?,
            program: source.program.clone(),
            libraries: libraries(&source.program)?,
        })
    }

    /// A line for each file: its path, its length in bytes and the time of its last change in
    /// nanoseconds. Another image has another fingerprint.
    pub(super) fn fingerprint(&self) -> Result<String, ImageError> {
        let Self {
            kernel,
            initrd,
            modules,
            busybox,
            program,
            libraries,
        } = self;
        let named = modules.iter().chain(libraries);
        let named = named.map(|(name, path)| (name.as_str(), path));
        let single = [
            ("kernel", kernel),
            ("busybox", busybox),
            ("program", program),
        ];
        let initrd = initrd.iter().map(|path| ("initrd", path));
        let mut text = String::new();
        for (name, path) in single.into_iter().chain(initrd).chain(named) {
            let info = path.metadata().map_err(|error| cannot_read(path, error))?;
            let (seconds, nanos, length) = (info.mtime(), info.mtime_nsec(), info.len());
            let path = path.display();
            let line = format!("{name} {path} {length} {seconds}.{nanos:09}\n");
            text.push_str(&line);
        }
        Ok(text)
    }

    /// Reads the parts.
    pub(super) fn read(&self) -> Result<Parts, ImageError> {
        let commands = Command::new(&self.busybox).arg("--list").output();
        let commands = commands.map_err(|error| cannot_read(&self.busybox, error))?;
        let commands = String::from_utf8_lossy(&commands.stdout).into_owned();
        let unpack = |(name, path): &(String, PathBuf)| Ok((name.clone(), unpacked(path)?));
        let load = |(name, path): &(String, PathBuf)| Ok((name.clone(), read(path)?));
        let modules: Result<_, ImageError> = self.modules.iter().map(unpack).collect();
        let libraries: Result<_, ImageError> = self.libraries.iter().map(load).collect();
        Ok(Parts {
            kernel: read(&self.kernel)?,
            initrd: self.initrd.as_deref().map(read).transpose()?,
            modules: modules?,
            busybox: read(&self.busybox)?,
            commands: commands.lines().map(str::to_owned).collect(),
            program: without_debug_information(read(&self.program)?),
            libraries: libraries?,
        })
    }
}

/// The newest kernel that has modules; one that is made for VMs comes before the others.
fn newest_kernel(boot: &Path) -> Result<PathBuf, ImageError> {
    let missing = ImageError::Missing("a kernel", "linux-image-cloud-amd64");
    let entries = fs::read_dir(boot).into_iter().flatten().flatten();
    let kernels = entries
        .map(|entry| entry.path())
        .filter(|path| modules_of(path).is_some());
    let rank = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbers: Vec<u64> = name
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect();
        (name.contains("cloud") || name.contains("virt"), numbers)
    };
    kernels.max_by_key(rank).ok_or(missing)
}

/// The directory of a kernel's modules, by the version that is the end of its name.
fn modules_of(kernel: &Path) -> Option<PathBuf> {
    let version = kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
    let dir = Path::new("/lib/modules").join(version);
    dir.is_dir().then_some(dir)
}

fn busybox() -> Result<PathBuf, ImageError> {
    let missing = ImageError::Missing("busybox", "busybox-static");
    let places = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"];
    let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
    found.ok_or(missing)
}

fn find_modules(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    collect(&dir.join("kernel"), &mut files);
    let mut modules = Vec::new();
    for module in MODULES {
        let matches = |path: &PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.split('.')
                .next()
                .is_some_and(|stem| stem.replace('-', "_") == module)
        };
        if let Some(index) = files.iter().position(matches) {
            modules.push((format!("{module}.ko"), files.swap_remove(index)));
        }
    }
    modules
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.to_string_lossy().contains(".ko") {
            files.push(path);
        }
    }
}

/// Distributions compress modules in different ways, with programs that they have at hand.
fn unpacked(path: &Path) -> Result<Vec<u8>, ImageError> {
    let program = match path.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return read(path),
    };
    let failed = |why: String| ImageError::Unpack {
        path: path.to_owned(),
        why,
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{program}: {error}")))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(failed(format!("{program}: {}", output.status))),
    }
}

/// The shared libraries that `program` is loaded with, by the loader's own word; the loader itself
/// is `ld.so`. None of a static program.
fn libraries(program: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|source| cannot_read(Path::new("ldd"), source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths: BTreeSet<&str> = text
        .split_ascii_whitespace()
        .filter(|word| word.starts_with('/'))
        .collect();
    let mut found = Vec::new();
    for path in paths.into_iter().map(Path::new) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = match name.starts_with("ld-") {
            true => "ld.so".to_owned(),
            false => name.into_owned(),
        };
        found.push((name, path.to_owned()));
    }
    Ok(found)
}
