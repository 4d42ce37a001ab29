//! The wake engine against a control plane that plays a part: old, slow, changing, lying.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{eventually, reference};
use hypeman::wire::{AutoStandbyStatus, Instance as Answer, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError};
use hypeman::{InstanceId, InstanceRef};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate::config::{ReadyWhen, RouteWakeConfig, WakeConfig};
use wakegate::names::PlaneIndex;
use wakegate::telemetry::{Metrics, WakeKind};
use wakegate::wake::{
    Instance, Listing, Ready, Requester, Suspicion, Target, Tcp, WakeError, WakeStage, Wakes,
};

const PATIENCE: Duration = Duration::from_secs(5);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What the control plane says at the moment, and what it was asked.
#[derive(Debug)]
struct Part {
    id: &'static str,
    name: &'static str,
    state: &'static str,
    ip: &'static str,
    idle: Option<&'static str>,
    ignore: &'static [&'static str],
    has_hold: bool,
    /// How long a restore takes.
    restore_takes: Duration,
    after_restore: &'static str,
    health: Option<&'static str>,
    /// It is somebody else's error page that answers.
    is_hidden: bool,
    calls: Vec<&'static str>,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            id: "one",
            name: "named",
            state: "Standby",
            ip: "127.0.0.1",
            idle: Some("10s"),
            ignore: &[],
            has_hold: true,
            restore_takes: Duration::ZERO,
            after_restore: "Running",
            health: None,
            is_hidden: false,
            calls: Vec::new(),
        }
    }
}

#[derive(Clone, Default)]
struct Actor {
    part: Arc<Mutex<Part>>,
    cancelled: Arc<AtomicBool>,
}

impl Actor {
    fn play(&self, change: impl FnOnce(&mut Part)) {
        change(&mut self.part.lock().unwrap());
    }

    fn count(&self, call: &str) -> usize {
        self.part
            .lock()
            .unwrap()
            .calls
            .iter()
            .filter(|made| **made == call)
            .count()
    }

    fn note(&self, call: &'static str) {
        self.part.lock().unwrap().calls.push(call);
    }

    fn answer(&self) -> Answer {
        let part = self.part.lock().unwrap();
        let policy = part.idle.map(|idle| {
            json!({ "enabled": true, "idle_timeout": idle, "ignore_source_cidrs": part.ignore })
        });
        serde_json::from_value(json!({
            "id": part.id, "name": part.name, "image": "i", "state": part.state,
            "created_at": "2026-01-01T00:00:00Z", "auto_standby": policy,
            "network": { "enabled": true, "ip": part.ip },
            "health_status": part.health.map(|status| json!({ "status": status })),
        }))
        .unwrap()
    }
}

fn refusal(op: &'static str, status: u16, code: &str) -> ControlPlaneError {
    ControlPlaneError::api(op, status, code, "")
}

impl ControlPlane for Actor {
    async fn get(&self, name: &InstanceRef) -> Result<Answer, ControlPlaneError> {
        self.note("get");
        if self.part.lock().unwrap().is_hidden {
            return Err(ControlPlaneError::Api {
                op: "get",
                status: 404,
                code: "Not Found".to_owned(),
                message: "<html>".to_owned(),
                from_api: false,
                retry_after: None,
            });
        }
        let answer = self.answer();
        match [&answer.id, &answer.name].contains(&&name.as_str().to_owned()) {
            true => Ok(answer),
            false => Err(refusal("get", 404, "not_found")),
        }
    }

    async fn restore(&self, _: &InstanceId) -> Result<Answer, ControlPlaneError> {
        self.note("restore");
        self.cancelled.store(true, Ordering::SeqCst);
        let takes = self.part.lock().unwrap().restore_takes;
        tokio::time::sleep(takes).await;
        self.cancelled.store(false, Ordering::SeqCst);
        self.play(|part| part.state = part.after_restore);
        Ok(self.answer())
    }

    async fn start(&self, _: &InstanceId) -> Result<Answer, ControlPlaneError> {
        self.note("start");
        self.play(|part| part.state = "Running");
        Ok(self.answer())
    }

    /// As slow to notice as upstream's poll.
    async fn wait(
        &self,
        _: &InstanceId,
        _: &InstanceState,
        _: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        self.note("wait");
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.note("waited");
        Ok(serde_json::from_value(json!({ "state": "Running" })).unwrap())
    }

