//! Wire types lose nothing: members that they do not know survive at every depth, absence stays
//! absence, and `null` is read as absence.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use hypeman::wire::{
    AutoStandbyPolicy, AutoStandbyStatus, Capabilities, Compression, CreateInstance, ExecCheck,
    Gpu, HealthCheck, HealthStatus, HttpCheck, Ingress, IngressMatch, IngressRule, IngressTarget,
    Instance, InstanceNetwork, InstanceStats, NetworkRequest, PathInfo, RequestHeaderAuth,
    RestartPolicy, RestartStatus, Retention, Snapshot, SnapshotPolicy, SnapshotSchedule, TcpCheck,
    UpdateInstance, VolumeMount, WaitOutcome,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Reads a value as some type and writes it.
type Trip = fn(&Value) -> Result<Value, serde_json::Error>;

fn trip<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, serde_json::Error> {
    // Through text, as on the wire.
    let read: T = serde_json::from_str(&value.to_string())?;
    let text = serde_json::to_string(&read)?;
    serde_json::from_str(&text)
}

/// Members whose value is a map of free names, not an object of the API.
const MAPS: &[&str] = &["tags", "env", "metadata", "phase_durations_ms"];
/// How names begin that no version knows.
const NEW: &str = "x_";

fn policy() -> Value {
    json!({"enabled": true, "idle_timeout": "5m0s", "ignore_destination_ports": [22],
        "ignore_source_cidrs": ["10.100.0.1/32"]})
}

fn compression() -> Value {
    json!({"enabled": true, "algorithm": "zstd", "level": 3})
}

fn snapshot_policy() -> Value {
    json!({"compression": compression(), "standby_compression_delay": "30s"})
}

fn http() -> Value {
    json!({"port": 80, "path": "/up", "scheme": "https", "expected_status": 204})
}

fn exec() -> Value {
    json!({"command": ["true"], "working_dir": "/"})
}

fn health_check() -> Value {
    json!({"type": "http", "interval": "10s", "timeout": "2s", "start_period": "30s",
        "failure_threshold": 3, "success_threshold": 1, "http": http(), "tcp": {"port": 80},
        "exec": exec()})
}

fn health_status() -> Value {
    json!({"status": "healthy", "consecutive_successes": 4, "consecutive_failures": 1,
        "last_checked_at": "2026-11-20T09:14:02Z", "last_success_at": "2026-11-20T09:14:02Z",
        "last_failure_at": "2026-11-20T09:14:01Z", "last_error": "refused"})
}

fn restart_policy() -> Value {
    json!({"policy": "on_failure", "backoff": "5s", "max_attempts": 3, "stable_after": "10m0s"})
}

fn restart_status() -> Value {
    json!({"attempts": 2, "last_attempt_at": "2026-11-20T09:14:02Z",
        "next_attempt_at": "2026-11-20T09:14:07Z", "blocked_reason": "manual_stop",
        "last_reason": "health_check_failed"})
}

fn network() -> Value {
    json!({"enabled": true, "name": "default", "ip": "10.100.0.7", "mac": "02:00:00:00:00:07",
        "bandwidth_download": "125.0 MB/s", "bandwidth_upload": "125.0 MB/s"})
}

fn volume() -> Value {
    json!({"volume_id": "v1", "mount_path": "/data", "readonly": true, "overlay": true,
        "overlay_size": "1.0 GB"})
}

fn instance() -> Value {
    json!({"id": "tz4a98xxat96iws9zmbrgj3a", "name": "web", "image": "nginx", "state": "Unknown",
        "created_at": "2026-11-20T09:14:02Z", "expires_at": "2027-11-20T09:14:02Z",
        "platform": "linux/amd64", "hypervisor": "firecracker", "state_error": "no answer",
        "size": "1024.0 MB", "hotplug_size": "2.0 GB", "overlay_size": "10.0 GB",
        "disk_io_bps": "100.0 MB/s", "vcpus": 2, "env": {"KEY": "hunter2"},
        "tags": {"team": "core"}, "network": network(), "volumes": [volume(), volume()],
        "gpu": {"profile": "L40S-1Q", "mdev_uuid": "u"}, "started_at": "2026-11-20T09:14:03Z",
        "stopped_at": "2026-11-20T09:14:01Z", "exit_code": 0, "exit_message": "done",
        "has_snapshot": true, "snapshot_policy": snapshot_policy(), "auto_standby": policy(),
        "health_check": health_check(), "health_status": health_status(),
        "restart_policy": restart_policy(), "restart_status": restart_status(),
        "phase_durations_ms": {"running": 7}, "current_phase": "running",
        "current_phase_since": "2026-11-20T09:14:03Z"})
}

