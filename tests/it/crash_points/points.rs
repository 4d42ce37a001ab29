//! One verb, and a kill at each change that it makes, one run for each.
//!
//! Guarantees: what is before and after the verb is learned from runs that nobody disturbs; after a
//! kill and another start it is the one or the other, and the other when the verb was answered.
//! `CRASH_POINTS` is the number of points that are tried for a verb, evenly spread, or `all`;
//! `CRASH_POINT` is the number of one, as a failure names it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::support::{PATIENCE, eventually_within, spawn};

use super::plane::{Answer, ControlPlane, Kind, Site};
use super::template::site;
use super::tracer::{Change, Deed, Tracer, can_trace};
use super::verbs::{Verb, visit};
use super::world::{Listing, View, agree, delete_everything, is_settled};

/// The points of a verb that are tried where no variable says otherwise.
const POINTS: [usize; 2] = [4, 2];
/// A verb that has been answered is over when nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(250);

/// What there is, undisturbed.
#[derive(Debug, Clone)]
pub struct Truth {
    pub view: View,
    pub names: BTreeSet<String>,
}

/// A verb with what is before and after it.
#[derive(Debug)]
pub struct Course {
    pub kind: Kind,
    pub verb: Verb,
    pub before: Truth,
    pub after: Truth,
    pub changes: Vec<Change>,
}

/// A verb that is under way, traced.
pub struct Attempt {
    pub plane: ControlPlane,
    pub known: BTreeSet<String>,
    /// What was answered, if anything.
    pub answer: Option<Answer>,
    pub changes: Vec<Change>,
    tracer: Tracer,
}

/// The ids that changes name: of instances and snapshots, and of control groups.
fn ids_in(changes: &[Change]) -> impl Iterator<Item = String> {
    let marks = ["/instances/", "/snapshots/", "/wakegate/"];
    changes.iter().flat_map(move |change| {
        let after = marks
            .iter()
            .filter_map(|mark| change.target.split(mark).nth(1));
        let ids = after.map(|after| after.split('/').next().unwrap_or_default().to_owned());
        let ids = ids.filter(|id| id.len() >= 16);
        ids.collect::<Vec<_>>()
    })
}

// === impl Attempt ===

impl Attempt {
    /// Prepares the verb and calls it; ends when it was answered and everything is quiet, or the
    /// control plane has gone.
    pub async fn make(site: &Site, verb: Verb, deed: Deed) -> Self {
        Self::make_after(site, verb, deed, 0).await
    }

    /// The same, with more requests to the instance before it.
    pub async fn make_after(site: &Site, verb: Verb, deed: Deed, visits: u64) -> Self {
        let plane = site.start().await;
        let ready = verb.prepare(site.kind, &plane).await;
        if visits > 0 {
            visit(&plane, &ready.instance, visits).await;
        }
        let mut known = Listing::read(&plane).await.ids();
        let tracer = Tracer::attach(plane.pid(), &site.state_dir(), deed).await;
        let call = spawn(plane.call(&verb.call(site.kind, &ready)));
        let over = async || {
            tracer.has_ended()
                || (call.is_finished() && is_settled(&plane).await && tracer.is_quiet_for(QUIET))
        };
        eventually_within(2 * PATIENCE, "the verb is over", over).await;
        // An error is that of a connection: the kill came first.
        let answer = call.await.unwrap().ok();
        let changes = tracer.changes();
        known.extend(ids_in(&changes));
        Self {
            plane,
            known,
            answer,
            changes,
            tracer,
        }
    }

    /// Kills the control plane, if that has not happened yet.
    pub async fn kill(mut self) -> (BTreeSet<String>, Option<Answer>, Vec<Change>) {
        if !self.tracer.has_ended() {
            self.plane.program.signal("KILL");
        }
        self.tracer.end().await;
        (self.known, self.answer, self.changes)
    }
}

/// What a control plane without disturbance has come to.
async fn truth(site: &Site, plane: &ControlPlane) -> Truth {
    let (listing, wrong) = agree(plane, site.kind, &site.state_dir(), &BTreeSet::new(), None).await;
    assert!(wrong.is_empty(), "without any disturbance: {wrong:#?}");
    let names = listing.names(&site.state_dir());
    let mut view = listing.view(plane).await;
    let (counts, untrue) = listing.prove(plane).await;
    assert!(untrue.is_empty(), "without any disturbance: {untrue:#?}");
    view.counts = counts;
    Truth { view, names }
}

