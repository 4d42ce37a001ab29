//! Virtual machines as instances: they sleep as files, and what is in their memory goes on.

use std::path::Path;
use std::time::Duration;

use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use tokio::time::{Instant, sleep};

use crate::support::{
    Gateway, Home, PATIENCE, Plane, Program, Wanted, can_run_vms, client_of, eventually, processes,
    reference, spawn,
};
use hypeman::GoDuration;
use hypeman::wire::{
    CreateInstance, CreateSnapshot, ExecCheck, ForkInstance, Health, HealthCheck, InstanceState,
    RestoreSnapshot, Retention, SetSnapshotSchedule, SnapshotKind, UpdateInstance,
};
use wakegate_local::{DriverChoice, QemuOptions};

pub(super) const BOOT: Duration = Duration::from_secs(120);

pub(super) fn vms() -> DriverChoice {
    DriverChoice::Qemu(QemuOptions::default())
}

/// An instance whose VM has our own demo server; one built for tests needs some room.
pub(super) fn wanted(name: &str) -> Wanted {
    let mut wanted = Wanted::hello(name);
    wanted.request.size = Some("256MB".to_owned());
    wanted.request.vcpus = Some(1);
    wanted
}

/// Waits until it runs and its server listens.
pub(super) async fn listens(client: &hypeman::Client, id: &str) -> String {
    let id = reference(id);
    let running = InstanceState::Running;
    let up = client.wait_instance(&id, &running, BOOT).await.unwrap();
    assert_eq!(up.state, running);
    let instance = client.get_instance(&id).await.unwrap();
    let ip = instance.network.unwrap().ip.unwrap();
    let url = format!("http://{ip}:8080");
    eventually("its server answers", async || {
        reqwest::get(format!("{url}/count")).await.is_ok()
    })
    .await;
    url
}

/// Asks the server. Running is not listening: until its port is open again nothing is sent, and
/// nothing counted.
async fn get(url: &str) -> reqwest::Response {
    let end = Instant::now() + PATIENCE;
    loop {
        match reqwest::get(url).await {
            Err(error) if error.is_connect() && Instant::now() < end => {
                sleep(Duration::from_millis(5)).await;
            }
            answer => return answer.unwrap(),
        }
    }
}

/// How many requests the server's memory has counted; this one is not.
pub(super) async fn count(url: &str) -> u64 {
    let answer = get(&format!("{url}/count")).await;
    answer.text().await.unwrap().parse().unwrap()
}

pub(super) async fn visit(url: &str) {
    assert_eq!(get(url).await.status(), 200);
}