    async fn hold(&self, _: &InstanceId) -> Result<AutoStandbyStatus, ControlPlaneError> {
        self.note("hold");
        let part = self.part.lock().unwrap();
        match (part.has_hold, part.state) {
            (false, _) => Err(refusal("hold", 404, "Not Found")),
            (true, "Standby") => Err(refusal("hold", 409, "instance_in_standby")),
            (true, state) => {
                let eligible = state == "Running" && part.idle.is_some();
                let until = eligible.then_some("2026-01-01T00:00:10Z");
                Ok(serde_json::from_value(json!({
                    "supported": true, "configured": true, "enabled": true, "eligible": eligible,
                    "status": "idle_countdown", "reason": "idle_timeout_not_elapsed",
                    "active_inbound_connections": 0, "tracking_mode": "x", "hold_until": until,
                }))
                .unwrap())
            }
        }
    }
}

/// An engine with one actor, and an application that listens.
struct Stage {
    actor: Actor,
    wakes: Arc<Wakes<Actor>>,
    port: u16,
    _app: TcpListener,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    async fn set(config: WakeConfig) -> Self {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let actor = Actor::default();
        let wakes = Wakes::new(
            vec![actor.clone()],
            Tcp,
            config,
            &Arc::new(Metrics::new()),
            tasks.clone(),
            &stop,
        );
        let port = app.local_addr().unwrap().port();
        Self {
            actor,
            wakes,
            port,
            _app: app,
            stop,
            tasks,
        }
    }

    async fn find(&self) -> Result<Arc<Instance>, WakeError> {
        self.wakes
            .find(PlaneIndex(0), &reference("named"), PATIENCE, CLIENT)
            .await
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn target(port: u16) -> Target {
    let when = ReadyWhen::Running;
    let (health, tls) = (None, None);
    Target {
        port,
        when,
        is_chosen: false,
        health,
        tls,
    }
}

fn requester() -> Requester {
    Requester {
        unparked_by: None,
        trace: None,
        route: "test".into(),
        client: [127, 0, 0, 1].into(),
        user_agent: None,
        since: tokio::time::Instant::now(),
    }
}

async fn get_ready(instance: &Instance, port: u16, timeout_ms: u64) -> Result<Ready, WakeError> {
    let patience = Duration::from_millis(timeout_ms);
    let rules = RouteWakeConfig {
        timeout: patience,
        ..RouteWakeConfig::default()
    };
    instance
        .ready(target(port), &rules, patience, requester())
        .await
}

#[tokio::test]
async fn a_restore_that_outlives_its_request_is_not_cancelled() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage
        .actor
        .play(|part| part.restore_takes = Duration::from_millis(400));
    let instance = stage.find().await.unwrap();
    let refused = get_ready(&instance, stage.port, 100).await.unwrap_err();
    assert_eq!(refused, WakeError::TimedOut(WakeStage::Restoring));
    let ready = get_ready(&instance, stage.port, 5000).await.unwrap();
    assert!(!stage.actor.cancelled.load(Ordering::SeqCst));
    assert_eq!(stage.actor.count("restore"), 1);
    drop(ready);
    stage.end().await;
}

#[tokio::test]
async fn a_drain_waits_for_the_restore_that_has_begun() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage
        .actor
        .play(|part| part.restore_takes = Duration::from_millis(200));
    let instance = stage.find().await.unwrap();
    let _refused = get_ready(&instance, stage.port, 50).await.unwrap_err();
    let actor = stage.actor.clone();
    stage.end().await;
    assert!(
        !actor.cancelled.load(Ordering::SeqCst),
        "the restore had its answer"
    );
}

#[tokio::test]
async fn a_server_without_hold_is_asked_for_it_once() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage
        .actor
        .play(|part| (part.has_hold, part.state) = (false, "Running"));
    let instance = stage.find().await.unwrap();
    for _ in 0..3 {
        let ready = get_ready(&instance, stage.port, 1000).await.unwrap();
        assert!(!matches!(ready.kind, WakeKind::Cold));
        instance
            .suspect(&ready.endpoint, Suspicion::NotConnected(stage.port))
            .await;
    }
    assert_eq!(stage.actor.count("hold"), 1);
    stage.end().await;
}

