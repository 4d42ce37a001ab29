//! What instances say of themselves at the workloads' door.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hypeman::wire::{Instance, InstanceState};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::identity::server::{Server, answer};
use crate::support::reserved::Reserved;
use crate::support::{
    ConfigFile, Gateway, PATIENCE, Plane, Program, Wanted, eventually, eventually_within, number,
    spawn,
};

const DOOR: &str = "[workload]\naddress = \"127.0.0.1:0\"\n";
/// Long enough that no instance falls asleep by itself in a test.
const LONG: Duration = Duration::from_secs(3600);

/// Whoever has an address, at a door.
#[derive(Clone)]
struct Caller {
    http: reqwest::Client,
    door: SocketAddr,
}

impl Caller {
    fn at(source: IpAddr, door: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy();
        let http = http.local_address(source).pool_max_idle_per_host(0);
        Self {
            http: http.build().unwrap(),
            door,
        }
    }

    fn of(instance: &Instance, door: SocketAddr) -> Self {
        Self::at(ip_of(instance), door)
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}{path}", self.door);
        let asked = self.http.request(method, url).body(body.to_owned());
        let answer = asked.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn hold(&self, task: &str, time: &str) -> (u16, Value) {
        let body = json!({ "for": time }).to_string();
        self.ask("PUT", &format!("/holds/{task}"), &body).await
    }

