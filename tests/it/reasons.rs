//! A wake that failed says why, wherever it is seen.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wakegate::telemetry::AccessSink;

use crate::support::browser::Browser;
use crate::support::reserved::Reserved;
use crate::support::{Gateway, Lines, Program, eventually, route, spawn, wakegate};

const ID: &str = "ibrokenbrokenbrokenbroke";
const REASON: &str = "wake_failed in phase restoring; restore answered 500 internal_error: \
                      snapshot cannot be read";
/// Much that is neither text nor short.
const ODD: &str = "<b id=\"odd\">no</b>\r\nsuch \u{1b}[31mfile; Bearer 0123456789abcdefghij ";

/// What a control plane says about its one instance, which is called `broken`.
struct Script {
    state: &'static str,
    /// The message of a restore that fails; `None` when it succeeds.
    fails: Option<String>,
    /// The message of every look-up by name, which fails; `None` when it succeeds.
    looks_fail: Option<&'static str>,
}

/// A control plane that plays a part, and an application beside it.
#[derive(Clone)]
struct Scripted {
    address: SocketAddr,
    application: SocketAddr,
    script: Arc<Mutex<Script>>,
}

async fn serve(routes: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

fn problem(status: u16, code: &str, message: &str) -> Response {
    let body = Json(json!({ "code": code, "message": message }));
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

impl Scripted {
    async fn start() -> Self {
        let script = Arc::new(Mutex::new(Script {
            state: "Standby",
            fails: Some("snapshot cannot be read".to_owned()),
            looks_fail: None,
        }));
        let seen = {
            let script = Arc::clone(&script);
            move || {
                json!({
                    "id": ID, "name": "broken", "image": "i", "state": script.lock().unwrap().state,
                    "created_at": "2026-01-01T00:00:00Z",
                    "network": { "enabled": true, "ip": "127.0.0.1" },
                })
            }
        };
        let (list, one, restored) = (seen.clone(), seen.clone(), seen);
        let restore = {
            let script = Arc::clone(&script);
            move |_: Path<String>| {
                let mut part = script.lock().unwrap();
                let answer = match &part.fails {
                    Some(message) => problem(500, "internal_error", message),
                    None => {
                        part.state = "Running";
                        drop(part);
                        Json(restored()).into_response()
                    }
                };
                std::future::ready(answer)
            }
        };
        let looks = Arc::clone(&script);
        let routes = axum::Router::new()
            .route(
                "/instances",
                get(move || std::future::ready(Json(vec![list()]))),
            )
            .route(
                "/instances/{name}",
                get(move |Path(name): Path<String>| {
                    let fails = looks.lock().unwrap().looks_fail;
                    std::future::ready(match (name.as_str(), fails) {
                        ("broken", Some(message)) => problem(500, "internal_error", message),
                        ("broken" | ID, _) => Json(one()).into_response(),
                        _ => problem(404, "not_found", "resource not found"),
                    })
                }),
            )
            .route("/instances/{id}/restore", post(restore));
        Self {
            address: serve(routes).await,
            application: serve(axum::Router::new().route("/", get(async || "well"))).await,
            script,
        }
    }

    fn play(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// Keys of a configuration whose route leads to the application.
    fn keys(&self, more: &str) -> String {
        let port = self.application.port();
        route(
            "broken",
            &format!("port = {port}\nwake = {{ timeout = \"1s\" }}\n{more}"),
        )
    }

    async fn gateway(&self, extra: &str) -> Gateway {
        let extra = format!("{}{extra}", self.keys(""));
        Gateway::start_with(self.address, "key", &extra, AccessSink::off()).await
    }
}

async fn asked(admin: SocketAddr, path: &str) -> Value {
    let answer = reqwest::get(format!("http://{admin}{path}")).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

/// Runs a subcommand against a gateway; its exit code, and what it said.
async fn run(admin: SocketAddr, words: &[&str]) -> (i32, String, String) {
    let mut command = wakegate();
    command
        .args(words)
        .args(["--url", &format!("http://{admin}")]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_is_told_in_the_control_planes_own_words() {
    let plane = Scripted::start().await;
    let gateway = plane.gateway("[wake]\nbreaker_failures = 1\n").await;
    let (client, admin) = (gateway.client(), gateway.admin);
    let (status, code, _) = client.problem("broken").await;
    assert_eq!((status, code.as_str()), (502, "wake_failed"));

    let said = json!({
        "operation": "restore", "status": 500, "code": "internal_error",
        "message": "snapshot cannot be read",
    });
    let wakes = asked(admin, "/api/wakes").await;
    let wake = &wakes[0];
    assert_eq!(
        (&wake["name"], &wake["instance"]),
        (&"broken".into(), &ID.into())
    );
    assert_eq!(
        (&wake["outcome"], &wake["code"]),
        (&"failed".into(), &"wake_failed".into())
    );
    assert_eq!(
        (&wake["phase"], &wake["control_plane"]),
        (&"restoring".into(), &said)
    );
    assert!(wake["phases_ms"]["restoring"].is_number(), "{wake}");

    let instance = asked(admin, "/api/instances/broken").await;
    let last = &instance["last_failure"];
    assert_eq!(
        (&last["code"], &last["phase"]),
        (&"wake_failed".into(), &"restoring".into())
    );
    assert_eq!(last["control_plane"], said);
    assert!(last["ago_ms"].as_f64().unwrap() >= 0.0);
    let failures = "wakegate_wake_failures_total{code=\"wake_failed\"}";
    assert_eq!(gateway.metric(failures).await, 1.0);

    // Whoever opens the dashboard now is told, too.
    let mut events = reqwest::get(format!("http://{admin}/api/events"))
        .await
        .unwrap();
    let mut snapshot = String::new();
    while !snapshot.contains("\n\n") {
        let part = events.chunk().await.unwrap().unwrap();
        snapshot.push_str(std::str::from_utf8(&part).unwrap());
    }
    assert!(
        snapshot.contains("\"message\":\"snapshot cannot be read\""),
        "{snapshot}"
    );

    // A request that the breaker refuses is no wake, and hides no reason.
    assert_eq!(client.problem("broken").await.1, "wake_failing");
    assert_eq!(
        asked(admin, "/api/wakes").await.as_array().unwrap().len(),
        1
    );
    let (code, out, _) = run(admin, &["status"]).await;
    assert!(
        code == 0 && out.contains(&format!("broken: {REASON} (")),
        "{out}"
    );
    assert!(
        out.contains("1 failed in a row, the next is tried in "),
        "{out}"
    );

    let (code, out, err) = run(admin, &["wakes"]).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((code, lines.len()), (0, 2), "{out}{err}");
    assert!(
        lines[1].contains("  broken  ") && lines[1].ends_with(REASON),
        "{out}"
    );
    for name in ["broken", ID] {
        assert_eq!(
            run(admin, &["wakes", name]).await.1.lines().count(),
            2,
            "{name}"
        );
    }
    for name in ["broke", "ibroken", "nobody"] {
        let (code, out, err) = run(admin, &["wakes", name]).await;
        assert!(code == 1 && out.is_empty(), "{out}");
        assert!(
            err.contains(&format!("{name}: the gateway knows no instance")),
            "{err}"
        );
    }
    let (_, out, _) = run(admin, &["wakes", "--json"]).await;
    let wake: Value = serde_json::from_str(out.trim_end()).unwrap();
    assert_eq!(wake, wakes[0]);

    // A wake that succeeds ends it.
    plane.play(|part| part.fails = None);
    assert_eq!(run(admin, &["reset-breaker", "broken"]).await.0, 0);
    assert_eq!(client.get("broken", "/").await.status(), 200);
    let instance = asked(admin, "/api/instances/broken").await;
    assert_eq!(instance["last_failure"], Value::Null, "{instance}");
    let (_, out, _) = run(admin, &["status"]).await;
    assert!(!out.contains("wake_failed"), "{out}");
    let newest = asked(admin, "/api/wakes?limit=1").await;
    assert_eq!(
        (newest.as_array().unwrap().len(), &newest[0]["code"]),
        (1, &Value::Null)
    );
    let first = wakes[0]["id"].as_str().unwrap();
    let since = asked(admin, &format!("/api/wakes?after={first}")).await;
    assert_eq!(
        (since.as_array().unwrap().len(), &since[0]["id"]),
        (1, &newest[0]["id"])
    );
    let of_another_run = asked(admin, "/api/wakes?after=5f5e1-77").await;
    assert_eq!(of_another_run.as_array().unwrap().len(), 2);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_is_refused_or_late_has_the_code_that_its_client_got() {
    let plane = Scripted::start().await;
    let nobody = Reserved::new();
    let extra = format!(
        "[[route]]\nhost = \"deaf.test\"\ninstance = \"broken\"\nport = {}\n\
         wake = {{ timeout = \"300ms\" }}\n",
        nobody.address.port()
    );
    let gateway = plane.gateway(&extra).await;
    let newest = async || asked(gateway.admin, "/api/wakes?limit=1").await[0].clone();
    plane.play(|part| part.state = "Stopped");
    let (status, code, _) = gateway.client().problem("broken").await;
    assert_eq!((status, code.as_str()), (503, "instance_stopped"));
    let wake = newest().await;
    assert_eq!(
        (&wake["outcome"], &wake["code"]),
        (&"failed".into(), &"instance_stopped".into())
    );
    assert_eq!(wake["phase"], "asking");
    assert_eq!(wake["control_plane"]["message"], "the instance is Stopped");

    plane.play(|part| (part.state, part.fails) = ("Standby", None));
    let (status, code, _) = gateway.client().problem("deaf").await;
    assert_eq!((status, code.as_str()), (504, "app_not_listening"));
    eventually("the wake is given up", async || {
        newest().await["outcome"] == "timed_out"
    })
    .await;
    let wake = newest().await;
    assert_eq!(
        (&wake["code"], &wake["phase"]),
        (&code.into(), &"not_listening".into())
    );
    assert_eq!(wake["control_plane"], Value::Null, "it had no part in it");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_control_plane_says_is_text_for_operators_and_nothing_for_clients() {
    let plane = Scripted::start().await;
    plane.play(|part| part.fails = Some(format!("{ODD}{}", "x".repeat(10_000))));
    let extra = plane.keys("waiting_page = { after = \"100ms\" }");
    let gateway = Gateway::start_with(plane.address, "key", &extra, AccessSink::off()).await;
    let browse = async || {
        let client = gateway.client();
        let page = client
            .request("GET", "broken", "/")
            .header("accept", "text/html");
        page.send().await.unwrap().text().await.unwrap()
    };
    let page = browse().await;
    assert!(
        page.contains("is waking up") && !page.contains("The last try"),
        "{page}"
    );
    let events = gateway.client().get("broken", "/.wakegate/wake").await;
    let events = events.text().await.unwrap();
    let over =
        "event: over\ndata: {\"code\":\"wake_failed\",\"detail\":\"It could not be woken.\"}\n\n";
    assert!(events.ends_with(over), "{events}");
    let again = browse().await;
    assert!(
        again.contains("The last try failed. It could not be woken. (wake_failed)"),
        "{again}"
    );
    // Without a script it loads again, but later after a failure.
    let refresh = |seconds: u8| format!("http-equiv=\"refresh\" content=\"{seconds}\"");
    assert!(page.contains(&refresh(1)) && again.contains(&refresh(4)));
    for public in [page, events, again] {
        assert!(
            !public.contains("such") && !public.contains("internal_error"),
            "{public}"
        );
    }

    let wakes = asked(gateway.admin, "/api/wakes").await;
    let message = wakes[0]["control_plane"]["message"].as_str().unwrap();
    let begins = "<b id=\"odd\">no</b> such [31mfile; Bearer [hidden] xxx";
    assert!(message.starts_with(begins), "{message}");
    assert!(
        message.chars().count() <= 300 && message.ends_with('…'),
        "{message}"
    );
    let (_, out, _) = run(gateway.admin, &["wakes"]).await;
    assert!(out.lines().count() >= 2 && out.contains(begins), "{out}");
    assert!(
        !out.contains('\u{1b}') && !out.contains("0123456789"),
        "{out}"
    );

    // The dashboard shows it as text.
    let browser = Browser::start(true).await;
    browser.open(&format!("http://{}/", gateway.admin)).await;
    eventually("the last failure is shown", async || {
        let shown = "return document.getElementById('wakes-failure')?.textContent ?? ''";
        browser.run(shown).await.as_str().unwrap().contains(begins)
    })
    .await;
    browser.run("document.querySelector('.row').click()").await;
    eventually("and in the details", async || {
        let shown = "return document.getElementById('details-rows').textContent \
                     + document.getElementById('details-failure').textContent";
        let shown = browser.run(shown).await;
        shown
            .as_str()
            .unwrap()
            .matches("wake_failed in phase restoring")
            .count()
            >= 2
    })
    .await;
    let made = browser
        .run("return document.getElementById('odd') === null")
        .await;
    assert_eq!(made, true, "no element is made of it");
    browser.end().await;
    gateway.stop().await;
}

/// A gateway of its own process, which can be started anew at the same addresses.
struct Served {
    path: std::path::PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    _reserved: [Reserved; 2],
    _dir: tempfile::TempDir,
}

impl Served {
    fn new(plane: &Scripted) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let reserved = [(); 2].map(|()| Reserved::new());
        let [listen, admin] = reserved.each_ref().map(|one| one.address);
        let path = dir.path().join("wakegate.toml");
        let text = format!(
            "[admin]\naddress = \"{admin}\"\n[[hypeman]]\nurl = \"http://{}\"\n\
             [[listener]]\naddress = \"{listen}\"\n[log]\nformat = \"json\"\n{}",
            plane.address,
            plane.keys("")
        );
        std::fs::write(&path, text).unwrap();
        Self {
            path,
            listen,
            admin,
            _reserved: reserved,
            _dir: dir,
        }
    }

    async fn start(&self) -> Program {
        let mut command = wakegate();
        command.args(["serve", "-c", self.path.to_str().unwrap()]);
        let program = Program::spawn(command.env("HYPEMAN_API_KEY", "key"));
        let ready = format!("http://{}/readyz", self.admin);
        eventually("it serves", async || reqwest::get(&ready).await.is_ok()).await;
        program
    }

    async fn ask(&self) -> u16 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = client.get(format!("http://{}/", self.listen));
        let answer = asked.header("host", "broken.test").send().await.unwrap();
        answer.status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_a_warning_with_the_reason_and_whole_milliseconds() {
    let plane = Scripted::start().await;
    let served = Served::new(&plane);
    let mut program = served.start().await;
    let mut log = Lines::of(program.0.stderr.take().unwrap());
    assert_eq!(served.ask().await, 502);
    plane.play(|part| part.fails = None);
    assert_eq!(served.ask().await, 200);
    log.say("\"message\":\"wake\"", 2).await;
    let lines: Vec<Value> = log
        .story
        .iter()
        .filter(|line| line.contains("\"message\":\"wake\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (failed, woken) = (&lines[0], &lines[1]);
    assert_eq!(
        (&failed["level"], &failed["code"]),
        (&"WARN".into(), &"wake_failed".into())
    );
    assert_eq!(
        (&failed["phase"], &failed["name"]),
        (&"restoring".into(), &"broken".into())
    );
    assert_eq!(
        failed["control_plane"],
        "restore answered 500 internal_error: snapshot cannot be read"
    );
    assert_eq!(
        (&woken["level"], &woken["outcome"]),
        (&"INFO".into(), &"woken".into())
    );
    assert_eq!(
        (&woken["code"], &woken["control_plane"]),
        (&Value::Null, &Value::Null)
    );
    for line in [failed, woken] {
        let ms = line["ms"].to_string();
        let decimals = ms.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        assert!(decimals <= 1, "{ms}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_had_no_answer_of_use_says_why_in_the_log() {
    let plane = Scripted::start().await;
    plane.play(|part| part.looks_fail = Some("disk on fire"));
    let served = Served::new(&plane);
    let mut program = served.start().await;
    let mut log = Lines::of(program.0.stderr.take().unwrap());
    assert_eq!(served.ask().await, 502);
    let line = "\"message\":\"cannot look an instance up\"";
    log.say(line, 1).await;
    let line = log.story.iter().find(|said| said.contains(line)).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["level"], &line["name"]),
        (&"WARN".into(), &"broken".into())
    );
    assert_eq!(
        line["error"],
        "get answered 500 internal_error: disk on fire"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wakes_are_followed_through_a_restart_until_interrupted_or_not_read() {
    let plane = Scripted::start().await;
    let served = Served::new(&plane);
    let first = served.start().await;
    assert_eq!(served.ask().await, 502);
    let config = served.path.to_str().unwrap();
    let mut follower = Program::start(&["wakes", "broken", "-c", config, "--follow", "--json"]);
    let mut out = Lines::of(follower.0.stdout.take().unwrap());
    let mut err = Lines::of(follower.0.stderr.take().unwrap());
    out.say("\"code\":\"wake_failed\"", 1).await;
    plane.play(|part| part.fails = None);
    assert_eq!(served.ask().await, 200);
    out.say("\"outcome\":\"woken\"", 1).await;
    drop(first);
    err.say("trying again", 1).await;
    plane.play(|part| part.state = "Standby");
    let _second = served.start().await;
    assert_eq!(served.ask().await, 200);
    out.say("\"outcome\":\"woken\"", 2).await;
    err.say("answers again", 1).await;
    assert_eq!(out.story.len(), 3, "each once: {:?}", out.story);
    follower.signal("INT");
    assert!(follower.0.wait().unwrap().success());

    // A reader that goes after the first line.
    let mut unread = Program::start(&["wakes", "--url", &format!("http://{}", served.admin), "-f"]);
    let mut reader = BufReader::new(unread.0.stdout.take().unwrap());
    let mut titles = String::new();
    let reading = move || {
        reader.read_line(&mut titles).unwrap();
        titles
    };
    let titles = tokio::task::spawn_blocking(reading).await.unwrap();
    assert!(
        titles.starts_with("TIME ") && titles.trim_end().ends_with("WHY"),
        "{titles}"
    );
    eventually("it ends by itself", async || {
        let woken = reqwest::Client::new().post(format!(
            "http://{}/api/instances/broken/standby",
            served.admin
        ));
        drop(woken.send().await);
        plane.play(|part| part.state = "Standby");
        served.ask().await;
        unread
            .0
            .try_wait()
            .unwrap()
            .is_some_and(|status| status.success())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_older_closed_or_not_there_is_told_apart() {
    let wake = json!([{
        "time": "2026-11-26T00:25:41Z", "instance": ID, "route": "a.test/", "client": "10.0.0.1",
        "outcome": "failed", "took_ms": 12.5, "phases_ms": { "asking": 12.5 }, "waiting": 1,
    }]);
    let older = serve(axum::Router::new().route(
        "/api/wakes",
        get(move || std::future::ready(Json(wake.clone()))),
    ))
    .await;
    let (code, out, _) = run(older, &["wakes"]).await;
    assert!(
        code == 0 && out.lines().nth(1).unwrap().contains(ID),
        "{out}"
    );
    let (code, _, err) = run(older, &["wakes", "--follow"]).await;
    assert!(
        code == 1 && err.contains("older than this program"),
        "{err}"
    );
    let other = serve(axum::Router::new()).await;
    let (code, _, err) = run(other, &["wakes"]).await;
    assert!(
        code == 1 && err.contains("not a gateway's admin listener"),
        "{err}"
    );
    let closed = serve(axum::Router::new().route(
        "/api/wakes",
        get(async || {
            let body = json!({ "code": "admin_token", "detail": "The token is missing." });
            (StatusCode::UNAUTHORIZED, Json(body))
        }),
    ))
    .await;
    let (code, _, err) = run(closed, &["wakes", "--follow"]).await;
    assert!(code == 1 && err.contains("--token-file"), "{err}");
    let nobody = Reserved::new();
    let (code, _, err) = run(nobody.address, &["wakes", "--follow"]).await;
    assert!(
        code == 1 && err.contains("no gateway answers there"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_none_and_what_is_no_gateway_are_named() {
    for (url, mend) in [
        ("127.0.0.1:9900", "write it like `http://127.0.0.1:9900`"),
        ("edge.test:9900", "write it like `http://edge.test:9900`"),
        ("nowhere", "write it like `http://127.0.0.1:9900`"),
        ("ftp://h:1", "write it like `http://127.0.0.1:9900`"),
        ("", "write it like `http://127.0.0.1:9900`"),
    ] {
        for words in [&["status"][..], &["healthcheck"], &["wake", "shop"]] {
            let mut command = wakegate();
            command.args(words).args(["--url", url]);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap());
            let output = output.await.unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{words:?} {url}: {said}");
            assert!(
                said.contains("is not the URL of an admin listener") && said.contains(mend),
                "{words:?} {url}: {said}"
            );
        }
    }
    for words in [&["status"][..], &["healthcheck"], &["wake", "shop"]] {
        let mut command = wakegate();
        command
            .args(words)
            .args(["--url", "http://u:hunter2@127.0.0.1:1"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            said.contains("--token-file") && !said.contains("hunter2"),
            "{said}"
        );
    }
    let page = serve(axum::Router::new().fallback(async || "<html>welcome")).await;
    let (code, out, err) = run(page, &["status"]).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("is not a gateway's admin listener"), "{err}");
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let _sent = stream.write_all(b"220 mail.test ESMTP\r\n").await;
            let _read = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    for words in [&["status"][..], &["healthcheck"]] {
        let (code, _, err) = run(address, words).await;
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("is not a gateway's admin listener"), "{err}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_and_one_that_nobody_reads_is_none() {
    for words in ["schema", "explain", "explain wake_timeout"] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut command = wakegate();
        let output = command
            .args(words.split(' '))
            .stdout(full.unwrap())
            .output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}: {said}");
        assert!(said.contains("cannot write to standard output"), "{said}");
        let mut unread = wakegate();
        let unread = unread.args(words.split(' ')).stdout(Stdio::piped()).spawn();
        let mut unread = unread.unwrap();
        drop(unread.stdout.take());
        assert!(unread.wait().unwrap().success(), "{words}");
    }
}