#[tokio::test]
async fn an_initializing_instance_is_seen_running_long_before_wait_says_so() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage.actor.play(|part| part.after_restore = "Initializing");
    let instance = stage.find().await.unwrap();
    let actor = stage.actor.clone();
    let booted = crate::support::spawn(async move {
        while actor.count("restore") == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        actor.play(|part| part.state = "Running");
    });
    get_ready(&instance, stage.port, 60_000).await.unwrap();
    booted.await.unwrap();
    assert_eq!(stage.actor.count("waited"), 0);
    stage.end().await;
}

#[tokio::test]
async fn an_address_that_belongs_to_another_instance_now_receives_nothing() {
    let stage = Stage::set(WakeConfig::default()).await;
    let instance = stage.find().await.unwrap();
    let ready = get_ready(&instance, stage.port, 1000).await.unwrap();
    assert!(instance.warm(&target(stage.port)).is_some());
    // The same name, state and address, and another id.
    stage
        .actor
        .play(|part| (part.id, part.state) = ("another", "Running"));
    instance
        .suspect(&ready.endpoint, Suspicion::NotConnected(stage.port))
        .await;
    let refused = get_ready(&instance, stage.port, 1000).await.unwrap_err();
    assert_eq!(refused, WakeError::Gone);
    assert!(
        ready.endpoint.cut().is_cancelled(),
        "its connections are cut"
    );
    assert!(instance.warm(&target(stage.port)).is_none());
    assert_eq!(stage.find().await.unwrap().id().as_str(), "another");
    stage.end().await;
}

#[tokio::test]
async fn a_changed_address_begins_a_new_epoch() {
    let stage = Stage::set(WakeConfig::default()).await;
    // Of all addresses of this machine, the one that no other test uses.
    let other = TcpListener::bind(("127.3.2.1", stage.port)).await.unwrap();
    let instance = stage.find().await.unwrap();
    let old = get_ready(&instance, stage.port, 1000)
        .await
        .unwrap()
        .endpoint;
    stage.actor.play(|part| part.ip = "127.3.2.1");
    instance
        .suspect(&old, Suspicion::NotConnected(stage.port))
        .await;
    let new = get_ready(&instance, stage.port, 1000)
        .await
        .unwrap()
        .endpoint;
    assert_eq!(new.ip(), other.local_addr().unwrap().ip());
    assert_ne!(new.epoch(), old.epoch());
    stage.end().await;
}

#[tokio::test]
async fn a_policy_that_ignores_our_connections_has_its_hold_renewed_while_one_is_open() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage
        .actor
        .play(|part| (part.idle, part.ignore) = (Some("300ms"), &["127.0.0.0/8"]));
    let instance = stage.find().await.unwrap();
    let ready = get_ready(&instance, stage.port, 1000).await.unwrap();
    let holds = stage.actor.count("hold");
    eventually("holds are renewed", async || {
        stage.actor.count("hold") >= holds + 3
    })
    .await;
    drop(ready);
    stage.end().await;
}

#[tokio::test]
async fn many_askers_share_one_look_up_and_one_restore() {
    let stage = Arc::new(Stage::set(WakeConfig::default()).await);
    stage
        .actor
        .play(|part| part.restore_takes = Duration::from_millis(50));
    let (go, gate) = watch::channel(false);
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (stage, mut gate) = (Arc::clone(&stage), gate.clone());
        askers.spawn(async move {
            gate.wait_for(|open| *open).await.unwrap();
            let instance = stage.find().await.unwrap();
            get_ready(&instance, stage.port, 5000).await.unwrap().kind
        });
    }
    go.send(true).unwrap();
    let kinds = askers.join_all().await;
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| matches!(kind, WakeKind::Cold))
            .count(),
        1
    );
    assert_eq!(
        (stage.actor.count("get"), stage.actor.count("restore")),
        (1, 1)
    );
    Arc::into_inner(stage).unwrap().end().await;
}

