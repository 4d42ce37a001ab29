use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hypeman::wire::{AutoStandbyStatus, Instance as Answer, InstanceState, WaitOutcome};
use hypeman::{Error as ControlPlaneError, InstanceId};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{Variables, WakeConfig, load};
use crate::telemetry::Metrics;
use crate::wake::Tcp;

/// How long the control plane takes for an answer.
const CALL: Duration = Duration::from_millis(20);

/// A control plane with one instance, which sleeps when nobody holds it, or one that never answers.
#[derive(Clone)]
struct Plane {
    answers: bool,
    idle: Duration,
    awake_until: Arc<Mutex<Option<Instant>>>,
    gets: Arc<AtomicUsize>,
    restores: Arc<AtomicUsize>,
}

impl Plane {
    fn with_idle(idle: Duration) -> Self {
        Self {
            answers: true,
            idle,
            awake_until: Arc::default(),
            gets: Arc::default(),
            restores: Arc::default(),
        }
    }

    fn hanging() -> Self {
        Self {
            answers: false,
            ..Self::with_idle(Duration::from_secs(5))
        }
    }

    fn is_awake(&self) -> bool {
        let until = *self.awake_until.lock().unwrap();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn put_to_sleep(&self) {
        *self.awake_until.lock().unwrap() = None;
    }

    fn extend(&self) {
        *self.awake_until.lock().unwrap() = Some(Instant::now() + self.idle);
    }

    fn answer(&self) -> Answer {
        let state = match self.is_awake() {
            true => "Running",
            false => "Standby",
        };
        let idle = format!("{}s", self.idle.as_secs());
        serde_json::from_value(json!({
            "id": "id-of-app", "name": "app", "image": "i", "state": state,
            "created_at": "2026-01-01T00:00:00Z",
            "auto_standby": { "enabled": true, "idle_timeout": idle },
            "network": { "enabled": true, "ip": "127.0.0.1" },
        }))
        .unwrap()
    }
}

impl ControlPlane for Plane {
    async fn get(&self, _: &InstanceRef) -> Result<Answer, ControlPlaneError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        match self.answers {
            true => {
                sleep(CALL).await;
                Ok(self.answer())
            }
            false => pending().await,
        }
    }

    async fn restore(&self, _: &InstanceId) -> Result<Answer, ControlPlaneError> {
        sleep(Duration::from_millis(300)).await;
        self.restores.fetch_add(1, Ordering::Relaxed);
        self.extend();
        Ok(self.answer())
    }

    async fn start(&self, _: &InstanceId) -> Result<Answer, ControlPlaneError> {
        pending().await
    }

    async fn wait(
        &self,
        _: &InstanceId,
        _: &InstanceState,
        _: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        pending().await
    }

    async fn hold(&self, _: &InstanceId) -> Result<AutoStandbyStatus, ControlPlaneError> {
        sleep(CALL).await;
        if !self.is_awake() {
            return Err(ControlPlaneError::Api {
                op: "hold",
                status: 409,
                code: "instance_in_standby".to_owned(),
                message: String::new(),
                from_api: true,
                retry_after: None,
            });
        }
        self.extend();
        Ok(serde_json::from_value(json!({
            "supported": true, "configured": true, "enabled": true, "eligible": true,
            "status": "idle_countdown", "reason": "idle_timeout_not_elapsed",
            "active_inbound_connections": 0, "tracking_mode": "x",
            "hold_until": "2026-01-01T00:00:10Z",
        }))
        .unwrap())
    }
}

fn windows(text: &str) -> Vec<KeepWarm> {
    let text = format!("[[route]]\nhost = \"a.b\"\ninstance = \"a\"\nkeep_warm = [{text}]\n");
    let config = load("test", &text, &Variables::default()).unwrap();
    config.route[0].keep_warm.clone()
}

fn plan(plane: u16, instance: &str, text: &str) -> WarmPlan {
    WarmPlan {
        plane: PlaneIndex(plane),
        instance: InstanceRef::parse(instance).unwrap(),
        route: "test".into(),
        rules: RouteWakeConfig::default(),
        windows: windows(text),
    }
}

const ALWAYS: &str = "{ cron = \"0 0 * * *\", for = \"24h\" }";

/// A clock that goes with the runtime's.
fn clock_from(start: &str) -> impl Fn() -> jiff::Timestamp + Send + Sync + 'static {
    let (start, since): (jiff::Timestamp, _) = (start.parse().unwrap(), Instant::now());
    move || start + since.elapsed()
}

