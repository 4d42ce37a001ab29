//! `wakegate instances`: a small client for people, of any Hypeman server.
//!
//! Guarantees: results go to standard output and progress goes to standard error, so
//! that the former can be piped; several instances are worked on in their order, and one that fails
//! does not keep the others from their turn; but for `--json` and `--raw`, nothing of a server's
//! reaches a terminal unescaped.

mod args;
mod coming_up;
mod details;
mod server;
mod session;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

#[cfg(feature = "local")]
pub(super) use args::pair;
pub use args::{CreateArguments, InstancesArguments, InstancesCommand, Many, One, Source};
#[cfg(feature = "local")]
pub(super) use details::words;

pub(super) use session::{Session, failed};

use super::output::{Failure, Output};
use super::table::{bytes, table};
use crate::telemetry::visible;
use hypeman::wire::{
    AutoStandbyPolicy, CreateInstance, ForkInstance, Idle, Instance, InstanceState, ListInstances,
    RedactedMap, StartRequest,
};
use hypeman::{Error as ControlPlaneError, LogQuery, LogSource};
use hypeman::{GoDuration, InstanceRef};

/// Between two looks at an instance that comes up: `wait` may see it five seconds late.
const LOOK: Duration = Duration::from_millis(100);
const COMING_UP: Duration = Duration::from_secs(120);
/// How often a person is shown how long something takes.
const TICK: Duration = Duration::from_millis(200);