#[tokio::test]
async fn after_failed_wakes_in_a_row_requests_are_refused_at_once() {
    let config = WakeConfig {
        breaker_failures: 2,
        ..WakeConfig::default()
    };
    let stage = Stage::set(config).await;
    stage.actor.play(|part| part.state = "Paused");
    let instance = stage.find().await.unwrap();
    let mut failed = 0;
    // The engine's own verdict comes with its next step.
    eventually("nobody is let in any more", async || {
        let refused = get_ready(&instance, stage.port, 60).await.unwrap_err();
        if let WakeError::BreakerOpen(_) = refused {
            return true;
        }
        assert!(
            matches!(refused, WakeError::TimedOut(_) | WakeError::Transitioning),
            "{refused:?}"
        );
        failed += 1;
        false
    })
    .await;
    assert!(failed >= 2, "{failed} failed wakes");
    let calls = stage.actor.count("get");
    let refused = get_ready(&instance, stage.port, 60).await.unwrap_err();
    assert!(matches!(refused, WakeError::BreakerOpen(_)), "{refused:?}");
    assert_eq!(stage.actor.count("get"), calls, "nobody was asked");
    stage.end().await;
}

#[tokio::test]
async fn a_request_that_cannot_wait_as_long_as_wakes_take_is_refused_at_once_and_begins_the_wake() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage
        .actor
        .play(|part| part.restore_takes = Duration::from_millis(200));
    let instance = stage.find().await.unwrap();
    for _ in 0..3 {
        let woken = get_ready(&instance, stage.port, 5000).await.unwrap();
        stage.actor.play(|part| part.state = "Standby");
        instance
            .suspect(&woken.endpoint, Suspicion::NotConnected(stage.port))
            .await;
        woken.endpoint.cut().cancelled().await;
    }
    let restores = stage.actor.count("restore");
    // This clock goes on only when nobody has anything to do but wait.
    tokio::time::pause();
    let asked = tokio::time::Instant::now();
    let refused = get_ready(&instance, stage.port, 100).await.unwrap_err();
    assert!(matches!(refused, WakeError::TooSlow(_)), "{refused:?}");
    assert_eq!(asked.elapsed(), Duration::ZERO);
    tokio::time::resume();
    eventually("the wake has begun all the same", async || {
        stage.actor.count("restore") > restores
    })
    .await;
    assert!(get_ready(&instance, stage.port, 5000).await.is_ok());
    stage.end().await;
}

#[tokio::test]
async fn a_port_that_answers_while_the_instance_is_initializing_is_enough_for_a_route_that_says_so()
{
    let stage = Stage::set(WakeConfig::default()).await;
    stage.actor.play(|part| part.after_restore = "Initializing");
    let instance = stage.find().await.unwrap();
    let rules = RouteWakeConfig::default();
    let port = Target {
        port: stage.port,
        when: ReadyWhen::Port,
        is_chosen: false,
        health: None,
        tls: None,
    };
    let patience = Duration::from_secs(2);
    let early = instance.ready(port, &rules, patience, requester()).await;
    assert!(early.is_ok(), "{early:?}");
    let late = get_ready(&instance, stage.port, 300).await.unwrap_err();
    assert_eq!(late, WakeError::TimedOut(WakeStage::Initializing));
    stage.end().await;
}

#[tokio::test]
async fn a_route_that_wants_health_takes_the_servers_word_for_it() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage
        .actor
        .play(|part| (part.state, part.health) = ("Running", Some("starting")));
    let instance = stage.find().await.unwrap();
    let (rules, patience) = (RouteWakeConfig::default(), Duration::from_millis(400));
    let healthy = Target {
        port: stage.port,
        when: ReadyWhen::Health,
        is_chosen: false,
        health: Some("/".into()),
        tls: None,
    };
    let refused = instance.ready(healthy.clone(), &rules, patience, requester());
    let refused = refused.await;
    assert_eq!(
        refused.unwrap_err(),
        WakeError::TimedOut(WakeStage::Unhealthy)
    );
    stage.actor.play(|part| part.health = Some("healthy"));
    let ready = instance.ready(healthy, &rules, Duration::from_secs(5), requester());
    assert!(ready.await.is_ok());
    stage.end().await;
}

