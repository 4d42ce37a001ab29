//! What the control planes have and what their instances do, for the dashboard and the metrics.
//!
//! Guarantees: requests never wait for it and the engine never acts upon it; it asks for the list
//! of instances (which waits behind no restore, contract B.4) every two seconds while somebody
//! watches and four times a minute otherwise, one call at a time for each control plane.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

use super::handle::{AppHandle, Running};
use super::plane::{LastAnswer, ListedInstance, ObservedPlane, condition_of};
use crate::admin::Watchers;
use crate::telemetry::{InstanceCondition, WakeOutcome};
use crate::wake::WakeReport;
use hypeman::InstanceId;
use hypeman::wire::ListInstances;

const WATCHED: Duration = Duration::from_secs(2);
const UNWATCHED: Duration = Duration::from_secs(15);

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn ms_ago(since: Instant) -> i64 {
    now_ms() - i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// Asks for lists, for ever.
pub(super) async fn observe(handle: AppHandle, watchers: Watchers) {
    loop {
        for plane in &handle.0.planes {
            look_at(&handle.0, plane).await;
        }
        match watchers.any() {
            true => sleep(WATCHED).await,
            false => tokio::select! {
                () = sleep(UNWATCHED) => {}
                () = watchers.came() => {}
            },
        }
    }
}

async fn look_at(running: &Running, plane: &ObservedPlane) {
    let sent_at = now_ms();
    let answer = plane.client.list_instances(&ListInstances::default()).await;
    let metrics = &running.gateway.parts().metrics;
    metrics.set_controlplane_up(&plane.name, answer.is_ok());
    let listed = match answer {
        Ok(listed) => listed,
        Err(error) => {
            tracing::debug!(hypeman = %plane.name, %error, "cannot list its instances");
            let before = plane.last.load();
            plane.last.store(Arc::new(LastAnswer {
                up: Some(false),
                error: Some(error.to_string()),
                instances: before.instances.clone(),
            }));
            return;
        }
    };
    let mut instances = HashMap::with_capacity(listed.len());
    for one in listed {
        let Ok(id) = InstanceId::parse(&one.id) else {
            continue;
        };
        // While the engine wakes it, a list says what was before.
        let wakes = &running.gateway.parts().wakes;
        let waking = wakes
            .by_id(&id)
            .is_some_and(|instance| instance.progress().is_some());
        let timeline = &running.timeline;
        let overtaken = timeline
            .last_change(&one.id)
            .is_some_and(|(at, _)| at > sent_at);
        if !waking && !overtaken {
            let condition = condition_of(&one.state);
            timeline.note(&one.id, &one.name, &plane.name, condition, sent_at);
        }
        let seen = ListedInstance {
            name: one.name.into(),
            state: one.state,
        };
        instances.insert(id, seen);
    }
    let has = |id: &str| InstanceId::parse(id).is_ok_and(|id| instances.contains_key(&id));
    running.timeline.keep_only(&plane.name, has);
    plane.last.store(Arc::new(LastAnswer {
        up: Some(true),
        error: None,
        instances,
    }));
}

/// Notes wakes as they happen, for ever.
pub(super) async fn follow(handle: AppHandle) {
    let wakes = &handle.0.gateway.parts().wakes;
    let (mut begins, mut ends) = (wakes.begins(), wakes.reports());
    loop {
        tokio::select! {
            began = begins.recv() => match began {
                Ok(began) => {
                    let at = ms_ago(began.at);
                    note(&handle.0, &began.instance, InstanceCondition::Waking, at);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            ended = ends.recv() => match ended {
                Ok(report) => end(&handle.0, &report),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

fn end(running: &Running, report: &WakeReport) {
    let condition = match report.outcome {
        WakeOutcome::Woken | WakeOutcome::Renewed => InstanceCondition::Awake,
        WakeOutcome::Failed | WakeOutcome::TimedOut => InstanceCondition::Failing,
    };
    let at = now_ms();
    note(running, &report.instance, condition, at);
    if report.outcome != WakeOutcome::Renewed {
        let (id, outcome) = (report.instance.as_str(), report.outcome.as_str());
        let ms = report.took.as_secs_f64() * 1e3;
        running.timeline.note_wake(id, at, ms, outcome);
    }
}

fn note(running: &Running, id: &InstanceId, condition: InstanceCondition, at: i64) {
    let wakes = &running.gateway.parts().wakes;
    let Some((plane, instance)) = wakes.with_plane(id) else {
        return;
    };
    let plane = running.planes.get(usize::from(plane.0));
    let hypeman = plane.map_or("", |plane| plane.name.as_str());
    let timeline = &running.timeline;
    timeline.note(id.as_str(), &instance.name(), hypeman, condition, at);
}
