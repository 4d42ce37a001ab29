//! `wakegate instances`, as a person uses it.

use std::process::{Command, Output};

use crate::support::reserved::Reserved;
use crate::support::{BINARY, Plane};

/// Runs `wakegate instances` against the plane.
async fn instances(plane: &Plane, words: &str) -> (bool, String, String) {
    let mut command = Command::new(BINARY);
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
