//! Virtual machines whose QEMU, control plane or disk fails them at a bad moment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use crate::support::{
    Home, Plane, Program, can_run_vms, client_of, eventually, processes, reference, spawn, wakegate,
};
use crate::vm::{BOOT, count, is_in_a_bridges_network, listens, signal, visit, vms, wanted};
use hypeman::wire::{
    CreateInstance, CreateSnapshot, ForkInstance, InstanceState, RedactedMap, RestoreSnapshot,
    SnapshotKind, UpdateInstance,
};
use hypeman::{Client, InstanceRef};

const HOUR: Duration = Duration::from_secs(3600);

/// A control plane in a process of its own, with one VM.
pub(super) struct OneVm {
    home: Home,
    reserved: Reserved,
    /// What its control plane is started with, besides.
    options: &'static [&'static str],
    plane: Program,
    pub(super) client: Client,
    pub(super) id: InstanceRef,
}

fn request(name: &str) -> CreateInstance {
    CreateInstance {
        env: RedactedMap::default(),
        ..wanted(name).request
    }
}

/// Whether a process runs: one that has ended and waits for whoever adopted it does not.
pub(super) fn runs(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

// === impl OneVm ===

impl OneVm {
    fn spawn(home: &Home, reserved: &Reserved, options: &[&str]) -> Program {
        let (address, state) = (reserved.address.to_string(), home.path().to_str().unwrap());
        let arguments = [
            "local",
            "--driver",
            "qemu",
            "--api-listen",
            &address,
            "--state-dir",
            state,
            "--no-auth",
        ];
        Program::start(&[&arguments[..], options].concat())
    }

    /// Starts a control plane, and a VM whose creation is not waited for.
    async fn create(options: &'static [&'static str]) -> (Self, tokio::task::JoinHandle<()>) {
        let (home, reserved) = (Home::new(), Reserved::new());
        let plane = Self::spawn(&home, &reserved, options);
        let client = client_of(reserved.address, "unused");
        eventually("it serves", async || client.health().await.is_ok()).await;
        let asking = client.clone();
        // Its control plane may be killed meanwhile.
        let creation = spawn(async move { drop(asking.create_instance(&request("one")).await) });
        let instances = home.path().join("instances");
        let id = || {
            let entry = std::fs::read_dir(&instances).ok()?.flatten().next()?;
            let name = entry.file_name().into_string().ok()?;
            (!name.starts_with('.')).then_some(name)
        };
        eventually("it is being made", async || id().is_some()).await;
        let id = reference(&id().unwrap());
        let one = Self {
            home,
            reserved,
            options,
            plane,
            client,
            id,
        };
        (one, creation)
    }

    /// Starts both and waits until the VM's server listens. Returns its URL, too.
    async fn start() -> (Self, String) {
        Self::start_with(&[]).await
    }

    pub(super) async fn start_with(options: &'static [&'static str]) -> (Self, String) {
        let (one, creation) = Self::create(options).await;
        creation.await.unwrap();
        let url = listens(&one.client, one.id.as_str()).await;
        (one, url)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.home.path().join("instances").join(self.id.as_str())
    }

    /// Where its control plane is asked.
    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.reserved.address
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join("vm").join(name)
    }

    pub(super) async fn state(&self) -> InstanceState {
        let instance = self.client.get_instance(&self.id).await;
        instance.unwrap().state
    }

    /// Kills the control plane, and starts it again.
    pub(super) async fn again(&mut self) {
        self.plane.kill();
        self.plane = Self::spawn(&self.home, &self.reserved, self.options);
        eventually("it serves", async || self.client.health().await.is_ok()).await;
    }

    /// Puts it to sleep, and waits until that sleep is kept.
    async fn sleep(&self) {
        self.client.standby_instance(&self.id, None).await.unwrap();
        let (last, state) = (self.file("last/state"), self.file("state"));
        let changed = |path: &Path| path.metadata().and_then(|info| info.modified()).ok();
        eventually("it is kept beside", async || {
            changed(&last).is_some_and(|last| Some(last) >= changed(&state))
        })
        .await;
    }

    /// Begins to wake it, and stops its QEMU while it is neither asleep nor known to run.
    async fn stop_while_it_wakes(&self) -> (i32, tokio::task::JoinHandle<bool>) {
        let (waking, pid) = (self.file("waking"), self.file("qemu.pid"));
        for _ in 0..100 {
            let (asking, id) = (self.client.clone(), self.id.clone());
            let call = spawn(async move { asking.restore_instance(&id).await.is_ok() });
            let (file, number, over) = (waking.clone(), pid.clone(), call.abort_handle());
            let stopped = tokio::task::spawn_blocking(move || {
                // This is a matter of microseconds, and may be missed.
                while !file.exists() {
                    if over.is_finished() {
                        return None;
                    }
                    std::hint::spin_loop();
                }
                let pid = std::fs::read_to_string(number).ok()?;
                let pid = pid.trim().parse().ok()?;
                let process = rustix::process::Pid::from_raw(pid)?;
                rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
                Some(pid)
            });
            let Some(qemu) = stopped.await.unwrap() else {
                assert!(call.await.unwrap());
                self.sleep().await;
                continue;
            };
            // It may have said that it runs before it stopped; that is soon written down.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if waking.exists() {
                return (qemu, call);
            }
            signal(qemu, "CONT");
            assert!(call.await.unwrap());
            self.sleep().await;
        }
        panic!("it woke too fast, a hundred times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_qemu_breaks_while_it_wakes_loses_no_good_sleep() {
    if !can_run_vms() {
        return;
    }
    let (mut one, url) = OneVm::start().await;
    visit(&url).await;
    one.sleep().await;

    // Its QEMU is killed between its sleep and running.
    let (qemu, call) = one.stop_while_it_wakes().await;
    signal(qemu, "KILL");
    assert!(!call.await.unwrap(), "it could not be woken");
    assert_eq!(one.state().await, InstanceState::Standby);
    assert_eq!(processes(&one.folder()), [0; 0]);
    one.client.restore_instance(&one.id).await.unwrap();
    assert_eq!(count(&url).await, 1);
    visit(&url).await;
    one.sleep().await;

    // So is its control plane.
    let (qemu, call) = one.stop_while_it_wakes().await;
    one.plane.kill();
    signal(qemu, "KILL");
    assert!(!call.await.unwrap());
    one.again().await;
    assert_eq!(one.state().await, InstanceState::Standby);
    one.client.restore_instance(&one.id).await.unwrap();
    assert_eq!(count(&url).await, 2);
    one.sleep().await;

    // Only the control plane is: the VM runs, or sleeps as before.
    let (qemu, call) = one.stop_while_it_wakes().await;
    one.plane.kill();
    signal(qemu, "CONT");
    assert!(!call.await.unwrap());
    one.again().await;
    if one.state().await == InstanceState::Standby {
        assert_eq!(processes(&one.folder()), [0; 0]);
        one.client.restore_instance(&one.id).await.unwrap();
    }
    assert_eq!(processes(&one.folder()).len(), 1);
    assert_eq!(count(&url).await, 2);
    one.client.delete_instance(&one.id).await.unwrap();
}