impl Course {
    /// Learns what is before and after a verb.
    pub async fn learn(kind: Kind, verb: Verb) -> Self {
        let before = {
            let site = site(kind).await;
            let plane = site.start().await;
            verb.prepare(kind, &plane).await;
            truth(&site, &plane).await
        };
        let site = site(kind).await;
        let attempt = Attempt::make(&site, verb, Deed::Nothing).await;
        let answer = attempt.answer.as_ref().unwrap();
        assert!(answer.is_good(), "{verb:?}: {answer:?}");
        let after = truth(&site, &attempt.plane).await;
        Self {
            kind,
            verb,
            before,
            after,
            changes: attempt.changes,
        }
    }

    /// The names of the files that may be there.
    pub fn usual(&self) -> BTreeSet<String> {
        self.before
            .names
            .union(&self.after.names)
            .cloned()
            .collect()
    }

    /// What may be between the two steps of a verb that makes something and then brings it to a
    /// state: it is made, and not yet started or woken.
    pub fn between(&self) -> Option<View> {
        let (name, state) = match (self.verb, self.kind) {
            (Verb::Create, _) => ("two", "Stopped"),
            (Verb::Fork, Kind::Process) => ("copy", "Stopped"),
            (Verb::ForkRunning, Kind::Vm) | (Verb::SnapshotFork, _) => ("copy", "Standby"),
            (Verb::SnapshotRestore, _) => ("one", "Standby"),
            _ => return None,
        };
        let mut view = self.after.view.clone();
        let instance = view.instances.get_mut(name)?;
        instance["state"] = state.into();
        instance["has_snapshot"] = (state == "Standby").into();
        if state == "Stopped" {
            view.counts.remove(name);
        }
        Some(view)
    }

