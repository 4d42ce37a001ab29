//! What the control planes have and what their instances do, for the dashboard and the metrics.
//!
//! Guarantees: requests never wait for it; to the engine a list confirms or raises a doubt; it asks for the list
//! of instances (which waits behind no restore, contract B.4) every two seconds while somebody
//! watches and four times a minute otherwise, one call at a time for each control plane, and none
//! waits for another's; of an instance that is gone nothing is kept.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, interval, sleep};

use super::first_answer;
use super::handle::{AppHandle, Running};
use super::plane::{LastAnswer, ObservedPlane, condition_of};
use super::problems::Trouble;
use crate::admin::{WakeNews, Watchers};
use crate::names::PlaneIndex;
use crate::telemetry::{InstanceCondition, WakeOutcome};
use crate::wake::{Listing, WakeReport};
use hypeman::InstanceId;
use hypeman::wire::ListInstances;

const WATCHED: Duration = Duration::from_secs(2);
const UNWATCHED: Duration = Duration::from_secs(15);
/// How often instances that the engine has let go of are forgotten where no list is asked for.
const UPKEEP: Duration = Duration::from_secs(60);
/// Instances of a list that are taken note of before others have their turn.
const AT_ONCE: usize = 1024;

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn ms_ago(since: Instant) -> i64 {
    now_ms() - i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// Asks all control planes for lists, for ever.
pub(super) async fn observe(handle: AppHandle, watchers: Watchers) {
    let came = watch::Sender::new(());
    let planes = (0..).map(PlaneIndex).zip(&handle.0.planes);
    let looks = planes.map(|plane| look_again(&handle.0, plane, &watchers, came.subscribe()));
    let telling = async {
        loop {
            watchers.came().await;
            came.send_replace(());
        }
    };
    tokio::select! {
        _ = join_all(looks) => {}
        () = telling => {}
    }
}

/// Asks one control plane for its list, for ever.
async fn look_again(
    running: &Running,
    plane: (PlaneIndex, &ObservedPlane),
    watchers: &Watchers,
    mut came: watch::Receiver<()>,
) {
    let mut trouble = None;
    loop {
        look_at(running, plane, &mut trouble).await;
        match watchers.any() {
            true => sleep(WATCHED).await,
            false => tokio::select! {
                () = sleep(UNWATCHED) => {}
                _ = came.changed() => {}
            },
        }
    }
}

async fn look_at(
    running: &Running,
    (index, plane): (PlaneIndex, &ObservedPlane),
    trouble: &mut Option<Trouble>,
) {
    let asked_at = Instant::now();
    let all = ListInstances::default();
    let answer = plane.client.list_instance_summaries(&all).await;
    let metrics = &running.gateway.parts().metrics;
    metrics.set_controlplane_up(&plane.name, answer.is_ok());
    let is_first = trouble.is_none();
    let trouble = trouble.get_or_insert_default();
    let is_news = trouble.update(answer.as_ref().err()) && !is_first;
    if is_first {
        let count = answer.as_ref().map(|listed| listed.items.len());
        first_answer::tell(running, (index, plane), count);
    }
    match answer {
        Ok(listed) => {
            if is_news {
                tracing::info!(hypeman = %plane.name, "its instances can be listed again");
            }
            for odd in &listed.odd {
                tracing::debug!(hypeman = %plane.name, "{odd}");
            }
            let is_complete = listed.odd.is_empty();
            let listing = Arc::new(Listing::new(listed.items, is_complete, asked_at));
            running
                .gateway
                .parts()
                .wakes
                .note_list(index, Arc::clone(&listing));
            take(running, plane, listing).await;
        }
        Err(error) => {
            if is_news {
                tracing::warn!(hypeman = %plane.name, %error, "cannot list its instances");
            }
            plane.last.store(Arc::new(LastAnswer {
                up: Some(false),
                error: Some(error.to_string()),
                listing: Arc::clone(&plane.last.load().listing),
            }));
        }
    }
}

/// Takes note of a control plane's list.
async fn take(running: &Running, plane: &ObservedPlane, listing: Arc<Listing>) {
    let sent_at = ms_ago(listing.asked_at());
    let (wakes, timeline) = (&running.gateway.parts().wakes, &running.timeline);
    for (number, (id, seen)) in (1_usize..).zip(listing.instances()) {
        let (text, condition) = (id.as_str(), condition_of(&seen.state));
        // Of thousands that sleep, a look is all that it costs.
        if timeline.is_news(text, &seen.name, condition, sent_at) {
            let instance = wakes.by_id(id);
            // While the engine wakes it, a list says what was before.
            if instance.is_none_or(|instance| instance.progress().is_none()) {
                timeline.note(text, &seen.name, &plane.name, condition, sent_at);
            }
        }
        if number.is_multiple_of(AT_ONCE) {
            yield_now().await;
        }
    }
    let has = |id: &str| InstanceId::parse(id).is_ok_and(|id| wakes.by_id(&id).is_some());
    let stays =
        |id: &str| listing.instances().contains_key(id) || !listing.is_complete() && has(id);
    timeline.keep_only(&plane.name, stays);
    plane.last.store(Arc::new(LastAnswer {
        up: Some(true),
        error: None,
        listing,
    }));
}

/// Notes wakes as they happen, for ever.
pub(super) async fn follow(handle: AppHandle) {
    let wakes = &handle.0.gateway.parts().wakes;
    let (mut begins, mut ends) = (wakes.begins(), wakes.reports());
    let has_lists = handle.config().admin.observe;
    let mut upkeep = interval(UPKEEP);
    loop {
        tokio::select! {
            _ = upkeep.tick(), if !has_lists => forget(&handle.0),
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

/// Forgets the instances that the engine no longer has.
fn forget(running: &Running) {
    let wakes = &running.gateway.parts().wakes;
    let stays = |id: &str| InstanceId::parse(id).is_ok_and(|id| wakes.by_id(&id).is_some());
    for plane in &running.planes {
        running.timeline.keep_only(&plane.name, stays);
    }
}

fn end(running: &Running, report: &WakeReport) {
    let condition = match report.outcome {
        WakeOutcome::Woken | WakeOutcome::Booted | WakeOutcome::Renewed => InstanceCondition::Awake,
        WakeOutcome::Failed | WakeOutcome::TimedOut => InstanceCondition::Failing,
    };
    let at = now_ms();
    note(running, &report.instance, condition, at);
    if report.outcome != WakeOutcome::Renewed {
        let failure = report.failure.as_ref();
        running.timeline.note_wake(WakeNews {
            id: report.instance.to_string(),
            at,
            ms: (report.took.as_secs_f64() * 1e6).round() / 1e3,
            outcome: report.outcome.as_str(),
            code: failure.map(|failure| failure.code),
            phase: failure.map(|failure| failure.stage.as_str()),
            control_plane: failure.and_then(|failure| failure.answer.as_deref().cloned()),
            reason: failure.and_then(|failure| Some(failure.reason.as_deref()?.to_owned())),
        });
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
