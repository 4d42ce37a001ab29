//! Wire types lose nothing: members that they do not know survive at every depth, absence stays
//! absence, and `null` is read as absence.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use hypeman::wire::{
    Address, AutoStandbyPolicy, AutoStandbyStatus, Capabilities, Compression, CreateInstance,
    ExecCheck, Gpu, HealthCheck, HealthStatus, HttpCheck, Idle, Ignores, Ingress, IngressMatch,
    IngressRule, IngressTarget, Instance, InstanceNetwork, InstanceStats, NetworkRequest, PathInfo,
    RequestHeaderAuth, RestartPolicy, RestartStatus, Retention, Snapshot, SnapshotPolicy,
    SnapshotSchedule, TcpCheck, UpdateInstance, VolumeMount, WaitOutcome,
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
                let from_null = trip(&null).unwrap();
                if from_null.to_string().contains("null") {
                    // An object below cannot be read without it, and was kept as it is.
                    assert!(same(&from_null, &null), "{what} became {from_null}");
                    assert!(same(&written, &absent), "{what} became {written}");
                    continue;
                }
                if member == "network" && name == "Instance" {
                    // It says that there is none.
                    assert_eq!(from_null["network"], json!({"enabled": false}), "{what}");
                } else {
                    assert_eq!(from_null, written, "{what}");
                }
                // Flags and counts have a default, which is written; nothing else appears.
                if let Some(default) = object_at(&mut written, &place).remove(&member) {
                    let zero = [json!(false), json!(0), json!(0.0), json!("")].contains(&default);
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
            enabled: network.enabled.unwrap_or(true),
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

// === Values that cannot be read ===

/// An instance with the value in place of what is at the JSON pointer.
fn with(place: &str, value: Value) -> Value {
    let mut changed = instance();
    *changed.pointer_mut(place).unwrap() = value;
    changed
}

/// Whether two values are equal, but for the order of lists, and for what reading makes the same:
/// `null` or what is empty and absence, and the texts of one time, span or network.
fn same(before: &Value, after: &Value) -> bool {
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.values().all(empty),
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
        }
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let names = before.keys().chain(after.keys());
            let get = |members: &Map<String, Value>, name| members.get(name).cloned();
            names.into_iter().all(|name: &String| {
                let pair = (get(before, name), get(after, name));
                match pair {
                    (Some(before), Some(after)) => same(&before, &after),
                    (one, other) => one.or(other).is_none_or(|value| empty(&value)),
                }
            })
        }
        (Value::Array(before), Value::Array(after)) => {
            before.len() == after.len()
                && before
                    .iter()
                    .all(|one| after.iter().any(|other| same(one, other)))
        }
        (Value::String(_), Value::String(_)) => true,
        (before, after) => before == after || (empty(before) && empty(after)),
    }
}

/// Sends back all of an instance that can be sent.
fn patch(read: &Instance) -> Value {
    let change = UpdateInstance {
        env: (!read.env.is_empty()).then(|| read.env.clone()),
        auto_standby: read.auto_standby.clone(),
        health_check: read.health_check.clone(),
        restart_policy: read.restart_policy.clone(),
        other: read.other.clone(),
        ..UpdateInstance::default()
    };
    serde_json::to_value(&change).unwrap()
}

#[test]
fn a_value_that_does_not_fit_fails_nothing_and_is_kept() {
    for (place, value) in [
        ("/auto_standby/idle_timeout", json!("1d")),
        ("/auto_standby/idle_timeout", json!("")),
        ("/auto_standby/ignore_source_cidrs", json!(["10.0.0.1"])),
        ("/auto_standby/ignore_destination_ports", json!([70000])),
        ("/exit_code", json!(4_294_967_295_u32)),
        ("/vcpus", json!(-1)),
        ("/created_at", json!("2026-11-20T09:14:02")),
        ("/env", json!({"KEY": 7})),
        ("/gpu/profile", json!(7)),
        ("/phase_durations_ms", json!({"running": 1.5})),
        ("/tags", json!(["team"])),
        ("/network", json!("default")),
        ("/network/ip", json!(["10.100.0.7"])),
        ("/volumes", json!([{"volume_id": 7}])),
        ("/image", json!({"name": "nginx"})),
        ("/health_status", json!("healthy")),
        ("/health_check/http", json!({"port": "80"})),
        ("/has_snapshot", json!("yes")),
        ("/hypervisor", json!(7)),
        ("/expires_at", json!(1_795_000_000)),
        ("/snapshot_policy/compression", json!({"enabled": "yes"})),
        ("/restart_policy/max_attempts", json!(1e300)),
        ("/auto_standby", json!([])),
    ] {
        let sample = with(place, value.clone());
        let written = trip::<Instance>(&sample).unwrap();
        assert_eq!(written, sample, "{place}: {value}");
    }
}

