//! Runs the local control plane: `wakegate local`, `wakegate-local serve`.
//!
//! Guarantees: flags win over `local.toml`, and that over the defaults.

use std::path::PathBuf;

use super::args::LocalArguments;
use super::driver::choose_driver;
use super::failure::Failure;
use super::file::read_file;
use crate::server::{LocalConfig, LocalServer, OnExit};

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

/// Runs the control plane until `shutdown`; what a person needs to use it goes to `out`.
pub async fn serve(
    arguments: LocalArguments,
    shutdown: impl Future<Output = ()> + Send,
    out: fn(&str),
) -> Result<(), Failure> {
    let file = read_file(&arguments)?;
    let on_exit = match (arguments.on_exit, file.on_exit.as_deref()) {
        (Some(on_exit), _) => on_exit,
        (None, None | Some("keep")) => OnExit::Keep,
        (None, Some("stop")) => OnExit::Stop,
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
        driver: choose_driver(arguments.driver, file)?,
    };
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
    server.run(shutdown).await.map_err(Failure::failed)
}
