//! How calls are made: repetitions, keys, deadlines, bounds, errors, and what each operation sends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use std::time::Duration;

use hypeman::wire::{
    AttachVolume, CreateIngress, CreateInstance, CreateSnapshot, DeleteInstance, ForkInstance,
    ForkSnapshot, Hypervisor, InstanceState, ListInstances, ListSnapshots, RestoreSnapshot,
    SetSnapshotSchedule, SnapshotKind, StandbyRequest, StartRequest, UpdateInstance,
};
use hypeman::{
    BuildError, Client, Config, ControlPlane, Error, InstanceId, InstanceRef, LogQuery, LogSource,
    Outcome,
};
use support::{Recorder, Reply, Server, answer};
use tokio::time::Instant;

const INSTANCE: &str = r#"{"id":"tz4a98xxat96iws9zmbrgj3a","name":"web","image":"nginx",
    "state":"Running","created_at":"2026-01-01T00:00:00Z"}"#;
const STATUS: &str = r#"{"supported":true,"configured":true,"enabled":true,"eligible":true,
    "status":"active","reason":"active_inbound_connections"}"#;

fn web() -> InstanceRef {
    "web".parse().unwrap()
}

// === Repetition ===

#[tokio::test]
async fn a_read_is_repeated_after_an_error_that_may_pass() {
    let replies = [answer(503, ""), Reply::Close, answer(200, INSTANCE)];
    let server = Server::start(replies).await;
    let recorder = Recorder::default();
    let client = server.builder().observer(recorder.clone()).build().unwrap();
    let instance = client.get_instance(&web()).await.unwrap();
    assert_eq!(instance.state, InstanceState::Running);
    assert_eq!(recorder.begun(), 3);
    assert_eq!(
        recorder.ended(),
        [
            ("get", 1, Outcome::Refused { status: 503 }),
            ("get", 2, Outcome::Transport),
            ("get", 3, Outcome::Success { status: 200 }),
        ]
    );
}

#[tokio::test]
async fn a_read_is_repeated_so_often_and_no_more() {
    for (repeats, requests) in [(0, 1), (2, 3)] {
        let server = Server::start((0..9).map(|_| answer(500, ""))).await;
        let client = server.builder().max_repeats(repeats).build().unwrap();
        let error = client.get_instance(&web()).await.unwrap_err();
        assert_eq!(error.status(), Some(500));
        assert_eq!(server.requests().len(), requests);
    }
}

#[tokio::test]
async fn what_a_repetition_cannot_help_is_not_repeated() {
    for status in [302, 400, 401, 403, 404, 405, 409] {
        let server = Server::start([answer(status, "")]).await;
        let error = server.client().get_instance(&web()).await.unwrap_err();
        assert!(!error.is_retryable(), "{status}");
        assert_eq!(error.status(), Some(status));
        assert_eq!(server.requests().len(), 1, "{status}");
    }
    let server = Server::start([answer(200, "{}")]).await;
    let recorder = Recorder::default();
    let client = server.builder().observer(recorder.clone()).build().unwrap();
    let error = client.get_instance(&web()).await.unwrap_err();
    assert!(matches!(error, Error::Decode { op: "get", .. }), "{error}");
    assert_eq!(recorder.ended(), [("get", 1, Outcome::Decode)]);
}