pub(super) fn signal(pid: i32, name: &str) {
    let mut kill = std::process::Command::new("kill");
    let status = kill.args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_request_wakes_a_real_vm_and_its_memory_goes_on() {
    if !can_run_vms() {
        return;
    }
    let plane = Plane::start_with(vms()).await;
    let asked = wanted("sleeper").idle(Duration::from_secs(600)).request;
    let id = plane.client.create_instance(&asked).await.unwrap().id;
    listens(&plane.client, &id).await;
    // Now that it has booted, however long that took.
    let often = UpdateInstance {
        auto_standby: wanted("sleeper")
            .idle(Duration::from_millis(800))
            .request
            .auto_standby,
        ..UpdateInstance::default()
    };
    let whose = reference(&id);
    plane.client.update_instance(&whose, &often).await.unwrap();
    let gateway = Gateway::start(&plane, "").await;
    let client = gateway.client();
    for visit in 1..=10 {
        eventually("it falls asleep by itself", async || {
            plane.state(&id).await == InstanceState::Standby
        })
        .await;
        assert_eq!(processes(&plane.folder(&id)), [0; 0], "asleep, it is files");
        let answer = client.get("sleeper", "/").await;
        assert_eq!(answer.headers()["x-wakegate-wake"], "cold");
        let text = answer.text().await.unwrap();
        assert!(
            text.contains(&format!("request {visit} of this memory")),
            "{text}"
        );
        assert_eq!(
            processes(&plane.folder(&id)).len(),
            1,
            "awake, it is one process"
        );
    }
    assert_eq!(plane.operations(&id, "restore: done").await, 10);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vms_memory_is_kept_gone_back_to_and_copied() {
    if !can_run_vms() {
        return;
    }
    let plane = Plane::start_with(vms()).await;
    let client = &plane.client;
    let id = client
        .create_instance(&wanted("original").request)
        .await
        .unwrap()
        .id;
    let id = reference(&id);
    let url = listens(client, id.as_str()).await;

    // Kept by schedule, which is looked at in the end.
    let schedule = SetSnapshotSchedule {
        interval: "1m".parse().unwrap(),
        retention: Retention {
            max_count: Some(1),
            ..Retention::default()
        },
        name_prefix: Some("minutely".to_owned()),
        metadata: [("by".to_owned(), "schedule".to_owned())].into(),
        ..SetSnapshotSchedule::default()
    };
    client.set_snapshot_schedule(&id, &schedule).await.unwrap();

    // What is asked about the inside is answered from the inside.
    let agent = client
        .stat_path(&id, "/.wakegate/agent", false)
        .await
        .unwrap();
    assert!(agent.is_file);
    assert!(
        !client
            .stat_path(&id, env!("CARGO_MANIFEST_DIR"), false)
            .await
            .unwrap()
            .exists
    );
    let check = |words: &[&str]| UpdateInstance {
        health_check: Some(HealthCheck {
            exec: Some(ExecCheck {
                command: words.iter().map(ToString::to_string).collect(),
                ..ExecCheck::default()
            }),
            start_period: Some(GoDuration::from_nanos(0)),
            failure_threshold: Some(1),
            ..HealthCheck::default()
        }),
        ..UpdateInstance::default()
    };
    for (words, health) in [
        (["/bin/test", "-d", "/.wakegate"], Health::Healthy),
        (["/bin/test", "-d", "/home"], Health::Unhealthy),
    ] {
        client.update_instance(&id, &check(&words)).await.unwrap();
        eventually("the check's result is known", async || {
            let instance = client.get_instance(&id).await.unwrap();
            instance.health_status.unwrap().status == health
        })
        .await;
    }

    // A snapshot of a running VM cuts no connection and is not changed by what comes later.
    visit(&url).await;
    let stream = reqwest::get(format!("{url}/sse?count=8&interval=100ms"));
    let stream = stream.await.unwrap();
    let wanted_snapshot = CreateSnapshot {
        kind: SnapshotKind::Standby,
        name: Some("one".to_owned()),
        tags: [("why".to_owned(), "test".to_owned())].into(),
        compression: None,
    };
    let snapshot = client.create_snapshot(&id, &wanted_snapshot).await.unwrap();
    assert!(snapshot.size_bytes > Some(1 << 20), "{snapshot:?}");
    assert!(stream.text().await.unwrap().contains("event 7"));
    let again = client
        .create_snapshot(&id, &wanted_snapshot)
        .await
        .unwrap_err();
    assert_eq!((again.status(), again.code()), (Some(409), "conflict"));
    visit(&url).await;
    assert_eq!(count(&url).await, 2);

    // A copy of the running one goes on from there, at an address of its own.
    let fork = ForkInstance {
        name: "copy".to_owned(),
        from_running: true,
        target_state: None,
    };
    let copy = client.fork_instance(&id, &fork).await.unwrap();
    assert_eq!(copy.state, InstanceState::Running);
    let copys = listens(client, &copy.id).await;
    assert_ne!(copys, url);
    visit(&copys).await;
    assert_eq!((count(&url).await, count(&copys).await), (2, 3));
    client.delete_instance(&reference(&copy.id)).await.unwrap();

    // Back to the snapshot, twice, where it was.
    let sid = reference(&snapshot.id);
    let back = RestoreSnapshot::default();
    let refused = client.restore_snapshot(&id, &sid, &back).await.unwrap_err();
    assert_eq!(refused.code(), "invalid_state", "it runs");
    for _ in 0..2 {
        client.standby_instance(&id, None).await.unwrap();
        let instance = client.restore_snapshot(&id, &sid, &back).await.unwrap();
        assert_eq!(instance.state, InstanceState::Running);
        assert_eq!(listens(client, id.as_str()).await, url);
        assert_eq!(count(&url).await, 1);
        visit(&url).await;
        // Nothing closes its port when it has been awake for a while.
        let end = Instant::now() + Duration::from_millis(2500);
        while Instant::now() < end {
            count(&url).await;
        }
    }

    // A stopped one that starts again begins anew.
    client.stop_instance(&id).await.unwrap();
    client
        .start_instance(&id, &hypeman::wire::StartRequest::default())
        .await
        .unwrap();
    assert_eq!(count(&listens(client, id.as_str()).await).await, 0);

    let mut kept = None;
    for _ in 0..90 {
        kept = client
            .snapshot_schedule(&id)
            .await
            .unwrap()
            .last_snapshot_id;
        if kept.is_some() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let kept = kept.expect("the schedule has kept it within its minute");
    let list: serde_json::Value = reqwest::Client::new()
        .get(format!(
            "http://{}/snapshots?tags[by]=schedule",
            plane.address
        ))
        .bearer_auth(&plane.token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(list[0]["id"], kept.as_str());
    assert!(list[0]["name"].as_str().unwrap().starts_with("minutely-"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_standby_loses_no_good_sleep() {
    if !can_run_vms() {
        return;
    }
    let dir = Home::new();
    let reserved = Reserved::new();
    let (address, state_dir) = (reserved.address, dir.path().to_str().unwrap());
    let text = address.to_string();
    let arguments = [
        "local",
        "--driver",
        "qemu",
        "--api-listen",
        &text,
        "--state-dir",
        state_dir,
        "--no-auth",
    ];
    let client = client_of(address, "unused");
    let serves = async || {
        eventually("it serves", async || client.health().await.is_ok()).await;
    };
    let mut plane = Program::start(&arguments);
    serves().await;
    let request = CreateInstance {
        env: hypeman::wire::RedactedMap::default(),
        ..wanted("hardy").request
    };
    let id = client.create_instance(&request).await.unwrap().id;
    let id = reference(&id);
    let url = listens(&client, id.as_str()).await;
    let folder = dir.path().join("instances").join(id.as_str());
    let falling = folder.join("vm").join("falling");
    let kept = folder.join("vm").join("last").join("state");
    let state = async || client.get_instance(&id).await.unwrap().state;

    // A good sleep, with a count of one.
    visit(&url).await;
    client.standby_instance(&id, None).await.unwrap();
    eventually("it is kept beside", async || kept.exists()).await;
    client.restore_instance(&id).await.unwrap();
    visit(&url).await;
    visit(&url).await;

    // QEMU stands still, so the standby stays where it begins; then QEMU is killed.
    let standby = async || {
        let qemu = processes(&folder)[0];
        signal(qemu, "STOP");
        let (asking, whose) = (client.clone(), id.clone());
        let call = spawn(async move { asking.standby_instance(&whose, None).await });
        eventually("it has begun to fall", async || falling.exists()).await;
        (qemu, call)
    };
    let (qemu, call) = standby().await;
    signal(qemu, "KILL");
    let refused = call.await.unwrap().unwrap_err();
    assert_eq!(
        (refused.status(), refused.code()),
        (Some(500), "internal_error")
    );
    assert_eq!(state().await, InstanceState::Standby, "as it was before");
    client.restore_instance(&id).await.unwrap();
    assert_eq!(count(&url).await, 1);
    visit(&url).await;

    // The control plane is killed in that moment: the VM goes on, with everything.
    let (qemu, call) = standby().await;
    plane.kill();
    assert!(call.await.unwrap().is_err());
    signal(qemu, "CONT");
    plane = Program::start(&arguments);
    serves().await;
    assert_eq!(state().await, InstanceState::Running);
    assert_eq!(count(&url).await, 2);
    assert_eq!(processes(&folder), [qemu]);

    // Both are killed: back to the last good sleep, from which it can fall asleep as before.
    client.standby_instance(&id, None).await.unwrap();
    eventually("it is kept beside", async || kept.exists()).await;
    client.restore_instance(&id).await.unwrap();
    visit(&url).await;
    let (qemu, call) = standby().await;
    plane.kill();
    signal(qemu, "KILL");
    assert!(call.await.unwrap().is_err());
    plane = Program::start(&arguments);
    serves().await;
    assert_eq!(state().await, InstanceState::Standby);
    client.restore_instance(&id).await.unwrap();
    assert_eq!(count(&url).await, 2);
    client.standby_instance(&id, None).await.unwrap();
    assert_eq!(processes(&folder), [0; 0]);

    // Asleep, it outlives a killed control plane as well, and one with another driver leaves it
    // alone.
    plane.kill();
    let processes_instead = [
        "local",
        "--state-dir",
        state_dir,
        "--api-listen",
        "127.0.0.1:0",
    ];
    let mut other = crate::support::wakegate();
    let refused = other.args(processes_instead).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(why.contains("`hardy` runs with another driver"), "{why}");
    plane = Program::start(&arguments);
    serves().await;
    assert_eq!(state().await, InstanceState::Standby);
    client.delete_instance(&id).await.unwrap();
    assert!(!folder.exists());
    drop(plane);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_ones_own_ends_with_its_code_and_its_words_are_logged() {
    if !can_run_vms() {
        return;
    }
    let options = QemuOptions {
        prestart: 1,
        ..QemuOptions::default()
    };
    let plane = Plane::start_with(DriverChoice::Qemu(options)).await;
    let script = "echo \"I am $WHO\"; while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 7";
    let mut request = wanted("own").request;
    request.image = "local/exec".to_owned();
    request.env.0.insert("WHO".to_owned(), "a guest".to_owned());
    request.cmd = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    let id = plane.client.create_instance(&request).await.unwrap().id;
    let id = reference(&id);
    let running = InstanceState::Running;
    plane
        .client
        .wait_instance(&id, &running, BOOT)
        .await
        .unwrap();
    // Through a QEMU that was there before.
    plane.client.standby_instance(&id, None).await.unwrap();
    let pool = plane.folder("..").join("pool");
    eventually("one waits", async || {
        std::fs::read_dir(&pool).is_ok_and(|mut entries| {
            entries.any(|entry| entry.unwrap().path().join("qemu.pid").exists())
        })
    })
    .await;
    plane.client.restore_instance(&id).await.unwrap();
    let end = UpdateInstance {
        health_check: Some(HealthCheck {
            exec: Some(ExecCheck {
                command: vec!["/bin/touch".to_owned(), "/tmp/end".to_owned()],
                ..ExecCheck::default()
            }),
            ..HealthCheck::default()
        }),
        ..UpdateInstance::default()
    };
    plane.client.update_instance(&id, &end).await.unwrap();
    eventually("it ends", async || {
        plane.state(id.as_str()).await == InstanceState::Stopped
    })
    .await;
    let instance = plane.client.get_instance(&id).await.unwrap();
    assert_eq!(instance.exit_code, Some(7), "{:?}", instance.exit_message);
    let log = std::fs::read_to_string(plane.folder(id.as_str()).join("app.log")).unwrap();
    assert!(log.contains("I am a guest"), "{log}");
    plane.stop().await;
    let left = std::fs::read_dir(&pool).map_or(0, Iterator::count);
    assert_eq!(left, 0, "who waited has gone with the control plane");
}

/// A server in the VM comes and goes, as one does that somebody starts anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_vms_program_closes_and_opens_again_is_reached_again() {
    if !can_run_vms() {
        return;
    }
    let plane = Plane::start_with(vms()).await;
    let script =
        "while :; do httpd -f -p 8080 -h /.wakegate & sleep 4; kill $!; wait; sleep 4; done";
    let mut request = wanted("restless").request;
    request.image = "local/exec".to_owned();
    request.cmd = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    let id = plane.client.create_instance(&request).await.unwrap().id;
    let id = reference(&id);
    let running = InstanceState::Running;
    let up = plane.client.wait_instance(&id, &running, BOOT).await;
    assert_eq!(up.unwrap().state, running);
    let instance = plane.client.get_instance(&id).await.unwrap();
    let url = format!(
        "http://{}:8080/agent",
        instance.network.unwrap().ip.unwrap()
    );
    for _ in 0..2 {
        eventually("it is reached", async || {
            reqwest::get(&url)
                .await
                .is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        eventually("its port is closed", async || {
            reqwest::get(&url)
                .await
                .is_err_and(|error| error.is_connect())
        })
        .await;
    }
    plane.stop().await;
}

/// Set in a network of the test's own.
const INSIDE: &str = "WAKEGATE_TEST_INSIDE";

/// Runs this very test again in a network namespace of its own; whether that is where we are.
/// `name` is its whole name.
fn in_a_network_of_its_own(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let begin = "mount -t sysfs sysfs /sys && ip link set lo up && exec \"$0\" \"$@\"";
    let mut unshare = std::process::Command::new("unshare");
    unshare
        .args(["--net", "--mount", "sh", "-c", begin])
        .arg(own);
    let output = unshare
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    print!("{text}");
    false
}

/// Whether this machine has what a bridge needs.
fn can_bridge() -> bool {
    let there = |program: &str| {
        let mut which = std::process::Command::new("sh");
        let found = which
            .args(["-c", &format!("command -v {program}")])
            .output();
        found.unwrap().status.success()
    };
    let root = rustix::process::geteuid().is_root();
    let all = root
        && ["ip", "nft", "unshare"]
            .iter()
            .all(|program| there(program));
    let all = all && Path::new("/dev/net/tun").exists();
    if !all {
        let reason = "a bridge needs root, iproute2, nftables and /dev/net/tun";
        skip(Lacking::Machine, reason);
    }
    all
}

/// Whether the test with this whole name goes on in this process: it has a network of its own, in
/// which VMs can be on a bridge.
pub(super) async fn is_in_a_bridges_network(name: &'static str) -> bool {
    if !can_run_vms() || !can_bridge() {
        return false;
    }
    let inside = tokio::task::spawn_blocking(|| in_a_network_of_its_own(name));
    inside.await.unwrap()
}

/// A control plane whose VMs are on a bridge; nothing where the test does not go on here.
pub(super) async fn bridged(name: &'static str) -> Option<Plane> {
    if !is_in_a_bridges_network(name).await {
        return None;
    }
    let options = QemuOptions {
        bridged: true,
        ..QemuOptions::default()
    };
    Some(Plane::start_with(DriverChoice::Qemu(options)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_on_a_bridge_vanishes_from_it_and_is_watched_by_the_kernels_tracking() {
    let name = "vm::a_vm_on_a_bridge_vanishes_from_it_and_is_watched_by_the_kernels_tracking";
    let Some(plane) = bridged(name).await else {
        return;
    };
    let idle = Duration::from_secs(6);
    let request = wanted("bridged").idle(idle).request;
    let id = plane.client.create_instance(&request).await.unwrap().id;
    let url = listens(&plane.client, &id).await;
    let address = url.trim_start_matches("http://").to_owned();
    let device = || {
        let names = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        names
            .filter(|n| n.file_name().to_str().unwrap().starts_with("wg-"))
            .count()
    };
    assert_eq!(device(), 1);

    // A connection that is open is counted; short ones between two looks are not missed.
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    eventually("the open one is counted", async || {
        let status = plane
            .client
            .auto_standby_status(&reference(&id))
            .await
            .unwrap();
        status.active_inbound_connections == 1
    })
    .await;
    drop(stream);
    for _ in 0..6 {
        sleep(idle / 3).await;
        visit(&url).await;
    }
    assert_eq!(plane.state(&id).await, InstanceState::Running);
    eventually("it falls asleep by itself", async || {
        plane.state(&id).await == InstanceState::Standby
    })
    .await;
    assert_eq!(device(), 0, "its address has gone with it");
    let dead = tokio::net::TcpStream::connect(&address);
    let dead = tokio::time::timeout(Duration::from_millis(200), dead).await;
    assert!(!matches!(dead, Ok(Ok(_))));

    let gateway = Gateway::start(&plane, "").await;
    let text = gateway
        .client()
        .get("bridged", "/")
        .await
        .text()
        .await
        .unwrap();
    assert!(text.contains("request 7 of this memory"), "{text}");

    // A copy has another address, also inside.
    let fork = ForkInstance {
        name: "copy".to_owned(),
        from_running: true,
        target_state: None,
    };
    let copy = plane
        .client
        .fork_instance(&reference(&id), &fork)
        .await
        .unwrap();
    let copys = listens(&plane.client, &copy.id).await;
    assert_ne!(copys, url);
    let (one, two) = (count(&url).await, count(&copys).await);
    visit(&copys).await;
    assert_eq!((count(&url).await, count(&copys).await), (one, two + 1));
    gateway.stop().await;
    plane.stop().await;
    assert_eq!(device(), 0);
}

/// On a Hypeman server a copy of a running VM has its original's address in memory, which is not
/// the one that its answer names.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_gives_copies_the_address_of_their_original_until_they_start_anew() {
    if !can_run_vms() {
        return;
    }
    let plane = Plane::start_with(vms()).await;
    let client = &plane.client;
    let created = client.create_instance(&wanted("original").request).await;
    let id = reference(&created.unwrap().id);
    let url = listens(client, id.as_str()).await;
    let copy = async |name: &str| {
        let fork = ForkInstance {
            name: name.to_owned(),
            from_running: true,
            target_state: Some(InstanceState::Running),
        };
        let copy = client.fork_instance(&id, &fork).await.unwrap();
        (reference(&copy.id), copy.network.unwrap().ip.unwrap())
    };
    plane.faults(r#"{"stale_address_percent":100}"#).await;
    let (stale, ip) = copy("stale").await;
    let question = reqwest::Client::new().get(format!("http://{ip}:8080/count"));
    let answer = question.timeout(Duration::from_secs(5)).send().await;
    assert!(answer.is_err(), "nothing answers at {ip}: {answer:?}");
    assert_eq!(plane.state(stale.as_str()).await, InstanceState::Running);
    visit(&url).await;
    // It goes on so through a sleep, until it boots.
    client.standby_instance(&stale, None).await.unwrap();
    client.restore_instance(&stale).await.unwrap();
    let question = reqwest::Client::new().get(format!("http://{ip}:8080/count"));
    let answer = question.timeout(Duration::from_secs(5)).send().await;
    assert!(answer.is_err(), "{answer:?}");
    client.stop_instance(&stale).await.unwrap();
    let start = hypeman::wire::StartRequest::default();
    client.start_instance(&stale, &start).await.unwrap();
    listens(client, stale.as_str()).await;
    // Without the fault a copy answers at once.
    plane.faults("{}").await;
    let (_, ip) = copy("fresh").await;
    visit(&format!("http://{ip}:8080")).await;
    plane.stop().await;
}