    /// Which of before, after and `between` may be, by what was answered.
    pub fn possible<'a>(
        &'a self,
        answer: Option<&Answer>,
        between: Option<&'a View>,
    ) -> Vec<(&'static str, &'a View)> {
        let before = ("as before", &self.before.view);
        let after = ("as after", &self.after.view);
        match answer {
            None => {
                let between = between.map(|view| ("as between two steps", view));
                [before, after].into_iter().chain(between).collect()
            }
            Some(answer) if answer.is_good() => vec![after],
            Some(_) => vec![before],
        }
    }

    /// Starts another control plane on what was left, and looks for what disagrees; in the end
    /// everything is deleted.
    pub async fn judge(
        &self,
        site: &Site,
        known: &BTreeSet<String>,
        possible: &[(&'static str, &View)],
    ) -> Vec<String> {
        let plane = match site.try_start().await {
            Ok(plane) => plane,
            Err(why) => return vec![format!("no second start: {why}")],
        };
        self.inspect(site, plane, known, possible).await
    }

    /// Looks for what disagrees on a control plane that runs, deletes everything, and starts
    /// another one, which must find nothing.
    pub async fn inspect(
        &self,
        site: &Site,
        plane: ControlPlane,
        known: &BTreeSet<String>,
        possible: &[(&'static str, &View)],
    ) -> Vec<String> {
        let state_dir = site.state_dir();
        let mut known = known.clone();
        known.extend(Listing::read(&plane).await.ids());
        let usual = self.usual();
        let (listing, mut wrong) = agree(&plane, self.kind, &state_dir, &known, Some(&usual)).await;
        let mut view = listing.view(&plane).await;
        let (counts, untrue) = listing.prove(&plane).await;
        wrong.extend(untrue);
        view.counts = counts;
        if !possible.iter().any(|(_, one)| **one == view) {
            let names: Vec<_> = possible.iter().map(|(name, _)| *name).collect();
            let mut text = format!("it is not {}: {view:?}", names.join(" or "));
            for (name, one) in possible {
                let _infallible = write!(text, "\n      {name}: {one:?}");
            }
            wrong.push(text);
        }
        wrong.extend(delete_everything(&plane).await);
        let (listing, left) = agree(&plane, self.kind, &state_dir, &known, None).await;
        wrong.extend(
            left.into_iter()
                .map(|left| format!("after deletion: {left}")),
        );
        drop(plane);
        // Deleted stays deleted.
        match site.try_start().await {
            Ok(plane) => {
                let again = Listing::read(&plane).await;
                for (name, all) in [("then", &listing), ("after another start", &again)] {
                    let ids = all.ids();
                    if !ids.is_empty() {
                        wrong.push(format!("after deletion, {name}, there is {ids:?}"));
                    }
                }
            }
            Err(why) => wrong.push(format!("no third start: {why}")),
        }
        wrong
    }
}

/// The points that differ: of one change after the other to the same file (a copy of a memory is
/// hundreds) the first, the one in the middle and the last. After all of them is a point as well.
fn distinct(changes: &[Change]) -> Vec<usize> {
    let mut all = Vec::new();
    let mut first = 0;
    for run in changes.chunk_by(|one, next| one == next) {
        let last = first + run.len() - 1;
        all.extend([first, usize::midpoint(first, last), last]);
        first = last + 1;
    }
    all.push(changes.len());
    all.dedup();
    all
}

/// So many of these, evenly spread.
fn spread(all: &[usize], number: usize) -> Vec<usize> {
    if number >= all.len() {
        return all.to_vec();
    }
    let index = |i: usize| (2 * i + 1) * all.len() / (2 * number);
    (0..number).map(|i| all[index(i)]).collect()
}

/// The points that are tried of those that there are.
pub fn chosen(course: &Course, takes_room: bool) -> Vec<usize> {
    let variable = |name| std::env::var_os(name)?.into_string().ok();
    let number = |text: String| text.parse::<usize>().unwrap();
    if let Some(one) = variable("CRASH_POINT") {
        return vec![number(one)];
    }
    let mut all = distinct(&course.changes);
    if takes_room {
        all.retain(|point| course.changes.get(*point).is_some_and(|one| one.takes_room));
    }
    match variable("CRASH_POINTS") {
        Some(text) if text == "all" => all,
        Some(text) => spread(&all, number(text)),
        None => spread(&all, POINTS[usize::from(course.kind == Kind::Vm)]),
    }
}

/// The text of what went wrong at a point.
pub fn describe(
    course: &Course,
    what: &str,
    point: usize,
    changes: &[Change],
    answer: Option<&Answer>,
    wrong: &[String],
) -> String {
    let at = changes.get(point);
    let at = at.map_or_else(|| "after the last".to_owned(), ToString::to_string);
    let answered = answer.map_or_else(|| "not answered".to_owned(), |a| format!("{a:?}"));
    let (kind, verb, all) = (course.kind, course.verb, course.changes.len());
    format!(
        "{kind:?} {verb:?}: {what} at point {point} of {all} (CRASH_POINT={point}), before {at}; \
         {answered}\n    {}",
        wrong.join("\n    ")
    )
}

/// Prints how many points there are, and fails when one leaks.
pub fn report(course: &Course, what: &str, tried: usize, failures: &[String]) {
    let (kind, verb, all) = (course.kind, course.verb, course.changes.len() + 1);
    let (different, leaks) = (distinct(&course.changes).len(), failures.len());
    println!(
        "POINTS {kind:?} {verb:?}, {what}: {all} there are, {different} differ, {tried} tried, \
         {leaks} leak"
    );
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// Kills the control plane at the points of a verb, and looks at what is left.
pub async fn kill_at_each_point(kind: Kind, verb: Verb) {
    if !can_trace().await || (kind == Kind::Vm && !crate::support::can_run_vms()) {
        return;
    }
    let course = Course::learn(kind, verb).await;
    let between = course.between();
    let points = chosen(&course, false);
    let mut failures = Vec::new();
    for point in &points {
        let site = site(kind).await;
        let attempt = Attempt::make(&site, verb, Deed::Kill(*point)).await;
        let (known, answer, changes) = attempt.kill().await;
        let possible = course.possible(answer.as_ref(), between.as_ref());
        let wrong = course.judge(&site, &known, &possible).await;
        if !wrong.is_empty() {
            let text = describe(&course, "a kill", *point, &changes, answer.as_ref(), &wrong);
            println!("LEAK {text}");
            failures.push(text);
        }
    }
    report(&course, "a kill", points.len(), &failures);
}
