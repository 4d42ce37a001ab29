//! What the list says, what is on disk and what runs, and where these disagree.
//!
//! Guarantees: a process belongs to a state directory when its working directory, its environment,
//! an open file or its control group says so, whatever the control plane knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::plane::{Call, ControlPlane, Kind, client};

/// How long list, disk and processes may disagree after a start.
pub const SETTLING: Duration = Duration::from_secs(10);
/// How long an instance may take to come up.
const COMING_UP: Duration = Duration::from_secs(90);
/// What an instance's view keeps of it, apart from its state.
const LASTING: [&str; 8] = [
    "name",
    "image",
    "env",
    "tags",
    "size",
    "vcpus",
    "auto_standby",
    "has_snapshot",
];

/// A process that runs on behalf of a state directory.
#[derive(Debug, Clone)]
pub struct Belonging {
    pid: i32,
    command: String,
    /// The instance whose it is.
    pub instance: Option<String>,
}

/// What a control plane lists, without what differs from one run to the next.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// By name.
    pub instances: BTreeMap<String, Value>,
    pub schedules: BTreeMap<String, Value>,
    pub snapshots: BTreeMap<String, Value>,
    /// The requests that each instance's memory has counted, of those that run or sleep.
    pub counts: BTreeMap<String, u64>,
}

/// What a control plane lists, as it says it.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    pub instances: Vec<Value>,
    pub snapshots: Vec<Value>,
}

/// The folders below the mount of control groups where instances' groups may be.
fn groups() -> Vec<PathBuf> {
    fn below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), depth - 1, found);
                found.push(entry.path());
            }
        }
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.unwrap_or("/").trim_start_matches('/');
    let mut found = Vec::new();
    for mount in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        below(&Path::new(mount).join(own).join("wakegate"), 3, &mut found);
    }
    found
}

/// The control groups of these instances.
fn groups_of(ids: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut all = groups();
    all.retain(|group| {
        let name = group.file_name().unwrap().to_string_lossy().into_owned();
        ids.iter().any(|id| name.contains(id))
    });
    all
}