#[tokio::test]
async fn a_change_is_never_repeated() {
    for reply in [answer(503, ""), answer(409, ""), Reply::Close] {
        let server = Server::start([reply]).await;
        server.client().restore_instance(&web()).await.unwrap_err();
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_hold_is_repeated_and_the_trait_repeats_nothing() {
    let server = Server::start([answer(503, ""), answer(200, STATUS)]).await;
    server.client().auto_standby_hold(&web()).await.unwrap();
    assert_eq!(server.requests().len(), 2);

    let (id, running) = (InstanceId::parse("web").unwrap(), InstanceState::Running);
    let server = Server::start((0..3).map(|_| answer(503, ""))).await;
    let client = server.client();
    client.hold(&id).await.unwrap_err();
    client.get(&web()).await.unwrap_err();
    let second = Duration::from_secs(1);
    client.wait(&id, &running, second).await.unwrap_err();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_again() {
    // Bound and not listening: nobody else gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let recorder = Recorder::default();
    let client = Client::builder(url).observer(recorder.clone());
    let error = client
        .build()
        .unwrap()
        .get_instance(&web())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.is_unreachable() && error.status().is_none() && error.code().is_empty());
    assert_eq!(recorder.ended().len(), 3);
}

// === The key ===

#[tokio::test]
async fn a_key_that_was_replaced_in_its_file_is_taken_after_a_401() {
    let replies = [
        answer(401, ""),
        answer(200, INSTANCE),
        answer(200, INSTANCE),
    ];
    let server = Server::start(replies).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "old\n").unwrap();
    let recorder = Recorder::default();
    let builder = server.builder().api_key_file(&file);
    let client = builder.observer(recorder.clone()).build().unwrap();
    std::fs::write(&file, "new\n").unwrap();
    // A change too: the server has done nothing yet.
    client.restore_instance(&web()).await.unwrap();
    client.restore_instance(&web()).await.unwrap();
    let keys: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.authorization.unwrap())
        .collect();
    assert_eq!(keys, ["Bearer old", "Bearer new", "Bearer new"]);
    let success = Outcome::Success { status: 200 };
    assert_eq!(
        recorder.ended(),
        [
            ("restore", 1, Outcome::KeyReplaced),
            ("restore", 2, success),
            ("restore", 1, success),
        ]
    );
}

#[tokio::test]
async fn a_key_that_is_wrong_is_sent_once() {
    let server = Server::start([answer(401, ""), answer(401, "")]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "wrong").unwrap();
    let client = server.builder().api_key_file(&file).build().unwrap();
    let error = client.get_instance(&web()).await.unwrap_err();
    assert!(error.is_unauthorized());
    assert_eq!(server.requests().len(), 1);
    // A file that has gone changes nothing.
    std::fs::remove_file(&file).unwrap();
    client.get_instance(&web()).await.unwrap_err();
    assert_eq!(server.requests().len(), 2);
}

// === Deadlines ===

#[tokio::test]
async fn a_call_ends_by_its_deadline() {
    let brief = Duration::from_millis(100);
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec();
    let server = Server::start([Reply::Hang, Reply::Begin(begun), Reply::Hang]).await;
    let builder = server.builder().timeout(brief).change_timeout(brief);
    let client = builder.build().unwrap();
    for _ in 0..2 {
        let error = client.get_instance(&web()).await.unwrap_err();
        let limit = matches!(error, Error::Timeout { op: "get", after } if after == brief);
        assert!(limit, "{error}");
    }
    let error = client.restore_instance(&web()).await.unwrap_err();
    assert!(
        matches!(error, Error::Timeout { op: "restore", .. }),
        "{error}"
    );
    assert_eq!(
        server.requests().len(),
        3,
        "a call that timed out is not repeated"
    );
}

#[tokio::test]
async fn the_deadline_is_for_all_attempts_of_a_call() {
    let late = || Reply::Late(Duration::from_millis(100), 503, String::new());
    let server = Server::start((0..100).map(|_| late())).await;
    let builder = server.builder().timeout(Duration::from_millis(500));
    let client = builder.max_repeats(100).build().unwrap();
    let began = Instant::now();
    client.get_instance(&web()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!((2..6).contains(&server.requests().len()));
}

#[tokio::test]
async fn a_wait_is_cut_to_what_a_server_can_do() {
    let outcome = r#"{"state":"Standby","timed_out":false}"#;
    let server = Server::start([answer(200, outcome), answer(200, outcome)]).await;
    let (client, running) = (server.client(), InstanceState::Running);
    for timeout in [Duration::ZERO, Duration::from_secs(3600)] {
        let outcome = client.wait_instance(&web(), &running, timeout).await;
        assert_eq!(outcome.unwrap().state, InstanceState::Standby);
    }
    let lines = server.requests().into_iter().map(|request| request.line);
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [
            "GET /instances/web/wait?state=Running&timeout=1ms",
            "GET /instances/web/wait?state=Running&timeout=55s",
        ]
    );
}

