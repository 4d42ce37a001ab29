//! What must be so for every request, and at the end.
//!
//! Guarantees: a refusal is right only if the world has really said what it tells of, about this
//! name and to this gateway; a breaker is right only if as many attempts had their route's whole
//! time and failed.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use wakegate::hold::AdmitError;
use wakegate::proxy::{ProxyError, error_response};
use wakegate::telemetry::WakeOutcome;
use wakegate::upstream::ForwardError;
use wakegate::wake::WakeError;

use super::gateway::{Gateway, Outcome};
use super::script::{NAMES, Request, Rules, Script};
use super::world::{Act, Errand, Word, World};

/// The failed attempts that open a breaker.
const FAILURES: u32 = 3;
/// So much earlier than at its end an attempt may be given up, as there is no time for a pause.
const PAUSE: Duration = Duration::from_millis(650);
/// How often the runtime pauses for one long sleep, at most: once for each level of its timers.
const PARKS: u64 = 8;
const DAY: Duration = Duration::from_secs(86_400);

/// A request that is over.
pub struct Case<'a> {
    pub script: &'a Script,
    pub gateway: &'a Gateway,
    pub number: u32,
    pub request: Request,
    /// What it asked for, and when.
    pub name: &'a str,
    pub began: Instant,
}

impl Case<'_> {
    pub fn check(&self, outcome: Option<Outcome>) {
        let (number, world) = (self.number, &self.gateway.view.world);
        let arrived = world.deliveries(number);
        if !self.request.errand.may_repeat() && arrived > 1 {
            world.wrong(format!(
                "request {number} is a POST and arrived {arrived} times"
            ));
        }
        let Some(outcome) = outcome else {
            if self.request.leaves_ms.is_none() {
                world.wrong(format!("request {number} had no answer"));
            }
            return;
        };
        match outcome {
            Ok(()) if arrived == 0 => {
                world.wrong(format!("request {number} was answered by nobody"));
            }
            Ok(()) => world.tell(&format!("request {number} is over")),
            Err(error) => {
                let code = error_response::describe(&error).code;
                world.tell(&format!("request {number} is refused: {code} ({error:?})"));
                if let Some(why) = self.uncalled_for(&error) {
                    world.wrong(format!("request {number} was refused ({error:?}): {why}"));
                }
            }
        }
    }

    /// The time that the request may take.
    fn patience(&self) -> Duration {
        let timeouts = self.script.rules().map(Rules::timeout);
        let shortest = timeouts.min().unwrap_or_default();
        shortest.min(Duration::from_millis(self.request.patience_ms))
    }

    /// Why this refusal has no cause in this world, if it has none.
    fn uncalled_for(&self, error: &ProxyError) -> Option<&'static str> {
        if matches!(error, ProxyError::Asleep(_)) {
            return (!self.request.forbidden).then_some("it was allowed to wake");
        }
        // One that goes on for long may keep others waiting.
        let is_long = |request: &Request| !matches!(request.errand, Errand::Get | Errand::Post);
        let is_crowded = self.script.requests.iter().any(is_long);
        let waited_for = matches!(error, ProxyError::Admit(AdmitError::NotItsTurn));
        let is_patient = self.patience() > Duration::from_secs(5);
        if self.script.is_calm() && is_patient && !(waited_for && is_crowded) {
            return Some("nothing was in its way");
        }
        match error {
            ProxyError::Wake(error) => self.unfounded(error),
            ProxyError::Forward(ForwardError::Malformed(_) | ForwardError::Client(_)) => {
                Some("nothing of the kind happens in this world")
            }
            ProxyError::Admit(AdmitError::NotItsTurn) | ProxyError::Forward(_) => None,
            _ => Some("nothing of the kind happens in this world"),
        }
    }

    /// Why nothing that the world has said leads to this refusal, if so.
    fn unfounded(&self, error: &WakeError) -> Option<&'static str> {
        let told = |words: &[Word]| self.gateway.view.was_told(self.name, self.began, words);
        let unless = |is_founded: bool, why| (!is_founded).then_some(why);
        match error {
            WakeError::NotFound => unless(told(&[Word::Gone]), "it was there all the time"),
            WakeError::Gone => unless(
                told(&[Word::Gone, Word::Unlisted]),
                "it was there all the time",
            ),
            WakeError::Stopped if self.may_start() => Some("it may be started"),
            WakeError::Stopped => unless(told(&[Word::Stopped]), "it was never stopped"),
            WakeError::Unusable => unless(
                told(&[Word::NoNetwork, Word::NoAddress]),
                "it had a network and an address",
            ),
            WakeError::AddressRefused => {
                unless(told(&[Word::BadAddress]), "its address was one to use")
            }
            WakeError::StateUnknown => unless(told(&[Word::Unknown]), "its state was known"),
            WakeError::Unauthorized => unless(told(&[Word::Unauthorized]), "the key was right"),
            WakeError::Unreadable => unless(told(&[Word::Unreadable]), "all could be read"),
            WakeError::NoCapacity => unless(told(&[Word::NoRoom]), "the host had room"),
            WakeError::ControlPlaneDown => {
                unless(told(&[Word::Unreachable]), "the control plane answered")
            }
            // A call that was lost has failed as well.
            WakeError::Failed => unless(
                told(&[Word::Failed, Word::Conflict, Word::Hung]),
                "nothing failed",
            ),
            WakeError::Transitioning => unless(
                told(&[Word::Conflict, Word::Passing, Word::Standby, Word::Stopped]),
                "it was on its way nowhere",
            ),
            WakeError::NoSlot => unless(
                self.gateway.view.others_began(self.name, self.began) > 1,
                "nobody else was woken",
            ),
            WakeError::TimedOut(_) => unless(
                // When the breaker opens, it does so for all who wait.
                self.began.elapsed() + PAUSE >= self.patience() || self.failures() >= FAILURES,
                "it had time left",
            ),
            WakeError::TooSlow(_) => unless(self.was_slow(), "its wakes were not so slow"),
            WakeError::BreakerOpen(_) => unless(
                self.failures() >= FAILURES,
                "no three attempts had their whole time and failed",
            ),
            WakeError::Tls(_) | WakeError::ColdBootRefused | WakeError::Draining => {
                Some("nothing of the kind happens in this world")
            }
        }
    }

    fn may_start(&self) -> bool {
        let of_host = |table: &[Rules]| table[self.request.host].start_stopped;
        let after = self.script.reload.as_ref();
        of_host(&self.script.table) && after.is_none_or(|(_, table)| of_host(table))
    }

    /// Whether a wake took longer than the request could wait.
    fn was_slow(&self) -> bool {
        let patience = Duration::from_millis(self.request.patience_ms);
        self.gateway.reports().iter().any(|report| {
            matches!(report.outcome, WakeOutcome::Woken | WakeOutcome::Booted)
                && self.gateway.view.is_about(&report.instance, self.name)
                && report.took + self.began.elapsed() >= self.patience().min(patience)
        })
    }

    /// Attempts in a row that had a route's whole time and failed; most, of all instances that the
    /// name has meant.
    fn failures(&self) -> u32 {
        let shortest = self.script.rules().map(Rules::timeout).min();
        let least = shortest
            .unwrap_or_default()
            .mul_f64(0.9)
            .saturating_sub(PAUSE);
        let (mut most, mut reports) = (0, self.gateway.reports());
        reports.retain(|report| self.gateway.view.is_about(&report.instance, self.name));
        for id in reports.iter().map(|report| &report.instance) {
            let mut failures = 0;
            for report in reports.iter().filter(|report| report.instance == *id) {
                failures = match report.outcome {
                    WakeOutcome::Woken | WakeOutcome::Booted | WakeOutcome::Renewed => 0,
                    WakeOutcome::Failed | WakeOutcome::TimedOut => {
                        let times = report.took.as_millis() / least.as_millis();
                        failures + u32::try_from(times).unwrap()
                    }
                };
            }
            most = most.max(failures);
        }
        most
    }
}

