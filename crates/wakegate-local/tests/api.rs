//! What the API takes it does, what it does not do it refuses, and who may ask.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests"
)]

use serde_json::{Value, json};

mod plane;
use plane::Plane;

/// An instance that costs nothing, with more that is asked for.
fn wanted(name: &str, more: &Value) -> Value {
    let mut instance = json!({
        "name": name, "image": "local/exec", "cmd": ["/bin/sleep", "1000"],
        "network": { "enabled": false },
    });
    let fields = instance.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    instance
}

/// The platform of this machine, and another one.
fn platforms() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("linux/arm64", "linux/amd64"),
        _ => ("linux/amd64", "linux/arm64"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_cannot_have_is_refused_with_the_contracts_code() {
    let plane = Plane::start().await;
    let (_, foreign) = platforms();
    let policy = |policy: Value| json!({ "snapshot_policy": policy });
    let network = |network: Value| json!({ "network": network });
    for (more, status, code) in [
        (json!({ "hypervisor": "nonsense" }), 400, "Bad Request"),
        (
            json!({ "hypervisor": "firecracker" }),
            400,
            "invalid_request",
        ),
        (
            json!({ "platform": "windows/amd64" }),
            400,
            "invalid_platform",
        ),
        (
            json!({ "platform": "linux/riscv64" }),
            400,
            "invalid_platform",
        ),
        (json!({ "platform": "linux" }), 400, "invalid_platform"),
        (
            json!({ "platform": "linux/amd64/" }),
            400,
            "invalid_platform",
        ),
        (
            json!({ "platform": foreign }),
            404,
            "platform_not_available",
        ),
        (
            network(json!({ "bandwidth_download": "very fast" })),
            400,
            "invalid_bandwidth_download",
        ),
        (
            network(json!({ "bandwidth_upload": "1 parsec" })),
            400,
            "invalid_bandwidth_upload",
        ),
        (
            network(json!({ "bandwidth_upload": "1Gbps" })),
            400,
            "invalid_request",
        ),
        (
            network(json!({ "egress": { "enforcement": { "mode": "nonsense" } } })),
            400,
            "Bad Request",
        ),
        (
            network(json!({ "egress": { "enabled": true } })),
            400,
            "invalid_request",
        ),
        (policy(json!([1])), 400, "Bad Request"),
        (policy(json!(5)), 400, "Bad Request"),
        (
            policy(json!({ "compression": { "enabled": true, "algorithm": "rar" } })),
            400,
            "invalid_snapshot_policy",
        ),
        (
            policy(json!({ "compression": { "enabled": true, "level": 99 } })),
            400,
            "invalid_snapshot_policy",
        ),
        (
            policy(json!({ "standby_compression_delay": "soon" })),
            400,
            "invalid_snapshot_policy",
        ),
        (
            json!({ "disk_io_bps": "100MB/s/s" }),
            400,
            "invalid_disk_io_bps",
        ),
        (json!({ "disk_io_bps": "100MB/s" }), 400, "invalid_request"),
        (json!({ "devices": ["gpu0"] }), 400, "invalid_request"),
        (
            json!({ "gpu": { "profile": "L40S-1Q" } }),
            400,
            "invalid_request",
        ),
        (
            json!({ "volumes": [{ "volume_id": "v", "mount_path": "/d" }] }),
            400,
            "invalid_request",
        ),
        (
            json!({ "credentials": { "A": { "source": { "env": "B" }, "inject": [] } } }),
            400,
            "invalid_request",
        ),
        (
            json!({ "skip_guest_agent": true, "health_check": { "exec": { "command": ["true"] } } }),
            400,
            "invalid_health_check",
        ),
        (json!({ "skip_guest_agent": "yes" }), 400, "Bad Request"),
        (json!({ "skip_kernel_headers": 1 }), 400, "Bad Request"),
        (json!({ "env": { "A=B": "c" } }), 400, "invalid_request"),
        (json!({ "env": { "": "c" } }), 400, "invalid_request"),
        (
            json!({ "cmd": ["/bin/sleep", "1\u{0}"] }),
            400,
            "invalid_request",
        ),
        (json!({ "cmd": [] }), 400, "invalid_request"),
        (json!({ "size": "15EB" }), 400, "invalid_size"),
        (
            json!({ "size": "5EB", "hotplug_size": "5EB" }),
            400,
            "invalid_hotplug_size",
        ),
        (
            json!({ "overlay_size": "9EB" }),
            400,
            "invalid_overlay_size",
        ),
    ] {
        let body = wanted("refused", &more);
        let (got, answer) = plane.call("POST", "/instances", Some(body)).await;
        assert_eq!(
            (got, &answer["code"]),
            (status, &json!(code)),
            "{more}: {answer}"
        );
        assert!(answer["message"].is_string(), "{more}: {answer}");
    }
    let (_, all) = plane.call("GET", "/instances", None).await;
    assert_eq!(all, json!([]), "nothing was made");
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_can_have_is_done_and_shown() {
    let plane = Plane::start().await;
    let (own, _) = platforms();
    let more = json!({
        "platform": own, "hypervisor": "", "skip_guest_agent": true, "skip_kernel_headers": true,
        "size": "0", "hotplug_size": "", "disk_io_bps": "", "devices": [], "volumes": [],
        "network": {
            "enabled": true, "bandwidth_download": "",
            "egress": { "enabled": false, "enforcement": { "mode": "http_https_only" } },
        },
        "snapshot_policy": {
            "compression": { "enabled": true }, "standby_compression_delay": "90s",
        },
    });
    plane.create(wanted("whole", &more)).await;
    plane.until("whole", |i| i["state"] == "Running").await;
    let instance = plane.get("whole").await;
    assert_eq!(instance["platform"], own);
    assert_eq!(instance["size"], "1024.0 MB", "zero is the default");
    assert_eq!(instance["hotplug_size"], "0 B", "as upstream prints it");
    let policy = json!({
        "compression": { "enabled": true, "algorithm": "zstd", "level": 1 },
        "standby_compression_delay": "1m30s",
    });
    assert_eq!(instance["snapshot_policy"], policy);

    // Nobody looks into it.
    let (status, answer) = plane
        .call("GET", "/instances/whole/stat?path=/", None)
        .await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("invalid_state")),
        "{answer}"
    );
    let check = json!({ "health_check": { "exec": { "command": ["true"] } } });
    let (status, answer) = plane.call("PATCH", "/instances/whole", Some(check)).await;
    assert_eq!(
        (status, &answer["code"]),
        (400, &json!("invalid_health_check")),
        "{answer}"
    );
    let check = json!({ "health_check": { "tcp": { "port": 8080 } } });
    let (status, answer) = plane.call("PATCH", "/instances/whole", Some(check)).await;
    assert_eq!(status, 200, "{answer}");
    // A copy is as its source.
    plane.call("POST", "/instances/whole/stop", None).await;
    let copy = json!({ "name": "copy", "target_state": "Running" });
    let (status, answer) = plane
        .call("POST", "/instances/whole/fork", Some(copy))
        .await;
    assert_eq!(status, 201, "{answer}");
    let (status, _) = plane.call("GET", "/instances/copy/stat?path=/", None).await;
    assert_eq!(status, 409);
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_makes_no_sense_is_refused_and_changes_nothing() {
    let plane = Plane::start().await;
    plane.create(wanted("kept", &json!({}))).await;
    let path = "/instances/kept/snapshot-schedule";
    let (_, missing) = plane.call("GET", path, None).await;
    assert_eq!(missing["code"], "not_found");
    let good = json!({ "interval": "1h", "retention": { "max_count": 2, "max_age": "48h" } });
    let (status, before) = plane.call("PUT", path, Some(good)).await;
    assert_eq!(status, 200, "{before}");
    assert_eq!(
        before["retention"],
        json!({ "max_count": 2, "max_age": "48h0m0s" })
    );
    let one = json!({ "max_count": 1 });
    for (schedule, code) in [
        (
            json!({ "interval": "59s", "retention": one }),
            "invalid_request",
        ),
        (
            json!({ "interval": "-1h", "retention": one }),
            "invalid_request",
        ),
        (
            json!({ "interval": "hourly", "retention": one }),
            "invalid_request",
        ),
        (
            json!({ "interval": "1h", "retention": {} }),
            "invalid_request",
        ),
        (
            json!({ "interval": "1h", "retention": { "max_count": 0 } }),
            "invalid_request",
        ),
        (
            json!({ "interval": "1h", "retention": { "max_age": "-1h" } }),
            "invalid_request",
        ),
        (
            json!({ "interval": "1h", "retention": one, "name_prefix": "Bad_!" }),
            "invalid_request",
        ),
        (
            json!({ "interval": "1h", "retention": one, "metadata": { "": "x" } }),
            "invalid_request",
        ),
        (json!({ "interval": "1h" }), "Bad Request"),
        (json!({ "interval": 3600, "retention": one }), "Bad Request"),
    ] {
        let (status, answer) = plane.call("PUT", path, Some(schedule.clone())).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!(code)),
            "{schedule}: {answer}"
        );
    }
    let (_, after) = plane.call("GET", path, None).await;
    assert_eq!(after, before);
    assert_eq!(plane.call("DELETE", path, None).await.0, 204);
    assert_eq!(plane.call("DELETE", path, None).await.0, 404);
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_needs_may_be_left_out_and_one_that_is_sent_is_looked_at() {
    let plane = Plane::start().await;
    plane.create(wanted("plain", &json!({}))).await;
    plane.until("plain", |i| i["state"] == "Running").await;
    let (status, answer) = plane.call("POST", "/instances/plain/start", None).await;
    assert_eq!(
        (status, &answer["state"]),
        (200, &json!("Running")),
        "a no-op"
    );
    let (status, _) = plane.call("POST", "/instances/plain/stop", None).await;
    assert_eq!(status, 200);
    // A start that could not succeed changes nothing for the next one.
    for cmd in [json!([]), json!(["/bin/sleep", "1\u{0}"])] {
        let nothing = json!({ "cmd": cmd });
        let (status, answer) = plane
            .call("POST", "/instances/plain/start", Some(nothing))
            .await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid_request")),
            "{answer}"
        );
    }
    let (status, answer) = plane.call("POST", "/instances/plain/start", None).await;
    assert_eq!((status, &answer["state"]), (200, &json!("Running")));
    let restore = "/instances/plain/snapshots/none/restore";
    assert_eq!(plane.call("POST", restore, None).await.0, 404, "not 400");
    let timeout = "/instances/plain/wait?state=Running&timeout=";
    assert_eq!(plane.call("GET", timeout, None).await.0, 200, "the default");

    let volume = "/instances/plain/volumes/v1";
    for (body, status, code) in [
        (json!({ "mount_path": "/data" }), 500, "not_implemented"),
        (json!({}), 400, "Bad Request"),
        (json!({ "mount_path": 5 }), 400, "Bad Request"),
        (
            json!({ "mount_path": "/data", "readonly": "no" }),
            400,
            "Bad Request",
        ),
    ] {
        let (got, answer) = plane.call("POST", volume, Some(body.clone())).await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{body}");
    }
    let compressed = json!({ "kind": "Stopped", "compression": { "enabled": true } });
    let (status, answer) = plane
        .call("POST", "/instances/plain/snapshots", Some(compressed))
        .await;
    assert_eq!(
        (status, &answer["code"]),
        (400, &json!("invalid_request")),
        "{answer}"
    );
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_the_apis_form_whoever_has_found_it() {
    let plane = Plane::start().await;
    plane.create(wanted("plain", &json!({}))).await;
    let long = json!({ "name": "x".repeat(3 << 20) });
    for (method, path, body, status, code) in [
        ("POST", "/instances", Some(&long), 413, "Payload Too Large"),
        (
            "PUT",
            "/_test/faults",
            Some(&long),
            413,
            "Payload Too Large",
        ),
        ("GET", "/instances/%ff", None, 400, "Bad Request"),
        ("POST", "/snapshots/%ff/fork", None, 400, "Bad Request"),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("PUT", "/instances/plain", None, 405, "Method Not Allowed"),
        ("PUT", "/_test/faults", Some(&json!([])), 400, "Bad Request"),
        (
            "PUT",
            "/_test/faults",
            Some(&json!({ "novel_percent": 1 })),
            400,
            "Bad Request",
        ),
        ("PUT", "/_test/faults", None, 400, "Bad Request"),
        ("POST", "/instances", Some(&json!([])), 400, "Bad Request"),
        ("POST", "/instances", None, 400, "Bad Request"),
    ] {
        let (got, answer) = plane.call(method, path, body.cloned()).await;
        assert_eq!(
            (got, &answer["code"]),
            (status, &json!(code)),
            "{method} {path}: {answer}"
        );
        let message = answer["message"].as_str().unwrap();
        assert!(!message.is_empty(), "{method} {path}");
    }
    let url = format!("{}/instances/plain", plane.url);
    let answer = plane.http.put(url).send().await.unwrap();
    assert!(
        answer.headers().contains_key("allow"),
        "what else was said stays"
    );
    plane.end().await;
}