#[test]
fn what_cannot_be_read_of_a_list_or_map_leaves_the_rest_of_it() {
    let env = with("/env", json!({"KEY": "a", "PORT": 7}));
    let mut read: Instance = serde_json::from_value(env).unwrap();
    assert_eq!(read.env.0.len(), 1);
    read.env.0.insert("NEW".to_owned(), "b".to_owned());
    assert_eq!(
        patch(&read)["env"],
        json!({"KEY": "a", "NEW": "b", "PORT": 7})
    );
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written["env"], json!({"KEY": "a", "NEW": "b", "PORT": 7}));

    let ports = with("/auto_standby/ignore_destination_ports", json!([22, 70000]));
    let read: Instance = serde_json::from_value(ports).unwrap();
    let mut policy = read.auto_standby.clone().unwrap();
    policy.ignore_destination_ports.push(23);
    let change = serde_json::to_value(&policy).unwrap();
    assert_eq!(change["ignore_destination_ports"], json!([22, 23, 70000]));
}

#[test]
fn a_field_that_was_set_wins_over_what_could_not_be_read() {
    let sample = with("/auto_standby/idle_timeout", json!("1d"));
    let read: Instance = serde_json::from_value(sample).unwrap();
    let mut policy = read.auto_standby.unwrap();
    policy.idle_timeout = Some("24h".parse().unwrap());
    assert_eq!(policy.idle(), Idle::After(Duration::from_secs(24 * 3600)));
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(text.matches("idle_timeout").count(), 1, "{text}");
    assert!(text.contains(r#""idle_timeout":"24h0m0s""#), "{text}");
}

#[test]
fn an_idle_time_that_cannot_be_read_is_not_an_absent_one() {
    let after = |seconds| Idle::After(Duration::from_secs(seconds));
    for (policy, idle, ignores) in [
        (json!(null), Idle::Never, Ignores::Nothing),
        (json!({}), Idle::Never, Ignores::Nothing),
        (
            json!({"enabled": false, "idle_timeout": "5m", "ignore_destination_ports": [22]}),
            Idle::Never,
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": "5m"}),
            after(300),
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": "5m", "ignore_destination_ports": [22]}),
            after(300),
            Ignores::Something,
        ),
        (
            json!({"enabled": true, "idle_timeout": "5m", "ignore_destination_ports": ["ssh"]}),
            after(300),
            Ignores::Something,
        ),
        (
            json!({"enabled": true, "idle_timeout": "5m", "ignore_source_cidrs": ["10.0.0.1"]}),
            after(300),
            Ignores::Something,
        ),
        (
            json!({"enabled": true, "idle_timeout": "5m", "ignore_source_cidrs": "all"}),
            after(300),
            Ignores::Something,
        ),
        (
            json!({"enabled": true, "idle_timeout": "5m", "ignore_source_cidrs": null}),
            after(300),
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": "1d"}),
            Idle::Unreadable,
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": ""}),
            Idle::Unreadable,
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": 300}),
            Idle::Unreadable,
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": "-5m"}),
            Idle::Unreadable,
            Ignores::Nothing,
        ),
        (
            json!({"enabled": true, "idle_timeout": "0s"}),
            Idle::Unreadable,
            Ignores::Nothing,
        ),
        (json!({"enabled": true}), Idle::Unreadable, Ignores::Nothing),
        (
            json!({"enabled": "yes", "idle_timeout": "5m"}),
            Idle::Unreadable,
            Ignores::Nothing,
        ),
        (json!("5m"), Idle::Unreadable, Ignores::Something),
    ] {
        let sample = with("/auto_standby", policy.clone());
        let read: Instance = serde_json::from_value(sample).unwrap();
        assert_eq!((read.idle(), read.ignores()), (idle, ignores), "{policy}");
    }
}

#[test]
fn a_network_that_is_off_is_told_from_an_address_that_is_missing_or_no_address() {
    let at = Address::At([10, 100, 0, 7].into());
    for (network, address) in [
        (json!(null), Address::Off),
        (json!({"enabled": false}), Address::Off),
        (json!({"enabled": false, "ip": "10.100.0.7"}), Address::Off),
        (json!({}), Address::Missing),
        (json!({"enabled": true}), Address::Missing),
        (json!({"enabled": true, "ip": null}), Address::Missing),
        (json!({"enabled": true, "ip": ""}), Address::Missing),
        (json!({"enabled": true, "ip": "10.100.0.7"}), at),
        (json!({"enabled": "yes", "ip": "10.100.0.7"}), at),
        (json!({"enabled": null, "ip": "10.100.0.7"}), at),
        (json!({"ip": "10.100.0.7"}), at),
        (
            json!({"ip": "fd00::7"}),
            Address::At("fd00::7".parse().unwrap()),
        ),
        (json!({"ip": "10.100.0.7/16"}), Address::Unreadable),
        (json!({"ip": "pending"}), Address::Unreadable),
        (json!({"ip": 174_325_767}), Address::Unreadable),
        (json!("10.100.0.7"), Address::Unreadable),
    ] {
        let sample = with("/network", network.clone());
        let read: Instance = serde_json::from_value(sample).unwrap();
        assert_eq!(read.address(), address, "{network}");
    }
    let mut absent = instance();
    absent.as_object_mut().unwrap().remove("network");
    let read: Instance = serde_json::from_value(absent).unwrap();
    assert_eq!(read.address(), Address::Missing);
}

#[test]
fn an_instance_needs_an_id_a_name_and_a_state_and_nothing_else() {
    let least = json!({"id": "a", "name": "web", "state": "Running"});
    assert_eq!(
        trip::<Instance>(&least).unwrap(),
        json!({"id": "a", "name": "web", "state": "Running"})
    );
    for name in ["id", "name", "state"] {
        for value in [
            None,
            Some(json!(null)),
            Some(json!(7)),
            Some(json!(["a"])),
            Some(json!({"secret": "hunter2"})),
        ] {
            let mut odd = least.clone();
            match value {
                Some(value) => odd[name] = value,
                None => drop(odd.as_object_mut().unwrap().remove(name)),
            }
            let error = serde_json::from_value::<Instance>(odd.clone()).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(name) && !text.contains("hunter2"),
                "{odd}: {text}"
            );
        }
    }
}

#[test]
fn a_rule_whose_protection_cannot_be_read_is_no_rule() {
    for (place, value) in [
        ("/request_header_auth", json!("x-key")),
        ("/request_header_auth/value", json!(7)),
        ("/tls", json!("yes")),
        ("/redirect_http", json!(1)),
        ("/match/port", json!(70000)),
        ("/match/hostname", json!(null)),
        ("/target/port", json!("http")),
    ] {
        let mut odd = rule();
        *odd.pointer_mut(place).unwrap() = value;
        let error = serde_json::from_value::<IngressRule>(odd.clone()).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let ingress = json!({"id": "i", "name": "web", "rules": [rule(), odd]});
        let read: Ingress = serde_json::from_value(ingress.clone()).unwrap();
        assert_eq!(
            (read.rules.len(), read.unreadable_rules()),
            (1, 1),
            "{place}"
        );
        assert_eq!(serde_json::to_value(&read).unwrap(), ingress, "{place}");
        let again = serde_json::to_value(read.to_request()).unwrap();
        assert_eq!(again["rules"], ingress["rules"], "{place}");
    }
}

/// The places of all members of an instance, but those that it is nothing without.
fn member_places() -> Vec<String> {
    let sample = instance();
    let mut found = Vec::new();
    for place in places(&sample) {
        let members = sample.pointer(&place).unwrap().as_object().unwrap();
        found.extend(members.keys().map(|name| format!("{place}/{name}")));
    }
    for map in [
        "/env/KEY",
        "/tags/team",
        "/phase_durations_ms/running",
        "/volumes/0",
        "/auto_standby/ignore_destination_ports/0",
    ] {
        found.push(map.to_owned());
    }
    found.retain(|place| !["/id", "/name", "/state"].contains(&place.as_str()));
    assert!(found.len() > 80, "{}", found.len());
    found
}

proptest! {
    #[test]
    fn any_value_of_any_member_is_read_and_sent_back_without_a_loss(
        odd in prop::collection::vec((any::<prop::sample::Index>(), anything()), 1..6),
    ) {
        let places = member_places();
        let mut sample = instance();
        for (place, value) in odd {
            if let Some(member) = sample.pointer_mut(&places[place.index(places.len())]) {
                *member = value;
            }
        }
        let text = sample.to_string();
        let read: Instance = serde_json::from_str(&text).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        prop_assert!(same(&sample, &written), "{} became {}", sample, written);
        let again: Instance = serde_json::from_str(&written.to_string()).unwrap();
        prop_assert_eq!(&again, &read);
        let change = patch(&read);
        for name in ["env", "auto_standby", "health_check", "restart_policy"] {
            prop_assert!(same(&sample[name], &change[name]), "{}: {} became {}", name, sample[name], change[name]);
        }
        // What the engine asks for has an answer, whatever it is.
        let _ = (read.address(), read.idle(), read.ignores(), format!("{read:?}"));
    }
}
