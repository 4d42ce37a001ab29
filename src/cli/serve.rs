//! `wakegate serve`.
//!
//! Guarantees: what is wrong with the configuration ends it with `EX_CONFIG`, and is never tried
//! again by whoever looks after it; what the machine refuses just now ends it with another code.

use std::pin::pin;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::args::ServeArguments;
use super::configuration::{descriptors, load, warnings};
use super::output::Failure;
use super::signals::end_signal;
use super::watched::Watched;
use crate::app::{App, AppError, Prepared};
use crate::config::{Config, ConfigError, Loaded};
use crate::descriptors::for_clients;
use crate::listener::Inherited;
use crate::telemetry::{AccessSink, init_diagnostics};

pub(super) async fn run(arguments: ServeArguments) -> Result<(), Failure> {
    // Before anything is heard of this process: whoever has heard of it may signal it.
    let (hangups, end) = (signal(SignalKind::hangup()), end_signal());
    let Loaded { config, origin } = load(&arguments).map_err(Failure::bad_config)?;
    let _diagnostics = init_diagnostics(&config.log).map_err(Failure::failed)?;
    let access = AccessSink::new(&config.log);
    let watch = config.server.watch;
    raise_descriptors();
    let prepared = Prepared::new(&config).map_err(|error| {
        let problems = origin.locate(error.problems);
        Failure::bad_config(ConfigError { problems })
    })?;
    for one in warnings(&arguments, &config, &origin, prepared.warnings()) {
        let help = one.mend.as_deref().unwrap_or_default();
        tracing::warn!(rule = one.rule, key = %one.key, place = %one.place, help, "{}", one.message);
    }
    // Its text may be large, and nobody asks for a place from here on.
    drop(origin);
    tell_room(&config);
    let inherited = Inherited::from_process().map_err(AppError::Inherited);
    let inherited = inherited.map_err(Failure::failed)?;
    let app = App::bind_prepared(config, prepared, access, inherited).await;
    let app = app.map_err(Failure::failed)?;
    for address in app.addresses() {
        tracing::info!(%address, "serving");
    }
    tracing::info!(address = %app.admin_address(), "admin");
    let handle = app.handle();
    let source = arguments.clone();
    handle.set_source(move || match load(&source) {
        Ok(loaded) => Ok(loaded.config),
        Err(error) => Err(error.to_line()),
    });
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

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Says how many clients there is room for, where that is fewer than may come.
fn tell_room(config: &Config) {
    let room = descriptors().map(for_clients);
    if let Some(clients) = room.filter(|room| *room < config.server.max_connections) {
        tracing::info!(
            clients,
            "as many as the limit of open files (ulimit -n) has room for"
        );
    }
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
