//! Patience: what a client, an application or a control plane does costs the others nothing, and
//! questions are few.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{LIMIT, Reply, Stage, ask};
use crate::support::eventually;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{ALL, Answer, Operation, Reaction, Scripted};

/// A client with a time limit of its own asks for an instance that sleeps, on a control plane that
/// takes longer than that for each answer; then one asks without.
async fn impatience_harms_nobody(fields: &[(&str, &str)], answers_take: Duration) {
    // An answer that is older than this proves nothing.
    let verify_interval = answers_take + Duration::from_millis(700);
    let stage = Stage::set(&format!(
        "[wake]
verify_interval = \"{}ms\"
breaker_failures = 1
",
        verify_interval.as_millis()
    ))
    .await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("slow", app.ip));
    assert_eq!(stage.get("slow").await.body, "app");
    stage.plane.sleep(&id);
    for operation in [Operation::Get, Operation::Hold, Operation::Restore] {
        stage.plane.on(operation, ALL, Reaction::Slow(answers_take));
    }
    // Until no lease is left, so that the gateway has to ask.
    sleep(verify_interval + Duration::from_millis(100)).await;

    let client = stage.gateway.client();
    for _ in 0..2 {
        let reply = ask(&client, "POST", "slow", "/", fields).await;
        assert_ne!(reply.code, "wake_failing", "{reply:?}");
    }
    let honest = stage.get("slow").await;
    assert_eq!(
        (honest.status, honest.body.as_str()),
        (200, "app"),
        "{honest:?}"
    );
    let openings = stage
        .gateway
        .metric("wakegate_breaker_openings_total")
        .await;
    assert_eq!(openings, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_own_time_limit_shuts_an_instance_off_for_nobody() {
    let limit = ("grpc-timeout", "20m");
    impatience_harms_nobody(&[limit], Duration::from_millis(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_s_time_limit_shuts_an_instance_off_for_nobody() {
    let fields = [
        ("grpc-timeout", "20m"),
        ("content-type", "application/grpc"),
    ];
    impatience_harms_nobody(&fields, Duration::from_millis(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preference_to_wait_shortly_shuts_an_instance_off_for_nobody() {
    impatience_harms_nobody(&[("prefer", "wait=1")], Duration::from_millis(1300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_truly_fails_is_refused_at_once_after_a_while() {
    // The other side: the breaker is still there.
    let stage = Stage::set("[wake]\ntimeout = \"300ms\"\nbreaker_failures = 3\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::asleep("torn", app.ip));
    stage.plane.on(
        Operation::Restore,
        &id,
        Answer::error(500, "internal_error"),
    );
    let mut replies = Vec::new();
    for _ in 0..4 {
        replies.push(stage.get("torn").await);
    }
    assert!(
        replies.last().unwrap().is(503, "wake_failing"),
        "{replies:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_that_an_application_asks_for_are_merged() {
    let stage = Stage::set("").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("greedy", app.ip));
    stage.plane.add(Scripted::asleep("other", app.ip));
    assert_eq!(stage.get("greedy").await.body, "app");
    stage.plane.on(
        Operation::Hold,
        &id,
        Reaction::Slow(Duration::from_millis(300)),
    );
    let before = stage.plane.calls(Operation::Hold, &id);
    let mut answered = 0;
    for _ in 0..10 {
        let replies = stage.crowd(20, "GET", "greedy", "/hold").await;
        answered += replies.iter().filter(|reply| reply.status == 200).count();
    }
    assert_eq!(answered, 200);
    let began = Instant::now();
    assert_eq!(stage.get("other").await.body, "app");
    let took = began.elapsed();
    eventually("it is held", async || {
        stage.plane.calls(Operation::Hold, &id) > before
    })
    .await;
    let holds = stage.plane.calls(Operation::Hold, &id) - before;
    assert!(holds <= 8, "{holds} holds");
    assert!(
        took < Duration::from_secs(2),
        "another's wake took {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_instances_that_cannot_be_read_delay_no_other() {
    let stage = Stage::set("[wake]\nverify_interval = \"500ms\"\ntimeout = \"15s\"\n").await;
    let app = Application::start("app").await;
    let names: Vec<String> = (0..40).map(|number| format!("stuck-{number}")).collect();
    let add = |name: &String| stage.plane.add(Scripted::running(name, app.ip));
    let ids: Vec<String> = names.iter().map(add).collect();
    stage.plane.add(Scripted::asleep("fine", app.ip));
    let mut first = JoinSet::new();
    for name in names.clone() {
        let client = stage.gateway.client();
        first.spawn(async move { ask(&client, "GET", &name, "/", &[]).await.status });
    }
    assert_eq!(first.join_all().await, [200; 40]);

    // By the contract, both wait behind a standby that runs.
    for id in &ids {
        stage.plane.on(Operation::Get, id, Reaction::Hang);
        stage.plane.on(Operation::Hold, id, Reaction::Hang);
    }
    // Until no lease is left, so that the gateway has to ask.
    sleep(Duration::from_millis(600)).await;
    let questions =
        || stage.plane.calls(Operation::Get, ALL) + stage.plane.calls(Operation::Hold, ALL);
    let before = questions();
    let mut stuck = JoinSet::new();
    for name in names {
        let client = stage.gateway.client();
        stuck.spawn(async move { ask(&client, "POST", &name, "/", &[]).await });
    }
    eventually("all of them are being asked about", async || {
        questions() >= before + 40
    })
    .await;
    let began = Instant::now();
    assert_eq!(stage.get("fine").await.body, "app");
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "another's wake took {took:?}"
    );
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_called_once_although_reads_do_not_wait_for_it() {
    let stage = Stage::set("").await;
    let app = Application::start("app").await;
    // A server whose Get says Standby all the time that a restore runs.
    let mut slow = Scripted::asleep("slow", app.ip).restore_takes(Duration::from_secs(6));
    slow.calls_wait = false;
    let id = stage.plane.add(slow);
    let reply = stage.get("slow").await;
    let restores = stage.plane.calls(Operation::Restore, &id);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "app"),
        "{reply:?}"
    );
    assert_eq!(restores, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_costs_a_handful_of_questions_for_a_crowd() {
    let refused = Answer::error(401, "unauthorized");
    crowd_before(&refused, 502, "control_plane_refused").await;
}

/// A crowd asks for a name whose look-up fails so.
async fn crowd_before(answer: &Answer, status: u16, code: &str) {
    let stage = Stage::set("").await;
    // Slow enough that all of them come meanwhile.
    let answer = answer.clone().after(Duration::from_millis(400));
    stage.plane.on(Operation::Get, ALL, answer);
    let replies = stage.crowd(50, "GET", "shop", "/").await;
    let as_expected = replies.iter().all(|reply| reply.is(status, code));
    assert!(as_expected, "{replies:?}");
    let calls = stage.plane.calls(Operation::Get, "shop");
    assert!(calls <= 5, "{calls} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read_costs_a_handful_of_questions_for_a_crowd() {
    let stage = Stage::set("[wake]\ntimeout = \"2s\"\n").await;
    let answer = Answer::json(200, &json!([])).after(Duration::from_millis(400));
    stage.plane.on(Operation::Get, ALL, answer);
    let replies = stage.crowd(50, "GET", "shop", "/").await;
    let failed = |status: u16| (500..=504).contains(&status);
    assert!(
        replies.iter().all(|reply| failed(reply.status)),
        "{replies:?}"
    );
    let calls = stage.plane.calls(Operation::Get, "shop");
    assert!(calls <= 10, "{calls} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_s_retry_after_is_honoured() {
    for (operation, status) in [
        (Operation::Get, 503),
        (Operation::Get, 429),
        (Operation::Restore, 503),
    ] {
        let stage = Stage::set("[wake]\ntimeout = \"15s\"\n").await;
        let app = Application::start("app").await;
        let id = stage.plane.add(Scripted::asleep("shop", app.ip));
        let busy = Answer::error(status, "overloaded").field("retry-after", "1");
        stage.plane.on(operation, ALL, busy);
        let request = stage.get("shop");
        let healing = async {
            eventually("it was refused", async || {
                stage.plane.calls(operation, ALL) >= 1
            })
            .await;
            stage.plane.heal(operation, ALL);
        };
        let (reply, ()) = tokio::join!(request, healing);
        assert_eq!(reply.body, "app", "{operation:?} {status}: {reply:?}");
        let which = if operation == Operation::Get {
            "shop"
        } else {
            &id
        };
        let times = stage.plane.times(operation, which);
        let pause = times[1] - times[0];
        assert!(
            pause >= Duration::from_millis(900),
            "{operation:?} {status}: asked again after {pause:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_for_a_sleeping_instance_is_one_question_and_one_restore() {
    let stage = Stage::set("").await;
    let app = Application::start("app").await;
    let slow = Scripted::asleep("slow", app.ip).restore_takes(Duration::from_millis(500));
    let id = stage.plane.add(slow);
    let crowd = timeout(LIMIT, stage.crowd(100, "GET", "slow", "/"))
        .await
        .unwrap();
    assert!(crowd.iter().all(|reply| reply.body == "app"), "{crowd:?}");
    assert_eq!(stage.plane.calls(Operation::Restore, &id), 1);
    let questions = stage.plane.calls(Operation::Get, &id);
    assert!(questions <= 4, "{questions} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_answered_soon_while_the_control_plane_does_not_answer() {
    let stage = Stage::set(
        "[[route]]\nhost = \"shop.test\"\ninstance = \"shop\"\nport = 8080\n\
         asleep = { health_paths = [\"/healthz\"] }\n",
    )
    .await;
    let app = Application::start("app").await;
    stage.plane.add(Scripted::running("shop", app.ip));
    stage.plane.on(Operation::Get, ALL, Reaction::Hang);
    let client = stage.gateway.client();
    let checked = timeout(LIMIT, ask(&client, "GET", "shop", "/healthz", &[]));
    let checked = checked.await.unwrap();
    assert_eq!(
        (checked.status, checked.body.as_str()),
        (200, "asleep\n"),
        "{checked:?}"
    );
    assert_eq!(app.all_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_serves_all_who_waited() {
    let stage = Stage::set("[wake]\ntimeout = \"10s\"\n").await;
    let app = Application::start("app").await;
    // A lease of which nothing speaks: our connections do not count, and there are no holds.
    let part = Scripted::asleep("shop", app.ip).restore_takes(Duration::from_millis(500));
    let ignored = json!(["127.0.0.0/8"]);
    let part = part.with("/auto_standby/ignore_source_cidrs", ignored);
    let id = stage.plane.add(part);
    let missing = Answer::text(404, "text/plain", "404 page not found");
    stage.plane.on(Operation::Hold, ALL, missing);

    let replies = stage.crowd(50, "GET", "shop", "/").await;
    let is_served = |reply: &Reply| (reply.status, reply.body.as_str()) == (200, "app");
    assert!(replies.iter().all(is_served), "{replies:?}");
    assert_eq!(app.requests("/"), 50);
    assert_eq!(stage.plane.calls(Operation::Restore, &id), 1);
    let calls = stage.plane.calls(Operation::Get, &id) + stage.plane.calls(Operation::Get, "shop");
    // Each step of the release may ask again, and has fewer requests on a busy machine; but not each request.
    assert!(calls <= 35, "{calls} questions for 50 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_waits_for_its_own_health_path() {
    let route = |host: &str, path: &str| {
        format!(
            "[[route]]\nhost = \"{host}.test\"\ninstance = \"shop\"\nport = 8080\n\
             wake = {{ ready = \"health\", health_path = \"{path}\", timeout = \"4s\" }}\n"
        )
    };
    // The application breaks off whoever asks for the one.
    let routes = [route("ill", "/reset"), route("well", "/health")].concat();
    let stage = Stage::set(&routes).await;
    let app = Application::start("app").await;
    stage.plane.add(Scripted::asleep("shop", app.ip));
    let well = async {
        eventually("the other one waits", async || app.requests("/reset") > 0).await;
        stage.get("well").await
    };
    let (ill, well) = tokio::join!(stage.get("ill"), well);
    assert_eq!((well.status, well.body.as_str()), (200, "app"), "{well:?}");
    assert!(ill.is(504, "app_not_listening"), "{ill:?}");
    assert!(app.requests("/health") > 0);
}
