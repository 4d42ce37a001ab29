//! `local.toml`, and the state directory that goes without saying.
//!
//! Guarantees: a key that it does not have is an error that names the file.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::args::LocalArguments;
use super::failure::Failure;
use crate::driver::Accelerator;

/// `local.toml`; what is not in it is as the flags have it, or as it goes without saying.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalFile {
    /// The address of the API.
    pub api_listen: Option<SocketAddr>,
    /// The directory that keeps instances and their state.
    pub state_dir: Option<PathBuf>,
    /// Whether everybody who can connect is let in.
    pub no_auth: Option<bool>,
    /// `keep` or `stop`.
    pub on_exit: Option<String>,
    /// `process` or `qemu`.
    pub driver: Option<String>,
    /// A kernel for virtual machines.
    pub kernel: Option<PathBuf>,
    /// The directory of that kernel's modules.
    pub modules: Option<PathBuf>,
    /// A file system for virtual machines.
    pub initrd: Option<PathBuf>,
    /// The emulator.
    pub qemu: Option<PathBuf>,
    /// The processors that virtual machines run on.
    pub accelerator: Option<Accelerator>,
    #[serde(default)]
    /// Whether virtual machines may reach out.
    pub egress: bool,
    #[serde(default)]
    /// Whether virtual machines are on a bridge.
    pub bridged: bool,
    /// The number of emulators of each kind that are started before they are needed.
    pub prestart: Option<usize>,
}

pub(super) fn read_file(arguments: &LocalArguments) -> Result<LocalFile, Failure> {
    let Some(path) = &arguments.config else {
        return Ok(LocalFile::default());
    };
    let problem = |error: &dyn std::fmt::Display| {
        Failure::bad_config(format_args!("{}: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| problem(&error))?;
    toml::from_str(&text).map_err(|error| problem(&error))
}

/// The directory that keeps instances and their state unless another is named.
pub(super) fn default_state_dir() -> Result<PathBuf, Failure> {
    let missing =
        || Failure::bad_config("neither XDG_STATE_HOME nor HOME is set; give `--state-dir`");
    usual_state_dir(|name| std::env::var_os(name)).ok_or_else(missing)
}

fn usual_state_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| {
        let value = variable(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    // A relative path in it is to be ignored (XDG Base Directory Specification, "Basics").
    let state = folder("XDG_STATE_HOME").filter(|state| state.is_absolute());
    let state = state.or_else(|| folder("HOME").map(|home| home.join(".local").join("state")));
    Some(state?.join("wakegate"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_usual_directory_follows_the_environment_and_no_relative_path_of_it() {
        for (state, home, dir) in [
            ("/s", "/h", Some("/s/wakegate")),
            ("", "/h", Some("/h/.local/state/wakegate")),
            ("s", "/h", Some("/h/.local/state/wakegate")),
            ("s", "", None),
            ("", "", None),
        ] {
            let variable = |name: &str| match name {
                "XDG_STATE_HOME" => Some(state.into()),
                "HOME" => Some(home.into()),
                _ => None,
            };
            let found = usual_state_dir(variable);
            assert_eq!(found.as_deref(), dir.map(Path::new), "{state} {home}");
        }
    }
}