    /// The names of its tasks.
    async fn tasks(&self) -> Vec<String> {
        let (status, body) = self.ask("GET", "/holds", "").await;
        assert_eq!(status, 200, "{body}");
        let holds = body["holds"].as_array().unwrap().iter();
        holds
            .map(|hold| hold["task"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn ip_of(instance: &Instance) -> IpAddr {
    let network = instance.network.clone().unwrap();
    network.ip.unwrap().parse().unwrap()
}

async fn is_asleep(plane: &Plane, instance: &Instance) -> bool {
    plane.state(&instance.id).await == InstanceState::Standby
}

async fn falls_asleep(plane: &Plane, instance: &Instance) {
    eventually("it falls asleep", async || is_asleep(plane, instance).await).await;
}

async fn admin(gateway: &Gateway, path: &str) -> Value {
    let url = format!("http://{}{path}", gateway.admin);
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_instance_is_told_nothing_and_an_instance_that_sleeps_is_none() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    // Clients of both families come by one socket.
    let gateway = Gateway::start(&plane, "[workload]\naddress = \"[::]:0\"\n").await;
    let door = SocketAddr::from(([127, 0, 0, 1], gateway.door.unwrap().port()));
    let stranger = Caller::at([127, 0, 0, 1].into(), door);
    for (method, path, body) in [
        ("GET", "/self", ""),
        ("GET", "/holds", ""),
        ("PUT", "/holds/x", "{\"for\": \"1m\"}"),
        ("DELETE", "/holds/x", ""),
        ("POST", "/idle", ""),
        ("GET", "/nowhere", ""),
    ] {
        let (status, body) = stranger.ask(method, path, body).await;
        assert_eq!(
            (status, &body["code"]),
            (403, &"not_an_instance".into()),
            "{method} {path}"
        );
    }
    let refused = stranger.http.get(format!("http://{door}/idle"));
    let refused = refused.send().await.unwrap();
    assert!(!refused.headers().contains_key("allow"), "{refused:?}");
    let caller = Caller::of(&blue, door);
    let (status, body) = caller.ask("GET", "/self", "").await;
    assert_eq!((status, &body["name"]), (200, &"blue".into()), "{body}");
    assert_eq!(body["id"], blue.id.as_str());
    assert_eq!(body["address"], ip_of(&blue).to_string());
    assert_eq!(
        (&body["state"], &body["idle_timeout"], &body["holds"]),
        (&"Running".into(), &"1h0m0s".into(), &json!([]))
    );
    plane.sleep(&blue.id).await;
    let (status, _) = caller.ask("GET", "/self", "").await;
    assert_eq!(status, 403, "its address is nobody's now");
    let count = "wakegate_workload_requests_total{outcome=\"stranger\"}";
    assert_eq!(gateway.metric(count).await, 8.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workload_says_wrong_is_refused_with_a_reason() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let limits = "max_hold = \"1h\"\nmax_holds = 2\n";
    let gateway = Gateway::start(&plane, &format!("{DOOR}{limits}")).await;
    let caller = Caller::of(&blue, gateway.door.unwrap());
    let long_name = format!("/holds/{}", "x".repeat(129));
    let large = format!("{{\"for\": \"1m\"{}}}", " ".repeat(5000));
    let good = "{\"for\": \"1m\"}";
    for (method, path, body, status, code) in [
        ("PUT", "/holds/x", "", 400, "bad_hold"),
        ("PUT", "/holds/x", "10m", 400, "bad_hold"),
        ("PUT", "/holds/x", "{\"for\": 600}", 400, "bad_hold"),
        ("PUT", "/holds/x", "{\"for\": \"10\"}", 400, "bad_hold"),
        ("PUT", "/holds/x", "{\"for\": \"0s\"}", 400, "bad_hold"),
        ("PUT", "/holds/x", "{\"for\": \"61m\"}", 400, "bad_hold"),
        ("PUT", "/holds/x", "{\"until\": \"1m\"}", 400, "bad_hold"),
        ("PUT", "/holds/x", &large, 413, "body_too_large"),
        ("PUT", "/holds/a%20b", good, 400, "bad_task"),
        ("PUT", "/holds/%ff", good, 400, "bad_task"),
        ("PUT", &long_name, good, 400, "bad_task"),
        ("PUT", "/holds/", good, 404, "no_such_path"),
        ("DELETE", "/holds/x", "", 404, "unknown_hold"),
        ("POST", "/holds/x", good, 405, "method_not_allowed"),
        ("GET", "/idle", "", 405, "method_not_allowed"),
    ] {
        let (found, body) = caller.ask(method, path, body).await;
        assert_eq!(
            (found, &body["code"]),
            (status, &code.into()),
            "{method} {path}: {body}"
        );
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.len() > 20, "{body}");
        assert!(
            !detail.contains("3600s"),
            "durations are as they are written: {body}"
        );
    }
    assert_eq!(caller.hold("x", "1m").await.0, 200);
    assert_eq!(caller.hold("a%2Fb", "1m").await.0, 200);
    let (status, body) = caller.hold("z", "1m").await;
    assert_eq!((status, &body["code"]), (429, &"too_many_holds".into()));
    // One that is there says something new.
    let (status, body) = caller.hold("x", "59m").await;
    let until: jiff::Timestamp = body["until"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!(status == 200 && (3500..=3540).contains(&left), "{body}");
    assert_eq!(caller.tasks().await, ["a/b", "x"]);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_too_many_is_told_so_and_one_that_goes_makes_room() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let gateway = Gateway::start(&plane, DOOR).await;
    let door = gateway.door.unwrap();
    let mut open = Vec::new();
    for _ in 0..16 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip_of(&blue), 0).into()).unwrap();
        open.push(socket.connect(door).await.unwrap());
    }
    let caller = Caller::of(&blue, door);
    for _ in 0..20 {
        let (status, body) = caller.ask("GET", "/self", "").await;
        let code = &body["code"];
        assert_eq!((status, code), (503, &"too_many_connections".into()));
    }
    open.pop();
    eventually("there is room", async || {
        caller.ask("GET", "/self", "").await.0 == 200
    })
    .await;
    drop(open);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_keeps_its_instance_awake_to_its_end_and_no_longer() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, DOOR).await;
    let door = gateway.door.unwrap();
    let seconds = |name: &str, usual| number(name).unwrap_or(usual);
    let (hold, idle) = (seconds("HOLD_SECONDS", 12), seconds("HOLD_IDLE_SECONDS", 3));
    let idle = Duration::from_secs(idle);
    let blue = plane.listening(Wanted::hello("blue").idle(idle)).await;
    let (blue_calls, began) = (Caller::of(&blue, door), Instant::now());
    // Nobody has asked for it through the gateway.
    let (status, body) = blue_calls.hold("build", &format!("{hold}s")).await;
    assert_eq!((status, &body["task"]), (200, &"build".into()), "{body}");
    // The same name of another's task is another's task.
    let green = plane.listening(Wanted::hello("green").idle(idle)).await;
    let green_calls = Caller::of(&green, door);
    assert_eq!(green_calls.tasks().await, [""; 0]);
    assert_eq!(green_calls.hold("build", "1h").await.0, 200);
    assert_eq!(gateway.metric("wakegate_workload_holds").await, 2.0);
    let (status, _) = green_calls.ask("DELETE", "/holds/build", "").await;
    assert_eq!(status, 204);
    assert_eq!(blue_calls.tasks().await, ["build"]);
    falls_asleep(&plane, &green).await;
    assert!(!is_asleep(&plane, &blue).await, "{:?}", began.elapsed());
    let holds = admin(&gateway, "/api/holds").await;
    assert_eq!(
        (&holds[0]["name"], &holds[0]["task"]),
        (&"blue".into(), &"build".into())
    );
    let left = holds[0]["left_ms"].as_f64().unwrap();
    assert!(
        left <= Duration::from_secs(hold).as_secs_f64() * 1000.0,
        "{holds}"
    );
    let detail = admin(&gateway, "/api/instances/blue").await;
    assert_eq!(detail["holds"][0]["until"], holds[0]["until"], "{detail}");
    assert_eq!(gateway.metric("wakegate_workload_holds").await, 1.0);
    let wakes = admin(&gateway, "/api/wakes").await;
    let wakes = wakes.as_array().unwrap().iter();
    let kept = wakes
        .filter(|wake| wake["name"] == "blue")
        .find(|wake| wake["outcome"] == "kept_awake");
    let reason = kept.unwrap()["reason"].as_str().unwrap();
    assert!(reason.starts_with("kept awake by build until "), "{reason}");
    let limit = Duration::from_secs(hold) + PATIENCE;
    eventually_within(limit, "it falls asleep", async || {
        is_asleep(&plane, &blue).await
    })
    .await;
    let held = began.elapsed();
    assert!(held >= Duration::from_secs(hold), "{held:?}");
    // Its end, its idle timeout and what lists and looks take.
    let longest = Duration::from_secs(hold + 10) + idle * 2;
    assert!(held <= longest, "{held:?}");
    assert_eq!(admin(&gateway, "/api/holds").await, json!([]));
    assert_eq!(gateway.metric("wakegate_workload_holds").await, 0.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_taken_back_lets_its_instance_sleep() {
    let plane = Plane::start().await;
    let wanted = Wanted::hello("blue").idle(Duration::from_secs(1));
    let blue = plane.asleep(wanted).await;
    let gateway = Gateway::start(&plane, DOOR).await;
    assert_eq!(gateway.client().get("blue", "/").await.status(), 200);
    let caller = Caller::of(&blue, gateway.door.unwrap());
    for task in ["one", "two"] {
        assert_eq!(caller.hold(task, "1h").await.0, 200);
    }
    let (_, body) = caller.ask("GET", "/self", "").await;
    assert_eq!(body["last_wake"]["outcome"], "woken", "{body}");
    assert_eq!(body["holds"].as_array().unwrap().len(), 2, "{body}");
    assert_eq!(caller.ask("DELETE", "/holds/one", "").await.0, 204);
    let (began, mut looks) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        assert!(!is_asleep(&plane, &blue).await, "{:?}", began.elapsed());
        looks += 1;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(looks > 1);
    assert_eq!(caller.ask("DELETE", "/holds/two", "").await.0, 204);
    falls_asleep(&plane, &blue).await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_a_restart_of_the_gateway() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let idle = Duration::from_secs(3);
    let blue = plane.listening(Wanted::hello("blue").idle(idle)).await;
    let keys = format!("{DOOR}state_dir = {:?}\n", dir.path().join("holds"));
    let gateway = Gateway::start(&plane, &keys).await;
    let began = Instant::now();
    let caller = Caller::of(&blue, gateway.door.unwrap());
    assert_eq!(caller.hold("build", "10s").await.0, 200);
    gateway.stop().await;
    let gateway = Gateway::start(&plane, &keys).await;
    let caller = Caller::of(&blue, gateway.door.unwrap());
    assert_eq!(caller.tasks().await, ["build"]);
    falls_asleep(&plane, &blue).await;
    let held = began.elapsed();
    assert!(held >= Duration::from_secs(10), "{held:?}");
    gateway.stop().await;
    plane.stop().await;
}

async fn serving(file: &Path, admin: SocketAddr) -> Program {
    let program = Program::start(&["serve", "-c", file.to_str().unwrap()]);
    eventually("it serves", async || {
        let asked = reqwest::get(format!("http://{admin}/readyz")).await;
        asked.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_a_gateway_that_is_killed() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let idle = Duration::from_secs(3);
    let blue = plane.listening(Wanted::hello("blue").idle(idle)).await;
    let (door, holds) = (Reserved::new(), dir.path().join("holds"));
    let keys = format!(
        "[workload]\naddress = \"{}\"\nstate_dir = {holds:?}\n",
        door.address
    );
    let file = ConfigFile::new(&plane, "", &keys);
    let mut gateway = serving(&file.path, file.admin).await;
    let (caller, began) = (Caller::of(&blue, door.address), Instant::now());
    assert_eq!(caller.hold("build", "12s").await.0, 200);
    assert_eq!(caller.hold("short", "1s").await.0, 200);
    gateway.kill();
    let mut gateway = serving(&file.path, file.admin).await;
    assert_eq!(caller.tasks().await.first().unwrap(), "build");
    falls_asleep(&plane, &blue).await;
    let held = began.elapsed();
    assert!(held >= Duration::from_secs(12), "{held:?}");
    let files = std::fs::read_dir(&holds).unwrap().flatten();
    let names: Vec<_> = files.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["lock"], "what is over leaves nothing");
    gateway.kill();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_done_sleeps_at_once_but_not_while_it_holds_itself_awake() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let gateway = Gateway::start(&plane, DOOR).await;
    assert_eq!(gateway.client().get("blue", "/").await.status(), 200);
    let caller = Caller::of(&blue, gateway.door.unwrap());
    assert_eq!(caller.hold("build", "1h").await.0, 200);
    let (status, body) = caller.ask("POST", "/idle", "").await;
    assert_eq!((status, &body["code"]), (409, &"holds_stand".into()));
    assert!(body["detail"].as_str().unwrap().contains("build"), "{body}");
    assert_eq!(caller.ask("DELETE", "/holds/build", "").await.0, 204);
    for _ in 0..2 {
        assert_eq!(caller.ask("POST", "/idle", "").await.0, 202);
        falls_asleep(&plane, &blue).await;
        let response = gateway.client().get("blue", "/").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-wakegate-wake"], "cold");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_done_is_waited_for_by_nobody_and_sleeps_after_what_is_open() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let gateway = Gateway::start(&plane, DOOR).await;
    let caller = Caller::of(&blue, gateway.door.unwrap());
    // A request that is under way.
    let client = gateway.client();
    let slow = spawn(async move { client.get("blue", "/slow?delay=1500ms").await.status() });
    eventually("it is there", async || {
        gateway.metric("wakegate_inflight_requests").await >= 1.0
    })
    .await;
    assert_eq!(caller.ask("POST", "/idle", "").await.0, 202);
    // One that comes meanwhile.
    assert_eq!(gateway.client().get("blue", "/").await.status(), 200);
    assert_eq!(slow.await.unwrap(), 200);
    falls_asleep(&plane, &blue).await;
    // A tunnel.
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut socket, _) = client_async("ws://blue.test/ws", stream).await.unwrap();
    assert_eq!(caller.ask("POST", "/idle", "").await.0, 202);
    for number in 0..10 {
        let text = Message::text(number.to_string());
        socket.send(text.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), text);
        assert!(!is_asleep(&plane, &blue).await);
        sleep(Duration::from_millis(50)).await;
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    falls_asleep(&plane, &blue).await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_as_its_instance_is_put_to_sleep_is_answered() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let gateway = Gateway::start(&plane, DOOR).await;
    let caller = Caller::of(&blue, gateway.door.unwrap());
    let mut cold = 0;
    for round in 0..40 {
        assert_eq!(gateway.client().get("blue", "/").await.status(), 200);
        assert_eq!(caller.ask("POST", "/idle", "").await.0, 202, "{round}");
        sleep(Duration::from_millis(u64::try_from(round % 20).unwrap())).await;
        // What cannot be repeated is not lost either.
        let request = gateway.client().request("POST", "blue", "/").body("x");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{round}");
        cold += usize::from(response.headers()["x-wakegate-wake"] != "warm");
    }
    assert!(cold > 0, "some came too late to keep it awake");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_done_is_asked_by_its_hook_and_may_go_on() {
    let plane = Plane::start().await;
    let (id, listener) = plane.own_origin("blue").await;
    let app = Server::at(listener, |head| {
        Some(match head.uri.path() {
            "/_going" => answer(409, &[("retry-after", "30")]),
            _ => answer(200, &[]),
        })
    });
    let hooks = "[route.wake.hooks]\nbefore_standby = \"/_going\"\n";
    let gateway = Gateway::start(&plane, &format!("{hooks}{DOOR}")).await;
    assert_eq!(gateway.client().get("blue", "/").await.status(), 200);
    let instance = plane.client.get_instance(&id).await.unwrap();
    let caller = Caller::of(&instance, gateway.door.unwrap());
    assert_eq!(caller.ask("POST", "/idle", "").await.0, 202);
    eventually("it is asked", async || {
        app.lines()
            .last()
            .is_some_and(|line| line == "POST /_going")
    })
    .await;
    let refused = "wakegate_hooks_total{hook=\"before_standby\",outcome=\"refused\"}";
    eventually("it is counted", async || {
        gateway.metric(refused).await >= 1.0
    })
    .await;
    assert_eq!(plane.state(id.as_str()).await, InstanceState::Running);
    // It is asked once for what it has said once.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(gateway.metric(refused).await, 1.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_answers_until_a_drain_is_over() {
    let plane = Plane::start().await;
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let mut gateway = Gateway::start(&plane, DOOR).await;
    let (caller, client) = (Caller::of(&blue, gateway.door.unwrap()), gateway.client());
    let slow = spawn(async move { client.get("blue", "/slow?delay=3s").await.status() });
    eventually("it is there", async || {
        gateway.metric("wakegate_inflight_requests").await >= 1.0
    })
    .await;
    gateway.drain();
    eventually("it drains", async || {
        gateway.metric("wakegate_draining").await >= 1.0
    })
    .await;
    assert_eq!(caller.hold("last", "1h").await.0, 200);
    assert_eq!(caller.tasks().await, ["last"]);
    assert_eq!(slow.await.unwrap(), 200);
    assert!(gateway.stop().await, "nothing had to be cut");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_of_an_instance_that_is_gone_are_gone() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let blue = plane.listening(Wanted::hello("blue").idle(LONG)).await;
    let keys = format!("{DOOR}state_dir = {:?}\n", dir.path());
    let gateway = Gateway::start(&plane, &keys).await;
    let caller = Caller::of(&blue, gateway.door.unwrap());
    assert_eq!(caller.hold("build", "1h").await.0, 200);
    gateway.stop().await;
    let id = crate::support::reference(&blue.id);
    plane.client.delete_instance(&id).await.unwrap();
    let gateway = Gateway::start(&plane, &keys).await;
    eventually("its holds have gone", async || {
        admin(&gateway, "/api/holds").await == json!([])
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}