/// `keep_warm` of these plans, until the end of the test.
struct Keeping {
    plans: watch::Sender<Vec<WarmPlan>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Keeping {
    fn begin(planes: &[Plane], plans: Vec<WarmPlan>, start: &str) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let wakes = Wakes::new(
            planes.to_vec(),
            Tcp,
            WakeConfig::default(),
            &Arc::new(Metrics::new()),
            tasks.clone(),
            &stop,
        );
        let plans = watch::Sender::new(plans);
        let keeping = keep_warm(wakes, plans.subscribe(), clock_from(start));
        let stopping = stop.clone();
        tasks.spawn(async move {
            stopping.run_until_cancelled(keeping).await.unwrap_or(());
        });
        Self { plans, stop, tasks }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn pass_until(limit: Duration, reached: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !reached() {
        assert!(Instant::now() < end, "not within {limit:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[track_caller]
fn check_left(text: &str, at: &str, expected: Option<u64>) {
    let plan = plan(0, "app", text);
    let left = plan.left(at.parse().unwrap());
    let is_as_expected = match (left, expected) {
        (Some(left), Some(least)) => left >= Duration::from_secs(least),
        (left, expected) => left.is_none() && expected.is_none(),
    };
    assert!(is_as_expected, "{text} at {at}: {left:?}");
}

#[test]
fn windows_that_touch_or_overlap_are_one() {
    let each_minute = "{ cron = \"* * * * *\", for = \"2m\" }";
    // The older of two windows is about to end; the younger goes on.
    check_left(each_minute, "2026-01-01T12:01:59.5Z", Some(25));
    check_left(each_minute, "2026-01-01T12:02:00Z", Some(25));
    let hours = "{ cron = \"0 9 * * *\", for = \"1h\" }, { cron = \"0 10 * * *\", for = \"1h\" }";
    check_left(hours, "2026-01-01T09:59:58Z", Some(25));
    check_left(hours, "2026-01-01T10:00:00Z", Some(25));
    check_left(hours, "2026-01-01T10:59:58Z", Some(2));
    check_left(hours, "2026-01-01T11:00:00Z", None);
    check_left(hours, "2026-01-01T08:59:59.9Z", None);
    let nine = "{ cron = \"0 9 * * *\", for = \"1h\" }";
    let left = plan(0, "app", nine).left("2026-01-01T09:59:58.25Z".parse().unwrap());
    assert_eq!(left, Some(Duration::from_millis(1750)));
}

#[tokio::test(start_paused = true)]
async fn an_instance_stays_awake_where_one_window_ends_inside_another() {
    let plane = Plane::with_idle(Duration::from_secs(4));
    let plans = vec![plan(0, "app", "{ cron = \"* * * * *\", for = \"2m\" }")];
    // The first look comes three seconds before the end of the older window.
    let keeping = Keeping::begin(std::slice::from_ref(&plane), plans, "2026-01-01T12:00:57Z");
    pass_until(Duration::from_secs(2), || plane.is_awake()).await;
    for _ in 0..180 {
        sleep(Duration::from_secs(1)).await;
        assert!(plane.is_awake());
    }
    assert_eq!(plane.restores.load(Ordering::Relaxed), 1);
    keeping.end().await;
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_reached_cost_a_healthy_instance_nothing() {
    let (healthy, hanging) = (Plane::with_idle(Duration::from_secs(5)), Plane::hanging());
    let mut plans: Vec<WarmPlan> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .map(|name| plan(1, name, ALWAYS))
        .collect();
    plans.push(plan(0, "app", ALWAYS));
    let planes = [healthy.clone(), hanging.clone()];
    let keeping = Keeping::begin(&planes, plans, "2026-01-01T12:00:00Z");
    pass_until(Duration::from_secs(1), || healthy.is_awake()).await;
    for _ in 0..120 {
        sleep(Duration::from_secs(1)).await;
        assert!(healthy.is_awake());
    }
    assert_eq!(healthy.restores.load(Ordering::Relaxed), 1);
    let gets = hanging.gets.load(Ordering::Relaxed);
    assert!(gets > 6, "they are tried again: {gets}");
    keeping.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_somebody_puts_to_sleep_in_its_window_is_awake_again_and_stays_so() {
    let plane = Plane::with_idle(Duration::from_secs(5));
    let plans = vec![plan(0, "app", ALWAYS)];
    let keeping = Keeping::begin(std::slice::from_ref(&plane), plans, "2026-01-01T12:00:00Z");
    pass_until(Duration::from_secs(1), || plane.is_awake()).await;
    sleep(Duration::from_secs(13)).await;
    plane.put_to_sleep();
    // A lease of five seconds, and a look.
    pass_until(Duration::from_secs(7), || plane.is_awake()).await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert!(plane.is_awake());
    }
    assert_eq!(plane.restores.load(Ordering::Relaxed), 2);
    keeping.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_begins_on_time_and_a_change_of_the_plans_takes_effect_at_once() {
    let (one, other) = (
        Plane::with_idle(Duration::from_secs(5)),
        Plane::with_idle(Duration::from_secs(5)),
    );
    let later = "{ cron = \"1 12 * * *\", for = \"1m\" }";
    let planes = [one.clone(), other.clone()];
    let plans = vec![plan(0, "app", later)];
    let keeping = Keeping::begin(&planes, plans, "2026-01-01T12:00:24Z");
    sleep(Duration::from_secs(35)).await;
    assert!(!one.is_awake() && one.gets.load(Ordering::Relaxed) == 0);
    sleep(Duration::from_secs(2)).await;
    assert!(one.is_awake(), "it begins at 12:01:00");
    let plans = vec![plan(0, "app", later), plan(1, "app", ALWAYS)];
    keeping.plans.send_replace(plans);
    sleep(Duration::from_secs(1)).await;
    assert!(other.is_awake());
    keeping.plans.send_replace(vec![plan(1, "app", ALWAYS)]);
    // What was asked for ahead, and one idle timeout.
    sleep(AHEAD + Duration::from_secs(6)).await;
    assert!(!one.is_awake() && other.is_awake());
    assert_eq!(other.restores.load(Ordering::Relaxed), 1);
    keeping.end().await;
}