#[tokio::test]
async fn a_connection_that_falls_silent_because_its_instance_sleeps_is_cut() {
    let config = WakeConfig {
        stall_timeout: Duration::from_millis(100),
        ..WakeConfig::default()
    };
    let stage = Stage::set(config).await;
    let instance = stage.find().await.unwrap();
    let ready = get_ready(&instance, stage.port, 1000).await.unwrap();
    // By hand, without a FIN or RST; our connection is open and hears nothing.
    stage.actor.play(|part| part.state = "Standby");
    eventually("the silence is asked about", async || {
        ready.endpoint.cut().is_cancelled()
    })
    .await;
    assert_eq!(stage.actor.count("restore"), 1, "nobody wanted it awake");
    stage.end().await;
}

#[tokio::test]
async fn no_more_instances_are_restored_at_once_than_the_control_plane_is_to_bear() {
    let config = WakeConfig {
        max_concurrent: 1,
        ..WakeConfig::default()
    };
    let stage = Stage::set(config).await;
    stage
        .actor
        .play(|part| part.restore_takes = Duration::from_millis(400));
    let first = stage.find().await.unwrap();
    stage
        .actor
        .play(|part| (part.id, part.name) = ("two", "second"));
    let name = reference("second");
    let second = stage.wakes.find(PlaneIndex(0), &name, PATIENCE, CLIENT);
    let second = second.await.unwrap();
    stage
        .actor
        .play(|part| (part.id, part.name) = ("one", "named"));
    let (one, two) = tokio::join!(
        get_ready(&first, stage.port, 5000),
        get_ready(&second, stage.port, 200)
    );
    assert!(one.is_ok(), "{one:?}");
    assert_eq!(two.unwrap_err(), WakeError::NoSlot);
    assert_eq!(stage.actor.count("restore"), 1);
    stage.end().await;
}

#[tokio::test]
async fn a_name_that_another_instance_has_now_is_looked_up_anew() {
    let stage = Stage::set(WakeConfig::default()).await;
    let before = stage.find().await.unwrap();
    let ready = get_ready(&before, stage.port, 1000).await.unwrap();
    // The same instance, renamed; the gateway learns that when it asks next.
    stage.actor.play(|part| part.name = "renamed");
    before
        .suspect(&ready.endpoint, Suspicion::NotConnected(stage.port))
        .await;
    get_ready(&before, stage.port, 1000).await.unwrap();
    stage
        .actor
        .play(|part| (part.id, part.name) = ("two", "named"));
    assert_eq!(stage.find().await.unwrap().id().as_str(), "two");
    stage.end().await;
}

#[tokio::test]
async fn a_look_up_ends_when_nobody_waits_for_it_any_more() {
    let stage = Stage::set(WakeConfig::default()).await;
    stage.actor.play(|part| part.is_hidden = true);
    let names: Vec<_> = (0..50)
        .map(|number| reference(&format!("n{number}")))
        .collect();
    let patience = Duration::from_millis(50);
    for name in &names {
        let finding = stage.wakes.find(PlaneIndex(0), name, patience, CLIENT);
        assert_eq!(finding.await.unwrap_err(), WakeError::Failed);
    }
    eventually("nothing is going on", async || stage.tasks.is_empty()).await;
    stage.end().await;
}

#[tokio::test]
async fn an_answer_that_hides_the_control_plane_delays_a_look_up_and_does_not_end_it() {
    let stage = Arc::new(Stage::set(WakeConfig::default()).await);
    stage.actor.play(|part| part.is_hidden = true);
    let finding = {
        let stage = Arc::clone(&stage);
        crate::support::spawn(async move { stage.find().await.map(|found| found.id().clone()) })
    };
    eventually("it was asked for", async || stage.actor.count("get") > 1).await;
    stage.actor.play(|part| part.is_hidden = false);
    assert_eq!(finding.await.unwrap().unwrap().as_str(), "one");
    Arc::into_inner(stage).unwrap().end().await;
}

#[tokio::test]
async fn what_nobody_uses_is_let_go_of_and_its_task_ends() {
    let config = WakeConfig {
        forget_after: Duration::from_secs(60),
        ..WakeConfig::default()
    };
    let stage = Stage::set(config).await;
    let instance = stage.find().await.unwrap();
    let ready = get_ready(&instance, stage.port, 1000).await.unwrap();
    let weak = Arc::downgrade(&instance);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    stage.wakes.upkeep();
    assert_eq!(stage.wakes.all().len(), 1, "a connection is open");
    drop(ready);
    stage.wakes.upkeep();
    assert_eq!(stage.wakes.all().len(), 1, "somebody has it");
    drop(instance);
    stage.wakes.upkeep();
    assert_eq!(stage.wakes.all().len(), 1, "it was used a moment ago");
    tokio::time::advance(Duration::from_secs(61)).await;
    stage.wakes.upkeep();
    assert!(stage.wakes.all().is_empty());
    tokio::time::resume();
    eventually("its task has ended", async || stage.tasks.is_empty()).await;
    assert!(weak.upgrade().is_none());
    assert_eq!(stage.find().await.unwrap().id().as_str(), "one");
    stage.end().await;
}

