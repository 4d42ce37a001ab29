//! Which requests wake, and what the others are told.

use crate::support::{Gateway, Plane, Wanted, eventually, route};
use hypeman::wire::InstanceState;

async fn status(gateway: &Gateway, instance: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
    let mut request = gateway.client().request("GET", instance, path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_not_wake_costs_no_restore_and_passes_while_it_is_awake() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("guarded")).await;
    let keys = "admission = { deny_paths = [\"/no\"] }";
    let gateway = Gateway::start(&plane, &route("guarded", keys)).await;
    assert_eq!(status(&gateway, "guarded", "/no", &[]).await, 503);
    assert_eq!(plane.state(&instance.id).await, InstanceState::Standby);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let refused = "wakegate_wake_refusals_total{rule=\"path\"}";
    assert_eq!(gateway.metric(refused).await, 1.0);
    assert_eq!(status(&gateway, "guarded", "/", &[]).await, 200);
    assert_eq!(status(&gateway, "guarded", "/no", &[]).await, 200);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_route_answers_as_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let (body, robots) = (
        dir.path().join("asleep.html"),
        dir.path().join("robots.txt"),
    );
    std::fs::write(&body, "<p>shh</p>").unwrap();
    std::fs::write(&robots, "User-agent: *\nDisallow: /\n").unwrap();
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("quiet")).await;
    let keys = format!(
        "admission = {{ methods = [\"POST\"] }}\n\
         asleep = {{ status = 202, headers = [\"x-mood: sleepy\"], body_file = {body:?}, \
         robots = {robots:?}, health_paths = [\"/healthz\"] }}"
    );
    let gateway = Gateway::start(&plane, &route("quiet", &keys)).await;
    let answer = gateway.client().get("quiet", "/").await;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["x-mood"], "sleepy");
    assert_eq!(answer.headers()["x-wakegate-state"], "asleep");
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert!(!answer.headers().contains_key("retry-after"));
    assert_eq!(answer.text().await.unwrap(), "<p>shh</p>");
    let robots = gateway.client().get("quiet", "/robots.txt").await;
    assert_eq!(robots.status(), 200);
    assert!(robots.text().await.unwrap().contains("Disallow: /"));
    let health = gateway.client().get("quiet", "/healthz").await;
    assert_eq!(health.text().await.unwrap(), "asleep\n");
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preset_keeps_bots_scanners_and_icons_from_waking() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("preset")).await;
    let keys = "admission = { preset = \"browser-abuse\" }";
    let gateway = Gateway::start(&plane, &route("preset", keys)).await;
    let bot = [("user-agent", "Googlebot/2.1")];
    assert_eq!(status(&gateway, "preset", "/", &bot).await, 503);
    assert_eq!(status(&gateway, "preset", "/.env", &[]).await, 404);
    assert_eq!(status(&gateway, "preset", "/favicon.ico", &[]).await, 503);
    let prefetch = [("sec-purpose", "prefetch")];
    assert_eq!(status(&gateway, "preset", "/", &prefetch).await, 503);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let checker = [("user-agent", "ELB-HealthChecker/2.0")];
    assert_eq!(status(&gateway, "preset", "/", &checker).await, 200);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let person = [("user-agent", "Mozilla/5.0 Firefox/133.0")];
    assert_eq!(status(&gateway, "preset", "/", &person).await, 200);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wakes_too_often_is_told_to_wait() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("often")).await;
    let keys = "admission = { rate_per_client = \"1/m\" }";
    let gateway = Gateway::start(&plane, &route("often", keys)).await;
    assert_eq!(status(&gateway, "often", "/", &[]).await, 200);
    assert_eq!(status(&gateway, "often", "/", &[]).await, 200, "awake");
    plane.sleep(&instance.id).await;
    // The gateway finds out at the next use at the latest, and refuses to wake it again.
    let (status, code, after) = gateway.client().problem("often").await;
    assert_eq!((status, code.as_str()), (429, "wake_rate"));
    assert!(after.unwrap().parse::<u64>().unwrap() <= 60);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_guesses_names_is_shut_out_from_more_and_keeps_what_exists() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("exists")).await;
    let gateway = Gateway::start(&plane, "[wake]\nunknown_per_client = \"3/m\"\n").await;
    assert_eq!(status(&gateway, "exists", "/", &[]).await, 200);
    for guess in ["a1", "a2", "a3", "a4"] {
        assert_eq!(status(&gateway, guess, "/", &[]).await, 404);
    }
    assert_eq!(status(&gateway, "a5", "/", &[]).await, 429);
    assert_eq!(status(&gateway, "exists", "/", &[]).await, 200);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_woke_it_is_in_the_ledger_with_the_phases() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("traced")).await;
    let gateway = Gateway::start(&plane, "").await;
    let agent = [("user-agent", "curious/1.0")];
    assert_eq!(
        status(&gateway, "traced", "/?secret=hunter2", &agent).await,
        200
    );
    let page = reqwest::get(format!("http://{}/api/wakes", gateway.admin)).await;
    let text = page.unwrap().text().await.unwrap();
    let wakes: serde_json::Value = serde_json::from_str(&text).unwrap();
    let wake = &wakes[0];
    assert_eq!(wake["instance"], instance.id);
    assert_eq!(wake["user_agent"], "curious/1.0");
    assert_eq!(wake["client"], "127.0.0.1");
    assert_eq!(wake["outcome"], "woken");
    assert_eq!(wake["route"], "{instance}.test/");
    assert!(
        wake["phases_ms"]["restoring"].as_f64().unwrap() > 0.0,
        "{wake}"
    );
    assert!(!text.contains("hunter2"));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_woken_with_those_it_needs_and_before_it_is_asked_for() {
    let plane = Plane::start().await;
    let database = plane.asleep(Wanted::hello("database")).await;
    plane.asleep(Wanted::hello("shop")).await;
    let later = plane.asleep(Wanted::hello("later")).await;
    let keys = "wake = { also = [\"database\"] }\n\
                prewarm = [{ paths = [\"/login\"], instances = [\"later\"] }]";
    let gateway = Gateway::start(&plane, &route("shop", keys)).await;
    assert_eq!(status(&gateway, "shop", "/", &[]).await, 200);
    eventually("the database is awake, too", async || {
        plane.state(&database.id).await == InstanceState::Running
    })
    .await;
    assert_eq!(plane.state(&later.id).await, InstanceState::Standby);
    assert_eq!(status(&gateway, "shop", "/login", &[]).await, 200);
    eventually("what the login leads to is awake", async || {
        plane.state(&later.id).await == InstanceState::Running
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_in_its_window_is_kept_awake() {
    let plane = Plane::start().await;
    let wanted = Wanted::hello("warm").idle(std::time::Duration::from_secs(6));
    let instance = plane.asleep(wanted).await;
    let keys = "keep_warm = [{ cron = \"* * * * *\", for = \"2m\" }]";
    let gateway = Gateway::start(&plane, &route("warm", keys)).await;
    eventually("it is woken without a request", async || {
        plane.state(&instance.id).await == InstanceState::Running
    })
    .await;
    // Two idle timeouts later it still is, by holds.
    for _ in 0..14 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(plane.state(&instance.id).await, InstanceState::Running);
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_as_the_application_did_and_wakes_otherwise() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("cors")).await;
    let keys = "admission = { preset = \"browser-abuse\" }";
    let gateway = Gateway::start(&plane, &route("cors", keys)).await;
    let preflight = || {
        let request = gateway.client().request("OPTIONS", "cors", "/cors");
        request
            .header("origin", "https://app.example")
            .header("access-control-request-method", "PUT")
    };
    let first = preflight().send().await.unwrap();
    assert_eq!(first.headers()["x-wakegate-wake"], "cold");
    assert_eq!(
        first.headers()["access-control-allow-origin"],
        "https://app.example"
    );
    plane.sleep(&instance.id).await;
    // Something else finds out that it sleeps, without waking it.
    let bot = [("user-agent", "somebot")];
    eventually("the gateway knows that it sleeps", async || {
        status(&gateway, "cors", "/", &bot).await == 503
    })
    .await;
    let restores = plane.operations(&instance.id, "restore").await;
    let again = preflight().send().await.unwrap();
    assert_eq!(again.status(), 204);
    assert_eq!(
        again.headers()["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(plane.operations(&instance.id, "restore").await, restores);
    gateway.stop().await;
    plane.stop().await;
}

/// What a health check at `path` is answered: the state, by the header and by the body.
async fn health(gateway: &Gateway, host: &str, path: &str) -> (u16, String, String) {
    let answer = gateway.client().get(host, path).await;
    let status = answer.status().as_u16();
    let state = answer.headers().get("x-wakegate-state");
    let state = state.map_or("", |state| state.to_str().unwrap()).to_owned();
    (status, state, answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_answered_in_every_state_and_keeps_nothing_awake() {
    let plane = Plane::start().await;
    let wanted = Wanted::hello("probed").idle(std::time::Duration::from_secs(3));
    let instance = plane.asleep(wanted).await;
    let keys = "asleep = { health_paths = [\"/healthz\"] }";
    let guarded = format!(
        "[[route]]\nhost = \"guarded.test\"\ninstance = \"probed\"\n{keys}\n\
         auth = {{ header = \"x-key\", value = \"0123456789abcdef0123456789abcdef\" }}\n"
    );
    let gateway = Gateway::start(&plane, &(route("probed", keys) + &guarded)).await;
    let is = |state: &str| (200, state.to_owned(), format!("{state}\n"));
    assert_eq!(health(&gateway, "probed", "/healthz").await, is("asleep"));
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let (status, state, _) = health(&gateway, "guarded", "/healthz").await;
    assert_eq!((status, state.as_str()), (403, ""), "identity comes first");

    let count = async || {
        let text = gateway
            .client()
            .get("probed", "/")
            .await
            .text()
            .await
            .unwrap();
        let (_, rest) = text.split_once("request ").unwrap();
        rest.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = count().await;
    assert_eq!(health(&gateway, "probed", "/healthz").await, is("awake"));
    let head = gateway.client().request("HEAD", "probed", "/healthz");
    let head = head.send().await.unwrap();
    assert_eq!(head.headers()["x-wakegate-state"], "awake");
    let (_, state, _) = health(&gateway, "probed", "/healthz/other").await;
    assert_eq!(state, "", "this is the application's");
    eventually("it falls asleep under its health checks", async || {
        let (status, ..) = health(&gateway, "probed", "/healthz").await;
        assert_eq!(status, 200);
        plane.state(&instance.id).await == InstanceState::Standby
    })
    .await;
    eventually("they are told so", async || {
        health(&gateway, "probed", "/healthz").await == is("asleep")
    })
    .await;
    assert_eq!(count().await, before + 2, "none of them has reached it");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_health_check_reaches_an_instance_that_is_awake_and_wakes_none() {
    let plane = Plane::start().await;
    let wanted = Wanted::hello("checked").idle(std::time::Duration::from_secs(3));
    let instance = plane.asleep(wanted).await;
    let keys = "asleep = { health_paths = [\"/healthz\"], health_forward = true }";
    let gateway = Gateway::start(&plane, &route("checked", keys)).await;
    let asleep = (200, "asleep".to_owned(), "asleep\n".to_owned());
    assert_eq!(health(&gateway, "checked", "/healthz").await, asleep);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);

    let awake = gateway.client().get("checked", "/").await;
    assert_eq!(awake.status(), 200);
    let (status, state, text) = health(&gateway, "checked", "/healthz").await;
    assert_eq!((status, state.as_str()), (200, ""), "the application's own");
    assert!(text.contains("request "), "{text}");

    eventually("it falls asleep when nobody asks", async || {
        plane.state(&instance.id).await == InstanceState::Standby
    })
    .await;
    eventually("its checks are answered for it", async || {
        health(&gateway, "checked", "/healthz").await == asleep
    })
    .await;
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_wakes_nothing_that_was_put_to_sleep_by_hand() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("handmade")).await;
    let keys = "admission = { preset = \"browser-abuse\" }";
    let gateway = Gateway::start(&plane, &route("handmade", keys)).await;
    let preflight = || {
        let request = gateway.client().request("OPTIONS", "handmade", "/cors");
        request
            .header("origin", "https://app.example")
            .header("access-control-request-method", "PUT")
    };
    assert_eq!(preflight().send().await.unwrap().status(), 200);
    plane.sleep(&instance.id).await;
    // Nobody has told the gateway; after this time it is no longer sure.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let restores = plane.operations(&instance.id, "restore").await;
    let again = preflight().send().await.unwrap();
    assert_eq!(again.status(), 204);
    assert_eq!(
        again.headers()["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(plane.operations(&instance.id, "restore").await, restores);
    gateway.stop().await;
    plane.stop().await;
}
