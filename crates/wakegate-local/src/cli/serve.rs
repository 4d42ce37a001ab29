//! Runs the local control plane: `wakegate local`, `wakegate-local serve`.
//!
//! Guarantees: flags win over `local.toml`, and that over the defaults; the end of the terminal is
//! an end in good order, unless it was started so that it survives that.

use std::net::SocketAddr;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::args::LocalArguments;
use super::driver::choose_driver;
use super::failure::Failure;
use super::file::{default_state_dir, read_file};
use super::running::Announcement;
use crate::descriptors;
use crate::server::{LocalConfig, LocalServer, OnExit};

/// Runs the control plane until `shutdown`; what a person needs to use it goes to `out`.
pub async fn serve(
    arguments: LocalArguments,
    shutdown: impl Future<Output = ()> + Send,
    out: fn(&str),
) -> Result<(), Failure> {
    descriptors::raise();
    let hangup = hangup();
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
    // Beside the token, for commands of the same person.
    let dir = server.token_path().parent().unwrap_or(Path::new("."));
    let _announcement = Announcement::write(dir, server.address())
        .map_err(|error| Failure::failed(format_args!("cannot use {}: {error}", dir.display())))?;
    out(&format!(
        "local control plane at http://{}\n",
        server.address()
    ));
    match server.token() {
        Some(token) => {
            let path = server.token_path().display();
            out(&format!("HYPEMAN_API_KEY={token}\n(kept in {path})\n"));
        }
        None => out(&who_gets_in(server.address())),
    }
    let shutdown = async {
        tokio::select! {
            () = shutdown => {}
            () = hangup => {}
        }
    };
    server.run(shutdown).await.map_err(Failure::failed)
}

/// The end of the terminal, from this call on. Under `nohup` it is never heard of.
fn hangup() -> impl Future<Output = ()> + Send {
    let hangup = (!ignores_hangup()).then(|| signal(SignalKind::hangup()));
    async {
        match hangup {
            Some(Ok(mut hangup)) => {
                hangup.recv().await;
            }
            // Without a handler the signal keeps its default, which ends the process at once.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}

/// Whether whoever started this process has it ignore SIGHUP.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    // SIGHUP is the first signal.
    ignored.is_some_and(|bits| bits & 1 == 1)
}

/// What is said of a server that asks for no token.
fn who_gets_in(address: SocketAddr) -> String {
    match address.ip().is_loopback() {
        true => "no token is needed\n".to_owned(),
        false => format!(
            "no token is needed: whoever reaches {address} from anywhere runs programs as you\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_lets_the_whole_network_in_is_told() {
        for (address, is_open) in [
            ("127.0.0.1:4973", false),
            ("127.1.2.3:4973", false),
            ("[::1]:4973", false),
            ("0.0.0.0:4973", true),
            ("[::]:4973", true),
            ("192.0.2.7:4973", true),
        ] {
            let said = who_gets_in(address.parse().unwrap());
            assert_eq!(said.contains("from anywhere"), is_open, "{said}");
        }
    }
}
