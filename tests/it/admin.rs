//! The operator's API and its clients on the command line.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use crate::support::{ConfigFile, Gateway, Plane, Program, Wanted, eventually, spawn, wakegate};
use hypeman::wire::InstanceState;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wakegate::telemetry::AccessSink;

const TOKEN: &str = "0123456789abcdef-hunter2";

/// Runs the program; its exit code and everything it said.
async fn run(words: &[&str]) -> (i32, String) {
    run_with(words, &[]).await
}

async fn run_with(words: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = wakegate();
    command.args(words).envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = output.await.unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code().unwrap(), said)
}

async fn get(admin: SocketAddr, path: &str) -> Value {
    let answer = reqwest::get(format!("http://{admin}{path}")).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

async fn serving(file: &ConfigFile) -> Program {
    let program = Program::start(&["serve", "-c", file.path.to_str().unwrap()]);
    eventually("it serves", async || {
        reqwest::get(format!("http://{}/readyz", file.admin))
            .await
            .is_ok()
    })
    .await;
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_wakes_puts_to_sleep_and_drains_from_the_command_line() {
    let plane = Plane::start().await;
    let one = plane.asleep(Wanted::hello("one")).await;
    let file = ConfigFile::new(&plane, "", "");
    let mut gateway = serving(&file).await;
    let (config, url) = (
        file.path.to_str().unwrap(),
        format!("http://{}", file.admin),
    );

    let (code, said) = run(&["wake", "-c", config, "one", "nobody"]).await;
    assert_eq!(code, 1, "the second is not there");
    assert!(said.contains("one: woken after"), "{said}");
    assert!(said.contains("nobody: instance_not_found: "), "{said}");
    assert_eq!(plane.state(&one.id).await, InstanceState::Running);
    let (_, said) = run(&["wake", "--url", &url, "one"]).await;
    assert!(said.contains("one: awake after"), "{said}");

    let (code, said) = run(&["status", "-c", config]).await;
    assert_eq!(code, 0, "{said}");
    for part in [
        "serving at",
        "1 route; 0 requests answered",
        "instances: 1 awake",
        "one   awake",
        "answers",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let (_, said) = run(&["routes", "-c", config, "instance"]).await;
    assert!(
        said.contains("{instance}.test  /     {instance}:8080"),
        "{said}"
    );
    let (_, said) = run(&["routes", "-c", config, "nothing"]).await;
    assert_eq!(said.lines().count(), 1, "titles only");
    let (_, said) = run(&["routes", "--url", &url, "--json"]).await;
    let routes: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(routes[0]["source"], "file");

    let (_, said) = run(&["standby", "-c", config, "one"]).await;
    assert!(said.contains("one: asleep after"), "{said}");
    assert_eq!(plane.state(&one.id).await, InstanceState::Standby);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client.get(format!("http://{}/", file.listen));
    let answer = asked.header("host", "one.test").send().await.unwrap();
    assert_eq!(answer.headers()["x-wakegate-wake"], "cold");
    let detail = get(file.admin, "/api/instances/one").await;
    assert_eq!(
        (&detail["state"], &detail["lease"]["in_force"]),
        (&"awake".into(), &true.into())
    );
    assert_eq!(detail["wakes"].as_array().unwrap().len(), 2);
    assert_eq!(detail["wakes"][1]["route"], "admin");

    let (code, _) = run(&["healthcheck", "-c", config]).await;
    assert_eq!(code, 0);
    let (_, said) = run(&["drain", "-c", config]).await;
    assert_eq!(said, "draining\n");
    assert!(gateway.0.wait().unwrap().success());
    let (code, said) = run(&["healthcheck", "-c", config]).await;
    assert!(code == 1 && said.contains("/healthz"), "{said}");
    let (code, said) = run(&["status", "-c", config]).await;
    assert!(
        code == 1 && said.contains("no gateway answers there"),
        "{said}"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_all_or_nothing_and_says_what_is_wrong() {
    let plane = Plane::start().await;
    let file = ConfigFile::new(&plane, "", "");
    file.add("[server]\nwatch = false\n");
    let _gateway = serving(&file).await;
    let config = file.path.to_str().unwrap();
    file.add("[[route]]\nhost = \"more.test\"\ninstance = \"more\"\n");
    assert_eq!(run(&["reload", "-c", config]).await.1, "reloaded\n");
    assert_eq!(get(file.admin, "/api/status").await["routes"], 2);
    let before = std::fs::read_to_string(&file.path).unwrap();
    file.add("[[route]]\nhots = \"x.test\"\n");
    let (code, said) = run(&["reload", "--url", &format!("http://{}", file.admin)]).await;
    assert_eq!(code, 1);
    assert!(
        said.contains("not_reloaded") && said.contains("did you mean `host`?"),
        "{said}"
    );
    std::fs::write(&file.path, format!("{before}[tracing]\nsample = 0.5\n")).unwrap();
    let (_, said) = run(&["reload", "-c", config]).await;
    assert!(
        said.contains("`tracing` can only change with a restart"),
        "{said}"
    );
    assert_eq!(get(file.admin, "/api/status").await["routes"], 2);
    let metrics = reqwest::get(format!("http://{}/metrics", file.admin))
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "wakegate_config_reloads_total{outcome=\"ok\"} 1",
        "wakegate_config_reloads_total{outcome=\"failed\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_who_shows_it_is_told_anything_and_it_is_never_told() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("one")).await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let file = ConfigFile::new(&plane, &format!("token_file = {token:?}"), "");
    let mut gateway = serving(&file).await;
    let url = format!("http://{}", file.admin);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in [
        "/api/status",
        "/api/config",
        "/api/events",
        "/api/openapi.json",
    ] {
        let bare = client.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(
            (
                bare.status().as_u16(),
                bare.headers()["www-authenticate"].to_str().unwrap()
            ),
            (401, "Bearer realm=\"wakegate\"")
        );
        let wrong = client
            .get(format!("{url}{path}"))
            .bearer_auth("0123456789abcdef-hunter3");
        assert_eq!(wrong.send().await.unwrap().status(), 401, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        let open = client.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(open.status(), 200, "{path}");
        assert!(!open.text().await.unwrap().contains("hunter2"));
    }
    let config = client
        .get(format!("{url}/api/config"))
        .bearer_auth(TOKEN)
        .send();
    let config = config.await.unwrap().text().await.unwrap();
    assert!(
        config.contains("token_file") && !config.contains("hunter2"),
        "{config}"
    );
    assert!(!config.contains(&plane.token));

    let token = token.to_str().unwrap();
    let (code, said) = run(&["status", "--url", &url]).await;
    assert!(code == 1 && said.contains("--token-file"), "{said}");
    assert_eq!(
        run(&["status", "--url", &url, "--token-file", token])
            .await
            .0,
        0
    );
    assert_eq!(
        run(&["status", "-c", file.path.to_str().unwrap()]).await.0,
        0
    );
    let variables = [("WAKEGATE_ADMIN_TOKEN", TOKEN)];
    assert_eq!(run_with(&["status", "--url", &url], &variables).await.0, 0);
    gateway.signal("TERM");
    let said = gateway.0.wait().unwrap();
    assert!(said.success());
    plane.stop().await;
}

/// A stranger at this address answers every request, and says what it was sent.
async fn stranger() -> (String, tokio::sync::mpsc::Receiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heard, requests) = tokio::sync::mpsc::channel(64);
    spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
            stream.write_all(answer).await.unwrap();
            let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
            let _over = heard.try_send(request);
        }
    });
    (url, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configurations_token_goes_to_no_other_address() {
    let plane = Plane::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let file = ConfigFile::new(&plane, &format!("token_file = {token:?}"), "");
    let (url, mut requests) = stranger().await;
    let (config, token) = (file.path.to_str().unwrap(), token.to_str().unwrap());
    for command in ["wakes", "status"] {
        let arguments = [command, "--url", &url, "-c", config, "--json"];
        assert_eq!(run(&arguments).await.0, 0);
        let request = requests.recv().await.unwrap();
        assert!(!request.contains("authorization"), "{request}");
        while requests.try_recv().is_ok() {}
    }
    // What is given with the command is for that address.
    let arguments = ["status", "--url", &url, "--token-file", token, "--json"];
    assert_eq!(run(&arguments).await.0, 0);
    let request = requests.recv().await.unwrap();
    assert!(request.contains("authorization: bearer"), "{request}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_change_nothing_and_read_nothing() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("one")).await;
    let gateway = Gateway::start(&plane, "").await;
    let url = format!("http://{}/api/instances/one/wake", gateway.admin);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let refused = client.post(&url).header(name, value).send().await.unwrap();
        assert_eq!(refused.status(), 403, "{name}: {value}");
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["code"], "cross_origin");
    }
    // A name that somebody has pointed here.
    let rebound = client.get(format!("http://{}/api/status", gateway.admin));
    let rebound = rebound.header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.json::<Value>().await.unwrap()["code"], "admin_host");
    // A GET changes nothing.
    assert_eq!(client.get(&url).send().await.unwrap().status(), 405);
    assert_eq!(gateway.metric("wakegate_restore_calls_total").await, 0.0);
    let own = client
        .post(&url)
        .header("origin", format!("http://{}", gateway.admin));
    assert_eq!(own.send().await.unwrap().status(), 200);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_describes_what_is_served() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("one")).await;
    let gateway = Gateway::start(&plane, "").await;
    let document = get(gateway.admin, "/api/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 15);
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["responses"].is_object(), "{method} {path}");
            // Without a fleet there is no directory of one.
            if method == "get" && !["/api/events", "/api/fleet"].contains(&path.as_str()) {
                let answer = get(gateway.admin, &path.replace("{name}", "one")).await;
                let schema =
                    &operation["responses"]["200"]["content"]["application/json"]["schema"];
                let mut schema = schema.clone();
                schema["components"] = document["components"].clone();
                let errors: Vec<String> = jsonschema::validator_for(&schema)
                    .unwrap()
                    .iter_errors(&answer)
                    .map(|error| error.to_string())
                    .collect();
                assert!(errors.is_empty(), "{path}: {errors:?} in {answer}");
            }
        }
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_instance_is_named_and_its_breaker_can_be_reset() {
    let plane = Plane::start().await;
    let ill = plane.asleep(Wanted::hello("ill")).await;
    let extra = "[wake]\ntimeout = \"300ms\"\nbreaker_failures = 1\nbreaker_max_delay = \"1h\"\n";
    let gateway = Gateway::start(&plane, extra).await;
    let client = gateway.client();
    assert_eq!(client.get("ill", "/").await.status(), 200);
    plane.sleep(&ill.id).await;
    plane.faults(r#"{ "error_percent": 100 }"#).await;
    eventually("the breaker is open", async || {
        client.problem("ill").await.1 == "wake_failing"
    })
    .await;
    let ill = get(gateway.admin, "/api/instances/ill").await;
    assert_eq!(ill["state"], "failing");
    assert!(ill["breaker"]["retry_after_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(gateway.metric("wakegate_breakers_open").await, 1.0);
    assert!(gateway.metric("wakegate_breaker_openings_total").await >= 1.0);
    assert!(
        gateway
            .metric("wakegate_errors_total{code=\"wake_failing\"}")
            .await
            >= 1.0
    );
    plane.faults("{}").await;
    let url = format!("http://{}", gateway.admin);
    let (code, said) = run(&["reset-breaker", "--url", &url, "ill"]).await;
    assert!(
        code == 0 && said.contains("ill: breaker reset after"),
        "{said}"
    );
    assert_eq!(client.get("ill", "/").await.status(), 200);
    assert_eq!(gateway.metric("wakegate_breakers_open").await, 0.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_told_everything_first_and_then_each_change() {
    let plane = Plane::start().await;
    let one = plane.asleep(Wanted::hello("one")).await;
    let gateway = Gateway::start(&plane, "").await;
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    stream
        .write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let (mut reader, _writer) = stream.into_split();
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let heard = std::sync::Arc::clone(&said);
    spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            heard.lock().unwrap().push_str(&text);
        }
    });
    let has = |part: &str| said.lock().unwrap().contains(part);
    eventually("a tick", async || has("event: tick")).await;
    assert!(has("event: snapshot"));
    gateway.client().get("one", "/").await;
    eventually("the wake", async || has("\"kind\":\"wake\"")).await;
    assert!(has("\"state\":\"waking\"") && has("\"state\":\"awake\""));
    plane.sleep(&one.id).await;
    eventually("it is seen asleep", async || has("\"state\":\"asleep\"")).await;
    let id = crate::support::reference(&one.id);
    plane.client.delete_instance(&id).await.unwrap();
    eventually("it is gone", async || has("\"kind\":\"gone\"")).await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_meant_by_its_whole_name_or_id_and_by_no_part_of_them() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("one")).await;
    let gateway = Gateway::start(&plane, "").await;
    let status = async |name: &str| {
        let asked = reqwest::get(format!("http://{}/api/instances/{name}", gateway.admin));
        asked.await.unwrap().status().as_u16()
    };
    eventually("it is listed", async || status("one").await == 200).await;
    assert_eq!(status(&instance.id).await, 200);
    for part in ["on", instance.id.get(..8).unwrap()] {
        assert_eq!(status(part).await, 404, "{part}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_probe_out_and_those_that_go_make_room() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    // More than one network may have, and more than there are brief ones; none says a word.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(gateway.admin).await.unwrap());
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |path: &str| {
        let asked = client.get(format!("http://{}{path}", gateway.admin));
        asked.send().await.unwrap().status().as_u16()
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(path).await, 200, "{path}");
    }
    assert_eq!(status("/metrics").await, 503, "it has to wait for a place");
    drop(silent);
    eventually("there is room again", async || {
        status("/metrics").await == 200
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_token_is_read_by_no_page_elsewhere_and_a_wrong_path_is_a_problem() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str, host: &str| {
        let asked = client.get(format!("http://{}{path}", gateway.admin));
        let answer = asked.header("host", host).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for path in ["/metrics", "/api/status"] {
        let (status, text) = get(path, "rebound.example").await;
        assert!(
            status == 403 && text.contains("admin_host"),
            "{path}: {text}"
        );
        assert_eq!(get(path, "localhost").await.0, 200, "{path}");
    }
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(get(path, "rebound.example").await.0, 200, "{path}");
    }
    for path in ["/api/nope", "/api/", "/nope"] {
        let (status, text) = get(path, "localhost").await;
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &problem["code"]), (404, &"no_such_path".into()));
    }
    for (method, path, status, code) in [
        ("GET", "/api/wakes?limit=few", 400, "bad_request"),
        ("GET", "/api/wakes?limit=-1", 400, "bad_request"),
        ("GET", "/api/routes?limit=1e3", 400, "bad_request"),
        (
            "POST",
            "/api/instances/x/standby?force=maybe",
            400,
            "bad_request",
        ),
        ("POST", "/api/instances/%ff/wake", 400, "bad_request"),
        ("POST", "/api/status", 405, "method_not_allowed"),
        ("DELETE", "/api/instances/x", 405, "method_not_allowed"),
        ("PUT", "/healthz", 405, "method_not_allowed"),
    ] {
        let method_of = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let asked = client.request(method_of, format!("http://{}{path}", gateway.admin));
        let answer = asked.send().await.unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            (answer.status().as_u16(), kind.as_str()),
            (status, "application/problem+json"),
            "{method} {path}"
        );
        let has_allow = answer.headers().contains_key("allow");
        assert_eq!(has_allow, status == 405, "{method} {path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{method} {path}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_control_planes_that_have_an_instance_the_first_is_meant_though_it_answers_last() {
    let (first, second) = (Plane::start().await, Plane::start().await);
    let meant = first.asleep(Wanted::hello("twin")).await;
    let other = second.asleep(Wanted::hello("twin")).await;
    first
        .faults(r#"{ "slow_percent": 100, "slow_ms": 400 }"#)
        .await;
    let dir = tempfile::tempdir().unwrap();
    let declared = second.declared_as("second", dir.path());
    let (address, token) = (first.address, &first.token);
    let gateway = Gateway::start_with(address, token, &declared, AccessSink::off()).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/api/instances/twin/wake", gateway.admin);
    let answer = client.post(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(second.state(&other.id).await, InstanceState::Standby);
    assert_eq!(first.state(&meant.id).await, InstanceState::Running);
    gateway.stop().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_keeps_no_operator_from_another_ones_instance() {
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung = hangs.local_addr().unwrap();
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("behind")).await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, &plane.token).unwrap();
    let second = format!(
        "[[hypeman]]\nname = \"second\"\nurl = \"http://{}\"\napi_key_file = \"{}\"\n",
        plane.address,
        key.display()
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let wake = async |gateway: &Gateway, name: &str| {
        let url = format!("http://{}/api/instances/{name}/wake", gateway.admin);
        let asked = client.post(url).timeout(Duration::from_secs(15)).send();
        let answer = asked.await.expect("an answer in good time");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let gateway = Gateway::start_with(hung, "key", &second, AccessSink::off()).await;
    let (status, done) = wake(&gateway, "behind").await;
    assert_eq!((status, &done["outcome"]), (200, &"woken".into()), "{done}");
    gateway.stop().await;
    // One that cannot say leaves open whether there is such an instance.
    let brief = format!("{second}[wake]\ntimeout = \"300ms\"\n");
    let gateway = Gateway::start_with(hung, "key", &brief, AccessSink::off()).await;
    let (status, problem) = wake(&gateway, "nobody").await;
    assert_eq!(
        (status, &problem["code"]),
        (504, &"wake_timeout".into()),
        "{problem}"
    );
    gateway.stop().await;
    plane.stop().await;
}
