//! Processes as instances: what happens to them when they end, are ill, or are frozen.

use std::time::Duration;

use crate::support::skips::{Lacking, skip};
use crate::support::{Plane, Wanted, eventually, reference};
use hypeman::wire::{
    CreateInstance, Health, HealthCheck, HttpCheck, Instance, InstanceState, RestartPolicy,
    TcpCheck,
};
use hypeman::{GoDuration, InstanceRef};

fn shell(name: &str, script: &str) -> CreateInstance {
    CreateInstance {
        name: name.to_owned(),
        image: "local/exec".to_owned(),
        cmd: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        ..CreateInstance::default()
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as the requests have it")]
fn restart(policy: &str, attempts: u32) -> Option<RestartPolicy> {
    Some(RestartPolicy {
        policy: Some(policy.into()),
        backoff: Some(GoDuration::from(Duration::from_millis(50))),
        max_attempts: Some(attempts),
        ..RestartPolicy::default()
    })
}

async fn create(plane: &Plane, request: &CreateInstance) -> InstanceRef {
    let created = plane.client.create_instance(request).await.unwrap();
    reference(&created.id)
}

async fn get(plane: &Plane, id: &InstanceRef) -> Instance {
    plane.client.get_instance(id).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_is_started_again_as_often_as_its_policy_says() {
    let plane = Plane::start().await;
    let request = CreateInstance {
        restart_policy: restart("on_failure", 3),
        ..shell("failing", "echo once more; exit 3")
    };
    let id = create(&plane, &request).await;
    eventually("its attempts are used up", async || {
        let status = get(&plane, &id).await.restart_status;
        status.is_some_and(|s| s.blocked_reason.as_deref() == Some("max_attempts_exceeded"))
    })
    .await;
    let instance = get(&plane, &id).await;
    assert_eq!(
        (instance.state, instance.exit_code),
        (InstanceState::Stopped, Some(3))
    );
    assert_eq!(instance.restart_status.unwrap().attempts, 3);
    let log = std::fs::read_to_string(plane.folder(id.as_str()).join("app.log")).unwrap();
    assert_eq!(
        log.matches("once more").count(),
        4,
        "once, and three times more"
    );

    // One that ends well is left alone, and so is one that somebody stops.
    let request = CreateInstance {
        restart_policy: restart("on_failure", 0),
        ..shell("content", "exit 0")
    };
    let content = create(&plane, &request).await;
    eventually("it ends", async || {
        get(&plane, &content).await.exit_code == Some(0)
    })
    .await;
    let request = CreateInstance {
        restart_policy: restart("always", 0),
        ..shell("stopped", "exec sleep 1000")
    };
    let stopped = create(&plane, &request).await;
    plane.client.stop_instance(&stopped).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    for id in [content, stopped] {
        assert_eq!(get(&plane, &id).await.state, InstanceState::Stopped);
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_checks_fail_is_ill_and_is_started_again() {
    let plane = Plane::start().await;
    let quick = |check: HealthCheck| HealthCheck {
        interval: Some(GoDuration::from(Duration::from_millis(100))),
        timeout: Some(GoDuration::from(Duration::from_millis(100))),
        start_period: Some(GoDuration::from_nanos(0)),
        failure_threshold: Some(2),
        ..check
    };
    let http = |path: &str, status| {
        quick(HealthCheck {
            http: Some(HttpCheck {
                port: 8080,
                path: Some(path.to_owned()),
                expected_status: Some(status),
                ..HttpCheck::default()
            }),
            ..HealthCheck::default()
        })
    };
    let mut well = Wanted::hello("well").request;
    well.health_check = Some(HealthCheck {
        start_period: None,
        ..http("/", 200)
    });
    let well = create(&plane, &well).await;
    eventually("it is healthy", async || {
        get(&plane, &well).await.health_status.unwrap().status == Health::Healthy
    })
    .await;

    let mut ill = Wanted::hello("ill").request;
    ill.health_check = Some(http("/early", 200));
    let ill = create(&plane, &ill).await;
    eventually("it is unhealthy", async || {
        get(&plane, &ill).await.health_status.unwrap().status == Health::Unhealthy
    })
    .await;
    let health = get(&plane, &ill).await.health_status.unwrap();
    assert!(health.consecutive_failures >= 2);
    assert!(!health.last_error.unwrap().is_empty());
    assert_eq!(
        get(&plane, &ill).await.state,
        InstanceState::Running,
        "nothing was asked for"
    );

    let mut treated = Wanted::hello("treated").request;
    treated.health_check = Some(quick(HealthCheck {
        tcp: Some(TcpCheck {
            port: 9,
            ..TcpCheck::default()
        }),
        ..HealthCheck::default()
    }));
    treated.restart_policy = restart("always", 1);
    let treated = create(&plane, &treated).await;
    eventually("it was started again, once", async || {
        let status = get(&plane, &treated)
            .await
            .restart_status
            .unwrap_or_default();
        status.attempts == 1 && status.blocked_reason.is_some()
    })
    .await;
    let instance = get(&plane, &treated).await;
    let status = instance.restart_status.unwrap();
    assert_eq!(status.last_reason.as_deref(), Some("health_check_failed"));
    assert_eq!(
        instance.exit_message.as_deref(),
        Some("its health checks failed")
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_has_started_stands_still_with_it_where_groups_can_be_frozen() {
    let plane = Plane::start().await;
    // A child in a session of its own, which no signal to the instance's group reaches.
    let script = "setsid sh -c 'while :; do date +%s%N > beat; sleep 0.02; done' & exec sleep 1000";
    let id = create(&plane, &shell("family", script)).await;
    let beat = plane.folder(id.as_str()).join("work").join("beat");
    let read = || std::fs::read_to_string(&beat).unwrap_or_default();
    let beats = async || {
        let before = read();
        eventually("its heart beats", async || read() != before).await;
    };
    beats().await;
    let said = std::fs::read_to_string(plane.folder(id.as_str()).join("hypeman.log")).unwrap();
    plane.sleep(id.as_str()).await;
    if said.contains("no control group") || said.contains("no limits on memory and processors") {
        skip(Lacking::Machine, "no control group can be made here");
    } else {
        let before = read();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(read(), before, "asleep, all of it stands still");
    }
    plane.client.restore_instance(&id).await.unwrap();
    beats().await;
    plane.sleep(id.as_str()).await;
    plane.client.delete_instance(&id).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_or_said_to_be_missing() {
    let plane = Plane::start().await;
    let request = CreateInstance {
        size: Some("64MB".to_owned()),
        vcpus: Some(1),
        ..shell("limited", "grep ^0:: /proc/self/cgroup; exec sleep 1000")
    };
    let id = create(&plane, &request).await;
    let folder = plane.folder(id.as_str());
    let line = async |file: &'static str| {
        let path = folder.join(file);
        eventually("it has said something", async || {
            std::fs::read_to_string(&path).is_ok_and(|text| !text.is_empty())
        })
        .await;
        std::fs::read_to_string(path).unwrap()
    };
    let group = line("app.log").await;
    let log = line("hypeman.log").await;
    let capabilities: serde_json::Value = reqwest::Client::new()
        .get(format!("http://{}/capabilities", plane.address))
        .bearer_auth(&plane.token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let features = capabilities["runtimes"][0]["features"].to_string();
    for (what, feature) in [("memory", "memory_limit"), ("cpu", "cpu_limit")] {
        let missing = log.contains("no limits on memory and processors")
            || log.contains(&format!("no limit on {what}"));
        assert_ne!(
            missing,
            features.contains(feature),
            "{what}: {features}; {log}"
        );
    }
    if features.contains("freezer") {
        assert!(group.contains(&format!("wakegate/{id}")), "{group}");
    }
    plane.stop().await;
}
