//! `wakegate serve` and `wakegate check`.

use std::pin::pin;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::args::{CheckArguments, ServeArguments};
use super::output::{Failure, Output};
use super::signals::end_signal;
use super::watched::Watched;
use crate::app::{App, AppError};
use crate::config::{Config, ListenerConfig, Variables, advice, load_file};
use crate::listener::Inherited;
use crate::telemetry::{AccessSink, init_diagnostics};

fn load(arguments: &ServeArguments) -> Result<Config, Failure> {
    let file = arguments.config.config.as_deref();
    let mut config = load_file(file, &Variables::from_process()).map_err(Failure::bad_config)?;
    if let Some(address) = arguments.listen {
        // The flag moves the first listener; all else about it stays.
        let first = config.listener.into_iter().next().unwrap_or_default();
        config.listener = vec![ListenerConfig { address, ..first }];
    }
    if let Some(address) = arguments.admin_listen {
        config.admin.address = address;
    }
    Ok(config)
}

pub(super) async fn run(arguments: ServeArguments) -> Result<(), Failure> {
    // Before anything is heard of this process: whoever has heard of it may signal it.
    let (hangups, end) = (signal(SignalKind::hangup()), end_signal());
    let config = load(&arguments)?;
    let _diagnostics = init_diagnostics(&config.log).map_err(Failure::failed)?;
    let access = AccessSink::new(&config.log);
    let watch = config.server.watch;
    raise_descriptors();
    for one in advice(&config, descriptors()) {
        tracing::warn!(key = %one.key, help = one.help, "{}", one.risk);
    }
    let inherited = Inherited::from_process().map_err(AppError::Inherited);
    let inherited = inherited.map_err(Failure::failed)?;
    let app = App::bind_with(config, access, inherited).await;
    let app = app.map_err(Failure::failed)?;
    for address in app.addresses() {
        tracing::info!(%address, "serving");
    }
    tracing::info!(address = %app.admin_address(), "admin");
    let handle = app.handle();
    let source = arguments.clone();
    handle.set_source(move || load(&source).map_err(|failure| failure.message));
    let reloads = async {
        let Ok(mut hangups) = hangups else {
            return;
        };
        let mut watched = Watched::new(arguments.config.config.clone().filter(|_| watch));
        loop {
            tokio::select! {
                hangup = hangups.recv() => if hangup.is_none() { return },
                () = watched.changed() => tracing::info!("the configuration's file has changed"),
            }
            // First, so that a change while it is loaded is loaded next.
            watched.look();
            // A large file takes a while; requests do not wait for it.
            let handle = handle.clone();
            let reloaded = spawn_blocking(move || handle.reload_from_source());
            if let Err(error) = reloaded.await {
                tracing::error!(%error, "not reloaded; the old configuration stays");
            }
        }
    };
    // systemd's units of Type=notify wait for this word; elsewhere nobody hears it.
    notify(&[NotifyState::Ready]);
    let ended = async {
        let mut end = pin!(end);
        tokio::select! {
            () = end.as_mut() => {}
            () = reloads => end.await,
        }
        notify(&[NotifyState::Stopping]);
    };
    if !app.run(ended).await {
        tracing::warn!("the drain's deadline passed; what was left was cut");
    }
    Ok(())
}

pub(super) fn check(arguments: &CheckArguments, output: Output) -> Result<(), Failure> {
    let file = arguments.config.config.as_deref();
    let loaded = load_file(file, &Variables::from_process());
    // `check` answers 0 or 1; `serve` leaves with 78 on the same problems.
    let config = loaded.map_err(Failure::failed)?;
    output.print(&toml::to_string(&config).map_err(Failure::failed)?);
    let advice = advice(&config, descriptors());
    for one in &advice {
        output.note(&format!("warning: {one}\n"));
    }
    match arguments.strict && !advice.is_empty() {
        true => Err(Failure::failed(
            "the configuration is valid and has risks (--strict)",
        )),
        false => Ok(()),
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// How many files this process may have open, once it has raised its own limit.
fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

/// As many open files as the system lets this process have: shells and service managers give few to
/// begin with, for the sake of programs that use select(2).
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
