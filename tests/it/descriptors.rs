//! Few file descriptors: what clients may take, and what is kept back for others.

use std::process::Stdio;
use std::time::Duration;

use crate::support::gateway_process::{GatewayProcess, binary};
use crate::support::reserved::Reserved;
use crate::support::{Home, Plane, Program, Wanted, eventually, without_settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request on a connection that stays; the answer's first bytes.
async fn ask(stream: &mut TcpStream, host: &str) -> String {
    let head = format!("GET / HTTP/1.1\r\nhost: {host}.test\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut part = vec![0; 4096];
    let read = timeout(crate::support::PATIENCE, stream.read(&mut part));
    let count = read.await.expect("an answer").unwrap();
    String::from_utf8_lossy(&part[..count]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_end_leave_descriptors_for_health_and_instances() {
    let plane = Plane::start().await;
    for name in ["one", "two", "three"] {
        plane.asleep(Wanted::hello(name)).await;
    }
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), &plane.token).unwrap();
    let config = format!(
        "[[hypeman]]\nurl = \"http://{}\"\napi_key_file = {:?}\n\
         [server]\nheader_timeout = \"1m\"\n\
         [[route]]\nhost = \"{{instance}}.test\"\ninstance = \"{{instance}}\"\nport = 8080\n",
        plane.address,
        key.path()
    );
    let gateway = GatewayProcess::start_under(Some(128), "", &config).await;
    let mut early = TcpStream::connect(gateway.listen).await.unwrap();
    assert!(ask(&mut early, "one").await.starts_with("HTTP/1.1 200"));
    // More than it may have; those that it does not take wait in the kernel's queue.
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(gateway.listen).await.unwrap());
    }
    eventually("it says that clients wait", async || {
        gateway.said().contains("others wait until one leaves")
    })
    .await;
    let open = gateway.metric("process_open_fds").await;
    assert!(open < 100.0, "{open} of 128");
    // Who was there before is answered, also where that takes a wake and new connections.
    for host in ["one", "two", "three"] {
        let answer = ask(&mut early, host).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for _ in 0..20 {
        let health = reqwest::get(format!("http://{}/healthz", gateway.admin)).await;
        assert_eq!(health.unwrap().status(), 200);
    }
    drop(crowd);
    let mut late = TcpStream::connect(gateway.listen).await.unwrap();
    assert!(ask(&mut late, "two").await.starts_with("HTTP/1.1 200"));
    let said = gateway.said();
    assert_eq!(said.matches("others wait").count(), 1, "{said}");
    assert_eq!(said.matches("cannot accept").count(), 0, "{said}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_many_requests_at_once_leaves_descriptors_for_health() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("wide")).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), &plane.token).unwrap();
    let config = format!(
        "[[hypeman]]\nurl = \"http://{}\"\napi_key_file = {:?}\n\
         [[route]]\nhost = \"{{instance}}.test\"\ninstance = \"{{instance}}\"\nport = 8080\n",
        plane.address,
        key.path()
    );
    let gateway = GatewayProcess::start_under(Some(128), "", &config).await;
    // Each request of HTTP/2 has a connection of its own to the instance.
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("wide.test", gateway.listen)
        .build()
        .unwrap();
    let url = format!("http://wide.test:{}/slow?delay=5s", gateway.listen.port());
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..120 {
        let request = client.get(&url).timeout(crate::support::PATIENCE);
        crowd.spawn(async move { request.send().await.map(|answer| answer.status().as_u16()) });
    }
    eventually("they have what is for them", async || {
        gateway.metric("process_open_fds").await >= 90.0
    })
    .await;
    for _ in 0..20 {
        let health = reqwest::get(format!("http://{}/healthz", gateway.admin));
        let health = timeout(Duration::from_secs(5), health)
            .await
            .expect("in time");
        assert_eq!(health.unwrap().status(), 200);
    }
    let open = gateway.metric("process_open_fds").await;
    assert!(open <= 112.0, "{open} of 128");
    crowd.abort_all();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_control_plane_takes_all_it_may_and_its_programs_begin_with_what_it_began_with() {
    let home = Home::new();
    let reserved = Reserved::new();
    let mut shell = without_settings(std::process::Command::new("sh"));
    // What a login has to begin with, and more that it may take.
    let under = "ulimit -Sn 300 && exec \"$@\"";
    shell.args(["-c", under, "sh"]).arg(binary());
    shell.args(["local", "--no-auth", "--api-listen"]);
    shell.arg(reserved.address.to_string()).arg("--state-dir");
    shell.arg(home.path().join("state")).stdout(Stdio::null());
    let program = Program(shell.spawn().unwrap());
    let url = format!("http://{}/instances", reserved.address);
    eventually("it serves", async || reqwest::get(&url).await.is_ok()).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.0.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(words[3], words[4], "{limits}");
    assert_ne!(words[3], "300", "{limits}");

    let told = home.path().join("told");
    let script = format!("ulimit -Sn > {}; exec sleep 1000", told.display());
    let body = serde_json::json!({
        "name": "one", "image": "local/exec", "cmd": ["/bin/sh", "-c", script],
    });
    let created = reqwest::Client::new().post(&url).json(&body).send().await;
    assert_eq!(created.unwrap().status(), 201);
    eventually("the program has begun", async || {
        std::fs::read_to_string(&told).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    assert_eq!(std::fs::read_to_string(&told).unwrap().trim(), "300");
}
