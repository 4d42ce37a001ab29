//! The configuration of `wakegate serve` and of its rehearsal.
//!
//! Guarantees: both load the same file, variables and flags; a file of the usual name that lies
//! beside them unread is named.

use std::path::Path;

use super::args::ServeArguments;
use crate::config::{
    Config, ConfigError, ListenerConfig, Loaded, Origin, Place, Problem, Variables, advice,
    load_file,
};

/// What `wakegate init` calls its file.
const USUAL_FILE: &str = "wakegate.toml";

/// The configuration that these arguments lead to.
pub(super) fn load(arguments: &ServeArguments) -> Result<Loaded, ConfigError> {
    let file = arguments.config.config.as_deref();
    let loaded = load_file(file, &Variables::from_process());
    let mut loaded = loaded.map_err(|mut error| {
        error.problems.extend(unread_file(arguments));
        error
    })?;
    let Loaded { config, origin } = &mut loaded;
    if let Some(address) = arguments.listen {
        // The flag moves the first listener; all else about it stays.
        let mut listeners = std::mem::take(&mut config.listener).into_iter();
        let first = listeners.next().unwrap_or_default();
        config.listener = vec![ListenerConfig { address, ..first }];
        origin.set_flag("listener[0].address", "--listen");
    }
    if let Some(address) = arguments.admin_listen {
        config.admin.address = address;
        origin.set_flag("admin.address", "--admin-listen");
    }
    Ok(loaded)
}

/// A configuration that lies where the command is run, and that nobody has asked for.
fn unread_file(arguments: &ServeArguments) -> Option<Problem> {
    let is_unread = arguments.config.config.is_none() && Path::new(USUAL_FILE).is_file();
    is_unread.then(|| {
        let message = "is in this folder, and is not read";
        let problem = Problem::of("unread_file", "", message);
        Problem {
            place: Place::file(USUAL_FILE),
            ..problem.with_mend(format!("give `-c {USUAL_FILE}`"))
        }
    })
}

/// All that is allowed and most likely not meant; `found` is what was found out later.
pub(super) fn warnings(
    arguments: &ServeArguments,
    config: &Config,
    origin: &Origin,
    found: &[Problem],
) -> Vec<Problem> {
    let mut all = advice(config, descriptors());
    all.extend_from_slice(found);
    let all = origin.locate(all).into_iter();
    unread_file(arguments).into_iter().chain(all).collect()
}

/// How many files this process may have open, once it has raised its own limit.
pub(super) fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}
