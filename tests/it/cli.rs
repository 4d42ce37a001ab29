//! `wakegate instances`, as a person uses it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Output;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::reserved::Reserved;
use crate::support::{Plane, Program, Wanted, eventually, spawn, wakegate};

/// Runs `wakegate instances` against the plane.
async fn instances(plane: &Plane, words: &str) -> (bool, String, String) {
    let mut command = wakegate();
    command
        .arg("instances")
        .args(words.split(' '))
        .env("HYPEMAN_BASE_URL", format!("http://{}", plane.address))
        .env("HYPEMAN_API_KEY", &plane.token);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = output.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_makes_wakes_reads_and_removes_instances() {
    let plane = Plane::start().await;
    let run = async |words: &str| {
        let (fine, out, err) = instances(&plane, words).await;
        assert!(fine, "{words}: {out}{err}");
        (out, err)
    };
    let create =
        "create one wakegate/hello --tag team=core -e HELLO_EXIT_WITH_PARENT=1 --idle-timeout 5m";
    let (out, _) = run(create).await;
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("NAME") && lines[1].starts_with("one"),
        "{out}"
    );
    assert!(
        lines[1].contains("Running") && lines[1].contains("5m0s"),
        "{out}"
    );

    let (out, _) = run("ls --tag team=core --json").await;
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list[0]["name"], "one");
    assert_eq!(
        run("ls --tag team=other").await.0.lines().count(),
        1,
        "titles only"
    );

    assert!(run("standby one").await.0.contains("Standby"));
    let (out, err) = run("wake one").await;
    assert!(
        out.contains("Running") && err.contains("one is awake after"),
        "{out}{err}"
    );
    let (out, _) = run("logs one --source hypeman -n 1").await;
    assert!(out.contains("restore: done"), "{out}");
    assert!(
        run("stats one")
            .await
            .0
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("one")
    );
    assert!(run("stop one").await.0.contains("Stopped"));
    let (fine, _, err) = instances(&plane, "wake one").await;
    assert!(!fine && err.contains("`--start` boots it"), "{err}");
    assert!(run("fork one two").await.0.contains("two"));
    assert!(run("start one two").await.0.lines().count() == 3);

    // What fails is said on standard error; the others have their turn.
    let (fine, out, err) = instances(&plane, "standby nobody one").await;
    assert!(!fine && out.contains("Standby"), "{out}{err}");
    assert!(
        err.starts_with("wakegate: nobody: ") && err.contains("not_found"),
        "{err}"
    );
    let (fine, _, err) = instances(&plane, "wake nobody").await;
    assert!(!fine && err.contains("resource not found"), "{err}");
    let nobody = Reserved::new();
    let elsewhere = format!("ls --url http://{}", nobody.address);
    let (fine, _, err) = instances(&plane, &elsewhere).await;
    assert!(!fine && err.contains("give another with `--url`"), "{err}");

    run("rm one two").await;
    assert_eq!(run("ls").await.0.lines().count(), 1);
    plane.stop().await;
}

/// Answers one request with this list, and gives the head of the request.
async fn list_once(body: &'static str) -> (SocketAddr, JoinHandle<String>) {
    answer_once("200 OK", body).await
}

async fn answer_once(status: &'static str, body: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let served = spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let (mut head, length) = (Vec::new(), body.len());
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
        }
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    });
    (address, served)
}

/// Runs `wakegate instances` with this base URL and a key.
async fn with_key(base: String, words: String) -> Output {
    let mut command = wakegate();
    command
        .arg("instances")
        .args(words.split(' '))
        .env("HYPEMAN_BASE_URL", base)
        .env("HYPEMAN_API_KEY", "hunter2");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    output.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_read_is_named_and_the_others_are_listed() {
    let list = r#"[{"id":"a","name":"one","state":"Running"},{"id":"b","name":"odd","state":7},
        {"id":"c","name":"two","state":"Standby","auto_standby":{"enabled":true,"idle_timeout":"1d"}}]"#;
    let (address, served) = list_once(list).await;
    let output = with_key(format!("http://{address}"), "ls".to_owned()).await;
    assert!(output.status.success(), "{output:?}");
    let (out, err) = (output.stdout, output.stderr);
    let (out, err) = (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    );
    assert!(
        out.contains("one") && out.contains("two") && !out.contains("odd"),
        "{out}"
    );
    assert!(
        err.contains(r#"("odd", id "b") cannot be read: `state`"#),
        "{err}"
    );
    assert!(
        served
            .await
            .unwrap()
            .contains("authorization: bearer hunter2")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_key_is_not_sent_to_another_server() {
    let (address, served) = list_once("[]").await;
    let base = "https://hypeman.example.com".to_owned();
    let output = with_key(base, format!("ls --url http://{address}")).await;
    assert!(output.status.success(), "{output:?}");
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.contains("HYPEMAN_API_KEY is for another server"),
        "{err}"
    );
    assert!(
        err.contains("--api-key-file") && !err.contains("hunter2"),
        "{err}"
    );
    let head = served.await.unwrap();
    assert!(
        !head.contains("authorization") && !head.contains("hunter2"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_without_telling_the_key() {
    let mut plane = Plane::start().await;
    plane.token = "a-wrong-secret".to_owned();
    let (fine, out, err) = instances(&plane, "ls").await;
    assert!(!fine && out.is_empty());
    assert!(err.contains("is HYPEMAN_API_KEY right?"), "{err}");
    assert!(!err.contains("a-wrong-secret"), "{err}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_words_of_a_server_move_the_cursor_or_colour_the_terminal() {
    let refused = r#"{"code":"not_found","message":"\u001b[2Jgone\u202e"}"#;
    let stopped = r#"{"id":"i1","name":"w\u001b[31meb","state":"Stopped","image":"\u001b[32m",
        "created_at":"2026-01-02T03:04:05Z","exit_message":"\u009b31m"}"#;
    let odd = r#"[{"id":"\u001b[33m","name":"\u001b[34m","state":7}]"#;
    for (status, body, words) in [
        ("404 Not Found", refused, "show web"),
        ("500 Internal Server Error", refused, "stop web"),
        ("200 OK", stopped, "show web"),
        ("200 OK", stopped, "restore web"),
        ("200 OK", odd, "ls"),
    ] {
        let (address, served) = answer_once(status, body).await;
        let output = with_key(format!("http://{address}"), words.to_owned()).await;
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let is_hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(
            !said.is_empty() && !said.contains(is_hidden),
            "{words}: {said:?}"
        );
        served.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_until_nobody_reads_it() {
    let plane = Plane::start().await;
    let mut request = Wanted::hello("talker").request;
    request.image = "local/exec".to_owned();
    let script = "while :; do echo line; sleep 0.02; done";
    request.cmd = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    plane.client.create_instance(&request).await.unwrap();
    let mut command = wakegate();
    command
        .args(["instances", "logs", "talker", "-f"])
        .env("HYPEMAN_BASE_URL", format!("http://{}", plane.address))
        .env("HYPEMAN_API_KEY", &plane.token);
    let mut program = Program::spawn(&mut command);
    let mut reader = BufReader::new(program.0.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "line\n");
    drop(reader);
    eventually("it ends", async || program.0.try_wait().unwrap().is_some()).await;
    plane.stop().await;
}