// === Answers ===

#[tokio::test]
async fn an_answer_that_is_too_long_is_refused() {
    let long = format!("[{}]", " ".repeat(3000));
    // One says how long it is, one ends, one does not.
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n".to_vec();
    let replies = || {
        [
            Reply::Begin(begun.clone()),
            answer(200, &long),
            Reply::Endless(200, " "),
        ]
    };
    let server = Server::start(replies().into_iter().chain(replies())).await;
    let recorder = Recorder::default();
    let builder = server.builder().max_answer_bytes(1000).max_list_bytes(2000);
    let client = builder.observer(recorder.clone()).build().unwrap();
    for _ in 0..3 {
        let error = client
            .list_instances(&ListInstances::default())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooLong {
                    op: "list",
                    limit: 2000
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("2000 bytes") && !error.is_retryable(),
            "{error}"
        );
    }
    for _ in 0..3 {
        let error = client.get_instance(&web()).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooLong {
                    op: "get",
                    limit: 1000
                }
            ),
            "{error}"
        );
    }
    assert_eq!(recorder.ended()[5], ("get", 1, Outcome::TooLong));
    assert_eq!(server.requests().len(), 6, "none is asked for again");
}

#[tokio::test]
async fn an_error_without_an_end_keeps_its_status_and_its_beginning() {
    let head = b"HTTP/1.1 503 -\r\ncontent-type: application/json\r\n\r\n{\"code\":\"busy\",\"message\":\"x";
    let replies = [
        Reply::Endless(500, "é"),
        Reply::Trickle(head),
        Reply::Endless(404, r#"{"code":"not_found","message":"no"}"#),
    ];
    let server = Server::start(replies).await;
    let brief = Duration::from_millis(300);
    let client = server.builder().change_timeout(brief).build().unwrap();
    let error = client.restore_instance(&web()).await.unwrap_err();
    assert_eq!((error.status(), error.is_from_api()), (Some(500), false));
    assert!(matches!(&error, Error::Api { message, .. } if message.chars().count() == 500));
    let error = client.restore_instance(&web()).await.unwrap_err();
    assert_eq!(
        (error.status(), error.is_from_api()),
        (Some(503), false),
        "{error}"
    );
    let error = client.restore_instance(&web()).await.unwrap_err();
    assert!(
        !error.is_not_found(),
        "what goes on is not the API's answer: {error}"
    );
}

#[tokio::test]
async fn a_deletion_is_done_however_its_answer_goes_on() {
    let server = Server::start([
        Reply::Endless(200, "x"),
        Reply::Trickle(b"HTTP/1.1 200 OK\r\n\r\n"),
    ])
    .await;
    for _ in 0..2 {
        server.client().delete_instance(&web()).await.unwrap();
    }
}

#[tokio::test]
async fn a_web_page_is_no_success_whatever_the_call() {
    let page = b"HTTP/1.1 200 OK\r\ncontent-type: Text/HTML; charset=utf-8\r\n\
                 content-length: 6\r\nconnection: close\r\n\r\n<html>";
    let replies = [(); 3].map(|()| Reply::Raw(page.to_vec()));
    let server = Server::start(replies).await;
    let client = server.builder().max_repeats(0).build().unwrap();
    let deleted = client.delete_instance(&web()).await.unwrap_err();
    let logs = client.logs(&web(), LogQuery::default()).await.unwrap_err();
    let got = client.get_instance(&web()).await.unwrap_err();
    for error in [deleted, logs, got] {
        assert!(error.is_unreadable(), "{error}");
    }
}

#[tokio::test]
async fn an_odd_element_costs_a_list_nothing_else() {
    let instances = format!(
        r#"[{INSTANCE},7,{{"id":"b","name":"api"}},{}]"#,
        INSTANCE.replace("web", "two")
    );
    let huge = format!(
        r#"[{{"id":"s","name":"{}"}},{{"id":"s1","kind":"Standby","source_instance_id":"a"}}]"#,
        "x".repeat(5000)
    );
    let ingresses = r#"[{"id":"i","name":"one","rules":[
            {"match":{"hostname":"a.example.com"},"target":{"instance":"web","port":80}},
            {"match":{"hostname":"b.example.com"},"target":{"instance":"web","port":80},
             "request_header_auth":{"header":"x-key","value":7}}]},{"id":7}]"#;
    let replies = [
        answer(200, &instances),
        answer(200, &huge),
        answer(200, ingresses),
        answer(200, "null"),
    ];
    let server = Server::start(replies).await;
    let client = server.builder().max_answer_bytes(4096).build().unwrap();
    let listed = client
        .list_instances(&ListInstances::default())
        .await
        .unwrap();
    let names: Vec<&str> = listed
        .iter()
        .map(|instance| instance.name.as_str())
        .collect();
    assert_eq!(names, ["web", "two"]);
    assert_eq!((listed.odd[0].index, listed.odd[1].index), (1, 2));
    assert_eq!(listed.odd[1].id.as_deref(), Some("b"));
    let listed = client
        .list_snapshots(&ListSnapshots::default())
        .await
        .unwrap();
    assert_eq!((listed[0].id.as_str(), listed.odd.len()), ("s1", 1));
    assert!(
        listed.odd[0].to_string().contains("too long"),
        "{}",
        listed.odd[0]
    );
    let listed = client
        .list_ingresses(&std::collections::BTreeMap::new())
        .await
        .unwrap();
    // A rule that asks for a secret which cannot be read is not a rule that asks for none.
    assert_eq!(
        (
            listed.len(),
            listed[0].rules.len(),
            listed[0].unreadable_rules()
        ),
        (1, 1, 1)
    );
    assert_eq!(listed.odd.len(), 1);
    let listed = client
        .list_instances(&ListInstances::default())
        .await
        .unwrap();
    assert!(listed.is_empty() && listed.odd.is_empty());
}

