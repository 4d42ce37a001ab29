//! Beginnings and ends: drain, kill -9, ports in use, exit codes.

use crate::support::reserved::Reserved;
use crate::support::{
    Demo, Door, Gateway, Home, Lines, Plane, Program, Wanted, client_of, config, eventually,
    processes, reference, route, wakegate,
};
use crate::vm::signal;
use crate::vm_breaks::runs;
use hypeman::wire::{CreateInstance, InstanceState};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_held_and_refuses_what_comes() {
    let plane = Plane::start().await;
    let (_, door) = plane.behind_a_door("drained").await;
    let mut gateway = Gateway::start(&plane, &route("drained", Door::ROUTE)).await;
    let client = gateway.client();
    let held =
        crate::support::spawn(async move { client.get("drained", "/").await.status().as_u16() });
    eventually("it is held", async || {
        gateway.metric("wakegate_held_requests").await == 1.0
    })
    .await;
    gateway.drain();
    let admin = format!("http://{}/readyz", gateway.admin);
    eventually("it is no longer ready", async || {
        reqwest::get(&admin)
            .await
            .is_ok_and(|response| response.status() == 503)
    })
    .await;
    assert!(
        gateway
            .client()
            .request("GET", "drained", "/")
            .send()
            .await
            .is_err()
    );
    door.open().await;
    assert_eq!(held.await.unwrap(), 200);
    assert!(gateway.stop().await, "nothing had to be cut");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_what_does_not_end_by_its_deadline() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("endless")).await;
    let gateway = Gateway::start(&plane, "[server]\ndrain_timeout = \"300ms\"\n").await;
    let mut stream = gateway
        .client()
        .get("endless", "/sse?count=1000&interval=20ms")
        .await;
    stream.chunk().await.unwrap();
    assert!(!gateway.stop().await, "the stream was cut");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_wake_finds_out_that_somebody_put_the_instance_to_sleep() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("behind")).await;
    // A lease alone would be believed for ten minutes.
    let gateway = Gateway::start(&plane, "[wake]\nverify_interval = \"10m\"\n").await;
    assert_eq!(gateway.client().get("behind", "/").await.status(), 200);
    plane.sleep(&instance.id).await;
    let url = format!("http://{}/api/instances/behind/wake", gateway.admin);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    eventually("it is awake", async || {
        assert_eq!(http.post(&url).send().await.unwrap().status(), 200);
        plane.state(&instance.id).await == InstanceState::Running
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_would_need_a_restart_changes_nothing() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("moved")).await;
    let gateway = Gateway::start(&plane, "").await;
    let extra = "[[route]]\nhost = \"new.org\"\ninstance = \"moved\"\n";
    let mut fresh = config(plane.address, &plane.token, extra);
    gateway.handle.reload(&fresh).unwrap();
    let url = format!("http://{}/", gateway.address);
    let answer = gateway
        .client()
        .http
        .get(url)
        .header("host", "new.org")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    fresh.wake.ledger = 7;
    assert!(
        gateway
            .handle
            .reload(&fresh)
            .unwrap_err()
            .to_string()
            .contains("`wake` can only change with a restart")
    );
    // It is read once, when the gateway starts.
    let mut unwatched = config(plane.address, &plane.token, extra);
    unwatched.server.watch = false;
    let refusal = gateway.handle.reload(&unwatched).unwrap_err().to_string();
    assert!(refusal.contains("`server.watch` can only"), "{refusal}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_survive_a_killed_control_plane_with_their_memory() {
    let dir = Home::new();
    let reserved = Reserved::new();
    let state = dir.path().to_str().unwrap().to_owned();
    let address = reserved.address.to_string();
    let arguments = [
        "local",
        "--api-listen",
        &address,
        "--state-dir",
        &state,
        "--no-auth",
    ];
    let client = client_of(reserved.address, "unused");

    let first = Program::start(&arguments);
    eventually("it serves", async || client.health().await.is_ok()).await;
    let mut ids = Vec::new();
    for name in ["awake", "asleep", "doomed"] {
        let request = CreateInstance {
            name: name.to_owned(),
            image: "wakegate/hello".to_owned(),
            ..CreateInstance::default()
        };
        ids.push(reference(
            &client.create_instance(&request).await.unwrap().id,
        ));
    }
    let count = async |id: &hypeman::InstanceRef| {
        let instance = client.get_instance(id).await.unwrap();
        let url = format!("http://{}:8080/", instance.network.unwrap().ip.unwrap());
        reqwest::get(url).await.ok()?.text().await.ok()
    };
    for id in &ids {
        eventually("it answers", async || count(id).await.is_some()).await;
    }
    client.standby_instance(&ids[1], None).await.unwrap();
    first.signal("KILL");
    drop(first);
    let pid = std::fs::read_to_string(
        dir.path()
            .join("instances")
            .join(ids[2].as_str())
            .join("record.json"),
    )
    .unwrap();
    let pid: serde_json::Value = serde_json::from_str(&pid).unwrap();
    let pid = pid["handle"]["pid"].as_i64().unwrap();
    let pid = i32::try_from(pid).unwrap();
    signal(pid, "KILL");
    // A signal is sent and not yet obeyed: on a busy machine the second would still find it alive,
    // and hear of its end later, in other words.
    eventually("it has obeyed", async || !runs(pid)).await;

    let second = Program::start(&arguments);
    eventually("it serves again", async || client.health().await.is_ok()).await;
    let state = async |id| client.get_instance(id).await.unwrap();
    assert_eq!(state(&ids[0]).await.state, InstanceState::Running);
    assert_eq!(state(&ids[1]).await.state, InstanceState::Standby);
    let doomed = state(&ids[2]).await;
    assert_eq!(doomed.state, InstanceState::Stopped);
    assert!(doomed.exit_message.unwrap().contains("gone"));
    client.restore_instance(&ids[1]).await.unwrap();
    for id in &ids[..2] {
        eventually("its memory is kept", async || {
            count(id)
                .await
                .is_some_and(|text| !text.contains("request 1 of"))
        })
        .await;
    }
    for id in &ids {
        client.delete_instance(id).await.unwrap();
    }
    drop(second);
}

#[test]
fn a_port_in_use_is_a_clear_message_that_names_the_flag() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (flag, arguments) in [
        (
            "--listen",
            [
                "demo",
                "--listen",
                &taken,
                "--api-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ],
        ),
        (
            "--api-listen",
            [
                "demo",
                "--listen",
                "127.0.0.1:0",
                "--api-listen",
                &taken,
                "--admin-listen",
                "127.0.0.1:0",
            ],
        ),
        (
            "--admin-listen",
            [
                "demo",
                "--listen",
                "127.0.0.1:0",
                "--api-listen",
                "127.0.0.1:0",
                "--admin-listen",
                &taken,
            ],
        ),
    ] {
        let output = wakegate().args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&taken) && text.contains(flag), "{text}");
    }
}

