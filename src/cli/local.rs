//! `wakegate local`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::args::{Fate, LocalArguments};
use super::driver::choose;
use super::{Failure, asked_to_end};
use crate::config::LogConfig;
use crate::local::{Accelerator, LocalConfig, LocalServer, OnExit};
use crate::telemetry::init_diagnostics;

/// `local.toml`; what is not in it is as the flags have it, or as it goes without saying.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalFile {
    pub(super) api_listen: Option<SocketAddr>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) no_auth: Option<bool>,
    pub(super) on_exit: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) kernel: Option<PathBuf>,
    pub(super) modules: Option<PathBuf>,
    pub(super) initrd: Option<PathBuf>,
    pub(super) qemu: Option<PathBuf>,
    pub(super) accelerator: Option<Accelerator>,
    #[serde(default)]
    pub(super) egress: bool,
    #[serde(default)]
    pub(super) bridged: bool,
    pub(super) prestart: Option<usize>,
}

fn read_file(arguments: &LocalArguments) -> Result<LocalFile, Failure> {
    let Some(path) = &arguments.config else {
        return Ok(LocalFile::default());
    };
    let problem = |error: &dyn std::fmt::Display| {
        Failure::bad_config(format_args!("{}: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| problem(&error))?;
    toml::from_str(&text).map_err(|error| problem(&error))
}

fn default_state_dir() -> Result<PathBuf, Failure> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local").join("state")));
    let missing =
        || Failure::bad_config("neither XDG_STATE_HOME nor HOME is set; give `--state-dir`");
    Ok(state.ok_or_else(missing)?.join("wakegate"))
}

pub(super) async fn run(arguments: LocalArguments, out: fn(&str)) -> Result<(), Failure> {
    let file = read_file(&arguments)?;
    let _diagnostics = init_diagnostics(&LogConfig::default()).map_err(Failure::failed)?;
    let on_exit = match (arguments.on_exit, file.on_exit.as_deref()) {
        (Some(Fate::Keep), _) | (None, None | Some("keep")) => OnExit::Keep,
        (Some(Fate::Stop), _) | (None, Some("stop")) => OnExit::Stop,
        (None, Some(other)) => {
            let text = format_args!("`on_exit`: `{other}` is not \"keep\" or \"stop\"");
            return Err(Failure::bad_config(text));
        }
    };
    let config = LocalConfig {
        address: arguments
            .api_listen
            .or(file.api_listen)
            .unwrap_or(([127, 0, 0, 1], 4973).into()),
        state_dir: match arguments.state_dir.or_else(|| file.state_dir.clone()) {
            Some(dir) => dir,
            None => default_state_dir()?,
        },
        auth: !(arguments.no_auth || file.no_auth.unwrap_or(false)),
        allow_faults: arguments.allow_faults,
        hello: std::env::current_exe().map_err(Failure::failed)?,
        on_exit,
        driver: choose(arguments.driver, file)?,
    };
    let asked_to_end = asked_to_end();
    let server = LocalServer::bind(config).await.map_err(Failure::failed)?;
    out(&format!(
        "local control plane at http://{}\n",
        server.address()
    ));
    match server.token() {
        Some(token) => {
            let path = server.token_path().display();
            out(&format!("HYPEMAN_API_KEY={token}\n(kept in {path})\n"));
        }
        None => out("no token is needed\n"),
    }
    server.run(asked_to_end).await.map_err(Failure::failed)
}
