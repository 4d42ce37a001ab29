//! `wakegate serve` and `wakegate check`.

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::args::{ConfigArguments, ServeArguments};
use super::watched::Watched;
use super::{Failure, asked_to_end};
use crate::app::{App, AppError, AppHandle};
use crate::config::{Config, ListenerConfig, Variables, load_file};
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
    let config = load(&arguments)?;
    init_diagnostics(&config.log).map_err(Failure::failed)?;
    let access = AccessSink::new(config.log.access);
    let watch = config.server.watch;
    let inherited = Inherited::from_process().map_err(AppError::Inherited);
    let inherited = inherited.map_err(Failure::failed)?;
    let app = App::bind_with(config, access, inherited).await;
    let app = app.map_err(Failure::failed)?;
    for address in app.addresses() {
        tracing::info!(%address, "serving");
    }
    tracing::info!(address = %app.admin_address(), "admin");
    let handle = app.handle();
    let reloads = async {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            return;
        };
        let mut watched = Watched::new(arguments.config.config.clone().filter(|_| watch));
        loop {
            tokio::select! {
                hangup = hangups.recv() => if hangup.is_none() { return },
                () = watched.changed() => tracing::info!("the configuration's file has changed"),
            }
            // A large file takes a while; requests do not wait for it.
            let (arguments, handle) = (arguments.clone(), handle.clone());
            let reloaded = spawn_blocking(move || reload(&arguments, &handle));
            if let Err(error) = reloaded.await {
                tracing::error!(%error, "not reloaded; the old configuration stays");
            }
            watched.look();
        }
    };
    let ended = async {
        tokio::select! {
            () = asked_to_end() => {}
            () = reloads => asked_to_end().await,
        }
    };
    if !app.run(ended).await {
        tracing::warn!("the drain's deadline passed; what was left was cut");
    }
    Ok(())
}

fn reload(arguments: &ServeArguments, handle: &AppHandle) {
    let result = load(arguments).map_err(|failure| failure.message);
    match result.and_then(|config| handle.reload(&config).map_err(|error| error.to_string())) {
        Ok(()) => tracing::info!("reloaded"),
        Err(problem) => tracing::error!(%problem, "not reloaded; the old configuration stays"),
    }
}

pub(super) fn check(arguments: &ConfigArguments, out: fn(&str)) -> Result<(), Failure> {
    let loaded = load_file(arguments.config.as_deref(), &Variables::from_process());
    // `check` answers 0 or 1; `serve` leaves with 78 on the same problems.
    let config = loaded.map_err(Failure::failed)?;
    out(&toml::to_string(&config).map_err(Failure::failed)?);
    Ok(())
}
