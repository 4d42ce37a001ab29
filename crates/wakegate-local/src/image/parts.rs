//! The parts of an image, and where this machine keeps them.
//!
//! Guarantees: the kernel's modules are those of the kernel's own version; a part that is not there
//! is named together with the package that has it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
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

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(|source| ImageError::Read {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn find(source: &ImageSource) -> Result<Parts, ImageError> {
    let kernel = match &source.kernel {
        Some(path) => path.clone(),
        None => newest_kernel(Path::new("/boot"))?,
    };
    let modules = source.modules.clone().or_else(|| modules_of(&kernel));
    let busybox = busybox()?;
    let commands = Command::new(&busybox)
        .arg("--list")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .map_err(|error| ImageError::Read {
            path: busybox.clone(),
            source: error,
        })?;
    Ok(Parts {
        kernel: read(&kernel)?,
        initrd: source.initrd.as_deref().map(read).transpose()?,
        modules: match &modules {
            Some(dir) => read_modules(dir)?,
            None => Vec::new(),
        },
        busybox: read(&busybox)?,
        commands: commands.lines().map(str::to_owned).collect(),
        program: without_debug_information(read(&source.program)?),
        libraries: libraries(&source.program)?,
    })
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

fn read_modules(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
    let mut files = Vec::new();
    collect(&dir.join("kernel"), &mut files);
    let mut modules = Vec::new();
    for module in MODULES {
        let matches = |path: &&PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.split('.')
                .next()
                .is_some_and(|stem| stem.replace('-', "_") == module)
        };
        if let Some(path) = files.iter().find(matches) {
            modules.push((format!("{module}.ko"), unpacked(path)?));
        }
    }
    Ok(modules)
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
fn libraries(program: &Path) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|source| ImageError::Read {
        path: "ldd".into(),
        source,
    })?;
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
        found.push((name, read(path)?));
    }
    Ok(found)
}
