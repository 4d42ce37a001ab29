//! Real applications as instances of the process driver: however they listen, from the shell, and
//! at no cost while nobody talks to them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use hypeman::InstanceRef;
use hypeman::wire::{CreateInstance, InstanceState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use crate::support::{
    BINARY, Home, Plane, Program, Wanted, eventually, processes, reference, tools, wakegate,
};

fn program(name: &str, script: &str) -> CreateInstance {
    CreateInstance {
        name: name.to_owned(),
        image: "local/exec".to_owned(),
        cmd: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        ..CreateInstance::default()
    }
}

async fn address(plane: &Plane, id: &InstanceRef) -> String {
    let instance = plane.client.get_instance(id).await.unwrap();
    instance.network.unwrap().ip.unwrap()
}

/// What it answers at its address.
async fn answer(ip: &str, port: u16) -> Option<String> {
    let client = reqwest::Client::builder().no_proxy();
    let client = client.pool_max_idle_per_host(0).build().unwrap();
    let answer = client.get(format!("http://{ip}:{port}/")).send().await;
    answer.ok()?.text().await.ok()
}

fn operations(plane: &Plane, id: &InstanceRef) -> String {
    let path = plane.folder(id.as_str()).join("hypeman.log");
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_reached_at_their_address_however_they_listen_at_their_port() {
    let plane = Plane::start().await;
    let mut all = Vec::new();
    for (name, host) in [
        ("heeds-host", "$HOST"),
        ("any", "0.0.0.0"),
        ("any-too", "0.0.0.0"),
        ("loopback", "127.0.0.1"),
        ("any-six", "[::]"),
        ("loopback-six", "[::1]"),
        ("mapped", "[::ffff:$HOST]"),
    ] {
        let script = format!("HOST=\"{host}\" exec {BINARY} hello");
        let created = plane.client.create_instance(&program(name, &script)).await;
        all.push((name, reference(&created.unwrap().id)));
    }
    for (name, id) in &all {
        let ip = address(&plane, id).await;
        let own = async || {
            answer(&ip, 8080)
                .await
                .is_some_and(|text| text.contains(name))
        };
        eventually(name, own).await;
        plane.sleep(id.as_str()).await;
        let refused = TcpStream::connect((ip.as_str(), 8080)).await;
        assert!(refused.is_err(), "{name} sleeps");
        plane.client.restore_instance(id).await.unwrap();
        let text = answer(&ip, 8080).await.unwrap();
        assert!(text.contains(name), "at once after its wake: {text}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_opened_and_closed_as_the_program_does() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("first")).await;
    let id = reference(&instance.id);
    let ip = address(&plane, &id).await;
    // A second program of the instance, at a port of its own choice and its private address.
    let script = format!("{BINARY} hello & PORT=9001 {BINARY} hello & sleep 1000");
    let created = plane
        .client
        .create_instance(&program("pair", &script))
        .await;
    let pair = reference(&created.unwrap().id);
    let both = address(&plane, &pair).await;
    for port in [8080, 9001] {
        eventually("both answer", async || answer(&both, port).await.is_some()).await;
    }
    assert!(answer(&ip, 9001).await.is_none(), "not its own");
    let of_pair = processes(&plane.folder(pair.as_str()));
    let second = of_pair.iter().find(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|pair| pair == b"PORT=9001")
    });
    let killed = Command::new("kill")
        .arg(second.unwrap().to_string())
        .status();
    assert!(killed.unwrap().success());
    eventually("its port is closed", async || {
        TcpStream::connect((both.as_str(), 9001)).await.is_err()
    })
    .await;
    assert!(answer(&both, 8080).await.is_some());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_listens_elsewhere_is_named_in_its_log() {
    let plane = Plane::start().await;
    let elsewhere = Reserved::new();
    let port = elsewhere.port();
    let script = format!("HOST=127.0.0.1 PORT={port} exec {BINARY} hello");
    let created = plane
        .client
        .create_instance(&program("stray", &script))
        .await;
    let id = reference(&created.unwrap().id);
    let note = format!("note: the program listens at 127.0.0.1:{port}, where nobody reaches it");
    eventually("it is noted", async || {
        operations(&plane, &id).contains(&note)
    })
    .await;
    // Once, however long it stays there.
    let looks = async || operations(&plane, &id).matches(&note).count() > 1;
    let again = tokio::time::timeout(Duration::from_secs(3), eventually("never", looks)).await;
    assert!(again.is_err());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_run_is_said_to_be_so_and_leaves_nothing() {
    let plane = Plane::start().await;
    let mut nobody = program("nobody", "");
    nobody.cmd = Some(vec!["/nonexistent/program".to_owned()]);
    let created = plane.client.create_instance(&nobody).await.unwrap();
    assert_eq!(created.state, InstanceState::Stopped);
    assert_eq!(created.exit_code, Some(127));
    let why = created.exit_message.unwrap();
    assert!(why.contains("cannot run `/nonexistent/program`"), "{why}");
    let mut homeless = program("homeless", "exec sleep 1000");
    homeless
        .env
        .0
        .insert("PWD".to_owned(), "/nonexistent".to_owned());
    let created = plane.client.create_instance(&homeless).await.unwrap();
    assert_eq!(created.state, InstanceState::Stopped);
    let why = created.exit_message.unwrap();
    assert!(why.contains("/nonexistent does not exist"), "{why}");
    for id in ["nobody", "homeless"] {
        let id = reference(id);
        let id = plane.client.get_instance(&id).await.unwrap().id;
        assert!(processes(&plane.folder(&id)).is_empty());
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_the_sleep_of_an_instance_that_is_to_keep_its_flows() {
    let plane = Plane::start().await;
    for (name, keeps) in [("keeps", true), ("cuts", false)] {
        let mut wanted = Wanted::hello(name);
        if keeps {
            let tag = ("wakegate.flows".to_owned(), "keep".to_owned());
            wanted.request.tags.extend([tag]);
        }
        let instance = plane.listening(wanted).await;
        let id = reference(&instance.id);
        let ip = address(&plane, &id).await;
        let mut stream = TcpStream::connect((ip.as_str(), 8080)).await.unwrap();
        let ask = format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n");
        let mut exchange = async |ask: &[u8]| {
            stream.write_all(ask).await.ok()?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\n") || !answer.windows(4).any(|four| four == b"\r\n\r\n") {
                let length = stream.read_buf(&mut answer).await.ok()?;
                if length == 0 {
                    return None;
                }
            }
            Some(String::from_utf8(answer).unwrap())
        };
        assert!(exchange(ask.as_bytes()).await.unwrap().contains("200 OK"));
        plane.sleep(&instance.id).await;
        plane.client.restore_instance(&id).await.unwrap();
        let after = exchange(ask.as_bytes()).await;
        assert_eq!(after.is_some(), keeps, "{name}: {after:?}");
    }
    plane.stop().await;
}

// === At rest ===

/// The processor time that a process has used so far.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    // utime and stime, of 10 ms each; proc_pid_stat(5) counts from 1, and the state is its field 3.
    let ticks = |field: usize| fields[field - 3].parse::<u64>().unwrap();
    Duration::from_millis((ticks(14) + ticks(15)) * 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_run_and_have_nobody_cost_their_control_plane_next_to_nothing() {
    let home = Home::new();
    let here = Here::start(&home).await;
    for number in 0..20 {
        let name = format!("idle-{number}");
        let created = here.run_instances(&format!("create {name} wakegate/hello --port 8080"));
        assert!(created.status.success(), "{created:?}");
    }
    let (began, before) = (Instant::now(), processor_time(here.program.0.id()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let used = processor_time(here.program.0.id()).saturating_sub(before);
    // One kernel table's reading ten times a second for each took more than a whole processor.
    let most = began.elapsed() / 20;
    assert!(used < most, "{used:?} of {:?}", began.elapsed());
}

// === From the shell ===

/// A control plane with a state directory of its own, as a person starts it, that ends with its
/// instances.
struct Here {
    program: Program,
    home: std::path::PathBuf,
    _address: Reserved,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.program.signal("TERM");
        let _reaped = self.program.0.wait();
    }
}

impl Here {
    async fn start(home: &Home) -> Self {
        let address = Reserved::new();
        let mut command = wakegate();
        command
            .args(["local", "--on-exit", "stop", "--api-listen"])
            .arg(address.address.to_string())
            .env("XDG_STATE_HOME", home.path());
        let this = Self {
            program: Program::spawn(&mut command),
            home: home.path().to_owned(),
            _address: address,
        };
        let api = this.home.join("wakegate/api");
        eventually("it serves", async || api.exists()).await;
        this
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new("sh");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = path.to_str().unwrap();
        let own = Path::new(BINARY).parent().unwrap().display();
        command
            .args(["-c", words])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", format!("{own}:{path}"))
            .env("XDG_STATE_HOME", &self.home);
        crate::support::without_settings(command)
    }

    fn run(&self, words: &str) -> Output {
        self.command(&format!("wakegate local run {words}"))
            .output()
            .unwrap()
    }

    fn run_instances(&self, words: &str) -> Output {
        self.command(&format!("wakegate instances {words}"))
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a successful run says that its instance is.
fn url(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout).trim().to_owned()
}

async fn get(url: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_run_found_woken_and_replaced_by_one_command() {
    let home = Home::new();
    let here = Here::start(&home).await;
    let words = "web --port 3000 --env GREETING=hello --idle-timeout 5m -- wakegate hello";
    let first = url(&here.run(words));
    assert!(
        first.starts_with("http://127.77.") && first.ends_with(":3000/"),
        "{first}"
    );
    assert!(get(&first).await.contains("request 1 "));
    let slept = here.run_instances("standby web");
    assert!(slept.status.success(), "{slept:?}");
    assert_eq!(url(&here.run(words)), first, "the same one");
    assert!(
        get(&first).await.contains("request 2 "),
        "its memory is kept"
    );
    let shown = text(&here.run_instances("show web").stdout);
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    for line in [
        "state         Running",
        "command       wakegate hello",
        "sleeps after  5m0s",
        "env           GREETING=hello",
    ] {
        assert!(lines.contains(&line), "{line}: {shown}");
    }
    // A variable of one's own that is inherited otherwise; and no sleep where none is asked for.
    let more = "--port 3000 --env GREETING=hello --env TZ=Asia/Tokyo -- wakegate hello";
    let words = &format!("web {more}");
    let there = here.run(words);
    assert!(text(&there.stderr).contains("is replaced"), "{there:?}");
    let sleepy = format!("web --idle-timeout 5m {more}");
    assert_eq!(url(&here.run(&sleepy)), url(&there));
    assert!(text(&here.run_instances("show web").stdout).contains("sleeps after"));
    assert_eq!(url(&here.run(words)), url(&there));
    let shown = text(&here.run_instances("show web").stdout);
    assert!(!shown.contains("sleeps after"), "{shown}");
    let other = here.run("web --port 3000 -- sh -c 'exec wakegate hello'");
    assert!(text(&other.stderr).contains("is replaced"), "{other:?}");
    assert!(get(&url(&other)).await.contains("request 1 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_another_kind_is_not_replaced_by_a_program_of_its_name() {
    let home = Home::new();
    let here = Here::start(&home).await;
    let created = here.run_instances("create web wakegate/hello --port 8080");
    assert!(created.status.success(), "{created:?}");
    let refused = here.run("web -- wakegate hello");
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("web is there already") && said.contains("instances rm web"),
        "{said}"
    );
    let shown = text(&here.run_instances("show web").stdout);
    assert!(shown.contains("wakegate/hello"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_come_up_is_told_with_its_reason_and_last_lines() {
    let home = Home::new();
    let here = Here::start(&home).await;
    let elsewhere = Reserved::new();
    let stray = format!(
        "stray --timeout 4s --env HOST=127.0.0.1 -- sh -c 'PORT={} exec wakegate hello'",
        elsewhere.port()
    );
    let strays = format!("listens at 127.0.0.1:{}", elsewhere.port());
    let folder = home.path().join("app");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("app.sh"),
        "echo from the app; printf '\\033[31m\\n'; exit 3",
    )
    .unwrap();
    let ends = format!("ends --workdir {} -- sh app.sh", folder.display());
    for (words, says) in [
        (
            "nobody -- nonexistent-program",
            vec![
                "nobody is Stopped",
                "cannot run `nonexistent-program`",
                "exit code 127",
            ],
        ),
        (
            ends.as_str(),
            vec![
                "ends is Stopped",
                "exit code 3",
                "\n  from the app",
                "\\u001b[31m",
            ],
        ),
        (
            stray.as_str(),
            vec![
                strays.as_str(),
                "stray runs and does not answer at port 8080",
            ],
        ),
        (
            "lost --workdir /nonexistent -- true",
            vec!["/nonexistent is not a folder"],
        ),
    ] {
        let output = here.run(words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {said}");
        assert!(output.stdout.is_empty(), "{words}: {output:?}");
        for part in says {
            assert!(said.contains(part), "{words}: {part}: {said}");
        }
    }
    let created = here.run_instances("create late local/exec -- nonexistent-program");
    assert_eq!(created.status.code(), Some(1), "{created:?}");
    let shown = text(&here.run_instances("show ends").stdout);
    assert!(
        shown.contains("exit code 3") && shown.contains("command "),
        "{shown}"
    );
    let raw = here.run_instances("logs ends --raw").stdout;
    assert!(raw.contains(&0x1b), "{}", text(&raw));
    let escaped = here.run_instances("logs ends").stdout;
    assert!(!escaped.contains(&0x1b), "{}", text(&escaped));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_plane_a_run_says_how_to_start_one() {
    let home = Home::new();
    let mut command = wakegate();
    command
        .args(["local", "run", "web", "--", "true"])
        .env("XDG_STATE_HOME", home.path());
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("start one with `wakegate local`"), "{said}");
}

// === The examples ===

/// Whether a program is there, by its own word.
fn is_there(program: &str, argument: &str) -> bool {
    let output = Command::new(program).arg(argument).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_work_as_they_are_written() {
    let readme = include_str!("../../examples/README.md");
    let commands = readme.lines();
    let commands = commands.filter_map(|line| line.strip_prefix("wakegate local run "));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 7, "the README was read");
    let home = Home::new();
    let here = Here::start(&home).await;
    for command in commands {
        let (name, _) = command.split_once(' ').unwrap();
        let (tool, argument) = match name {
            "node" => ("npm", "--version"),
            "go" => ("go", "version"),
            "jvm" => ("java", "-version"),
            _ => ("python3", "--version"),
        };
        if !is_there(tool, argument) {
            skip(
                Lacking::Machine,
                &format!("examples/{name} needs {tool}, which is not here"),
            );
            continue;
        }
        let requirements = format!(
            "{}/examples/{name}/requirements.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut path = String::new();
        if let Ok(packages) = std::fs::read_to_string(requirements) {
            let packages: Vec<&str> = packages.lines().collect();
            let programs = tools::python(&packages);
            path = format!("PATH={}:$PATH; ", programs.display());
        }
        let run = || {
            let words = format!("{path}wakegate local run {command}");
            here.command(&words).output().unwrap()
        };
        let count = async |url: &str| {
            if name != "grpc" {
                return get(url).await;
            }
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            let words = format!("{path}python3 examples/grpc/client.py {address}");
            let output = here.command(&words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            text(&output.stdout)
        };
        let first = url(&run());
        let answer = count(&first).await;
        let slept = here.run_instances(&format!("standby {name}"));
        assert!(slept.status.success(), "{slept:?}");
        assert_eq!(url(&run()), first, "{name} is woken");
        let again = count(&first).await;
        match name {
            "static" => assert!(again.contains("served by an instance"), "{again}"),
            _ => assert!(
                answer.contains('1') && again.contains('2'),
                "{name}: {answer}{again}"
            ),
        }
        let removed = here.run_instances(&format!("rm {name}"));
        assert!(removed.status.success(), "{removed:?}");
    }
}

/// The gateway of the examples' README, at places of its own.
struct ExamplesGateway {
    listen: Reserved,
    admin: Reserved,
    door: Reserved,
    _program: Program,
}

impl ExamplesGateway {
    fn start(home: &Home) -> Self {
        let readme = include_str!("../../examples/README.md");
        let (_, file) = readme.split_once("> wakegate.toml <<END\n").unwrap();
        let (file, _) = file.split_once("\nEND\n").unwrap();
        let [listen, admin, door] = [(); 3].map(|()| Reserved::new());
        let api = std::fs::read_to_string(home.path().join("wakegate/api")).unwrap();
        let state = home.path().display().to_string();
        let mut file = file.to_owned();
        for (usual, own) in [
            ("http://127.0.0.1:4973", api.lines().next().unwrap()),
            ("$HOME/.local/state", state.as_str()),
            ("127.0.0.1:9911", &door.address.to_string()),
        ] {
            assert!(file.contains(usual), "{usual}: {file}");
            file = file.replace(usual, own);
        }
        let path = home.path().join("wakegate.toml");
        std::fs::write(&path, file).unwrap();
        let mut command = wakegate();
        command
            .args(["serve", "--listen", &listen.address.to_string()])
            .args(["--admin-listen", &admin.address.to_string(), "-c"])
            .arg(&path);
        let program = Program::spawn(&mut command);
        Self {
            listen,
            admin,
            door,
            _program: program,
        }
    }

    /// An instance's answer, as soon as the gateway serves.
    async fn ask(&self, method: &str, instance: &str, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let method: reqwest::Method = method.parse().unwrap();
        let mut text = None;
        eventually("the gateway serves", async || {
            let url = format!("http://{}{path}", self.listen.address);
            let asked = client.request(method.clone(), url);
            let asked = asked.header("host", format!("{instance}.localhost"));
            match asked.send().await {
                Ok(answer) => text = answer.text().await.ok(),
                Err(_) => return false,
            }
            text.is_some()
        })
        .await;
        text.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_of_the_examples_is_awake_while_it_works_and_sleeps_when_it_is_done() {
    if !is_there("python3", "--version") {
        return skip(Lacking::Machine, "the worker needs python3");
    }
    let home = Home::new();
    let here = Here::start(&home).await;
    let gateway = ExamplesGateway::start(&home);
    let state = || {
        let shown = here.run_instances("show worker --json");
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown["state"].as_str().unwrap().to_owned()
    };
    let command = format!(
        "worker --workdir examples/worker --idle-timeout 1s --env DOOR={} -- python3 worker.py",
        gateway.door.address
    );
    assert!(here.run(&command).status.success());
    let began = Instant::now();
    let said = gateway.ask("POST", "worker", "/jobs?seconds=6").await;
    assert!(said.contains("job-1"), "{said}");
    let holds = format!("http://{}/api/holds", gateway.admin.address);
    let mut was_held = false;
    eventually("it sleeps", async || {
        let holds = reqwest::get(&holds).await.unwrap().text().await.unwrap();
        was_held |= holds.contains("job-1");
        state() == "Standby"
    })
    .await;
    let awake = began.elapsed();
    assert!(was_held && awake >= Duration::from_secs(6), "{awake:?}");
    let said = gateway.ask("GET", "worker", "/").await;
    assert!(said.contains("0 jobs under way, 1 done"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_of_the_examples_wakes_what_sleeps() {
    let home = Home::new();
    let here = Here::start(&home).await;
    let awake = url(&here.run("node -- wakegate hello"));
    assert!(get(&awake).await.contains("request 1 "));
    let slept = here.run_instances("standby node");
    assert!(slept.status.success(), "{slept:?}");

    let gateway = ExamplesGateway::start(&home);
    let answer = gateway.ask("GET", "node", "/").await;
    assert!(
        answer.contains("request 2 "),
        "its memory is kept: {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_its_terminal_ends_a_control_plane_in_good_order() {
    let home = Home::new();
    let here = Here::start(&home).await;
    let made = here.run_instances("create one wakegate/hello");
    assert!(made.status.success(), "{made:?}");
    assert!(!processes(home.path()).is_empty(), "it runs");
    here.program.signal("HUP");
    eventually("its instances have ended", async || {
        processes(home.path()).is_empty()
    })
    .await;
    let api = home.path().join("wakegate/api");
    eventually("nobody is sent to it any more", async || !api.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_to_survive_its_terminal_does() {
    let home = Home::new();
    let address = Reserved::new();
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", BINARY])
        .args(["local", "--on-exit", "stop", "--api-listen"])
        .arg(address.address.to_string())
        .env("XDG_STATE_HOME", home.path());
    let here = Here {
        program: Program::spawn(&mut crate::support::without_settings(command)),
        home: home.path().to_owned(),
        _address: address,
    };
    let api = home.path().join("wakegate/api");
    eventually("it serves", async || api.exists()).await;
    here.program.signal("HUP");
    let listed = here.run_instances("ls");
    assert!(listed.status.success(), "{listed:?}");
    assert!(api.exists());
}