/// A call with these fields; its status.
async fn send(plane: &Plane, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> u16 {
    let url = format!("{}{path}", plane.url);
    let mut call = plane.http.request(method.parse().unwrap(), url);
    for (name, value) in fields {
        call = call.header(*name, *value);
    }
    let answer = call.body(body.to_owned()).send().await.unwrap();
    let status = answer.status().as_u16();
    if status >= 400 {
        let problem: Value = answer.json().await.unwrap();
        assert!(
            problem["code"].is_string() && problem["message"].is_string(),
            "{problem}"
        );
    }
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_no_web_page_runs_or_reads_anything() {
    let plane = Plane::start().await;
    let body = wanted("ran", &json!({})).to_string();
    let json = ("content-type", "application/json");
    // What a page can send without being asked first, and what it can when its host name was
    // pointed here.
    for (fields, status) in [
        (vec![("content-type", "text/plain")], 415),
        (
            vec![("content-type", "application/x-www-form-urlencoded")],
            415,
        ),
        (vec![], 415),
        (vec![json, ("origin", "http://evil.example")], 403),
        (vec![json, ("origin", "null")], 403),
        (vec![json, ("origin", "http://localhost:3000")], 403),
        (vec![json, ("sec-fetch-site", "cross-site")], 403),
        (vec![json, ("host", "evil.example")], 403),
        (
            vec![
                json,
                ("host", "evil.example"),
                ("origin", "http://evil.example"),
            ],
            403,
        ),
    ] {
        let got = send(&plane, "POST", "/instances", &fields, &body).await;
        assert_eq!(got, status, "{fields:?}");
    }
    let rebound = [("host", "evil.example:4973")];
    for path in [
        "/instances",
        "/capabilities",
        "/snapshots",
        "/health",
        "/_test/faults",
    ] {
        assert_eq!(send(&plane, "GET", path, &rebound, "").await, 403, "{path}");
    }
    let (_, all) = plane.call("GET", "/instances", None).await;
    assert_eq!(all, json!([]), "nothing ran");

    let (_, document) = plane.call("GET", "/openapi.json", None).await;
    assert_eq!(
        document["security"],
        json!([]),
        "none is needed, says the document"
    );

    // A program of this machine.
    assert_eq!(
        send(&plane, "POST", "/instances", &[json], &body).await,
        201
    );
    let form = [("origin", "http://evil.example")];
    assert_eq!(
        send(&plane, "POST", "/instances/ran/stop", &form, "").await,
        403
    );
    assert_eq!(plane.get("ran").await["state"], "Running");
    let local = [("host", "localhost:4973")];
    assert_eq!(
        send(&plane, "POST", "/instances/ran/stop", &local, "").await,
        200
    );
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_every_operation_that_may_find_no_room_on_the_disk() {
    let plane = Plane::start().await;
    let (_, document) = plane.call("GET", "/openapi.json", None).await;
    let one = "/instances/{id}";
    for (path, method) in [
        ("/instances".to_owned(), "post"),
        (one.to_owned(), "patch"),
        (one.to_owned(), "delete"),
        (format!("{one}/standby"), "post"),
        (format!("{one}/restore"), "post"),
        (format!("{one}/start"), "post"),
        (format!("{one}/stop"), "post"),
        (format!("{one}/fork"), "post"),
        (format!("{one}/snapshots"), "post"),
        (format!("{one}/snapshots/{{snapshotId}}/restore"), "post"),
        (format!("{one}/snapshot-schedule"), "put"),
        (format!("{one}/snapshot-schedule"), "delete"),
        ("/snapshots/{snapshotId}".to_owned(), "delete"),
        ("/snapshots/{snapshotId}/fork".to_owned(), "post"),
        ("/ingresses".to_owned(), "post"),
    ] {
        let answer = &document["paths"][&path][method]["responses"]["507"]["$ref"];
        let place = answer.as_str().and_then(|place| place.strip_prefix('#'));
        let answer = place.and_then(|place| document.pointer(place));
        assert!(answer.is_some(), "{method} {path}");
    }
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_an_end_comes_in_parts_and_the_log_ends_where_it_did() {
    let plane = Plane::start().await;
    // A letter, 200,000 of two bytes, the end of the line, and a line that has none.
    let script = "printf x; head -c 200000 /dev/zero | tr '\\0' e | sed 's/e/\u{e9}/g'; \
                  printf '\\nhalf'; exec sleep 1000";
    let cmd = json!({ "cmd": ["/bin/sh", "-c", script], "env": { "LC_ALL": "C" } });
    plane.create(wanted("wordy", &cmd)).await;
    let id = plane.get("wordy").await["id"].as_str().unwrap().to_owned();
    let url = format!("{}/instances/{id}/logs", plane.url);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let lines: Vec<String> = loop {
        let text = plane.http.get(&url).send().await.unwrap();
        let text = text.text().await.unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let lines: Vec<String> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        if lines.last().is_some_and(|last| last == "half") {
            break lines;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", lines.len());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let (_, long) = lines.split_last().unwrap();
    assert_eq!(long.len(), 7, "400,001 bytes, 64 KiB at most at once");
    assert!(long.iter().all(|part| part.len() <= 64 * 1024));
    assert_eq!(long.concat(), format!("x{}", "\u{e9}".repeat(200_000)));
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_with_the_rule_that_it_breaks() {
    let plane = Plane::start().await;
    plane.create(wanted("plain", &json!({}))).await;
    let rule = |instance: &str| {
        json!({
            "name": "web",
            "rules": [{
                "match": { "hostname": "a.example.com" },
                "target": { "instance": instance, "port": 80 },
            }],
        })
    };
    let pwd = |folder: &str| wanted("there", &json!({ "env": { "PWD": folder } }));
    for (method, path, body, code, says) in [
        // It begins every id.
        (
            "POST",
            "/ingresses",
            Some(rule("")),
            "bad_request",
            "missing in rule 0",
        ),
        (
            "PUT",
            "/_test/faults",
            Some(json!({ "error_percent": 101 })),
            "Bad Request",
            "at most 100",
        ),
        (
            "POST",
            "/instances",
            Some(pwd("app")),
            "invalid_request",
            "absolute",
        ),
        (
            "POST",
            "/instances",
            Some(pwd("")),
            "invalid_request",
            "absolute",
        ),
        (
            "GET",
            "/instances?state=asleep",
            None,
            "Bad Request",
            "Standby, Unknown",
        ),
        (
            "GET",
            "/instances/plain/wait?state=running",
            None,
            "Bad Request",
            "Running",
        ),
        (
            "GET",
            "/instances/plain/wait",
            None,
            "Bad Request",
            "required",
        ),
        (
            "GET",
            "/instances/plain/logs?tail=-1",
            None,
            "Bad Request",
            "number",
        ),
        (
            "GET",
            "/instances/plain/logs?follow=yes",
            None,
            "Bad Request",
            "true or false",
        ),
        (
            "GET",
            "/instances/plain/logs?source=stderr",
            None,
            "Bad Request",
            "hypeman",
        ),
        (
            "GET",
            "/snapshots?kind=Running",
            None,
            "Bad Request",
            "Standby or Stopped",
        ),
    ] {
        let (status, answer) = plane.call(method, path, body).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!(code)),
            "{method} {path}: {answer}"
        );
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(says), "{method} {path}: {message}");
    }
    let (_, ingresses) = plane.call("GET", "/ingresses", None).await;
    assert_eq!(ingresses, json!([]));
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_looked_at_from_the_root_of_the_instance() {
    let plane = Plane::start().await;
    plane.create(wanted("plain", &json!({}))).await;
    plane.until("plain", |i| i["state"] == "Running").await;
    for path in ["/bin/sh", "bin/sh", "//bin/sh"] {
        let query = format!("/instances/plain/stat?path={path}&follow_links=true");
        let (status, answer) = plane.call("GET", &query, None).await;
        assert_eq!(
            (status, &answer["is_file"]),
            (200, &json!(true)),
            "{path}: {answer}"
        );
    }
    // It is where this test runs.
    let (_, answer) = plane
        .call("GET", "/instances/plain/stat?path=Cargo.toml", None)
        .await;
    assert_eq!(answer, json!({ "exists": false }));
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_looks_at_the_name_before_it_looks_at_what_the_driver_can_do() {
    let plane = Plane::start().await;
    for name in ["source", "taken"] {
        plane.create(wanted(name, &json!({}))).await;
        plane.until(name, |i| i["state"] == "Running").await;
    }
    for (name, status, code) in [
        ("taken", 409, "name_conflict"),
        ("source", 409, "name_conflict"),
        ("free", 501, "not_supported"),
        // A refusal takes no name.
        ("free", 501, "not_supported"),
    ] {
        let copy = json!({ "name": name, "from_running": true });
        let (got, answer) = plane
            .call("POST", "/instances/source/fork", Some(copy))
            .await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{answer}");
    }
    plane.create(wanted("free", &json!({}))).await;
    plane.end().await;
}
