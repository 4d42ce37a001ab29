//! Instances that are described oddly wake all the same; those that cannot serve are refused
//! without a restore.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Stage, ask};
use crate::support::eventually;
use crate::support::reserved::Reserved;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Operation, Scripted, ScriptedPlane};

/// Members that official clients read and that a strict reader does not.
fn odd_values() -> Vec<(&'static str, Value)> {
    vec![
        ("/auto_standby/idle_timeout", json!("1d")),
        ("/auto_standby/idle_timeout", json!("")),
        ("/auto_standby/idle_timeout", json!(60)),
        ("/auto_standby/idle_timeout", json!("-5m")),
        ("/auto_standby/ignore_source_cidrs", json!(["10.0.0.1"])),
        ("/auto_standby/ignore_source_cidrs", json!("10.0.0.0/8")),
        ("/auto_standby/ignore_destination_ports", json!([70000])),
        ("/auto_standby/ignore_destination_ports", json!(["80"])),
        ("/auto_standby/enabled", json!("true")),
        ("/auto_standby", json!("1m")),
        ("/exit_code", json!(4_294_967_295_u64)),
        ("/exit_code", json!("137")),
        ("/vcpus", json!(-1)),
        ("/vcpus", json!(1.5)),
        ("/created_at", json!("2026-01-01T00:00:00")),
        ("/created_at", json!(1_767_225_600)),
        ("/created_at", json!(null)),
        ("/started_at", json!("")),
        ("/expires_at", json!("never")),
        ("/env", json!({ "PORT": 8080 })),
        ("/env", json!(["PORT=8080"])),
        ("/tags", json!([])),
        ("/gpu", json!({ "profile": 7 })),
        ("/gpu", json!([])),
        ("/volumes", json!({})),
        ("/volumes", json!([{ "volume_id": 3 }])),
        ("/phase_durations_ms", json!({ "running": 1.5 })),
        ("/current_phase", json!({ "name": "running" })),
        ("/has_snapshot", json!("yes")),
        ("/hypervisor", json!(3)),
        ("/image", json!(null)),
        ("/size", json!(1_073_741_824)),
        ("/health_status", json!("healthy")),
        ("/health_check", json!(true)),
        ("/restart_policy", json!([])),
        ("/restart_status", json!("never")),
        ("/snapshot_policy", json!(false)),
        ("/network/mac", json!(0)),
        ("/network/bandwidth_download", json!(-1)),
        ("/network/enabled", json!("yes")),
        ("/of_tomorrow", json!({ "deep": [1, 2, { "er": null }] })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_wakes_whatever_the_members_look_like_that_waking_does_not_need() {
    let stage = Stage::set("[wake]\ntimeout = \"5s\"\n").await;
    let app = Application::start("app").await;
    let mut requests = JoinSet::new();
    for (number, (pointer, value)) in odd_values().into_iter().enumerate() {
        let name = format!("odd-{number}");
        let odd = Scripted::asleep(&name, app.ip).with(pointer, value.clone());
        stage.plane.add(odd);
        let client = stage.gateway.client();
        requests.spawn(async move {
            let reply = ask(&client, "GET", &name, "/", &[]).await;
            (reply.body != "app").then(|| format!("{pointer} = {value}: {reply:?}"))
        });
    }
    let failed: Vec<String> = requests.join_all().await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_instances_do_not_hide_the_others_from_the_operator() {
    let plane = ScriptedPlane::start().await;
    let ip = IpAddr::from([127, 0, 0, 1]);
    for (number, (pointer, value)) in odd_values().into_iter().enumerate() {
        let name = format!("odd-{number}");
        plane.add(Scripted::asleep(&name, ip).with(pointer, value));
    }
    plane.add(Scripted::asleep("usual", ip));
    let stage = Stage::around(plane, "").await;
    eventually("the list was asked for", async || {
        stage.plane.calls(Operation::List, "*") >= 1
    })
    .await;
    eventually("every instance is known", async || {
        let listing = stage.operator("/api/instances").await;
        let odd = (0..odd_values().len()).all(|n| listing.contains(&format!("\"odd-{n}\"")));
        odd && listing.contains("\"usual\"")
    })
    .await;
    let up = "wakegate_controlplane_up{hypeman=\"default\"}";
    assert_eq!(stage.gateway.metric(up).await, 1.0);
}

/// An instance that cannot serve is refused soon, and never restored.
async fn is_refused(part: Scripted, status: u16, code: &str) {
    let stage = Stage::set("").await;
    let what = format!("{part:?}");
    let id = stage.plane.add(part);
    for _ in 0..2 {
        let reply = timeout(Duration::from_secs(5), stage.get("odd")).await;
        let reply = reply.unwrap_or_else(|_| panic!("refused soon: {what}"));
        assert!(reply.is(status, code), "{reply:?}: {what}");
    }
    assert_eq!(stage.plane.calls(Operation::Restore, &id), 0, "{what}");
    let questions = stage.plane.calls(Operation::Get, &id);
    assert!(questions <= 8, "{questions} questions: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_network_is_refused_without_a_restore() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    for state in ["Standby", "Running"] {
        for network in [json!(null), json!({ "enabled": false })] {
            let mut part = Scripted::asleep("odd", ip).with("/network", network);
            part.state = state;
            is_refused(part, 503, "instance_unusable").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_an_address_is_refused_after_a_short_while() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    let mut tests = JoinSet::new();
    for network in [
        json!({ "enabled": true }),
        json!({ "enabled": true, "ip": "" }),
        json!({ "enabled": true, "ip": null }),
        json!({ "enabled": true, "ip": "pending" }),
    ] {
        for state in ["Standby", "Running"] {
            let mut part = Scripted::asleep("odd", ip).with("/network", network.clone());
            part.state = state;
            tests.spawn(async move {
                let stage = Stage::set("").await;
                let what = format!("{part:?}");
                let id = stage.plane.add(part);
                let reply = timeout(Duration::from_secs(10), stage.get("odd")).await;
                let reply = reply.unwrap_or_else(|_| panic!("refused soon: {what}"));
                assert!(reply.is(503, "instance_unusable"), "{reply:?}: {what}");
                assert!(stage.plane.calls(Operation::Restore, &id) <= 1, "{what}");
                let questions = stage.plane.calls(Operation::Get, &id);
                assert!(questions <= 25, "{questions} questions: {what}");
            });
        }
    }
    while let Some(ended) = tests.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_comes_a_moment_late_is_waited_for() {
    let stage = Stage::set("").await;
    let app = Application::start("app").await;
    let late = Scripted::running("late", app.ip).without("/network/ip");
    let id = stage.plane.add(late);
    let coming = async {
        eventually("it was asked about", async || {
            stage.plane.calls(Operation::Get, &id) >= 2
        })
        .await;
        let address = json!(app.ip.to_string());
        stage
            .plane
            .change(&id, |part| part.set("/network/ip", Some(address)));
    };
    let (reply, ()) = tokio::join!(stage.get("late"), coming);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "app"),
        "{reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_no_instance_can_have_is_refused_without_a_restore() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    for state in ["Standby", "Running"] {
        for address in [
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.169.254",
        ] {
            let mut part = Scripted::asleep("odd", ip).with("/network/ip", json!(address));
            part.state = state;
            is_refused(part, 502, "address_refused").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_a_listener_of_the_gateway_s_is_refused_without_a_restore() {
    let reserved = Reserved::new();
    let extra = format!(
        "[[route]]\nhost = \"loop.test\"\ninstance = \"loop\"\nport = {}\n\
         [[listener]]\naddress = \"{}\"\n",
        reserved.port(),
        reserved.address
    );
    for state in ["Standby", "Running"] {
        let stage = Stage::set(&extra).await;
        let mut part = Scripted::asleep("loop", reserved.address.ip());
        part.state = state;
        let id = stage.plane.add(part);
        let reply = stage.get("loop").await;
        assert!(reply.is(502, "address_refused"), "{state}: {reply:?}");
        assert_eq!(stage.plane.calls(Operation::Restore, &id), 0);
        assert!(stage.gateway.stop().await);
    }
}
