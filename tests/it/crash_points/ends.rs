//! Ends that are no crash of a verb: SIGTERM while a deletion waits for its grace period, a demo
//! that is killed, and disks that are really full.
//!
//! Guarantees: as for crash points, list, disk and processes agree afterwards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::plane::{Call, Kind, Site, client, folder};
use super::verbs::{VISITS, new_instance, verb, visit};
use super::world::{Listing, agree, belongings, count, url};
use crate::support::skips::{Lacking, skip};
use crate::support::{Demo, can_run_vms, eventually, eventually_within, spawn};

/// SIGTERM for the control plane while an instance that is deleted takes its time to end.
async fn end_in_a_grace_period(on_exit: &str) {
    let mut site = Site::new(Kind::Process);
    site.arguments.push(format!("--on-exit={on_exit}"));
    let mut plane = site.start().await;
    // It hears SIGTERM, and goes on.
    let script = "trap 'touch heard' TERM; touch ready; while :; do sleep 0.05; done";
    let body = json!({ "name": "stubborn", "image": "local/exec", "cmd": ["sh", "-c", script] });
    let created = plane.must(&Call::post("/instances", body)).await;
    let id = created["id"].as_str().unwrap().to_owned();
    let work = folder(&site.state_dir(), &id).join("work");
    eventually("its program is ready", async || work.join("ready").exists()).await;
    let path = format!("/instances/{id}");
    let call = spawn(plane.call(&Call::new(Method::DELETE, path)));
    eventually("it has been asked to end", async || {
        work.join("heard").exists()
    })
    .await;
    plane.program.signal("TERM");
    eventually("the control plane has ended", async || {
        plane.program.0.try_wait().unwrap().is_some()
    })
    .await;
    let answer = call.await.unwrap();
    eventually("no process is left", async || {
        belongings(&site.state_dir(), &[]).is_empty()
    })
    .await;
    let plane = site.start().await;
    let known = BTreeSet::from([id]);
    let (listing, wrong) = agree(&plane, Kind::Process, &site.state_dir(), &known, None).await;
    assert!(wrong.is_empty(), "{answer:?}: {wrong:#?}");
    assert_eq!(listing.ids(), BTreeSet::new(), "{answer:?}");
    let status = answer.map(|answer| answer.status);
    assert_eq!(status.ok(), Some(204), "whoever asked hears of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_waits_for_a_deletion_in_its_grace_period() {
    end_in_a_grace_period("keep").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_stops_everything_waits_for_a_deletion_in_its_grace_period() {
    end_in_a_grace_period("stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_killed_leaves_no_process_and_no_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path().canonicalize().unwrap();
    let mut demo = Demo::start("30s", &place);
    let pid = demo.program.0.id();
    let instances = || {
        let all = belongings(&place, &[pid]);
        all.iter().filter(|one| one.instance.is_some()).count()
    };
    eventually("its instances are there", async || instances() >= 2).await;
    demo.program.kill();
    eventually("its processes end", async || {
        belongings(&place, &[]).is_empty()
    })
    .await;
    eventually("its folder goes", async || {
        std::fs::read_dir(&place).unwrap().next().is_none()
    })
    .await;
}

/// Set in a process whose temporary folder is a small disk.
const SMALL_DISK: &str = "WAKEGATE_TEST_SMALL_DISK";

/// A shell with temporary folders on a disk of so many MiB, in a namespace of its own.
fn shell_on_a_small_disk(place: &Path, mebibytes: u32, then: &str) -> Command {
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let mount = format!("mount -t tmpfs -o size=\"$MIB\"m tmpfs \"$TMPDIR\" && {then}");
    unshare
        .args(["--mount", "--propagation=private", "sh", "-c", &mount])
        .env("TMPDIR", place)
        .env("MIB", mebibytes.to_string());
    unshare
}

/// Runs this very test again with temporary folders on a disk of so many MiB; whether that is where
/// we are.
fn on_a_small_disk(name: &str, mebibytes: u32) -> bool {
    if std::env::var_os(SMALL_DISK).is_some() {
        return true;
    }
    let place = tempfile::tempdir().unwrap();
    let tried = shell_on_a_small_disk(place.path(), mebibytes, "true").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        let reason = "a small disk cannot be mounted in a namespace of the test's own";
        skip(Lacking::Machine, reason);
        return false;
    }
    let output = shell_on_a_small_disk(place.path(), mebibytes, "exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("crash_points::ends::{name}"),
            "--nocapture",
        ])
        .env(SMALL_DISK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let passed = output.status.success() && text.contains("1 passed");
    assert!(passed, "{text}");
    false
}

/// Takes all the room that there is on the disk of a folder.
fn fill(folder: &Path) -> PathBuf {
    use std::io::Write as _;
    let filler = folder.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    filler
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_process_is_as_it_was_and_goes_on() {
    let name = "on_a_full_disk_a_process_is_as_it_was_and_goes_on";
    if !tokio::task::block_in_place(|| on_a_small_disk(name, 16)) {
        return;
    }
    let site = Site::new(Kind::Process);
    let mut plane = site.start().await;
    let created = plane
        .must(&Call::post(
            "/instances",
            new_instance(Kind::Process, "one"),
        ))
        .await;
    let id = created["id"].as_str().unwrap().to_owned();
    visit(&plane, &id, VISITS).await;
    let before = Listing::settled(&plane).await.view(&plane).await;
    let filler = fill(&std::env::temp_dir());

    let patch = Call {
        body: Some(json!({ "auto_standby": { "enabled": true, "idle_timeout": "1h" } })),
        ..Call::new(Method::PATCH, format!("/instances/{id}"))
    };
    let create = Call::post("/instances", new_instance(Kind::Process, "two"));
    for call in [&patch, &create] {
        let answer = plane.call(call).await.unwrap();
        assert!(answer.status >= 500, "{call:?}: {answer:?}");
        let now = Listing::settled(&plane).await.view(&plane).await;
        assert_eq!(now, before, "{call:?}");
    }
    for _ in 0..2 {
        plane.program.kill();
        plane = site.start().await;
        let known = BTreeSet::from([id.clone()]);
        let (listing, wrong) = agree(&plane, Kind::Process, &site.state_dir(), &known, None).await;
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(listing.view(&plane).await, before);
        assert_eq!(count(&plane, &id).await, Some(VISITS));
    }
    std::fs::remove_file(filler).unwrap();
    plane.must(&patch).await;
    plane.must(&create).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_vm_keeps_its_memory_and_goes_on() {
    let name = "on_a_full_disk_a_vm_keeps_its_memory_and_goes_on";
    if !can_run_vms() || !tokio::task::block_in_place(|| on_a_small_disk(name, 1000)) {
        return;
    }
    let site = Site::new(Kind::Vm);
    let plane = site.start().await;
    let created = plane
        .must(&Call::post("/instances", new_instance(Kind::Vm, "one")))
        .await;
    let id = created["id"].as_str().unwrap().to_owned();
    let up = async || count(&plane, &id).await.is_some();
    eventually_within(Duration::from_secs(120), "the VM is up", up).await;
    visit(&plane, &id, VISITS).await;
    let filler = fill(&std::env::temp_dir());

    // Its memory grows: a request is kept whole until it is answered.
    let url = url(&plane, &id).await.unwrap();
    for _ in 0..4 {
        let upload = client()
            .post(format!("{url}/echo"))
            .body(vec![1_u8; 15 << 20]);
        let _may_be_refused = upload.timeout(Duration::from_secs(20)).send().await;
    }
    let kept = count(&plane, &id).await;
    assert!(kept >= Some(VISITS), "{kept:?}");
    // To sleep or not to sleep, as it is said.
    let asleep = plane.call(&verb(&id, "standby")).await.unwrap();
    let listing = Listing::settled(&plane).await;
    let state = if asleep.is_good() {
        "Standby"
    } else {
        "Running"
    };
    assert_eq!(listing.instances[0]["state"], state, "{asleep:?}");
    // There is no room for another one.
    let body = new_instance(Kind::Vm, "two");
    let refused = plane.call(&Call::post("/instances", body)).await.unwrap();
    assert!(refused.status >= 500, "{refused:?}");
    assert_eq!(Listing::settled(&plane).await.instances.len(), 1);

    std::fs::remove_file(filler).unwrap();
    if !asleep.is_good() {
        plane.must(&verb(&id, "standby")).await;
    }
    plane.must(&verb(&id, "restore")).await;
    assert_eq!(count(&plane, &id).await, kept);
}