/// Whether a moment of its creation has come.
type Moment = fn(&OneVm) -> bool;

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_killed_while_a_vm_boots_leaves_no_qemu_behind() {
    if !can_run_vms() {
        return;
    }
    let moments: [Moment; 4] = [
        |one| one.file("ram").exists(),
        |one| one.file("qemu.pid").exists(),
        |one| one.file("qmp.sock").exists(),
        |one| {
            let record = std::fs::read_to_string(one.folder().join("record.json"));
            record.is_ok_and(|text| text.contains("\"pid\""))
        },
    ];
    for (number, has_come) in moments.into_iter().enumerate() {
        let (mut one, creation) = OneVm::create(&[]).await;
        eventually("the moment has come", async || has_come(&one)).await;
        one.plane.kill();
        creation.await.unwrap();
        one.again().await;
        let state = one.state().await;
        let expected = match state {
            InstanceState::Stopped => 0,
            InstanceState::Initializing | InstanceState::Running => 1,
            other => panic!("moment {number}: {other:?}"),
        };
        assert_eq!(processes(&one.folder()).len(), expected, "moment {number}");
        if expected == 1 {
            // It was not told yet what its program is, or was.
            let running = InstanceState::Running;
            let up = one.client.wait_instance(&one.id, &running, BOOT);
            assert_eq!(up.await.unwrap().state, running);
        } else {
            assert!(!one.folder().join("vm").exists(), "moment {number}");
        }
        let folder = one.folder();
        let left = processes(&folder);
        one.client.delete_instance(&one.id).await.unwrap();
        assert!(!folder.exists());
        for pid in left {
            assert!(!runs(pid), "{pid}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_does_not_answer_is_not_taken_for_gone() {
    if !can_run_vms() {
        return;
    }
    let (mut one, url) = OneVm::start().await;
    visit(&url).await;
    let [qemu] = processes(&one.folder())[..] else {
        panic!("it is one process");
    };
    signal(qemu, "STOP");
    one.again().await;
    assert_eq!(one.state().await, InstanceState::Unknown);
    assert_eq!(processes(&one.folder()), [qemu], "it is there");
    signal(qemu, "CONT");
    eventually("it is known again", async || {
        one.state().await == InstanceState::Running
    })
    .await;
    assert_eq!(processes(&one.folder()), [qemu]);
    assert_eq!(count(&url).await, 1);

    // What it did for an earlier control plane that could not write it down is no hindrance.
    one.plane.kill();
    let record = one.file("vm.json");
    let mut forgetful: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    assert_eq!(forgetful["ports"], serde_json::json!([8080]));
    forgetful["ports"] = serde_json::json!([]);
    std::fs::write(&record, forgetful.to_string()).unwrap();
    one.again().await;
    assert_eq!(count(&url).await, 1);

    // One that never answers can be deleted.
    signal(qemu, "STOP");
    one.again().await;
    assert_eq!(one.state().await, InstanceState::Unknown);
    one.client.delete_instance(&one.id).await.unwrap();
    assert!(!runs(qemu));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_a_vm_that_a_killed_control_plane_has_left_on_the_bridge_goes() {
    let name =
        "vm_breaks::a_device_of_a_vm_that_a_killed_control_plane_has_left_on_the_bridge_goes";
    if !is_in_a_bridges_network(name).await {
        return;
    }
    let (mut one, url) = OneVm::start_with(&["--bridged"]).await;
    visit(&url).await;
    let devices = || {
        let all = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        let names = all.map(|entry| entry.file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("wg-"))
            .collect::<Vec<_>>()
    };
    let awake = devices();
    let [device] = &awake[..] else {
        panic!("{awake:?}");
    };
    one.sleep().await;
    assert!(devices().is_empty());
    // As if it had been killed when the sleep was whole and QEMU had not ended.
    one.plane.kill();
    let mut ip = std::process::Command::new("ip");
    let made = ip
        .args(["tuntap", "add", "dev", device.as_str(), "mode", "tap"])
        .status();
    assert!(made.unwrap().success());
    one.again().await;
    assert_eq!(one.state().await, InstanceState::Standby);
    assert!(devices().is_empty(), "{:?}", devices());
    one.client.restore_instance(&one.id).await.unwrap();
    assert_eq!(count(&url).await, 1);
    one.client.delete_instance(&one.id).await.unwrap();
    assert!(devices().is_empty(), "{:?}", devices());
}

/// Fills a file system. The file that fills it.
fn fill(disk: &Path) -> PathBuf {
    use std::io::Write as _;
    let ballast = disk.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    ballast
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_on_a_full_disk_runs_on_and_another_is_refused_whole() {
    if !can_run_vms() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        skip(Lacking::Machine, "a small disk needs root");
        return;
    }
    let (home, reserved) = (Home::new(), Reserved::new());
    let (address, state) = (reserved.address.to_string(), home.path().to_str().unwrap());
    let mount = "mount -t tmpfs -o size=1g none \"$0\" && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", mount, state])
        .arg(wakegate().get_program())
        .args(["local", "--driver", "qemu", "--no-auth"])
        .args(["--api-listen", &address, "--state-dir", state]);
    let plane = Program::spawn(&mut command);
    let client = client_of(reserved.address, "unused");
    eventually("it serves", async || client.health().await.is_ok()).await;
    let seen = format!("/proc/{}/root{state}", plane.0.id());
    let disk = Path::new(&seen);
    let created = client.create_instance(&request("first")).await.unwrap();
    let id = reference(&created.id);
    let url = listens(&client, id.as_str()).await;
    visit(&url).await;

    // The guest takes memory that it has never had.
    let ballast = fill(disk);
    let upload = reqwest::Client::new().post(format!("{url}/upload"));
    let upload = upload.body(vec![7; 15 << 20]).send().await.unwrap();
    assert_eq!(upload.status(), 200);
    let refused = client
        .create_instance(&request("second"))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.status(), refused.code()),
        (Some(507), "insufficient_storage")
    );
    let fork = ForkInstance {
        name: "second".to_owned(),
        from_running: true,
        target_state: None,
    };
    let refused = client.fork_instance(&id, &fork).await.unwrap_err();
    assert_eq!(refused.status(), Some(507));
    let folders = std::fs::read_dir(disk.join("instances")).unwrap();
    assert_eq!(folders.count(), 1, "nothing is left of them");
    let state = client.get_instance(&id).await.unwrap().state;
    assert_eq!(state, InstanceState::Running);
    let before = count(&url).await;

    // A sleep that there is no room for leaves it running; one that there is room for is whole.
    let refused = client.standby_instance(&id, None).await.unwrap_err();
    assert_eq!(refused.status(), Some(507));
    assert_eq!(count(&url).await, before);
    std::fs::remove_file(&ballast).unwrap();
    client.standby_instance(&id, None).await.unwrap();
    let ballast = fill(disk);
    let woken = client.restore_instance(&id).await;
    std::fs::remove_file(&ballast).unwrap();
    if let Err(refused) = woken {
        assert_eq!(refused.status(), Some(507));
        client.restore_instance(&id).await.unwrap();
    }
    assert_eq!(count(&url).await, before);
    client.delete_instance(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_brings_back_what_its_instance_was_and_ends_in_the_state_that_was_asked_for() {
    if !can_run_vms() {
        return;
    }
    let plane = Plane::start_with(vms()).await;
    let client = &plane.client;
    let created = client.create_instance(&request("original")).await.unwrap();
    let id = reference(&created.id);
    let url = listens(client, id.as_str()).await;
    visit(&url).await;
    let wanted_snapshot = CreateSnapshot {
        kind: SnapshotKind::Standby,
        name: None,
        tags: [].into(),
        compression: None,
    };
    let snapshot = client.create_snapshot(&id, &wanted_snapshot).await.unwrap();
    let sid = reference(&snapshot.id);
    let change = UpdateInstance {
        auto_standby: wanted("original").idle(HOUR).request.auto_standby,
        ttl: Some("2h".parse().unwrap()),
        ..UpdateInstance::default()
    };
    client.update_instance(&id, &change).await.unwrap();

    // Back to it: memory and policies, at its own address; what ends it stays.
    client.standby_instance(&id, None).await.unwrap();
    let to = |target_state| RestoreSnapshot {
        target_state: Some(target_state),
        ..RestoreSnapshot::default()
    };
    let back = to(InstanceState::Standby);
    let back = client.restore_snapshot(&id, &sid, &back).await.unwrap();
    assert_eq!(back.state, InstanceState::Standby);
    assert_eq!(back.name, "original");
    assert_eq!(back.auto_standby, None);
    assert!(back.expires_at.is_some());
    client.restore_instance(&id).await.unwrap();
    assert_eq!(count(&url).await, 1);

    // To Stopped, there is no memory and no process; nor is there of a copy.
    client.standby_instance(&id, None).await.unwrap();
    let stopped = to(InstanceState::Stopped);
    let stopped = client.restore_snapshot(&id, &sid, &stopped).await.unwrap();
    assert_eq!(stopped.state, InstanceState::Stopped);
    assert_ne!(stopped.has_snapshot, Some(true));
    assert!(!plane.folder(id.as_str()).join("vm").exists());
    let fork = reqwest::Client::new()
        .post(format!(
            "http://{}/snapshots/{}/fork",
            plane.address, snapshot.id
        ))
        .bearer_auth(&plane.token)
        .json(&serde_json::json!({ "name": "copy", "target_state": "Stopped" }))
        .send()
        .await
        .unwrap();
    assert_eq!(fork.status(), 201);
    let copy: serde_json::Value = fork.json().await.unwrap();
    assert_eq!(copy["state"], "Stopped", "{copy}");
    let copy = copy["id"].as_str().unwrap();
    assert!(!plane.folder(copy).join("vm").exists());

    // A fork of what sleeps, to Stopped, and one whose name is taken, leave the source as it was.
    let running = to(InstanceState::Running);
    client.restore_snapshot(&id, &sid, &running).await.unwrap();
    // Stopped, it had no address; it has another one now.
    let url = listens(client, id.as_str()).await;
    let taken = ForkInstance {
        name: "copy".to_owned(),
        from_running: true,
        target_state: None,
    };
    let refused = client.fork_instance(&id, &taken).await.unwrap_err();
    assert_eq!(refused.code(), "name_conflict");
    let other = ForkInstance {
        name: "other".to_owned(),
        from_running: true,
        target_state: Some(InstanceState::Stopped),
    };
    let other = client.fork_instance(&id, &other).await.unwrap();
    assert_eq!(other.state, InstanceState::Stopped);
    assert_eq!(count(&url).await, 1);
    plane.stop().await;
}
