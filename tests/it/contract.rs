//! The local control plane speaks the contract: to our own client, and by hand-written answers that
//! neither of the two has made. What others' clients say of it is in `clients.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Plane, Wanted, eventually, reference};
use hypeman::GoDuration;
use hypeman::wire::{
    AttachVolume, AutoStandbyPolicy, CreateIngress, CreateInstance, CreateSnapshot, ForkInstance,
    Hypervisor, IngressMatch, IngressRule, IngressTarget, Instance, InstanceState, ListInstances,
    RestoreSnapshot, Retention, SetSnapshotSchedule, SnapshotKind, StartRequest, UpdateInstance,
};
use hypeman::{Error as ControlPlaneError, LogQuery, LogSource};

#[tokio::test(flavor = "multi_thread")]
async fn our_client_drives_every_operation() {
    let plane = Plane::start().await;
    let client = &plane.client;
    client.health().await.unwrap();
    let instance = plane
        .listening(Wanted::hello("all-ops").idle(Duration::from_secs(90)))
        .await;
    let id = reference(&instance.id);

    let filter = ListInstances {
        state: Some(InstanceState::Running),
        ..ListInstances::default()
    };
    assert_eq!(client.list_instances(&filter).await.unwrap().len(), 1);
    let status = client.auto_standby_status(&id).await.unwrap();
    assert!(status.eligible && status.idle_timeout == Some("1m30s".parse().unwrap()));
    assert!(
        client
            .auto_standby_hold(&id)
            .await
            .unwrap()
            .hold_until
            .is_some()
    );
    assert!(client.instance_stats(&id).await.unwrap().memory_rss_bytes > 0);
    assert!(client.stat_path(&id, "/", false).await.unwrap().is_dir);
    assert!(!client.stat_path(&id, "/nope", true).await.unwrap().exists);

    let asleep = client.standby_instance(&id, None).await.unwrap();
    assert_eq!(asleep.state, InstanceState::Standby);
    let held = client.auto_standby_hold(&id).await.unwrap_err();
    assert_eq!(
        (held.status(), held.code()),
        (Some(409), "instance_in_standby")
    );
    let waited = client
        .wait_instance(&id, &InstanceState::Running, Duration::from_secs(9))
        .await
        .unwrap();
    assert_eq!(
        (waited.state, waited.timed_out),
        (InstanceState::Standby, false)
    );
    assert_eq!(
        client.restore_instance(&id).await.unwrap().state,
        InstanceState::Running
    );
    let policy = AutoStandbyPolicy::default();
    let change = UpdateInstance {
        auto_standby: Some(policy),
        ..UpdateInstance::default()
    };
    let updated = client.update_instance(&id, &change).await.unwrap();
    assert!(!updated.auto_standby.unwrap().enabled);

    let refused = client
        .start_instance(
            &id,
            &StartRequest {
                cmd: Some(vec![]),
                entrypoint: None,
            },
        )
        .await;
    assert_eq!(refused.unwrap_err().code(), "invalid_state");
    assert_eq!(
        client.stop_instance(&id).await.unwrap().state,
        InstanceState::Stopped
    );
    let restore = client.restore_instance(&id).await.unwrap_err();
    assert!(
        restore
            .to_string()
            .contains("cannot restore from state Stopped"),
        "{restore}"
    );
    let fork = ForkInstance {
        name: "all-ops-2".to_owned(),
        from_running: false,
        target_state: None,
    };
    let copy = client.fork_instance(&id, &fork).await.unwrap();
    assert_eq!(
        client.fork_instance(&id, &fork).await.unwrap_err().code(),
        "name_conflict"
    );
    assert_eq!(
        client
            .start_instance(&id, &StartRequest::default())
            .await
            .unwrap()
            .state,
        InstanceState::Running
    );

    let snapshot = CreateSnapshot {
        kind: SnapshotKind::Standby,
        name: None,
        tags: BTreeMap::new(),
        compression: None,
    };
    assert_eq!(
        client
            .create_snapshot(&id, &snapshot)
            .await
            .unwrap_err()
            .status(),
        Some(501)
    );
    let missing = client
        .restore_snapshot(&id, &reference("zzz"), &RestoreSnapshot::default())
        .await;
    assert_eq!(missing.unwrap_err().code(), "not_found");
    let schedule = SetSnapshotSchedule {
        interval: "1h".parse().unwrap(),
        retention: Retention {
            max_count: Some(3),
            ..Retention::default()
        },
        ..SetSnapshotSchedule::default()
    };
    assert_eq!(
        client
            .set_snapshot_schedule(&id, &schedule)
            .await
            .unwrap()
            .interval,
        "1h0m0s".parse().unwrap()
    );
    assert_eq!(
        client
            .snapshot_schedule(&id)
            .await
            .unwrap()
            .retention
            .max_count,
        Some(3)
    );
    client.delete_snapshot_schedule(&id).await.unwrap();
    assert_eq!(
        client.snapshot_schedule(&id).await.unwrap_err().code(),
        "not_found"
    );
    let volume = AttachVolume {
        mount_path: "/data".to_owned(),
        readonly: None,
    };
    assert_eq!(
        client
            .attach_volume(&id, &reference("v1"), &volume)
            .await
            .unwrap_err()
            .code(),
        "not_implemented"
    );
    assert_eq!(
        client
            .detach_volume(&id, &reference("v1"))
            .await
            .unwrap_err()
            .code(),
        "not_implemented"
    );

    let rule = IngressRule {
        matches: IngressMatch {
            hostname: "{app}.example.com".to_owned(),
            ..IngressMatch::default()
        },
        target: IngressTarget {
            instance: "{app}".to_owned(),
            port: 8080,
            ..IngressTarget::default()
        },
        ..IngressRule::default()
    };
    let wanted = CreateIngress {
        name: "web".to_owned(),
        tags: BTreeMap::new(),
        rules: vec![rule],
        ..CreateIngress::default()
    };
    let ingress = client.create_ingress(&wanted).await.unwrap();
    assert_eq!(
        client.create_ingress(&wanted).await.unwrap_err().code(),
        "already_exists"
    );
    assert_eq!(
        client.list_ingresses(&BTreeMap::new()).await.unwrap().len(),
        1
    );
    assert_eq!(
        client.get_ingress(&reference("web")).await.unwrap().rules[0]
            .matches
            .port,
        Some(80)
    );
    client
        .delete_ingress(&reference(&ingress.id))
        .await
        .unwrap();

    client.delete_instance(&reference(&copy.id)).await.unwrap();
    client.delete_instance(&id).await.unwrap();
    assert!(client.get_instance(&id).await.unwrap_err().is_not_found());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_line_by_line() {
    let plane = Plane::start().await;
    let command = "i=0; while true; do echo \"line \\\"$i\\\"\"; i=$((i+1)); sleep 0.05; done";
    let request = CreateInstance {
        name: "talker".to_owned(),
        image: "local/exec".to_owned(),
        entrypoint: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
        cmd: Some(vec![command.to_owned()]),
        ..CreateInstance::default()
    };
    let id = reference(&plane.client.create_instance(&request).await.unwrap().id);
    let query = LogQuery {
        tail: Some(1000),
        follow: true,
        source: LogSource::App,
    };
    eventually("it talks", async || {
        plane.client.logs(&id, query).await.is_ok()
    })
    .await;
    let mut lines = plane.client.logs(&id, query).await.unwrap();
    for index in 0..10 {
        assert_eq!(
            lines.next().await.unwrap(),
            Some(format!("line \"{index}\""))
        );
    }
    // So that its log does not grow while it is read.
    plane.sleep(id.as_str()).await;
    let last = LogQuery {
        tail: Some(2),
        ..LogQuery::default()
    };
    let mut tail = plane.client.logs(&id, last).await.unwrap();
    let (first, second) = (tail.next().await.unwrap(), tail.next().await.unwrap());
    assert!(first.is_some() && second.is_some() && tail.next().await.unwrap().is_none());
    let vmm = LogQuery {
        source: LogSource::Vmm,
        ..LogQuery::default()
    };
    assert_eq!(
        plane.client.logs(&id, vmm).await.unwrap_err().code(),
        "log_not_found"
    );
    plane.client.delete_instance(&id).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_leaves_its_exit_code() {
    let plane = Plane::start().await;
    let request = CreateInstance {
        name: "brief".to_owned(),
        image: "local/exec".to_owned(),
        cmd: Some(["/bin/sh", "-c", "exit 7"].map(str::to_owned).to_vec()),
        ..CreateInstance::default()
    };
    let id = reference(&plane.client.create_instance(&request).await.unwrap().id);
    eventually("it has ended", async || {
        plane.client.get_instance(&id).await.unwrap().state == InstanceState::Stopped
    })
    .await;
    assert_eq!(
        plane.client.get_instance(&id).await.unwrap().exit_code,
        Some(7)
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_standby_counts_real_connections_and_honours_ignore_lists() {
    let plane = Plane::start().await;
    let idle = Duration::from_millis(400);
    let wanted = Wanted::hello("counted").idle(Duration::from_secs(60));
    let instance = plane.listening(wanted).await;
    let ip = instance.network.unwrap().ip.unwrap();
    let connection = TcpStream::connect((ip.as_str(), 8080)).await.unwrap();
    let id = reference(&instance.id);
    eventually("the connection is seen", async || {
        plane
            .client
            .auto_standby_status(&id)
            .await
            .unwrap()
            .active_inbound_connections
            == 1
    })
    .await;
    let policy = AutoStandbyPolicy {
        enabled: true,
        idle_timeout: Some(GoDuration::from(idle)),
        ..AutoStandbyPolicy::default()
    };
    let ignoring = AutoStandbyPolicy {
        ignore_source_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        ..policy.clone()
    };
    let change = async |policy: AutoStandbyPolicy| {
        let change = UpdateInstance {
            auto_standby: Some(policy),
            ..UpdateInstance::default()
        };
        plane.client.update_instance(&id, &change).await.unwrap();
    };
    change(policy).await;
    tokio::time::sleep(idle * 3).await;
    assert_eq!(plane.state(&instance.id).await, InstanceState::Running);
    change(ignoring).await;
    eventually("ignored, it keeps nobody awake", async || {
        plane.state(&instance.id).await == InstanceState::Standby
    })
    .await;
    // Asleep, its address is closed and the open connection was cut.
    assert!(TcpStream::connect((ip.as_str(), 8080)).await.is_err());
    connection.readable().await.unwrap();
    assert!(!matches!(connection.try_read(&mut [0; 8]), Ok(length) if length > 0));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_speak_the_contracts_two_dialects() {
    let plane = Plane::start().await;
    plane.running(Wanted::hello("taken")).await;
    let http = reqwest::Client::new();
    let token = format!("Bearer {}", plane.token);
    for (method, path, auth, body, status, code) in [
        (
            "GET",
            "/instances/nope",
            Some(token.as_str()),
            "",
            404,
            "not_found",
        ),
        (
            "GET",
            "/instances?state=asleep",
            Some(&token),
            "",
            400,
            "Bad Request",
        ),
        ("GET", "/instances/taken", None, "", 401, "Unauthorized"),
        // Which operation that is, is looked at before who asks.
        ("GET", "/nowhere", None, "", 404, "Not Found"),
        (
            "PUT",
            "/instances/taken",
            None,
            "",
            405,
            "Method Not Allowed",
        ),
        (
            "GET",
            "/instances/taken",
            Some("Bearer wrong"),
            "",
            401,
            "Unauthorized",
        ),
        (
            "POST",
            "/instances/taken/auto-standby/reset",
            Some(&token),
            "",
            404,
            "Not Found",
        ),
        (
            "PUT",
            "/instances/taken",
            Some(&token),
            "",
            405,
            "Method Not Allowed",
        ),
        (
            "PATCH",
            "/instances/taken",
            Some(&token),
            "{}",
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/instances",
            Some(&token),
            "{\"name\":\"a\",\"image\":\"wakegate/hello\",\"size\":\"1.5GB\"}",
            400,
            "invalid_size",
        ),
        (
            "POST",
            "/instances",
            Some(&token),
            "{\"name\":\"taken\",\"image\":\"wakegate/hello\"}",
            400,
            "name_conflict",
        ),
        (
            "POST",
            "/instances",
            Some(&token),
            "{\"name\":\"a\",\"image\":\"unknown\"}",
            404,
            "not_found",
        ),
        (
            "POST",
            "/instances",
            Some(&token),
            "{\"name\":\"a\",\"image\":\"wakegate/hello\",\"auto_standby\":{\"enabled\":true}}",
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/instances/taken/start",
            Some(&token),
            "[]",
            400,
            "Bad Request",
        ),
        (
            "GET",
            "/instances/taken/wait?state=Unknown",
            Some(&token),
            "",
            400,
            "invalid_state",
        ),
        (
            "GET",
            "/instances/taken/wait?state=Running&timeout=-1s",
            Some(&token),
            "",
            400,
            "invalid_timeout",
        ),
        (
            "POST",
            "/ingresses",
            Some(&token),
            "{\"name\":\"i\",\"rules\":[]}",
            400,
            "bad_request",
        ),
    ] {
        let url = format!("http://{}{path}", plane.address);
        let mut request = http.request(method.parse().unwrap(), url).body(body);
        if let Some(auth) = auth {
            request = request.header("authorization", auth);
        }
        let answer = request.send().await.unwrap();
        let got = answer.status().as_u16();
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(
            (got, problem["code"].as_str()),
            (status, Some(code)),
            "{method} {path}: {problem}"
        );
    }
    plane.stop().await;
}

/// Written out by hand after the contract, for servers newer and older than ours.
#[test]
fn unknown_fields_states_and_hypervisors_survive() {
    let text = r#"{"id":"tz4a98xxat96iws9zmbrgj3a","name":"a","image":"i","state":"Hibernating",
        "created_at":"2026-11-20T09:14:02.118245+01:00","hypervisor":"hyperlight","expires_at":null,
        "env":{"KEY":"hunter2"},"tags":null,"volumes":null,"novelty":{"x":[1]},
        "health_status":{"status":"resting"},"auto_standby":{"enabled":true,"idle_timeout":"5m0s"}}"#;
    let instance: Instance = serde_json::from_str(text).unwrap();
    assert_eq!(
        instance.state,
        InstanceState::Other("Hibernating".to_owned())
    );
    assert_eq!(
        instance.hypervisor,
        Some(Hypervisor::Other("hyperlight".to_owned()))
    );
    assert_eq!(instance.other["novelty"]["x"][0], 1);
    assert!(!format!("{instance:?}").contains("hunter2"));
    let again: Instance = serde_json::from_str(&serde_json::to_string(&instance).unwrap()).unwrap();
    assert_eq!(again, instance);
    let oldest = r#"{"id":"a","name":"a","state":"Standby"}"#;
    serde_json::from_str::<Instance>(oldest).unwrap();
}

#[tokio::test]
async fn an_error_body_that_is_not_json_keeps_its_status_and_text() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = crate::support::client_of(server.local_addr().unwrap(), "t");
    let served = crate::support::spawn(async move {
        let mut calls = 0;
        while let Ok((mut stream, _)) = server.accept().await {
            let mut head = [0; 4096];
            let _read = stream.read(&mut head).await.unwrap();
            let body = r#"{"code":"Conflict","message":"bad "quotes""}"#;
            let answer = format!(
                "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            calls += 1;
            if calls == 2 {
                break;
            }
        }
        calls
    });
    let error = client.get_instance(&reference("a")).await.unwrap_err();
    assert!(
        matches!(&error, ControlPlaneError::Api { status: 409, message, .. } if message.contains("bad \"quotes\""))
    );
    assert!(!error.is_retryable(), "a 409 is never repeated");
    let error = client.restore_instance(&reference("a")).await.unwrap_err();
    assert_eq!((error.code(), error.is_from_api()), ("Conflict", true));
    assert_eq!(served.await.unwrap(), 2, "one call each");
}

/// Many clients send a request's head and body apart, and the next request at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_depend_on_the_body_costs_no_connection() {
    let plane = Plane::start().await;
    let id = plane.running(Wanted::hello("app")).await.id;
    let mut connection = TcpStream::connect(plane.address).await.unwrap();
    connection.set_nodelay(true).unwrap();
    let token = &plane.token;
    let head = format!(
        "DELETE /instances/{id}/volumes/v1 HTTP/1.1\r\nhost: plane\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 22\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // As long as it takes a server that does not wait for the body to answer.
    let early = timeout(Duration::from_millis(300), connection.readable()).await;
    assert!(early.is_err(), "it answered before the request was whole");
    connection
        .write_all(b"{\"mount_path\":\"/data\"}")
        .await
        .unwrap();
    assert!(answer(&mut connection).await.starts_with("HTTP/1.1 500 "));
    let next = b"GET /health HTTP/1.1\r\nhost: plane\r\n\r\n";
    connection.write_all(next).await.unwrap();
    assert!(answer(&mut connection).await.starts_with("HTTP/1.1 200 "));
    plane.stop().await;
}

/// A head, with what of the body comes with it.
async fn answer(connection: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let length = connection.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}