fn client(arguments: &InstancesArguments, output: &Output) -> Result<hypeman::Client, Failure> {
    let environment = environment(arguments);
    let (config, withheld) = server::choose(environment, arguments.url.as_deref());
    if withheld && arguments.api_key_file.is_none() {
        output.note(
            "HYPEMAN_API_KEY is for another server (HYPEMAN_BASE_URL, else localhost:4973) and is \
             not sent: give the key of this one with `--api-key-file`\n",
        );
    }
    let config = hypeman::Config {
        api_key_file: arguments.api_key_file.clone(),
        user_agent: concat!("wakegate/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..config
    };
    hypeman::Client::new(&config).map_err(Failure::failed)
}

/// What the environment says; where nobody says anything, the local control plane of the same
/// person, if one runs here.
#[cfg(feature = "local")]
fn environment(arguments: &InstancesArguments) -> hypeman::Config {
    let environment = hypeman::Config::from_env();
    let is_named = arguments.url.is_some()
        || arguments.api_key_file.is_some()
        || environment.api_key.is_some()
        || std::env::var_os("HYPEMAN_BASE_URL").is_some_and(|url| !url.is_empty());
    // Without a home there is no usual place, and nobody asked for one.
    let here = || wakegate_local::cli::running_plane(None).ok().flatten();
    let Some(plane) = (!is_named).then(here).flatten() else {
        return environment;
    };
    hypeman::Config {
        url: plane.url,
        api_key: plane.token.map(Into::into),
        ..environment
    }
}

#[cfg(not(feature = "local"))]
fn environment(_: &InstancesArguments) -> hypeman::Config {
    hypeman::Config::from_env()
}

pub(super) async fn run(arguments: InstancesArguments, output: Output) -> Result<(), Failure> {
    let session = Session {
        client: client(&arguments, &output)?,
        json: arguments.json,
        output,
    };
    let client = &session.client;
    match arguments.command {
        InstancesCommand::Ls { state, tags } => session.list(state, tags).await,
        InstancesCommand::Show(One { instance }) => {
            let instance = client.get_instance(&instance).await.map_err(failed)?;
            match session.json {
                true => session.print(&instance)?,
                false => session.output.print(&details::details(&instance)),
            }
            Ok(())
        }
        InstancesCommand::Create(arguments) => session.create(*arguments).await,
        InstancesCommand::Rm(many) => session.delete(many).await,
        InstancesCommand::Standby(many) => {
            let verb = async |id: &InstanceRef| client.standby_instance(id, None).await;
            session.each(many, "standby", verb).await
        }
        InstancesCommand::Restore(many) => {
            let verb = async |id: &InstanceRef| client.restore_instance(id).await;
            session.each(many, "restore", verb).await
        }
        InstancesCommand::Start(many) => {
            let request = StartRequest::default();
            let verb = async |id: &InstanceRef| client.start_instance(id, &request).await;
            session.each(many, "start", verb).await
        }
        InstancesCommand::Stop(many) => {
            let verb = async |id: &InstanceRef| client.stop_instance(id).await;
            session.each(many, "stop", verb).await
        }
        InstancesCommand::Fork {
            source: One { instance },
            name,
            from_running,
            state,
        } => {
            let request = ForkInstance {
                name,
                from_running,
                target_state: state.as_deref().map(Into::into),
            };
            let forking = client.fork_instance(&instance, &request);
            let copy = session.with_progress("fork", &instance, forking).await?;
            session.show(&copy)
        }
        InstancesCommand::Logs {
            instance: One { instance },
            follow,
            tail,
            source,
            raw,
        } => {
            let query = LogQuery {
                tail: Some(tail),
                follow,
                source: match source {
                    Source::App => LogSource::App,
                    Source::Vmm => LogSource::Vmm,
                    Source::Hypeman => LogSource::Hypeman,
                },
            };
            session.logs(&instance, query, raw).await
        }
        InstancesCommand::Stats(One { instance }) => session.stats(&instance).await,
        InstancesCommand::Wake {
            instance: One { instance },
            start,
            timeout,
        } => {
            let patience = timeout.to_std().unwrap_or(COMING_UP);
            let began = Instant::now();
            let waking = session.wake(&instance, start, patience);
            let awake = session.with_progress("wake", &instance, waking).await?;
            if awake.state != InstanceState::Running {
                return Err(session.why_not(&awake).await);
            }
            let took = began.elapsed().as_secs_f64() * 1e3;
            let name = visible(&awake.name);
            session
                .output
                .note(&format!("{name} is awake after {took:.0} ms\n"));
            session.show(&awake)
        }
    }
}

/// The policy of an instance that falls asleep after so long without a connection.
pub(super) fn sleeps_after(idle: GoDuration) -> AutoStandbyPolicy {
    AutoStandbyPolicy {
        enabled: true,
        idle_timeout: Some(idle),
        ..AutoStandbyPolicy::default()
    }
}

/// A folder of this machine, as a program elsewhere can find it.
pub(super) fn absolute(folder: &Path) -> Result<String, Failure> {
    let place = folder.canonicalize().ok().filter(|place| place.is_dir());
    let place = place.ok_or_else(|| {
        Failure::failed(format_args!("{} is not a folder here", folder.display()))
    })?;
    let text = place.into_os_string().into_string();
    text.map_err(|_| Failure::failed("the folder's name is not Unicode"))
}

// === impl Session ===

impl Session {
    fn print<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
        self.output.print(&format!("{text}\n"));
        Ok(())
    }

    fn show(&self, instance: &Instance) -> Result<(), Failure> {
        if self.json {
            return self.print(instance);
        }
        self.rows(std::slice::from_ref(instance));
        Ok(())
    }

    fn rows(&self, instances: &[Instance]) {
        let row = |i: &Instance| {
            let address = i.network.as_ref().and_then(|network| network.ip.clone());
            let idle = match i.idle() {
                Idle::Never => String::new(),
                Idle::After(timeout) => GoDuration::from(timeout).to_string(),
                Idle::Unreadable => "?".to_owned(),
            };
            [
                i.name.clone(),
                i.id.clone(),
                i.state.to_string(),
                address.unwrap_or_default(),
                idle,
                i.image.clone(),
            ]
        };
        let rows: Vec<_> = instances.iter().map(row).collect();
        let titles = ["NAME", "ID", "STATE", "ADDRESS", "IDLE", "IMAGE"];
        self.output.print(&table(titles, &rows));
    }

    async fn list(
        &self,
        state: Option<String>,
        tags: Vec<(String, String)>,
    ) -> Result<(), Failure> {
        let filter = ListInstances {
            state: state.as_deref().map(Into::into),
            tags: tags.into_iter().collect(),
        };
        let all = self.client.list_instances(&filter).await.map_err(failed)?;
        if self.json {
            self.print(&all.items)?;
        } else {
            self.rows(&all);
        }
        for odd in &all.odd {
            let odd = visible(&odd.to_string());
            self.output.note(&format!("{odd}\n"));
        }
        if all.more_odd > 0 {
            let more = all.more_odd;
            self.output
                .note(&format!("{more} more elements cannot be read\n"));
        }
        Ok(())
    }

    async fn create(&self, arguments: CreateArguments) -> Result<(), Failure> {
        let mut env: BTreeMap<_, _> = arguments.env.into_iter().collect();
        env.extend(
            arguments
                .port
                .map(|port| ("PORT".to_owned(), port.to_string())),
        );
        if let Some(folder) = &arguments.workdir {
            env.insert("PWD".to_owned(), absolute(folder)?);
        }
        let request = CreateInstance {
            name: arguments.name,
            image: arguments.image,
            size: arguments.size,
            vcpus: arguments.vcpus,
            env: RedactedMap(env),
            tags: arguments.tags.into_iter().collect(),
            auto_standby: arguments.idle_timeout.map(sleeps_after),
            cmd: (!arguments.command.is_empty()).then_some(arguments.command),
            ..CreateInstance::default()
        };
        let created = self
            .client
            .create_instance(&request)
            .await
            .map_err(failed)?;
        if arguments.no_wait {
            return self.show(&created);
        }
        let id = InstanceRef::parse(&created.id).map_err(Failure::failed)?;
        let coming = async {
            let up = self.come_up(&id, COMING_UP).await.map_err(failed)?;
            match (&up.state, arguments.port) {
                (InstanceState::Running, Some(port)) => {
                    self.answers(&id, port, COMING_UP).await.map(|(up, _)| up)
                }
                (InstanceState::Running | InstanceState::Standby, _) => Ok(up),
                _ => Err(self.why_not(&up).await),
            }
        };
        let up = self.with_progress("create", &id, coming).await?;
        self.show(&up)
    }

    async fn delete(&self, many: Many) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for id in &many.instances {
            match self.client.delete_instance(id).await {
                Ok(()) => self.output.note(&format!("{id} is deleted\n")),
                Err(error) => failures.push(format!("{id}: {}", failed(error).message)),
            }
        }
        all_or(&failures)
    }

    /// One verb on one instance after the other.
    async fn each(
        &self,
        many: Many,
        verb: &str,
        run: impl AsyncFn(&InstanceRef) -> Result<Instance, ControlPlaneError>,
    ) -> Result<(), Failure> {
        let (mut after, mut failures) = (Vec::new(), Vec::new());
        for id in &many.instances {
            match self.with_progress(verb, id, run(id)).await {
                Ok(instance) => after.push(instance),
                Err(failure) => failures.push(format!("{id}: {}", failure.message)),
            }
        }
        if self.json {
            self.print(&after)?;
        } else if !after.is_empty() {
            self.rows(&after);
        }
        all_or(&failures)
    }

    /// Waits, and shows a person on a terminal how long it has been.
    pub(super) async fn with_progress<T, E: Into<Failure>>(
        &self,
        verb: &str,
        id: &InstanceRef,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        tokio::pin!(work);
        let mut spoke = false;
        let result = loop {
            match tokio::time::timeout(TICK, &mut work).await {
                Ok(result) => break result,
                Err(_) if self.output.is_watched => {
                    let seconds = began.elapsed().as_secs_f64();
                    self.output.note(&format!("\r{verb} {id} … {seconds:.1} s"));
                    spoke = true;
                }
                Err(_) => {}
            }
        };
        if spoke {
            // What is written next begins a line of its own.
            self.output.note("\r\u{1b}[K");
        }
        result.map_err(Into::into)
    }

    /// Waits until it runs, or has come to where it stays.
    async fn come_up(
        &self,
        id: &InstanceRef,
        patience: Duration,
    ) -> Result<Instance, ControlPlaneError> {
        let end = Instant::now() + patience;
        loop {
            let instance = self.client.get_instance(id).await?;
            let coming = matches!(
                instance.state,
                InstanceState::Created | InstanceState::Initializing | InstanceState::Paused
            );
            if !coming {
                return Ok(instance);
            }
            if Instant::now() >= end {
                return Err(ControlPlaneError::Timeout {
                    op: "wait",
                    after: patience,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Restores or starts it, as it needs.
    async fn wake(
        &self,
        id: &InstanceRef,
        start: bool,
        patience: Duration,
    ) -> Result<Instance, Failure> {
        let instance = self.client.get_instance(id).await?;
        let is_stopped = instance.state == InstanceState::Stopped;
        if is_stopped && start {
            let request = StartRequest::default();
            self.client.start_instance(id, &request).await?;
        } else {
            // From wherever it is; where that is not possible, the server says best why not.
            let restored = self.client.restore_instance(id).await;
            restored.map_err(|error| {
                let mut failure = failed(error);
                if is_stopped {
                    let help = "; `--start` boots it, without the memory that it had";
                    failure.message.push_str(help);
                }
                failure
            })?;
        }
        Ok(self.come_up(id, patience).await?)
    }

    async fn logs(&self, id: &InstanceRef, query: LogQuery, raw: bool) -> Result<(), Failure> {
        let mut lines = self.client.logs(id, query).await.map_err(failed)?;
        while let Some(line) = lines.next().await.map_err(failed)? {
            match self.json {
                true => self.print(&line)?,
                false if raw => self.output.print(&format!("{line}\n")),
                false => self.output.print(&format!("{}\n", visible(&line))),
            }
            if (self.output.is_closed)() {
                break;
            }
        }
        Ok(())
    }

    async fn stats(&self, id: &InstanceRef) -> Result<(), Failure> {
        let stats = self.client.instance_stats(id).await.map_err(failed)?;
        if self.json {
            return self.print(&stats);
        }
        let ratio = stats.memory_utilization_ratio;
        let rows = [[
            stats.instance_name,
            format!("{:.2} s", stats.cpu_seconds),
            bytes(stats.memory_rss_bytes),
            ratio
                .map(|ratio| format!("{:.0} %", ratio * 1e2))
                .unwrap_or_default(),
            bytes(stats.network_rx_bytes),
            bytes(stats.network_tx_bytes),
            stats.allocated_vcpus.to_string(),
            bytes(stats.allocated_memory_bytes),
        ]];
        let titles = [
            "NAME", "CPU", "RSS", "OF SIZE", "RECEIVED", "SENT", "VCPUS", "SIZE",
        ];
        self.output.print(&table(titles, &rows));
        Ok(())
    }
}

fn all_or(failures: &[String]) -> Result<(), Failure> {
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(failures.join("\n"))),
    }
}