fn rule() -> Value {
    json!({"match": {"hostname": "a.example.com", "port": 80},
        "target": {"instance": "web", "port": 8080}, "tls": true, "redirect_http": true,
        "request_header_auth": {"header": "x-key", "value": "hunter2"}})
}

/// Every type that is read, with every member that it has.
fn samples() -> Vec<(&'static str, Trip, Value)> {
    let status = json!({"supported": true, "configured": true, "enabled": true, "eligible": true,
        "status": "idle_countdown", "reason": "idle_timeout_not_elapsed",
        "active_inbound_connections": 1, "tracking_mode": "conntrack_events_v4_tcp",
        "idle_timeout": "5m0s", "idle_since": "2026-11-20T09:14:02Z",
        "last_inbound_activity_at": "2026-11-20T09:14:02Z",
        "next_standby_at": "2026-11-20T09:19:02Z", "countdown_remaining": "4m0s",
        "hold_until": "2026-11-20T09:19:02Z"});
    let stats = json!({"instance_id": "a", "instance_name": "web", "cpu_seconds": 0.1,
        "memory_rss_bytes": 1, "memory_vms_bytes": 2, "network_rx_bytes": 3, "network_tx_bytes": 4,
        "allocated_vcpus": 2, "allocated_memory_bytes": 5, "memory_utilization_ratio": 0.3});
    let path = json!({"exists": true, "error": "no agent", "is_dir": true, "is_file": true,
        "is_symlink": true, "link_target": "/b", "mode": 493, "size": 7});
    let snapshot = json!({"id": "s", "kind": "Standby", "source_instance_id": "a",
        "source_instance_name": "web", "source_hypervisor": "qemu",
        "created_at": "2026-11-20T09:14:02Z", "size_bytes": 9, "name": "before",
        "tags": {"team": "core"}, "compression_state": "compressed", "compression_error": "full",
        "compression": compression(), "compressed_size_bytes": 5, "uncompressed_size_bytes": 9});
    let retention = json!({"max_count": 7, "max_age": "168h0m0s"});
    let schedule = json!({"instance_id": "a", "interval": "1h0m0s", "retention": retention,
        "next_run_at": "2026-11-20T09:14:02Z", "created_at": "2026-11-20T09:14:02Z",
        "updated_at": "2026-11-20T09:14:02Z", "name_prefix": "nightly",
        "metadata": {"team": "core"}, "last_run_at": "2026-11-20T08:14:02Z",
        "last_snapshot_id": "s", "last_error": "full"});
    let ingress = json!({"id": "i", "name": "web", "created_at": "2026-11-20T09:14:02Z",
        "tags": {"team": "core"}, "rules": [rule(), rule()]});
    let runtime = json!({"name": "qemu", "available": true});
    let capabilities = json!({"server": {"version": "1", "api_version": "0.3.0"},
        "host": {"os": "linux", "arch": "amd64"}, "default_runtime": runtime,
        "runtimes": [runtime], "network": {"model": "bridge", "gateway": "10.100.0.1",
        "subnet": "10.100.0.0/16"}, "images": {"platforms": ["linux/amd64"],
        "default_platform": "linux/amd64"}, "features": ["hold"]});
    let outcome = json!({"state": "Unknown", "timed_out": true, "state_error": "no answer"});
    let gpu = instance()["gpu"].clone();
    vec![
        ("Instance", trip::<Instance>, instance()),
        ("InstanceNetwork", trip::<InstanceNetwork>, network()),
        ("VolumeMount", trip::<VolumeMount>, volume()),
        ("Gpu", trip::<Gpu>, gpu),
        ("HealthStatus", trip::<HealthStatus>, health_status()),
        ("RestartStatus", trip::<RestartStatus>, restart_status()),
        ("AutoStandbyPolicy", trip::<AutoStandbyPolicy>, policy()),
        ("Compression", trip::<Compression>, compression()),
        ("SnapshotPolicy", trip::<SnapshotPolicy>, snapshot_policy()),
        ("HealthCheck", trip::<HealthCheck>, health_check()),
        ("HttpCheck", trip::<HttpCheck>, http()),
        ("TcpCheck", trip::<TcpCheck>, json!({"port": 80})),
        ("ExecCheck", trip::<ExecCheck>, exec()),
        ("RestartPolicy", trip::<RestartPolicy>, restart_policy()),
        ("WaitOutcome", trip::<WaitOutcome>, outcome),
        ("AutoStandbyStatus", trip::<AutoStandbyStatus>, status),
        ("InstanceStats", trip::<InstanceStats>, stats),
        ("PathInfo", trip::<PathInfo>, path),
        ("Snapshot", trip::<Snapshot>, snapshot),
        ("Retention", trip::<Retention>, retention),
        ("SnapshotSchedule", trip::<SnapshotSchedule>, schedule),
        ("Ingress", trip::<Ingress>, ingress),
        ("IngressRule", trip::<IngressRule>, rule()),
        (
            "IngressMatch",
            trip::<IngressMatch>,
            rule()["match"].clone(),
        ),
        (
            "IngressTarget",
            trip::<IngressTarget>,
            rule()["target"].clone(),
        ),
        (
            "RequestHeaderAuth",
            trip::<RequestHeaderAuth>,
            rule()["request_header_auth"].clone(),
        ),
        ("Capabilities", trip::<Capabilities>, capabilities),
    ]
}

