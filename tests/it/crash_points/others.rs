//! What else may go wrong in the middle of a verb: the disk is full from some change on, or a VM's
//! process is killed. The control plane goes on.
//!
//! Guarantees: what it answered is so, at once and after it was killed and started again.

use super::plane::Kind;
use super::points::{Attempt, Course, chosen, describe, report};
use super::template::site;
use super::tracer::{Deed, can_trace};
use super::verbs::Verb;
use super::world::{Listing, View};

async fn can_run(kind: Kind) -> bool {
    can_trace().await && (kind == Kind::Process || crate::support::can_run_vms())
}

/// A view without what only a memory says.
fn without_counts(view: &View) -> View {
    View {
        counts: [].into(),
        ..view.clone()
    }
}

/// Fills the disk at each change of a verb that takes room, one run for each.
pub async fn fill_the_disk_at_each_point(kind: Kind, verb: Verb) {
    if !can_run(kind).await {
        return;
    }
    let course = Course::learn(kind, verb).await;
    let tried = chosen(&course, true);
    let mut failures = Vec::new();
    for point in &tried {
        let site = site(kind).await;
        let attempt = Attempt::make(&site, verb, Deed::Full(*point)).await;
        let mut wrong = Vec::new();
        if attempt.answer.is_none() {
            wrong.push(format!("the control plane has gone: {}", site.log()));
        }
        let answer = attempt.answer.clone();
        let possible = course.possible(answer.as_ref(), None);
        if answer.is_some() {
            let listing = Listing::settled(&attempt.plane).await;
            let view = listing.view(&attempt.plane).await;
            if !possible.iter().any(|(_, one)| without_counts(one) == view) {
                let names: Vec<_> = possible.iter().map(|(name, _)| *name).collect();
                wrong.push(format!(
                    "at once it is not {}: {view:?}",
                    names.join(" or ")
                ));
            }
        }
        let (known, answer, changes) = attempt.kill().await;
        wrong.extend(course.judge(&site, &known, &possible).await);
        if !wrong.is_empty() {
            let what = "a full disk";
            let text = describe(&course, what, *point, &changes, answer.as_ref(), &wrong);
            println!("LEAK {text}");
            failures.push(text);
        }
    }
    report(&course, "a full disk", tried.len(), &failures);
}

/// The view in which the instance's process has ended.
fn stopped(view: &View) -> View {
    let mut stopped = without_counts(view);
    for instance in stopped.instances.values_mut() {
        instance["state"] = "Stopped".into();
        instance["has_snapshot"] = false.into();
    }
    stopped
}

/// Kills the VM's process at each change of a standby or a restore, one run for each.
pub async fn kill_the_vm_at_each_point(verb: Verb) {
    let kind = Kind::Vm;
    if !can_run(kind).await {
        return;
    }
    let course = Course::learn(kind, verb).await;
    let mut tried = chosen(&course, false);
    // After the last change there is nothing to be disturbed.
    tried.retain(|point| *point < course.changes.len());
    // The memory of a sleep before this one is another.
    let visits = u64::from(verb == Verb::Standby);
    let order = |change: &super::tracer::Change| change.target.starts_with('{');
    let mut failures = Vec::new();
    for point in &tried {
        let site = site(kind).await;
        let attempt = Attempt::make_after(&site, verb, Deed::KillOthers(*point), visits).await;
        let Attempt {
            plane,
            known,
            answer,
            changes,
            ..
        } = attempt;
        let good = answer.as_ref().is_some_and(super::plane::Answer::is_good);
        let mut asleep = match verb {
            Verb::Standby => course.after.view.clone(),
            _ => course.before.view.clone(),
        };
        let earlier = asleep.clone();
        for count in asleep.counts.values_mut() {
            *count += visits;
        }
        let ended = stopped(&asleep);
        let ran = match verb {
            // It ran until it was asked to stand still.
            Verb::Standby => changes
                .iter()
                .position(order)
                .is_none_or(|first| *point <= first),
            // It runs from when it is said to.
            _ => good,
        };
        let mut possible = vec![("asleep", &asleep)];
        if verb == Verb::Standby && !good {
            possible.push(("asleep as it was before", &earlier));
        }
        if ran {
            possible.push(("ended", &ended));
        }
        let started = changes.iter().position(|one| one.target == "a process");
        if verb != Verb::Standby && started.is_none_or(|start| *point <= start) {
            // There was nothing to be killed yet.
            possible.push(("awake", &course.after.view));
        }
        let wrong = course.inspect(&site, plane, &known, &possible).await;
        if !wrong.is_empty() {
            let what = "a killed VM";
            let text = describe(&course, what, *point, &changes, answer.as_ref(), &wrong);
            println!("LEAK {text}");
            failures.push(text);
        }
    }
    report(&course, "a killed VM", tried.len(), &failures);
}