/// Removes what is left of instances' control groups, whose processes have been killed.
#[allow(
    clippy::disallowed_methods,
    reason = "a test's end, where nothing else waits"
)]
pub fn forget_groups(ids: &BTreeSet<String>) {
    for _ in 0..200 {
        let groups = groups_of(ids);
        if groups.is_empty() {
            return;
        }
        for group in groups {
            // A killed process is in it until its parent has heard of its end.
            let _still_used = fs::remove_dir(group);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An instance's id in a text: what follows one of our marks.
fn id_in(text: &str, state_dir: &str) -> Option<String> {
    let marks = [format!("{state_dir}/instances/"), "INSTANCE_ID=".to_owned()];
    let after = marks
        .iter()
        .find_map(|mark| text.split_once(mark.as_str()).map(|(_, after)| after))?;
    let id: String = after
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    (!id.is_empty()).then_some(id)
}

/// Every process that runs on behalf of a state directory, except these.
pub fn belongings(state_dir: &Path, except: &[u32]) -> Vec<Belonging> {
    let root = state_dir.to_str().unwrap();
    let own = std::process::id();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut all = Vec::new();
    for pid in pids.filter(|pid| *pid != own && !except.contains(pid)) {
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let text = |name: &str| {
            let bytes = fs::read(at(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let link = |path: PathBuf| {
            let link = fs::read_link(path).unwrap_or_default();
            link.to_string_lossy().into_owned()
        };
        let (environment, groups, cwd) = (text("environ"), text("cgroup"), link(at("cwd")));
        let files = fs::read_dir(at("fd")).into_iter().flatten().flatten();
        let files: Vec<String> = files.map(|entry| link(entry.path())).collect();
        let inside = |text: &str| text.starts_with(&format!("{root}/")) || text == root;
        let ours = inside(&cwd)
            || environment
                .split('\0')
                .any(|one| one.split_once('=').is_some_and(|(_, value)| inside(value)))
            || files.iter().any(|file| inside(file));
        if !ours {
            continue;
        }
        let texts = [cwd, environment, files.join("\n"), groups];
        all.push(Belonging {
            pid: pid.cast_signed(),
            command: text("cmdline")
                .replace('\0', " ")
                .chars()
                .take(100)
                .collect(),
            instance: texts.iter().find_map(|text| id_in(text, root)),
        });
    }
    all
}

impl Belonging {
    pub fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended by itself.
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// Whether an instance is between two states.
fn moves(instance: &Value) -> bool {
    let between = ["Initializing", "Paused", "Shutdown", "Unknown"];
    between.contains(&text(instance, "state").as_str())
}

/// Whether no instance is between two states, as far as the control plane answers.
pub async fn is_settled(plane: &ControlPlane) -> bool {
    let answer = plane.get("/instances").await.ok();
    let instances = answer.and_then(|answer| answer.body.as_array().cloned());
    instances.is_some_and(|all| !all.iter().any(moves))
}

// === impl Listing ===

impl Listing {
    pub async fn read(plane: &ControlPlane) -> Self {
        let list = async |path: &str| {
            let answer = plane.must(&Call::new(Method::GET, path)).await;
            answer.as_array().unwrap().clone()
        };
        Self {
            instances: list("/instances").await,
            snapshots: list("/snapshots").await,
        }
    }

    /// Waits until no instance is between two states.
    pub async fn settled(plane: &ControlPlane) -> Self {
        let end = Instant::now() + COMING_UP;
        loop {
            let listing = Self::read(plane).await;
            if !listing.instances.iter().any(moves) || Instant::now() > end {
                return listing;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The ids of everything.
    pub fn ids(&self) -> BTreeSet<String> {
        let all = self.instances.iter().chain(&self.snapshots);
        all.map(|value| text(value, "id")).collect()
    }

    /// Without what differs from one run to the next.
    pub async fn view(&self, plane: &ControlPlane) -> View {
        let mut view = View::default();
        for instance in &self.instances {
            let name = text(instance, "name");
            let mut kept: serde_json::Map<String, Value> = LASTING
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), instance.get(*key)?.clone())))
                .collect();
            kept.insert("state".to_owned(), instance["state"].clone());
            let path = format!("/instances/{}/snapshot-schedule", text(instance, "id"));
            if let Ok(answer) = plane.get(&path).await
                && answer.is_good()
            {
                let kept = ["interval", "retention", "name_prefix", "metadata"];
                let kept = kept.map(|key| answer.body[key].clone());
                view.schedules
                    .insert(name.clone(), Value::from(kept.to_vec()));
            }
            view.instances.insert(name, Value::Object(kept));
        }
        for snapshot in &self.snapshots {
            let kept = ["kind", "name", "source_instance_name"];
            let kept = kept.map(|key| snapshot[key].clone()).to_vec();
            view.snapshots
                .insert(text(snapshot, "name"), Value::from(kept));
        }
        view
    }

    /// Shows that each state is true: what runs answers, what sleeps wakes. Their memories' counts,
    /// and what is not true.
    pub async fn prove(&self, plane: &ControlPlane) -> (BTreeMap<String, u64>, Vec<String>) {
        let (mut counts, mut untrue) = (BTreeMap::new(), Vec::new());
        for instance in &self.instances {
            let (id, name, state) = (
                text(instance, "id"),
                text(instance, "name"),
                text(instance, "state"),
            );
            match state.as_str() {
                "Stopped" => continue,
                "Running" => {}
                "Standby" => {
                    let path = format!("/instances/{id}/restore");
                    let answer = plane.call(&Call::new(Method::POST, path)).await;
                    if !answer.as_ref().is_ok_and(super::plane::Answer::is_good) {
                        untrue.push(format!("{name} is Standby and is not restored: {answer:?}"));
                        continue;
                    }
                }
                other => {
                    untrue.push(format!("{name} stays {other}"));
                    continue;
                }
            }
            match count(plane, &id).await {
                Some(count) => drop(counts.insert(name, count)),
                None => untrue.push(format!("{name} was {state} and does not answer")),
            }
        }
        (counts, untrue)
    }

    /// Where disk and processes are not as the list says.
    fn disagreements(
        &self,
        kind: Kind,
        state_dir: &Path,
        except: &[u32],
        known: &BTreeSet<String>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let states: BTreeMap<String, String> = self
            .instances
            .iter()
            .map(|instance| (text(instance, "id"), text(instance, "state")))
            .collect();
        let runs = |state: &str| match kind {
            // A process that sleeps is a process still.
            Kind::Process => ["Running", "Initializing", "Standby"].contains(&state),
            Kind::Vm => ["Running", "Initializing"].contains(&state),
        };
        let belonging = belongings(state_dir, except);
        for process in &belonging {
            let id = process.instance.as_ref();
            let state = id.and_then(|id| states.get(id)).map(String::as_str);
            if !state.is_some_and(runs) {
                wrong.push(format!(
                    "process {} `{}` of {id:?}, which is {state:?}",
                    process.pid,
                    process.command.trim()
                ));
            }
        }
        for (id, state) in &states {
            let its = |process: &&Belonging| process.instance.as_ref() == Some(id);
            let count = belonging.iter().filter(its).count();
            if runs(state) && count == 0 {
                wrong.push(format!("{id} is {state} and has no process"));
            }
        }
        for group in groups_of(known) {
            let name = group.file_name().unwrap().to_string_lossy().into_owned();
            let its = |(id, state): (&String, &String)| name.contains(id) && runs(state);
            if kind == Kind::Process && !states.iter().any(its) {
                wrong.push(format!("control group {}", group.display()));
            }
        }
        let ids = self.ids();
        for kind in ["instances", "snapshots", "ingresses"] {
            for entry in fs::read_dir(state_dir.join(kind))
                .into_iter()
                .flatten()
                .flatten()
            {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !ids.contains(&name) {
                    wrong.push(format!("{kind}/{name} is on disk and in no list"));
                }
            }
        }
        for path in files(state_dir) {
            if path.contains(".tmp-") || path.contains(".trash-") {
                wrong.push(format!("{path} is left behind"));
            }
        }
        wrong
    }

    /// The files below the state directory, with names instead of ids.
    pub fn names(&self, state_dir: &Path) -> BTreeSet<String> {
        let all = self.instances.iter().chain(&self.snapshots);
        let ids: Vec<_> = all
            .map(|value| (text(value, "id"), text(value, "name")))
            .collect();
        let named = |path: String| {
            ids.iter()
                .fold(path, |path, (id, name)| path.replace(id, name))
        };
        files(state_dir).into_iter().map(named).collect()
    }
}

/// Waits until list, disk and processes agree. The list, and where they do not after a while;
/// `usual` are the names of files that may be there.
pub async fn agree(
    plane: &ControlPlane,
    kind: Kind,
    state_dir: &Path,
    known: &BTreeSet<String>,
    usual: Option<&BTreeSet<String>>,
) -> (Listing, Vec<String>) {
    let end = Instant::now() + SETTLING;
    loop {
        let listing = Listing::settled(plane).await;
        let mut wrong = listing.disagreements(kind, state_dir, &[plane.pid()], known);
        if let Some(usual) = usual {
            let unusual = listing.names(state_dir);
            let unusual = unusual
                .difference(usual)
                .filter(|path| !passes(path))
                .map(|path| format!("{path} is neither there before nor after"));
            wrong.extend(unusual);
        }
        if wrong.is_empty() || Instant::now() > end {
            return (listing, wrong);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a file may be there or not, whatever has happened: logs, sockets, copies of sleeps that
/// are made in the background and the note that a sleep is on the disk, a sleep where the list says
/// that there is one, and the folder that an instance has from its first start.
fn passes(path: &str) -> bool {
    let ends = [".log", ".sock", ".pid", "/vm/state", "/vm/synced", "/work"];
    ends.iter().any(|end| path.ends_with(end)) || path.contains("/vm/last")
}

/// Every file and folder below a folder.
fn files(folder: &Path) -> Vec<String> {
    fn below(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            found.push(
                path.strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            );
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    below(folder, folder, &mut found);
    found
}

/// The URL of an instance's server.
pub async fn url(plane: &ControlPlane, id: &str) -> Option<String> {
    let answer = plane.get(&format!("/instances/{id}")).await.ok()?;
    let address = answer.body["network"]["ip"].as_str()?.to_owned();
    Some(format!("http://{address}:8080"))
}

/// How many requests an instance's memory has counted, as soon as it answers.
pub async fn count(plane: &ControlPlane, id: &str) -> Option<u64> {
    let url = url(plane, id).await?;
    let end = Instant::now() + COMING_UP.min(SETTLING * 3);
    while Instant::now() < end {
        let asked = client()
            .get(format!("{url}/count"))
            .timeout(Duration::from_secs(5))
            .send()
            .await;
        if let Ok(answer) = asked
            && let Ok(text) = answer.text().await
            && let Ok(count) = text.trim().parse()
        {
            return Some(count);
        }
        sleep(Duration::from_millis(10)).await;
    }
    None
}

/// Deletes everything that is listed; what was refused.
pub async fn delete_everything(plane: &ControlPlane) -> Vec<String> {
    let listing = Listing::read(plane).await;
    let mut refused = Vec::new();
    for (kind, all) in [
        ("snapshots", &listing.snapshots),
        ("instances", &listing.instances),
    ] {
        for one in all {
            let path = format!("/{kind}/{}", text(one, "id"));
            let answer = plane.call(&Call::new(Method::DELETE, &path)).await;
            if !answer.as_ref().is_ok_and(|answer| answer.status == 204) {
                refused.push(format!("DELETE {path}: {answer:?}"));
            }
        }
    }
    refused
}