#[tokio::test]
async fn a_list_that_is_none_or_has_no_end_is_an_error() {
    for body in ["{}", "[", "[7", "", "<html>", "[] []"] {
        let server = Server::start([answer(200, body)]).await;
        let error = server
            .client()
            .list_instances(&ListInstances::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Decode { op: "list", .. }),
            "{body}: {error}"
        );
    }
}

#[tokio::test]
async fn an_error_keeps_its_status_and_text_whatever_its_body() {
    let long = "é".repeat(100_000);
    for (status, body, code, message) in [
        (
            409,
            r#"{"code":"invalid_state","message":"no"}"#,
            "invalid_state",
            "no",
        ),
        (
            409,
            r#"{"code":"a","message":"b","details":[],"inner_error":{}}"#,
            "a",
            "b",
        ),
        // Not escaped, as the server's validator does it.
        (
            400,
            r#"{"code":"Bad Request","message":"bad "q""}"#,
            "Bad Request",
            r#"bad "q""#,
        ),
        (404, r#"{"code":"no message"}"#, "Not Found", "no message"),
        (404, r#"{"code":7,"message":null}"#, "Not Found", "null"),
        (502, "<html>Bad Gateway</html>", "Bad Gateway", "<html>"),
        (400, "", "Bad Request", ""),
        (599, "?", "", "?"),
        (302, "", "Found", ""),
        (400, &long, "Bad Request", "éé"),
    ] {
        let server = Server::start([answer(status, body)]).await;
        let error = server.client().stop_instance(&web()).await.unwrap_err();
        assert_eq!(
            (error.status(), error.code()),
            (Some(status), code),
            "{body}"
        );
        let Error::Api { message: text, .. } = &error else {
            panic!("{error}");
        };
        assert!(
            text.contains(message) && text.chars().count() <= 500,
            "{text}"
        );
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    // Less than it announced, and no UTF-8.
    let cut = b"HTTP/1.1 409 Conflict\r\ncontent-length: 99\r\n\r\nhalf \xff".to_vec();
    let server = Server::start([Reply::Raw(cut)]).await;
    let error = server.client().stop_instance(&web()).await.unwrap_err();
    assert!(matches!(error, Error::Api { message, .. } if message.starts_with("half")));
}

#[tokio::test]
async fn a_missing_instance_and_a_missing_operation_are_told_apart() {
    let not_found = r#"{"code":"not_found","message":"resource not found"}"#;
    let no_route = r#"{"code":"Not Found","message":"no matching operation"}"#;
    let html = "<html>404 Not Found</html>";
    let (json, problem) = (
        "content-type: application/json; charset=utf-8\r\n",
        "content-type: application/problem+json\r\n",
    );
    let (page, text) = (
        "content-type: text/html\r\n",
        "content-type: text/plain\r\n",
    );
    let (instance, operation, neither) = ((true, false), (false, true), (false, false));
    for (status, lines, body, from_api, expected) in [
        (404, json, not_found, true, instance),
        (404, json, no_route, true, operation),
        (
            404,
            json,
            r#"{"code":"log_not_found","message":""}"#,
            true,
            neither,
        ),
        (404, json, r#"{"message":"not_found"}"#, false, neither),
        (
            404,
            json,
            r#"{"code":404,"message":"not_found"}"#,
            false,
            neither,
        ),
        (404, json, "", false, neither),
        (
            404,
            problem,
            r#"{"title":"Not Found","status":404}"#,
            false,
            neither,
        ),
        (404, page, not_found, false, neither),
        (404, page, html, false, neither),
        (404, text, "404 page not found\n", false, neither),
        (404, "", not_found, false, neither),
        (404, "", "", false, neither),
        (410, json, not_found, true, neither),
        (500, json, not_found, true, neither),
        (405, "", "", false, operation),
        (
            405,
            json,
            r#"{"code":"Method Not Allowed","message":""}"#,
            true,
            operation,
        ),
        (405, page, html, false, neither),
        (409, "", "", false, neither),
        (302, json, not_found, false, neither),
    ] {
        let server = Server::start([Reply::Odd(status, lines, body.to_owned())]).await;
        let error = server.client().restore_instance(&web()).await.unwrap_err();
        assert_eq!(error.is_from_api(), from_api, "{lines}{error}");
        let told = (error.is_not_found(), error.is_missing_operation());
        assert_eq!(told, expected, "{lines}{error}");
        let whose = error
            .to_string()
            .contains("something other than the Hypeman API");
        assert_eq!(whose, !from_api, "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_the_key_nowhere() {
    let elsewhere = Server::start([answer(200, INSTANCE)]).await;
    let location: &'static str = format!("location: http://{}/\r\n", elsewhere.address).leak();
    for status in [301, 302, 303, 307, 308] {
        let server = Server::start([Reply::Odd(status, location, String::new())]).await;
        let error = server.client().get_instance(&web()).await.unwrap_err();
        assert_eq!(
            (error.status(), error.is_from_api()),
            (Some(status), false),
            "{error}"
        );
        assert_eq!(server.requests().len(), 1);
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_repetition_waits_as_long_as_the_answer_asks_for() {
    let busy = |seconds: &str| {
        let lines: &'static str = format!("retry-after: {seconds}\r\n").leak();
        Reply::Odd(503, lines, String::new())
    };
    let server = Server::start([busy("0.4"), answer(200, INSTANCE)]).await;
    let began = Instant::now();
    server.client().get_instance(&web()).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
    // There is no time for so long a pause: the caller learns of it at once.
    let server = Server::start([busy("30"), answer(200, INSTANCE)]).await;
    let began = Instant::now();
    let error = server.client().get_instance(&web()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(server.requests().len(), 1);
    // A change is not repeated and tells all the same.
    let server = Server::start([busy("Tue, 31 Dec 2199 23:59:59 GMT")]).await;
    let error = server.client().restore_instance(&web()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
}

#[tokio::test]
async fn values_that_this_version_does_not_know_are_kept() {
    let body = INSTANCE.replace("Running", "Hibernating").replace(
        '{',
        r#"{"hypervisor":"hyperlight","health_status":{"status":"resting"},"#,
    );
    let server = Server::start([answer(200, &body)]).await;
    let instance = server.client().get_instance(&web()).await.unwrap();
    assert_eq!(
        instance.state,
        InstanceState::Other("Hibernating".to_owned())
    );
    assert_eq!(
        instance.hypervisor,
        Some(Hypervisor::Other("hyperlight".to_owned()))
    );
    assert_eq!(instance.health_status.unwrap().status.as_str(), "resting");
}

#[tokio::test]
async fn a_log_is_a_stream_without_a_deadline() {
    let mut begun = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
    begun.extend_from_slice(b": hello\n\ndata: \"a \\\"b\\\"\"\n\ndata: raw\n\nda");
    let server = Server::start([Reply::Begin(begun), answer(404, "")]).await;
    let brief = Duration::from_millis(200);
    let client = server.builder().timeout(brief).build().unwrap();
    let query = LogQuery {
        tail: Some(5),
        follow: true,
        source: LogSource::Vmm,
    };
    let mut lines = client.logs(&web(), query).await.unwrap();
    assert_eq!(lines.next().await.unwrap().as_deref(), Some("a \"b\""));
    assert_eq!(lines.next().await.unwrap().as_deref(), Some("raw"));
    let more = tokio::time::timeout(brief * 2, lines.next()).await;
    assert!(more.is_err(), "it goes on");
    assert_eq!(
        server.requests()[0].line,
        "GET /instances/web/logs?follow=true&source=vmm&tail=5"
    );
    let error = client.logs(&web(), LogQuery::default()).await.unwrap_err();
    assert_eq!(error.status(), Some(404));
}

// === What is sent ===

/// Makes a call of any answer, and gives the request that it made.
macro_rules! sent {
    (|$client:ident| $call:expr) => {{
        let server = Server::start([]).await;
        let $client = server.builder().max_repeats(0).build().unwrap();
        let error = $call.await.unwrap_err();
        assert_eq!(error.status(), Some(599), "{error}");
        let request = server.requests().remove(0);
        assert_eq!(request.authorization.as_deref(), Some("Bearer hunter2"));
        format!("{} {}", request.line, request.body)
            .trim_end()
            .to_owned()
    }};
}

#[tokio::test]
async fn each_request_says_what_it_accepts() {
    let server = Server::start([]).await;
    let client = server.builder().max_repeats(0).build().unwrap();
    client.get_instance(&web()).await.unwrap_err();
    client
        .list_instances(&ListInstances::default())
        .await
        .unwrap_err();
    client.restore_instance(&web()).await.unwrap_err();
    client.health().await.unwrap_err();
    client.delete_instance(&web()).await.unwrap_err();
    client.logs(&web(), LogQuery::default()).await.unwrap_err();
    let kinds: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.accept.unwrap())
        .collect();
    let json = "application/json";
    assert_eq!(kinds, [json, json, json, json, "*/*", "text/event-stream"]);
}

#[tokio::test]
async fn a_gpu_without_a_profile_is_not_sent_as_null() {
    let read: hypeman::wire::Gpu = serde_json::from_str(r#"{"profile":null}"#).unwrap();
    let request = CreateInstance {
        gpu: Some(read),
        ..CreateInstance::default()
    };
    let sent = sent!(|c| c.create_instance(&request));
    assert!(
        sent.contains(r#""gpu":{}"#) && !sent.contains("null"),
        "{sent}"
    );
}

#[tokio::test]
async fn a_deletion_says_whether_it_is_graceful_only_when_it_is_told() {
    let with = |graceful_shutdown| DeleteInstance { graceful_shutdown };
    let id = &web();
    for (line, wanted) in [
        (sent!(|c| c.delete_instance(id)), "DELETE /instances/web"),
        (
            sent!(|c| c.delete_instance_with(id, &with(None))),
            "DELETE /instances/web",
        ),
        (
            sent!(|c| c.delete_instance_with(id, &with(Some(false)))),
            "DELETE /instances/web?graceful_shutdown=false",
        ),
        (
            sent!(|c| c.delete_instance_with(id, &with(Some(true)))),
            "DELETE /instances/web?graceful_shutdown=true",
        ),
    ] {
        assert_eq!(line, wanted);
    }
}

#[tokio::test]
async fn each_operation_has_its_route_and_body() {
    let (id, v, s) = (&web(), &"v1".parse().unwrap(), &"s1".parse().unwrap());
    let tags = [("team".to_owned(), "core & co".to_owned())];
    let list = ListInstances {
        state: Some(InstanceState::Standby),
        tags: tags.clone().into(),
    };
    let snapshots = ListSnapshots {
        source_instance_id: Some("a".to_owned()),
        kind: Some(SnapshotKind::Stopped),
        name: Some("n".to_owned()),
        tags: tags.clone().into(),
    };
    let snapshot = CreateSnapshot {
        kind: SnapshotKind::Standby,
        name: None,
        tags: std::collections::BTreeMap::new(),
        compression: None,
    };
    let schedule = SetSnapshotSchedule {
        interval: "1h".parse().unwrap(),
        ..SetSnapshotSchedule::default()
    };
    let update = UpdateInstance {
        ttl: Some("0s".parse().unwrap()),
        ..UpdateInstance::default()
    };
    for (line, wanted) in [
        (sent!(|c| c.health()), "GET /health"),
        (sent!(|c| c.capabilities()), "GET /capabilities"),
        (
            sent!(|c| c.create_instance(&CreateInstance::default())),
            r#"POST /instances {"name":"","image":""}"#,
        ),
        (
            sent!(|c| c.list_instances(&list)),
            "GET /instances?state=Standby&tags%5Bteam%5D=core+%26+co",
        ),
        (
            sent!(|c| c.list_instances(&ListInstances::default())),
            "GET /instances",
        ),
        (
            sent!(|c| c.list_instance_summaries(&list)),
            "GET /instances?state=Standby&tags%5Bteam%5D=core+%26+co",
        ),
        (sent!(|c| c.get_instance(id)), "GET /instances/web"),
        (
            sent!(|c| c.update_instance(id, &update)),
            r#"PATCH /instances/web {"ttl":"0s"}"#,
        ),
        (
            sent!(|c| c.fork_instance(id, &ForkInstance::default())),
            r#"POST /instances/web/fork {"name":""}"#,
        ),
        (
            sent!(|c| c.restore_instance(id)),
            "POST /instances/web/restore",
        ),
        (
            sent!(|c| c.standby_instance(id, None)),
            "POST /instances/web/standby",
        ),
        (
            sent!(|c| c.standby_instance(id, Some(&StandbyRequest::default()))),
            "POST /instances/web/standby {}",
        ),
        (
            sent!(|c| c.start_instance(id, &StartRequest::default())),
            "POST /instances/web/start {}",
        ),
        (sent!(|c| c.stop_instance(id)), "POST /instances/web/stop"),
        (
            sent!(|c| c.stat_path(id, "/a b", true)),
            "GET /instances/web/stat?path=%2Fa+b&follow_links=true",
        ),
        (sent!(|c| c.instance_stats(id)), "GET /instances/web/stats"),
        (
            sent!(|c| c.auto_standby_status(id)),
            "GET /instances/web/auto-standby/status",
        ),
        (
            sent!(|c| c.auto_standby_hold(id)),
            "POST /instances/web/auto-standby/hold",
        ),
        (
            sent!(|c| c.attach_volume(id, v, &AttachVolume::default())),
            r#"POST /instances/web/volumes/v1 {"mount_path":""}"#,
        ),
        (
            sent!(|c| c.detach_volume(id, v)),
            "DELETE /instances/web/volumes/v1",
        ),
        (
            sent!(|c| c.create_snapshot(id, &snapshot)),
            r#"POST /instances/web/snapshots {"kind":"Standby"}"#,
        ),
        (
            sent!(|c| c.restore_snapshot(id, s, &RestoreSnapshot::default())),
            "POST /instances/web/snapshots/s1/restore {}",
        ),
        (
            sent!(|c| c.list_snapshots(&snapshots)),
            "GET /snapshots?source_instance_id=a&kind=Stopped&name=n&tags%5Bteam%5D=core+%26+co",
        ),
        (sent!(|c| c.get_snapshot(s)), "GET /snapshots/s1"),
        (sent!(|c| c.delete_snapshot(s)), "DELETE /snapshots/s1"),
        (
            sent!(|c| c.fork_snapshot(s, &ForkSnapshot::default())),
            r#"POST /snapshots/s1/fork {"name":""}"#,
        ),
        (
            sent!(|c| c.snapshot_schedule(id)),
            "GET /instances/web/snapshot-schedule",
        ),
        (
            sent!(|c| c.set_snapshot_schedule(id, &schedule)),
            r#"PUT /instances/web/snapshot-schedule {"interval":"1h0m0s","retention":{}}"#,
        ),
        (
            sent!(|c| c.delete_snapshot_schedule(id)),
            "DELETE /instances/web/snapshot-schedule",
        ),
        (
            sent!(|c| c.create_ingress(&CreateIngress::default())),
            r#"POST /ingresses {"name":""}"#,
        ),
        (
            sent!(|c| c.list_ingresses(&tags.clone().into())),
            "GET /ingresses?tags%5Bteam%5D=core+%26+co",
        ),
        (sent!(|c| c.get_ingress(id)), "GET /ingresses/web"),
        (sent!(|c| c.delete_ingress(id)), "DELETE /ingresses/web"),
    ] {
        assert_eq!(line, wanted);
    }
}

#[tokio::test]
async fn a_base_url_may_have_a_path() {
    for path in ["/api", "/api/"] {
        let server = Server::start([answer(200, "ok")]).await;
        let client = Client::builder(format!("http://{}{path}", server.address));
        client.build().unwrap().health().await.unwrap();
        let request = server.requests().remove(0);
        assert_eq!(request.line, "GET /api/health");
        assert_eq!(request.authorization, None);
    }
}

// === Making a client ===

#[test]
fn a_client_that_cannot_be_made_says_why() {
    for url in [
        "localhost:4973",
        "ftp://localhost",
        "http://joe:hunter2@localhost",
        "http://localhost?x=hunter2",
    ] {
        let builder = Client::builder(url);
        assert!(!format!("{builder:?}").contains("hunter2"), "{builder:?}");
        let error = builder.build().unwrap_err();
        assert!(matches!(error, BuildError::UrlParts), "{url}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = Client::builder("").build().unwrap_err();
    assert!(matches!(error, BuildError::Url(_)), "{error}");
    for key in ["", " \n", "hunter2\nmore"] {
        let error = Client::builder("http://localhost").api_key(key);
        let error = error.build().unwrap_err();
        assert!(matches!(error, BuildError::Key), "{key:?}: {error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    let config = Config {
        api_key_file: Some("/nowhere/key".into()),
        ..Config::default()
    };
    let error = Client::new(&config).unwrap_err();
    assert!(error.to_string().contains("/nowhere/key"), "{error}");
}

#[tokio::test]
async fn no_text_has_the_key_or_the_url_in_it() {
    fn texts(error: &dyn std::error::Error) -> String {
        let source = error.source().map(texts).unwrap_or_default();
        format!("{error} {error:?} {source}")
    }
    let replies = [Reply::Close, answer(500, ""), answer(200, "x"), Reply::Hang];
    let server = Server::start(replies).await;
    let builder = server.builder().change_timeout(Duration::from_millis(200));
    let client = builder.clone().build().unwrap();
    let printed = format!("{builder:?} {client:?}");
    assert!(!printed.contains("hunter2"), "{printed}");
    for _ in 0..4 {
        let error = client.restore_instance(&web()).await.unwrap_err();
        let text = texts(&error);
        for secret in ["hunter2", "127.0.0.1", "http://", "/restore"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let client = Client::builder(url).api_key("hunter2").build().unwrap();
    let text = texts(&client.restore_instance(&web()).await.unwrap_err());
    assert!(
        !text.contains("hunter2") && !text.contains("/restore"),
        "{text}"
    );
}
