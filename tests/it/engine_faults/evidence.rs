//! Evidence: only a definite word cuts what is open or forgets an instance. Everything else is
//! asked again.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Stage, WebSocket, end_of, is_open};
use crate::support::eventually;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Answer, Operation, Reaction, Scripted};

/// The gateway looks after what is open many times in a second.
const WATCHFUL: &str =
    "[wake]\nverify_interval = \"200ms\"\nstall_timeout = \"200ms\"\ntimeout = \"10s\"\n";

/// Waits until the gateway has asked about the instance several times more, and fails at once when
/// it cuts the WebSocket. Nothing is said meanwhile: what is said needs no look.
async fn asked_several_times(stage: &Stage, id: &str, socket: &mut WebSocket, what: &str) {
    let before = stage.plane.calls(Operation::Get, id);
    eventually("it was asked several times", async || {
        let cut = timeout(Duration::from_millis(5), socket.next()).await;
        assert!(cut.is_err(), "cut by {what}");
        stage.plane.calls(Operation::Get, id) >= before + 3
    })
    .await;
}

/// While a control plane answers every Get so, a WebSocket stays open, through several looks.
async fn stays_open(what: &str, reaction: impl Into<Reaction>) {
    let stage = Stage::set(WATCHFUL).await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let mut socket = stage.websocket("chat").await;
    assert!(is_open(&mut socket).await);

    // A hold that works would say that it runs.
    stage
        .plane
        .on(Operation::Hold, &id, Answer::error(500, "internal_error"));
    stage.plane.on(Operation::Get, &id, reaction);
    asked_several_times(&stage, &id, &mut socket, what).await;
    assert!(is_open(&mut socket).await, "cut by {what}");
    stage.plane.heal(Operation::Get, &id);
    assert_eq!(stage.get("chat").await.body, "app", "after {what}");
    assert!(is_open(&mut socket).await, "cut after {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_the_state_is_unknown() {
    let stage = Stage::set(WATCHFUL).await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let mut socket = stage.websocket("chat").await;
    assert!(is_open(&mut socket).await);

    stage.plane.change(&id, |part| {
        part.state = "Unknown";
        part.set(
            "/state_error",
            Some(json!("the VMM did not answer in 500 ms")),
        );
    });
    asked_several_times(&stage, &id, &mut socket, "Unknown").await;
    assert!(is_open(&mut socket).await, "cut by Unknown");
    // A definite word does cut it.
    stage.plane.sleep(&id);
    end_of(socket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_the_state_is_a_word_of_tomorrow() {
    let stage = Stage::set(WATCHFUL).await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("chat", app.ip));
    let mut socket = stage.websocket("chat").await;
    stage.plane.change(&id, |part| part.state = "Migrating");
    asked_several_times(&stage, &id, &mut socket, "Migrating").await;
    assert!(is_open(&mut socket).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_the_control_plane_fails() {
    stays_open("500", Answer::error(500, "internal_error")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_a_proxy_answers_404_for_the_control_plane() {
    stays_open("a proxy's 404", Answer::html(404)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_a_json_404_is_not_the_control_plane_s() {
    let answer = json!({ "error": "no backend", "status": 404 });
    stays_open("another's JSON 404", Answer::json(404, &answer)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_the_control_plane_redirects() {
    stays_open("a redirect", Answer::redirect("http://127.0.0.1:9/login")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_answers_cannot_be_read() {
    stays_open("[]", Answer::json(200, &json!([]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_answers_are_empty() {
    stays_open("nothing", Answer::text(200, "application/json", "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_answers_are_about_another_instance() {
    let other = json!({
        "id": "another", "name": "another", "image": "i", "state": "Standby",
        "created_at": "2026-01-01T00:00:00Z",
    });
    stays_open("another's answer", Answer::json(200, &other)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_while_the_state_is_unknown() {
    let stage = Stage::set("[wake]\ntimeout = \"15s\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("busy", app.ip));
    stage.plane.change(&id, |part| part.state = "Unknown");

    let request = stage.get("busy");
    let story = async {
        eventually("it was asked twice", async || {
            stage.plane.calls(Operation::Get, &id) >= 3
        })
        .await;
        stage.plane.change(&id, |part| part.state = "Running");
    };
    let (reply, ()) = tokio::join!(request, async {
        // A request that is refused at once shows in its answer.
        let _over = timeout(Duration::from_secs(5), story).await;
    });
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "app"),
        "{reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_waits_while_a_proxy_answers_for_the_control_plane() {
    let stage = Stage::set("[wake]\ntimeout = \"15s\"\nverify_interval = \"500ms\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::asleep("nap", app.ip));
    assert_eq!(stage.get("nap").await.body, "app");
    stage.plane.sleep(&id);
    for operation in [Operation::Get, Operation::Hold, Operation::Restore] {
        stage.plane.on(operation, &id, Answer::html(404));
    }

    // Until no lease is left, so that the gateway has to ask.
    sleep(Duration::from_millis(600)).await;

    let before = stage.plane.calls(Operation::Get, &id);
    let request = stage.ask("POST", "nap", "/");
    let story = async {
        eventually("it was asked twice", async || {
            stage.plane.calls(Operation::Get, &id) >= before + 2
        })
        .await;
        for operation in [Operation::Get, Operation::Hold, Operation::Restore] {
            stage.plane.heal(operation, &id);
        }
    };
    let (reply, ()) = tokio::join!(request, async {
        let _over = timeout(Duration::from_secs(5), story).await;
    });
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "app"),
        "{reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_costs_itself_and_a_question() {
    let stage = Stage::set("[upstream]\nidle_timeout = \"20s\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("shop", app.ip));
    let mut socket = stage.websocket("shop").await;
    stage.crowd(8, "GET", "shop", "/slow").await;
    // Those that are idle now, and the WebSocket's.
    let open = app.open();
    assert!(open > 4, "{open}");
    let (connections, before) = (app.connections(), stage.plane.calls(Operation::Get, &id));

    let broken = stage.ask("POST", "shop", "/reset").await;
    assert!(broken.is(502, "upstream_broke"), "{broken:?}");
    for _ in 0..3 {
        assert_eq!(stage.get("shop").await.body, "app");
    }
    assert!(is_open(&mut socket).await);
    assert_eq!(app.connections(), connections, "the others are used again");
    let questions = stage.plane.calls(Operation::Get, &id) - before;
    assert!(questions <= 2, "{questions} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_that_break_are_no_storm_of_questions() {
    let stage = Stage::set("").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("shop", app.ip));
    let mut socket = stage.websocket("shop").await;
    // Long enough that all of them break meanwhile.
    stage.plane.on(
        Operation::Get,
        &id,
        Reaction::Slow(Duration::from_millis(300)),
    );
    let before = stage.plane.calls(Operation::Get, &id);

    let replies = stage.crowd(40, "POST", "shop", "/reset").await;
    let broken = replies.iter().all(|reply| reply.is(502, "upstream_broke"));
    assert!(broken, "{replies:?}");
    assert_eq!(app.requests("/reset"), 40, "each was sent once");
    assert!(is_open(&mut socket).await);
    assert_eq!(stage.get("shop").await.body, "app");
    let questions = stage.plane.calls(Operation::Get, &id) - before;
    assert!(questions <= 8, "{questions} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_given_up_early() {
    for status in [200, 500] {
        let stage = Stage::set("[wake]\ntimeout = \"2s\"\n").await;
        let app = Application::start("app").await;
        let id = stage.plane.add(Scripted::running("shop", app.ip));
        stage
            .plane
            .on(Operation::Get, "shop", Answer::endless(status));
        let reply = stage.get("shop").await;
        assert!((500..=504).contains(&reply.status), "{reply:?}");
        let calls = u64::try_from(stage.plane.calls(Operation::Get, &id)).unwrap();
        let bytes = stage.plane.endless_bytes() / calls;
        // What was decoded, and what the kernel has room for on both sides.
        let bound = 8 * 1024 * 1024;
        assert!(
            bytes < bound,
            "{status}: {bytes} bytes of each of {calls} answers"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_odd_element_does_not_make_a_list_unreadable() {
    let plane = crate::support::scripted_plane::ScriptedPlane::start().await;
    let app = Application::start("app").await;
    plane.add(Scripted::asleep("before", app.ip));
    for odd in [
        json!(null),
        json!(5),
        json!({}),
        json!({ "id": 3, "name": ["x"], "state": {} }),
        json!({ "id": "q-odd", "name": "odd", "state": "Running", "network": "none" }),
    ] {
        plane.also_list(odd);
    }
    plane.add(Scripted::asleep("behind", app.ip));
    let stage = Stage::around(plane, "").await;
    eventually("the list was asked for", async || {
        stage.plane.calls(Operation::List, "*") >= 1
    })
    .await;
    eventually("its other elements are known", async || {
        let listing = stage.operator("/api/instances").await;
        listing.contains("\"before\"") && listing.contains("\"behind\"")
    })
    .await;
    let up = "wakegate_controlplane_up{hypeman=\"default\"}";
    assert_eq!(stage.gateway.metric(up).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_failed_is_told_in_the_control_plane_s_own_words() {
    let stage = Stage::set("[wake]\ntimeout = \"1s\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::asleep("torn", app.ip));
    let words = json!({ "code": "internal_error", "message": "snapshot cannot be read" });
    stage
        .plane
        .on(Operation::Restore, &id, Answer::json(500, &words));
    let reply = stage.get("torn").await;
    assert!((500..=504).contains(&reply.status), "{reply:?}");
    let wakes = stage.operator("/api/wakes").await;
    assert!(wakes.contains("snapshot cannot be read"), "{wakes}");
    assert!(wakes.contains("internal_error"), "{wakes}");
    assert!(
        !reply.body.contains("snapshot"),
        "a client is not told: {reply:?}"
    );
}