#[test]
fn exit_codes_tell_usage_configuration_and_success_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "[wake]\ntimout = \"1s\"\n").unwrap();
    let bad = file.to_str().unwrap();
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/config/wakegate.toml");
    for (arguments, code, says) in [
        (vec!["nonsense"], 2, "nonsense"),
        (vec!["serve", "-c", bad], 78, "did you mean `timeout`?"),
        (vec!["check", "-c", bad], 78, "bad.toml:2:1: `wake.timout`"),
        (vec!["check", "-c", good], 0, "[[route]]"),
        (vec!["explain", "WAKE_TIMEOUT"], 0, "wake_timeout (504)"),
        (
            vec!["explain", "wake_timout"],
            1,
            "did you mean `wake_timeout`?",
        ),
        (vec!["--help"], 0, "demo"),
    ] {
        let output = wakegate().args(&arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_wakes_a_sleeping_instance_and_leaves_nothing_behind() {
    let temporary = Home::new();
    let mut demo = Demo::start("10s", temporary.path());
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let ask = async || {
        let asked = client.get(format!("http://{}/", demo.listen));
        let answer = asked
            .header("host", "counter.localhost")
            .send()
            .await
            .ok()?;
        (answer.status() == 200).then_some(answer.text().await.ok()?)
    };
    eventually("the demo serves", async || ask().await.is_some()).await;
    let mut lines = Lines::of(demo.program.0.stdout.take().unwrap());
    // It says so when it begins, and again when the instance has been awake and is idle.
    lines.say("counter  asleep", 2).await;
    let again = ask().await.unwrap();
    assert!(
        !again.contains("request 1 of"),
        "its memory is kept: {again}"
    );
    let folders = || std::fs::read_dir(temporary.path()).unwrap().count();
    let instances = processes(temporary.path());
    assert_eq!((folders(), instances.len()), (1, 2), "{instances:?}");

    demo.program.signal("INT");
    let story = lines.into_story();
    assert!(demo.program.0.wait().unwrap().success());
    for word in [
        "curl http://hello.localhost",
        "asleep",
        "waking",
        "ready in",
        "idle",
        "stopping",
    ] {
        assert!(story.contains(word), "{word}: {story}");
    }
    assert_eq!((folders(), processes(temporary.path())), (0, Vec::new()));
    for address in [demo.listen, demo.admin] {
        let refused = TcpStream::connect(address).await;
        assert!(refused.is_err(), "somebody listens at {address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_killed_leaves_nothing_behind() {
    let temporary = Home::new();
    let mut demo = Demo::start("10m", temporary.path());
    let mut lines = Lines::of(demo.program.0.stdout.take().unwrap());
    lines.say("counter  asleep", 1).await;
    assert_eq!(processes(temporary.path()).len(), 2);
    demo.program.kill();
    eventually("nothing is left", async || {
        let folders = std::fs::read_dir(temporary.path()).unwrap().count();
        (folders, processes(temporary.path())) == (0, Vec::new())
    })
    .await;
}
