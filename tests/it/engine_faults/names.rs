//! Names: a name means the instance of that name or of that id, and what is known of an old one is
//! no answer about a new one.

use std::time::Duration;

use tokio::time::timeout;

use super::Stage;
use crate::support::eventually;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Answer, Operation, Scripted};

/// Forgets quickly that there is nothing of a name.
const SHORT_MEMORY: &str = "[wake]\nunknown_ttl = \"50ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_name_never_means_an_instance_whose_id_begins_with_it() {
    let stage = Stage::set(SHORT_MEMORY).await;
    let (stranger, api) = tokio::join!(Application::start("stranger"), Application::start("api"));
    let other = Scripted::running("other", stranger.ip).id("api4a98xxat96iws9zmbrgj3");
    let other = stage.plane.add(other);

    let before = stage.get("api").await;
    assert!(before.is(404, "instance_not_found"), "{before:?}");
    stage.plane.add(Scripted::running("api", api.ip));
    eventually("the name is its own instance's", async || {
        stage.get("api").await.body == "api"
    })
    .await;
    // The stranger is reached by its own name, and by the whole of its id.
    assert_eq!(stage.get("other").await.body, "stranger");
    assert_eq!(stage.get(&other).await.body, "stranger");
    assert_eq!(stranger.all_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_free_for_a_while_goes_to_nobody_else() {
    let stage = Stage::set(SHORT_MEMORY).await;
    let (old, new, stranger) = tokio::join!(
        Application::start("old"),
        Application::start("new"),
        Application::start("stranger")
    );
    let first = stage.plane.add(Scripted::running("api", old.ip));
    let other = Scripted::running("other", stranger.ip).id("api4a98xxat96iws9zmbrgj3");
    stage.plane.add(other);
    assert_eq!(stage.get("api").await.body, "old");

    stage.plane.delete(&first);
    old.end().await;
    let before = stage.plane.calls(Operation::Get, "api");
    for more in 1..=3 {
        // Each time the name is looked up anew.
        let look_ups = before + more;
        eventually("the name is looked up", async || {
            let between = stage.get("api").await;
            assert!(between.is(404, "instance_not_found"), "{between:?}");
            stage.plane.calls(Operation::Get, "api") >= look_ups
        })
        .await;
    }
    stage.plane.add(Scripted::running("api", new.ip));
    eventually("the new one has the name", async || {
        stage.get("api").await.body == "new"
    })
    .await;
    assert_eq!(stranger.all_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_name_never_means_an_instance_whose_id_begins_with_it() {
    let fixed = "[[route]]\nhost = \"fixed.example\"\ninstance = \"shop\"\nport = 8080\n";
    let stage = Stage::set(fixed).await;
    let stranger = Application::start("stranger").await;
    let other = Scripted::running("other", stranger.ip).id("shop4a98xxat96iws9zmbrgj");
    stage.plane.add(other);

    let url = format!("http://{}/", stage.gateway.address);
    let request = stage.gateway.client().http.get(url);
    let response = request.header("host", "fixed.example").send().await;
    assert_eq!(response.unwrap().status(), 404);
    assert_eq!(stranger.all_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_at_ids_neither_wakes_nor_tells_and_costs_as_much_as_any_other() {
    let guesses = "[wake]\nunknown_per_client = \"4/h\"\nunknown_ttl = \"1ms\"\n";
    let stage = Stage::set(guesses).await;
    let app = Application::start("app").await;
    for (name, id) in [
        ("alone", "w4a98xxat96iws9zmbrgj3ab"),
        ("one", "k4a98xxat96iws9zmbrgj3ab"),
        ("two", "k5a98xxat96iws9zmbrgj3ab"),
    ] {
        stage.plane.add(Scripted::asleep(name, app.ip).id(id));
    }

    // The beginning of one id, of two, of two again, and of nothing.
    let mut replies = Vec::new();
    for guess in ["w", "k", "k", "x", "w4", "w4a"] {
        replies.push(stage.get(guess).await);
    }
    let refused = |reply: &super::Reply| {
        reply.is(404, "instance_not_found") || reply.is(429, "too_many_unknown_names")
    };
    assert!(replies.iter().all(refused), "{replies:?}");
    let last = replies.last().unwrap();
    assert!(last.is(429, "too_many_unknown_names"), "{replies:?}");
    assert_eq!(stage.plane.calls(Operation::Restore, "*"), 0);
    assert_eq!(app.all_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_names_locks_a_network_out_of_nothing_that_exists() {
    let plane = crate::support::scripted_plane::ScriptedPlane::start().await;
    let app = Application::start("app").await;
    plane.add(Scripted::running("there", app.ip));
    let guesses = "[wake]\nunknown_per_client = \"4/h\"\n";
    let stage = Stage::around(plane, guesses).await;
    let up = "wakegate_controlplane_up{hypeman=\"default\"}";
    eventually("the instances were listed", async || {
        stage.gateway.metric(up).await == 1.0
    })
    .await;

    let mut locked_out = false;
    for number in 0..10 {
        let reply = stage.get(&format!("guess-{number}")).await;
        locked_out |= reply.is(429, "too_many_unknown_names");
    }
    assert!(locked_out, "guesses are bounded");
    let reply = stage.get("there").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "app"));
}

/// Redeploys `shop`: it was `old`, it is `new` under another id and at another address, and 20
/// requests come at once.
async fn redeploy(old: &'static str, new: &'static str) {
    let stage = Stage::set("[wake]\nunknown_ttl = \"10s\"\n").await;
    let (before, after) = tokio::join!(Application::start("before"), Application::start("after"));
    let first = stage.plane.add(Scripted::running("shop", before.ip));
    assert_eq!(stage.get("shop").await.body, "before");
    if old == "Standby" {
        // A request finds it asleep, and wakes it; then it sleeps again.
        stage.plane.sleep(&first);
    }
    stage.plane.delete(&first);
    before.end().await;
    let second = match new {
        "Standby" => Scripted::asleep("shop", after.ip),
        _ => Scripted::running("shop", after.ip),
    };
    let second = stage.plane.add(second);

    let replies = stage.crowd(20, "GET", "shop", "/").await;
    let served = replies.iter().filter(|reply| reply.body == "after").count();
    assert_eq!(served, 20, "{old} to {new}: {replies:?}");
    let restores = usize::from(new == "Standby");
    assert_eq!(stage.plane.calls(Operation::Restore, &second), restores);
    assert!(
        stage.plane.calls(Operation::Get, "shop") <= 4,
        "looked up once for all"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_while_awake_fails_nobody() {
    redeploy("Running", "Running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_of_an_awake_instance_that_then_sleeps_fails_nobody() {
    redeploy("Running", "Standby").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_of_a_sleeping_instance_fails_nobody() {
    redeploy("Standby", "Running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_from_asleep_to_asleep_fails_nobody() {
    redeploy("Standby", "Standby").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_that_nobody_saw_asleep_fails_nobody() {
    // As above, but the gateway has only ever looked the old one up, and it slept.
    let stage = Stage::set("[wake]\ntimeout = \"2s\"\nunknown_ttl = \"10s\"\n").await;
    let (before, after) = tokio::join!(Application::start("before"), Application::start("after"));
    let first = stage.plane.add(Scripted::asleep("shop", before.ip));
    let conflict = Answer::error(409, "insufficient_resources");
    stage.plane.on(Operation::Restore, &first, conflict);
    let reply = stage.get("shop").await;
    assert_eq!(reply.status, 503, "{reply:?}");

    stage.plane.delete(&first);
    stage.plane.add(Scripted::asleep("shop", after.ip));
    let replies = stage.crowd(20, "GET", "shop", "/").await;
    let served = replies.iter().filter(|reply| reply.body == "after").count();
    assert_eq!(served, 20, "{replies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_gone_and_is_there_again_begins_anew() {
    let stage = Stage::set(SHORT_MEMORY).await;
    let (before, after) = tokio::join!(Application::start("before"), Application::start("after"));
    let id = stage.plane.add(Scripted::running("shop", before.ip));
    assert_eq!(stage.get("shop").await.body, "before");
    let old = stage.plane.delete(&id);
    before.end().await;
    let reply = stage.get("shop").await;
    assert!(reply.is(404, "instance_not_found"), "{reply:?}");

    let address = serde_json::json!(after.ip.to_string());
    stage.plane.add(old.with("/network/ip", address));
    let mut replies = Vec::new();
    eventually("it is there again", async || {
        replies.push(stage.get("shop").await);
        replies.last().unwrap().body == "after"
    })
    .await;
    replies.pop();
    let remembered = replies
        .iter()
        .all(|reply| reply.is(404, "instance_not_found"));
    assert!(
        remembered,
        "nothing worse than \"not found\" meanwhile: {replies:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_an_instance_of_another_name_is_not_found_and_not_asked_for_again() {
    let stage = Stage::set("[wake]\ntimeout = \"1s\"\nunknown_ttl = \"10s\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("real", app.ip));
    stage.plane.alias("alias", &id);

    let reply = timeout(Duration::from_secs(5), stage.get("alias")).await;
    let calls = stage.plane.calls(Operation::Get, "alias");
    let reply = reply.unwrap_or_else(|_| panic!("no answer, after {calls} calls"));
    assert!(reply.is(404, "instance_not_found"), "{reply:?}");
    assert!(calls <= 4, "{calls} calls");
    assert_eq!(app.all_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_instance_is_found_by_its_new_name_and_not_by_its_old_one() {
    let stage = Stage::set("[wake]\nverify_interval = \"50ms\"\nunknown_ttl = \"50ms\"\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::running("old", app.ip));
    assert_eq!(stage.get("old").await.body, "app");
    stage.plane.change(&id, |part| part.name = "new".to_owned());

    let reply = timeout(Duration::from_secs(5), stage.get("new")).await;
    let calls = stage.plane.calls(Operation::Get, "new");
    let reply = reply.unwrap_or_else(|_| panic!("no answer, after {calls} calls"));
    assert_eq!(reply.body, "app");
    eventually("the old name means nothing", async || {
        stage.get("old").await.is(404, "instance_not_found")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_instance_takes_moves_at_once() {
    let stage = Stage::set("[wake]\nverify_interval = \"50ms\"\nunknown_ttl = \"50ms\"\n").await;
    let (blue, green) = tokio::join!(Application::start("blue"), Application::start("green"));
    let old = stage.plane.add(Scripted::running("live", blue.ip));
    let new = stage.plane.add(Scripted::running("next", green.ip));
    assert_eq!(stage.get("live").await.body, "blue");

    stage
        .plane
        .change(&old, |part| part.name = "was".to_owned());
    stage
        .plane
        .change(&new, |part| part.name = "live".to_owned());
    eventually("the name is the other's", async || {
        stage.get("live").await.body == "green"
    })
    .await;
    assert_eq!(stage.get("was").await.body, "blue");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_meets_a_conflict_is_made_again() {
    for code in ["invalid_state", "insufficient_resources"] {
        let stage = Stage::set(SHORT_MEMORY).await;
        let app = Application::start("app").await;
        stage.plane.add(Scripted::running("shop", app.ip));
        stage
            .plane
            .on(Operation::Get, "shop", Answer::error(409, code));
        let passes = async {
            eventually("it has been asked twice", async || {
                stage.plane.calls(Operation::Get, "shop") >= 2
            })
            .await;
            stage.plane.heal(Operation::Get, "shop");
        };
        let (reply, ()) = tokio::join!(stage.get("shop"), passes);
        assert_eq!((reply.status, reply.body.as_str()), (200, "app"), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_everybody_for_a_moment_is_no_word_about_the_key() {
    let stage = Stage::set(SHORT_MEMORY).await;
    let app = Application::start("app").await;
    stage.plane.add(Scripted::running("shop", app.ip));
    stage.plane.on(Operation::Get, "shop", Answer::html(403));
    let passes = async {
        eventually("it has been asked twice", async || {
            stage.plane.calls(Operation::Get, "shop") >= 2
        })
        .await;
        stage.plane.heal(Operation::Get, "shop");
    };
    let (reply, ()) = tokio::join!(stage.get("shop"), passes);
    assert_eq!((reply.status, reply.body.as_str()), (200, "app"));
}
