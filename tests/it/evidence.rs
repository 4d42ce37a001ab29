//! Every kind of answer that a gateway can get when it asks a control plane about an instance, as
//! bytes from a socket, and what it is taken for. Only the control plane's own definite word may be
//! "asleep" or "gone".

use std::time::Duration;

use hypeman::{Client, Config, ControlPlane as _, InstanceId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;
use wakegate::wake::{Doubt, Evidence, Rest};

use crate::support;

const ID: &str = "tz4a98xxat96iws9zmbrgj3a";
const JSON: &str = "application/json";
const HTML: &str = "text/html";

/// What comes after a request.
#[derive(Debug, Clone)]
enum Answer {
    /// These bytes, and then the end.
    Bytes(String),
    /// These bytes, and then nothing for ever.
    Stuck(String),
    /// The end, without a byte.
    Closed,
}

fn http(status: &str, content_type: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    ))
}

fn api(status: &str, code: &str) -> Answer {
    let body = format!(r#"{{"code":"{code}","message":"words"}}"#);
    http(status, JSON, &body)
}

fn described(state: &str, more: &str) -> Answer {
    let body = format!(
        r#"{{"id":"{ID}","name":"shop","state":"{state}","network":{{"enabled":true,"ip":"10.100.0.2"}}{more}}}"#
    );
    http("200 OK", JSON, &body)
}

async fn evidence_of(answer: Answer) -> Evidence {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = support::spawn(async move {
        let mut stuck = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
                head.extend_from_slice(&byte);
            }
            match &answer {
                Answer::Bytes(bytes) => {
                    // A client that has had enough closes first.
                    let _closed = stream.write_all(bytes.as_bytes()).await;
                    let _closed = stream.shutdown().await;
                }
                Answer::Stuck(bytes) => {
                    let _closed = stream.write_all(bytes.as_bytes()).await;
                    stuck.push(stream);
                }
                Answer::Closed => {}
            }
        }
    });
    let client = Client::new(&Config {
        url: format!("http://{address}"),
        timeout: Duration::from_millis(400),
        ..Config::default()
    });
    let client = client.unwrap();
    let id = InstanceId::parse(ID).unwrap();
    let asked_at = Instant::now();
    let evidence = match client.get(&id.to_ref()).await {
        Ok(described) => Evidence::of(&id, &described, asked_at),
        Err(error) => Evidence::from(&error),
    };
    server.abort();
    evidence
}

/// Whether an instance is taken for awake.
fn is_awake(evidence: &Evidence) -> bool {
    matches!(evidence, Evidence::Awake(_))
}

#[tokio::test]
async fn a_description_in_any_shape_is_what_its_state_says() {
    for (answer, initializing) in [
        (described("Running", ""), false),
        (described("Initializing", ""), true),
        // What is not needed may have any shape.
        (described("Running", r#","vcpus":-1,"env":{"A":1}"#), false),
        (described("Running", r#","created_at":"yesterday""#), false),
        (described("Running", r#","exit_code":4294967295"#), false),
        (
            described(
                "Running",
                r#","auto_standby":{"enabled":true,"idle_timeout":"1d"}"#,
            ),
            false,
        ),
        (described("Running", r#","newer":{"than":["this"]}"#), false),
    ] {
        match evidence_of(answer.clone()).await {
            Evidence::Awake(seen) => assert_eq!(seen.initializing, initializing, "{answer:?}"),
            other => panic!("{answer:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn only_the_control_planes_own_definite_word_is_asleep_or_gone() {
    use Evidence::{Asleep, Unsure};
    let html = "<html>Not here</html>";
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-length: 500\r\n\r\n");
    for (answer, expected) in [
        // Definite.
        (described("Standby", ""), Asleep(Rest::Standby)),
        (described("Stopped", ""), Asleep(Rest::Stopped)),
        (described("Paused", ""), Asleep(Rest::Passing)),
        (described("Shutdown", ""), Asleep(Rest::Passing)),
        (described("Created", ""), Asleep(Rest::Passing)),
        (api("404 Not Found", "not_found"), Evidence::Gone),
        (
            api("409 Conflict", "instance_in_standby"),
            Asleep(Rest::Standby),
        ),
        // The control plane cannot tell.
        (described("Unknown", ""), Unsure(Doubt::UnknownState)),
        (described("Hibernating", ""), Unsure(Doubt::UnknownState)),
        (
            api("500 Internal Server Error", "internal_error"),
            Unsure(Doubt::Failed),
        ),
        (
            api("503 Service Unavailable", "unavailable"),
            Unsure(Doubt::Failed),
        ),
        (
            api("429 Too Many Requests", "rate_limited"),
            Unsure(Doubt::Failed),
        ),
        (
            api("409 Conflict", "insufficient_resources"),
            Unsure(Doubt::NoCapacity),
        ),
        (
            api("409 Conflict", "invalid_state"),
            Unsure(Doubt::InvalidState),
        ),
        (
            api("401 Unauthorized", "unauthorized"),
            Unsure(Doubt::Unauthorized),
        ),
        (
            api("404 Not Found", "image_not_found"),
            Unsure(Doubt::Failed),
        ),
        // Somebody before it.
        (http("404 Not Found", HTML, html), Unsure(Doubt::Failed)),
        (http("404 Not Found", JSON, "{}"), Unsure(Doubt::Failed)),
        (http("404 Not Found", JSON, ""), Unsure(Doubt::Failed)),
        (
            http(
                "404 Not Found",
                HTML,
                r#"{"code":"not_found","message":""}"#,
            ),
            Unsure(Doubt::Failed),
        ),
        (http("502 Bad Gateway", HTML, html), Unsure(Doubt::Failed)),
        (http("403 Forbidden", HTML, html), Unsure(Doubt::Failed)),
        (http("401 Unauthorized", HTML, html), Unsure(Doubt::Failed)),
        (
            Answer::Bytes(
                "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
                    .to_owned(),
            ),
            Unsure(Doubt::Failed),
        ),
        (http("200 OK", HTML, html), Unsure(Doubt::Unreadable)),
        (http("200 OK", JSON, "[]"), Unsure(Doubt::Unreadable)),
        (http("200 OK", JSON, ""), Unsure(Doubt::Unreadable)),
        (
            http("200 OK", JSON, r#"{"id":"x","name":"shop"}"#),
            Unsure(Doubt::Unreadable),
        ),
        // Nobody, or not in time.
        (Answer::Closed, Unsure(Doubt::Unreachable)),
        (
            Answer::Bytes("SSH-2.0-OpenSSH_9.2\r\n".to_owned()),
            Unsure(Doubt::Unreachable),
        ),
        (Answer::Stuck(String::new()), Unsure(Doubt::Unreachable)),
        (
            Answer::Stuck(format!("{head}{{\"id\":\"{ID}\"")),
            Unsure(Doubt::Unreachable),
        ),
        (
            Answer::Bytes(format!("{head}{{\"id\":\"{ID}\"")),
            Unsure(Doubt::Unreachable),
        ),
    ] {
        let found = evidence_of(answer.clone()).await;
        assert_eq!(found, expected, "{answer:?}");
        assert!(!is_awake(&found));
    }
}

#[tokio::test]
async fn an_answer_about_another_instance_says_nothing_about_this_one() {
    let body = r#"{"id":"another","name":"shop","state":"Running"}"#;
    let found = evidence_of(http("200 OK", JSON, body)).await;
    assert_eq!(found, Evidence::Unsure(Doubt::Unreadable));
}
