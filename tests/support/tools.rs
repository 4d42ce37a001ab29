//! Programs of others that tests use.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// What is installed for these tests, one test at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// A folder or file below the build's own, kept from one run to the next.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Runs a program to its end, which must be a good one; what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A throw-away Python environment with what is asked for; its folder of programs.
pub fn python(packages: &[&str]) -> PathBuf {
    let _one = INSTALLING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let venv = scratch("venv");
    if !venv.join("bin/python").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    }
    let mut pip = Command::new(venv.join("bin/python"));
    let quietly = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    run(pip.args(quietly).args(packages));
    venv.join("bin")
}

/// A throw-away folder with Node packages.
pub fn npm(packages: &[&str]) -> PathBuf {
    let _one = INSTALLING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = scratch("npm");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = folder.join("package.json");
    if !manifest.exists() {
        std::fs::write(manifest, "{\"private\": true}\n").unwrap();
    }
    let wanted = packages
        .iter()
        .map(|package| package.rsplit_once('@').unwrap().0);
    let missing = |name: &str| !folder.join("node_modules").join(name).exists();
    if wanted.into_iter().any(missing) {
        let mut npm = Command::new("npm");
        let quietly = ["install", "--no-fund", "--no-audit", "--silent"];
        run(npm.args(quietly).args(packages).current_dir(&folder));
    }
    folder
}