/// What must be so when all requests are over.
pub async fn check_end(script: &Script, gateway: &Gateway) {
    let world = &gateway.view.world;
    let is_renamed = script
        .acts
        .iter()
        .any(|(.., act)| matches!(act, Act::Rename(_)));
    for (name, text) in NAMES.iter().enumerate() {
        let wanted = script
            .requests
            .iter()
            .any(|request| request.name == name && !request.forbidden);
        if !wanted && !is_renamed && world.restores(text) > 0 {
            world.wrong(format!("{text} was restored, and nobody was allowed to"));
        }
    }
    let (held, inside) = (gateway.hold.held(), gateway.hold.inside());
    if held != 0 || inside != 0 {
        world.wrong(format!("{held} places are still taken, {inside} slots out"));
    }
}

/// An instance that sleeps, or that nothing is open to, has no timer: while the gateways know
/// instances and nothing happens, nothing wakes up.
pub async fn check_rest(world: &World) {
    // The longest look-up, an attempt for which nobody waits any more, and calls that hang.
    sleep(Duration::from_secs(100)).await;
    let runtime = Handle::current().metrics();
    let (calls, parks) = (world.calls(), runtime.worker_park_count(0));
    sleep(Duration::from_secs(240)).await;
    let (calls, parks) = (world.calls() - calls, runtime.worker_park_count(0) - parks);
    if calls > 0 || parks > PARKS {
        world.wrong(format!(
            "at rest there were {calls} calls, and {parks} times something woke up"
        ));
    }
}

/// After quiet, nothing is left: no instance, no task, no timer.
pub async fn check_quiet(gateway: &Gateway) {
    let world = &gateway.view.world;
    for _ in 0..13 {
        sleep(Duration::from_secs(60)).await;
        gateway.keep_up();
        gateway.list().await;
    }
    gateway.keep_up();
    sleep(Duration::from_secs(1)).await;
    let (all, tasks) = (gateway.wakes.all(), gateway.tasks.len());
    if !all.is_empty() {
        let ids: Vec<_> = all.iter().map(|(_, instance)| instance.id()).collect();
        world.wrong(format!("after quiet there are instances: {ids:?}"));
    } else if tasks > 0 {
        world.wrong(format!("after quiet there are {tasks} tasks"));
    }
    drop(all);
    if !gateway.hold.census().is_empty() {
        world.wrong("after quiet there are counts of who waits".to_owned());
    }
    let calls = world.calls();
    sleep(DAY).await;
    let more = world.calls() - calls;
    if more > 0 {
        world.wrong(format!("on a day without requests there were {more} calls"));
    }
}
