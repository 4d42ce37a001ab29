//! `wakegate local run`: a program of one's own as an instance of the control plane that runs here.
//!
//! Guarantees: its URL is printed when it answers and not before; one that does not run, ends or
//! listens elsewhere is said to, with its exit code and its last lines; an instance that is the
//! same already is woken and not made anew, and sleeps as this command says; one that is no program
//! of this kind is left alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::args::RunArguments;
use super::instances::{Session, absolute, failed, sleeps_after, words};
use super::output::{Failure, Output};
use crate::telemetry::visible;
use hypeman::wire::{
    AutoStandbyPolicy, CreateInstance, Idle, Instance, InstanceState, RedactedMap, StartRequest,
    UpdateInstance,
};
use hypeman::{Config, InstanceRef};
use wakegate_local::cli::{RunningPlane, running_plane};

const IMAGE: &str = "local/exec";
/// The tag that lets connections outlive sleep, and its value.
const KEEP_FLOWS: (&str, &str) = ("wakegate.flows", "keep");
/// What a program gets of the environment of whoever runs it.
const INHERITED: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ"];
/// A control plane that was started beside this command may yet come up.
const PLANE_COMES_UP: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// Runs the program, and prints its URL.
pub(super) async fn run(arguments: RunArguments, output: Output) -> Result<(), Failure> {
    let request = request(&arguments)?;
    let plane = find_plane(arguments.state_dir.as_deref()).await?;
    let config = Config {
        url: plane.url,
        api_key: plane.token.map(Into::into),
        user_agent: concat!("wakegate/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..Config::default()
    };
    let client = hypeman::Client::new(&config).map_err(Failure::failed)?;
    let session = Session {
        client,
        json: false,
        output,
    };
    let instance = session.provide(&request, &arguments.env).await?;
    let id = InstanceRef::parse(&instance.id).map_err(Failure::failed)?;
    let patience = arguments.timeout.to_std().unwrap_or_default();
    let answers = session.answers(&id, arguments.port, patience);
    let (_, address) = session.with_progress("run", &id, answers).await?;
    output.print(&format!("http://{address}/\n"));
    Ok(())
}

async fn find_plane(state_dir: Option<&Path>) -> Result<RunningPlane, Failure> {
    let end = Instant::now() + PLANE_COMES_UP;
    loop {
        if let Some(plane) = running_plane(state_dir)? {
            return Ok(plane);
        }
        if Instant::now() >= end {
            return Err(Failure::failed(
                "no local control plane runs: start one with `wakegate local`, and give its \
                 `--state-dir` here if it has one",
            ));
        }
        sleep(LOOK).await;
    }
}

/// The instance that the arguments ask for.
fn request(arguments: &RunArguments) -> Result<CreateInstance, Failure> {
    let inherited = INHERITED.iter().filter_map(|name| {
        let value = std::env::var_os(name)?.into_string().ok()?;
        Some(((*name).to_owned(), value))
    });
    let mut env: BTreeMap<String, String> = inherited.collect();
    env.extend(arguments.env.iter().cloned());
    env.insert("PWD".to_owned(), absolute(&arguments.workdir)?);
    env.insert("PORT".to_owned(), arguments.port.to_string());
    let (key, value) = KEEP_FLOWS;
    let flows = arguments
        .keep_flows
        .then(|| (key.to_owned(), value.to_owned()));
    Ok(CreateInstance {
        name: arguments.name.clone(),
        image: IMAGE.to_owned(),
        env: RedactedMap(env),
        tags: flows.into_iter().collect(),
        auto_standby: arguments.idle_timeout.map(sleeps_after),
        cmd: Some(arguments.command.clone()),
        ..CreateInstance::default()
    })
}

/// Whether an instance runs what is asked for, whoever asks; `named` is what was asked for of the
/// environment by name.
fn is_same(instance: &Instance, request: &CreateInstance, named: &[(String, String)]) -> bool {
    let runs = words(instance, "cmd");
    let is_inherited = |name: &str| {
        INHERITED.contains(&name) && !named.iter().any(|(own_name, _)| own_name == name)
    };
    let own = |env: &RedactedMap| {
        let own = env.0.iter().filter(|(name, _)| !is_inherited(name));
        own.map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    let flows = |tags: &BTreeMap<String, String>| tags.get(KEEP_FLOWS.0).cloned();
    Some(&runs) == request.cmd.as_ref()
        && words(instance, "entrypoint").is_empty()
        && own(&instance.env) == own(&request.env)
        && flows(&instance.tags) == flows(&request.tags)
}

impl Session {
    /// Makes the instance, or brings the one that is there to where it runs.
    async fn provide(
        &self,
        request: &CreateInstance,
        named: &[(String, String)],
    ) -> Result<Instance, Failure> {
        let id = InstanceRef::parse(&request.name).map_err(Failure::failed)?;
        let found = match self.client.get_instance(&id).await {
            // An id that begins so is another one's.
            Ok(instance) if instance.name == request.name => Some(instance),
            Ok(_) => None,
            Err(error) if error.code() == "not_found" => None,
            Err(error) => return Err(failed(error)),
        };
        let Some(instance) = found else {
            return self.make(request).await;
        };
        if instance.image != IMAGE {
            return Err(Failure::failed(format_args!(
                "{id} is there already and is no program of yours, but {}: take another name, or \
                 remove it with `wakegate instances rm {id}`",
                visible(&instance.image)
            )));
        }
        if !is_same(&instance, request, named) {
            self.output
                .note(&format!("{id} ran something else and is replaced\n"));
            self.client.delete_instance(&id).await.map_err(failed)?;
            return self.make(request).await;
        }
        let policy = match &request.auto_standby {
            None if instance.idle() == Idle::Never => None,
            // It was asked to sleep before, and is not any more.
            None => Some(AutoStandbyPolicy::default()),
            policy => policy.clone(),
        };
        if policy.is_some() {
            let change = UpdateInstance {
                auto_standby: policy,
                ..UpdateInstance::default()
            };
            let updated = self.client.update_instance(&id, &change).await;
            updated.map_err(failed)?;
        }
        if instance.state == InstanceState::Standby {
            return self.client.restore_instance(&id).await.map_err(failed);
        }
        if instance.state != InstanceState::Stopped {
            return Ok(instance);
        }
        let start = StartRequest::default();
        let started = self.client.start_instance(&id, &start).await;
        if started.is_err()
            && let Ok(instance) = self.client.get_instance(&id).await
            && instance.state == InstanceState::Stopped
        {
            return Err(self.why_not(&instance).await);
        }
        started.map_err(failed)
    }

    async fn make(&self, request: &CreateInstance) -> Result<Instance, Failure> {
        self.client.create_instance(request).await.map_err(failed)
    }
}