/// The places of all objects of the API in a value, as JSON pointers.
fn objects(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.push(place.to_owned());
            for (name, member) in members {
                if !MAPS.contains(&name.as_str()) && !name.starts_with(NEW) {
                    objects(member, &format!("{place}/{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                objects(item, &format!("{place}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn object_at<'a>(value: &'a mut Value, place: &str) -> &'a mut Map<String, Value> {
    value.pointer_mut(place).unwrap().as_object_mut().unwrap()
}

fn places(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    objects(value, "", &mut found);
    found
}

#[test]
fn every_type_writes_what_it_has_read() {
    for (name, trip, sample) in samples() {
        assert_eq!(trip(&sample).unwrap(), sample, "{name}");
    }
}

#[test]
fn a_new_member_of_every_object_is_kept() {
    for (name, trip, sample) in samples() {
        for place in places(&sample) {
            for new in [
                json!(null),
                json!(false),
                json!({"a": [1, null]}),
                json!(0.1),
            ] {
                let mut changed = sample.clone();
                object_at(&mut changed, &place).insert(format!("{NEW}new"), new);
                assert_eq!(trip(&changed).unwrap(), changed, "{name} at {place:?}");
            }
        }
    }
}

#[test]
fn null_is_read_as_absence_and_absence_stays_absence() {
    let mut optional = 0;
    for (name, trip, sample) in samples() {
        for place in places(&sample) {
            let members = object_at(&mut sample.clone(), &place).clone();
            for (member, value) in members {
                let mut absent = sample.clone();
                object_at(&mut absent, &place).remove(&member);
                let mut null = sample.clone();
                object_at(&mut null, &place).insert(member.clone(), Value::Null);
                let what = format!("{name}: {member} at {place:?}");
                let Ok(mut written) = trip(&absent) else {
                    assert!(trip(&null).is_err(), "{what} is required");
                    continue;
                };
                optional += 1;
                assert_eq!(trip(&null).unwrap(), written, "{what}");
                // Flags and counts have a default, which is written; nothing else appears.
                if let Some(default) = object_at(&mut written, &place).remove(&member) {
                    let zero = [json!(false), json!(0), json!("")].contains(&default);
                    assert!(zero && !value.is_object(), "{what} became {default}");
                }
                assert_eq!(written, absent, "{what}");
            }
        }
    }
    assert!(optional > 200, "{optional} were tried");
}

/// Any JSON, no deeper than a few levels.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4)
                .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn any_new_members_at_any_depth_survive(
        new in prop::collection::vec((any::<prop::sample::Index>(), "x_.{0,6}", anything()), 0..8),
        pick in any::<prop::sample::Index>(),
    ) {
        let samples = samples();
        let (name, trip, sample) = &samples[pick.index(samples.len())];
        let (places, mut changed) = (places(sample), sample.clone());
        for (place, member, value) in new {
            let place = &places[place.index(places.len())];
            object_at(&mut changed, place).insert(member, value);
        }
        prop_assert_eq!(trip(&changed).unwrap(), changed, "{}", name);
    }
}

/// The sample with a new member in every object.
fn newer(mut value: Value) -> Value {
    for place in places(&value) {
        let new = json!({"at": place, "null": null});
        object_at(&mut value, &place).insert(format!("{NEW}new"), new);
    }
    value
}

#[test]
fn what_was_read_of_an_instance_can_be_changed_and_sent() {
    let mut read: Instance = serde_json::from_value(newer(instance())).unwrap();
    let policy = read.auto_standby.as_mut().unwrap();
    policy.idle_timeout = Some("1m".parse().unwrap());
    let check = read.health_check.as_mut().unwrap();
    check.http.as_mut().unwrap().port = 81;
    let restart = read.restart_policy.as_mut().unwrap();
    restart.max_attempts = Some(9);

    let mut expected = newer(instance());
    expected["auto_standby"]["idle_timeout"] = json!("1m0s");
    expected["health_check"]["http"]["port"] = json!(81);
    expected["restart_policy"]["max_attempts"] = json!(9);
    let change = UpdateInstance {
        auto_standby: read.auto_standby.clone(),
        health_check: read.health_check.clone(),
        restart_policy: read.restart_policy.clone(),
        env: Some(read.env.clone()),
        ..UpdateInstance::default()
    };
    let change = serde_json::to_value(&change).unwrap();
    assert_eq!(change.as_object().unwrap().len(), 4);
    for name in ["auto_standby", "health_check", "restart_policy", "env"] {
        assert_eq!(change[name], expected[name], "{name}");
    }

    // A second instance like it.
    let network = read.network.unwrap();
    let request = CreateInstance {
        network: Some(NetworkRequest {
            enabled: network.enabled,
            other: network.other,
            ..NetworkRequest::default()
        }),
        snapshot_policy: read.snapshot_policy,
        gpu: read.gpu,
        volumes: read.volumes,
        other: read.other,
        ..CreateInstance::default()
    };
    let request = serde_json::to_value(&request).unwrap();
    for name in ["snapshot_policy", "gpu", "volumes", "x_new"] {
        assert_eq!(request[name], expected[name], "{name}");
    }
    assert_eq!(request["network"]["x_new"], expected["network"]["x_new"]);
}

#[test]
fn a_schedule_and_an_ingress_that_were_read_can_be_set_again() {
    for (name, _, sample) in samples() {
        let (request, server_only) = match name {
            "SnapshotSchedule" => {
                let read: SnapshotSchedule = serde_json::from_value(newer(sample.clone())).unwrap();
                let only: &[&str] = &[
                    "instance_id",
                    "next_run_at",
                    "created_at",
                    "updated_at",
                    "last_run_at",
                    "last_snapshot_id",
                    "last_error",
                ];
                (serde_json::to_value(read.to_request()).unwrap(), only)
            }
            "Ingress" => {
                let read: Ingress = serde_json::from_value(newer(sample.clone())).unwrap();
                let only: &[&str] = &["id", "created_at"];
                (serde_json::to_value(read.to_request()).unwrap(), only)
            }
            _ => continue,
        };
        let mut expected = newer(sample);
        for member in server_only {
            expected.as_object_mut().unwrap().remove(*member);
        }
        assert_eq!(request, expected, "{name}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let secret = json!({"id": "a", "name": "a", "image": "i", "state": "Running",
        "created_at": "2026-01-01T00:00:00Z", "env": {"KEY": "hunter2"}, "x_token": "hunter2",
        "network": {"x_token": {"value": "hunter2"}}});
    let read: Instance = serde_json::from_value(secret).unwrap();
    let text = format!("{read:?}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("KEY") && text.contains("x_token"), "{text}");
    let read: IngressRule = serde_json::from_value(rule()).unwrap();
    assert!(!format!("{read:?}").contains("hunter2"), "{read:?}");
}