impl Stage {
    /// The control plane lists these instances.
    fn list(&self, described: Vec<Answer>) {
        let listing = Listing::new(described, true, tokio::time::Instant::now());
        self.wakes.note_list(PlaneIndex(0), Arc::new(listing));
    }
}

#[tokio::test]
async fn an_instance_that_lists_show_running_is_not_asked_about() {
    let config = WakeConfig {
        stall_timeout: Duration::from_millis(200),
        ..WakeConfig::default()
    };
    let stage = Stage::set(config).await;
    let instance = stage.find().await.unwrap();
    let _quiet = get_ready(&instance, stage.port, 1000).await.unwrap();
    let asked = stage.actor.count("get");
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        stage.list(vec![stage.actor.answer()]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stage.actor.count("get"), asked);
    eventually("without lists it is asked about", async || {
        stage.actor.count("get") > asked
    })
    .await;
    stage.end().await;
}

#[tokio::test]
async fn a_list_without_an_instance_raises_a_doubt_and_cuts_nothing() {
    let stage = Stage::set(WakeConfig::default()).await;
    let instance = stage.find().await.unwrap();
    let ready = get_ready(&instance, stage.port, 1000).await.unwrap();
    let asked = stage.actor.count("get");
    stage.list(Vec::new());
    eventually("the control plane itself is asked", async || {
        stage.actor.count("get") > asked
    })
    .await;
    assert!(get_ready(&instance, stage.port, 1000).await.is_ok());
    assert!(!ready.endpoint.cut().is_cancelled());
    // To whom nothing is open, it costs a look-up to be known again.
    drop(ready);
    eventually("nothing is open to it", async || {
        stage.list(Vec::new());
        stage.wakes.all().is_empty()
    })
    .await;
    assert_eq!(stage.find().await.unwrap().id(), instance.id());
    stage.end().await;
}

#[tokio::test]
async fn a_list_that_calls_an_instance_otherwise_frees_its_name() {
    let stage = Stage::set(WakeConfig::default()).await;
    let before = stage.find().await.unwrap();
    let mut renamed = stage.actor.answer();
    renamed.name = "other".to_owned();
    stage.list(vec![renamed]);
    stage
        .actor
        .play(|part| (part.id, part.name) = ("two", "named"));
    assert!(!before.is_meant_by(&reference("named")));
    assert_eq!(stage.find().await.unwrap().id().as_str(), "two");
    stage.end().await;
}

#[tokio::test]
async fn a_client_guesses_so_many_names_at_once_and_a_crowd_for_one_name_is_no_guess() {
    let stage = Arc::new(Stage::set(WakeConfig::default()).await);
    stage.actor.play(|part| part.is_hidden = true);
    let mut guesses = tokio::task::JoinSet::new();
    let guess = |name: String, client: IpAddr| {
        let stage = Arc::clone(&stage);
        async move {
            let patience = Duration::from_millis(500);
            let name = reference(&name);
            let found = stage.wakes.find(PlaneIndex(0), &name, patience, client);
            found.await.map(|_| ()).unwrap_err()
        }
    };
    for number in 0..100 {
        guesses.spawn(guess(format!("guess{number}"), CLIENT));
        guesses.spawn(guess("crowd".to_owned(), CLIENT));
    }
    let other = guess("guess".to_owned(), IpAddr::from([192, 0, 2, 1])).await;
    assert_eq!(other, WakeError::Failed, "others guess as well");
    let refused = guesses.join_all().await;
    let refused = refused.iter().filter(|error| **error == WakeError::NoSlot);
    assert_eq!(refused.count(), 100 - 63);
    Arc::into_inner(stage).unwrap().end().await;
}
