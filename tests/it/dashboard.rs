//! The dashboard in a real browser, against a running gateway.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::browser::Browser;
use crate::support::{Demo, Gateway, Home, Plane, Wanted, config, eventually, spawn};
use serde_json::{Value, json};
use wakegate::app::App;
use wakegate::telemetry::AccessSink;

const ARROW_DOWN: &str = "\u{e015}";
const END: &str = "\u{e010}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// Opens the dashboard and waits until it hears of the gateway.
async fn watch(admin: SocketAddr) -> Browser {
    let browser = Browser::start(true).await;
    browser.open(&format!("http://{admin}/")).await;
    eventually("the dashboard is live", async || {
        text(&browser, "link").await == "live"
    })
    .await;
    browser
}

async fn text(browser: &Browser, id: &str) -> String {
    let script = format!("return document.getElementById('{id}')?.textContent ?? ''");
    browser.run(&script).await.as_str().unwrap().to_owned()
}

/// An instance's state as its row has it; nothing while there is no such row.
async fn state(browser: &Browser, name: &str) -> Option<String> {
    let script =
        format!("return document.querySelector('.row[data-name=\"{name}\"]')?.dataset.state");
    browser.run(&script).await.as_str().map(str::to_owned)
}

async fn comes_to_be(browser: &Browser, name: &str, wanted: &str) {
    eventually(&format!("{name} is {wanted}"), async || {
        state(browser, name).await.as_deref() == Some(wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_is_seen_as_it_happens_and_a_button_wakes() {
    let temporary = Home::new();
    let mut demo = Demo::start("10s", temporary.path());
    let (listen, admin) = (demo.listen, demo.admin);
    eventually("the demo serves", async || {
        reqwest::get(format!("http://{admin}/readyz")).await.is_ok()
    })
    .await;
    let browser = watch(admin).await;
    comes_to_be(&browser, "hello", "asleep").await;
    comes_to_be(&browser, "counter", "asleep").await;

    // What the row shows from here on, state by state: a wake is too short to be looked up.
    browser
        .run(
            "window.seen = []; const row = document.querySelector('.row[data-name=hello]');\
             new MutationObserver(() => window.seen.push(row.dataset.state))\
                 .observe(row, { attributeFilter: ['data-state'] });",
        )
        .await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client
        .get(format!("http://{listen}/"))
        .header("host", "hello.localhost");
    assert_eq!(asked.send().await.unwrap().status(), 200);
    drop(client);
    comes_to_be(&browser, "hello", "awake").await;
    eventually("the wake is in the histogram", async || {
        text(&browser, "wakes-text").await.starts_with("1 woken: ")
    })
    .await;
    let took = browser
        .run("return document.querySelectorAll('.row[data-name=hello] .number')[2].textContent")
        .await;
    assert!(took.as_str().unwrap().ends_with("ms"), "{took}");
    comes_to_be(&browser, "hello", "asleep").await;
    let seen = browser.run("return window.seen").await;
    let seen: Vec<&str> = seen
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        // A list that is made while it is on its way into standby finds it Paused.
        .filter(|state| *state != "stopped")
        .collect();
    assert!(seen.ends_with(&["awake", "asleep"]), "{seen:?}");

    browser
        .run("document.querySelector('.row[data-name=counter] button').click()")
        .await;
    comes_to_be(&browser, "counter", "awake").await;
    eventually("it is said for those who do not see it", async || {
        text(&browser, "news")
            .await
            .starts_with("counter is awake after ")
    })
    .await;
    let mine = reqwest::get(format!("http://{admin}/api/wakes"))
        .await
        .unwrap();
    let wakes: Value = mine.json().await.unwrap();
    assert_eq!(
        (&wakes[0]["route"], wakes.as_array().unwrap().len()),
        (&"admin".into(), 2)
    );
    browser.end().await;
    demo.program.signal("INT");
    assert!(demo.program.0.wait().unwrap().success());
}

/// A control plane that has a thousand instances and does nothing else.
async fn thousand() -> SocketAddr {
    let state = |index: usize| ["Standby", "Running", "Standby", "Stopped"][index % 4];
    let one = move |index: usize| {
        json!({
            "id": format!("i{index:023}"), "name": format!("app-{index}"), "image": "x",
            "state": state(index), "created_at": "2026-01-01T00:00:00Z",
        })
    };
    let all: Vec<Value> = (0..1000).map(one).collect();
    let routes = axum::Router::new().route(
        "/instances",
        axum::routing::get(move || std::future::ready(axum::Json(all.clone()))),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_instances_are_shown_by_a_few_rows_and_found_by_the_keyboard() {
    let gateway = Gateway::start_with(thousand().await, "x", "", AccessSink::off()).await;
    let browser = watch(gateway.admin).await;
    eventually("all are counted", async || {
        text(&browser, "n-asleep").await == "500" && text(&browser, "n-awake").await == "250"
    })
    .await;
    let rows = "return document.querySelectorAll('.row').length";
    let shown = browser.run(rows).await.as_u64().unwrap();
    assert!((10..60).contains(&shown), "{shown} rows");
    let focused = "return document.activeElement.dataset.name ?? document.activeElement.id";
    browser.picture("dashboard-1000.png").await;

    browser.press("/").await;
    assert_eq!(browser.run(focused).await, "filter");
    browser.press(ARROW_DOWN).await;
    assert_eq!(browser.run(focused).await, "app-0");
    browser.press(ARROW_DOWN).await;
    assert_eq!(browser.run(focused).await, "app-1");
    browser.press(END).await;
    assert_eq!(
        browser.run(focused).await,
        "app-999",
        "numbers are in their order"
    );
    let in_sight = "const r = document.activeElement.getBoundingClientRect();\
                    const v = document.getElementById('view').getBoundingClientRect();\
                    return r.top >= v.top && r.bottom <= v.bottom + 1";
    assert_eq!(browser.run(in_sight).await, true);
    assert!(browser.run(rows).await.as_u64().unwrap() < 60);
    let index = "return document.activeElement.getAttribute('aria-rowindex')";
    assert_eq!(browser.run(index).await, "1001");

    browser.press("/app-77").await;
    eventually("the filter leaves eleven", async || {
        browser.run(rows).await == 11
    })
    .await;
    browser.press(ENTER).await;
    assert_eq!(browser.run(focused).await, "app-77");
    browser.press(ENTER).await;
    let open = "return document.getElementById('details').open";
    eventually("its wakes are shown", async || {
        browser.run(open).await == true
    })
    .await;
    browser.press(ESCAPE).await;
    eventually("and gone", async || browser.run(open).await == false).await;
    browser.end().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_token_and_loads_nothing_from_elsewhere() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("kept")).await;
    let mut config = config(plane.address, &plane.token, "");
    config.admin.token = Some(wakegate::config::Secret::new("0123456789abcdef"));
    let app = App::bind(config, AccessSink::off()).await.unwrap();
    let (admin, handle) = (app.admin_address(), app.handle());
    let run = spawn(app.run(std::future::pending()));
    let browser = Browser::start(true).await;
    browser.open(&format!("http://{admin}/")).await;
    let asks = "return document.getElementById('login')?.open";
    let enter = async |token: &str| {
        eventually("it asks for the token", async || {
            browser.run(asks).await == true
        })
        .await;
        browser
            .run("document.getElementById('token').focus()")
            .await;
        browser.press(token).await;
        browser.press(ENTER).await;
    };
    eventually("it asks for the token", async || {
        browser.run(asks).await == true
    })
    .await;
    assert_eq!(
        state(&browser, "kept").await,
        None,
        "nothing is told before"
    );
    enter("0123456789abcdee").await;
    enter("0123456789abcdef").await;
    comes_to_be(&browser, "kept", "asleep").await;
    let loaded = browser
        .run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        .await;
    let base = format!("http://{admin}/");
    for name in loaded.as_array().unwrap() {
        assert!(name.as_str().unwrap().starts_with(&base), "{name}");
    }
    let refused = browser
        .run(
            "return new Promise((go) => {\
                addEventListener('securitypolicyviolation', (event) => go(event.violatedDirective));\
                const it = document.createElement('script'); it.textContent = 'window.bad = 1';\
                document.body.append(it); setTimeout(() => go('let through'), 3000); })",
        )
        .await;
    assert_eq!(refused, "script-src-elem");
    browser.end().await;
    wakegate::admin::Operator::drain(&handle);
    run.await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_light_or_dark_as_the_person_likes_and_shows_a_busy_gateway() {
    let plane = Plane::start().await;
    for name in ["web", "api", "search", "reports"] {
        let idle = Duration::from_secs(60);
        plane.asleep(Wanted::hello(name).idle(idle)).await;
    }
    let gateway = Gateway::start(&plane, "").await;
    let browser = watch(gateway.admin).await;
    let client = gateway.client();
    for name in ["web", "api", "search"] {
        for _ in 0..3 {
            assert_eq!(client.get(name, "/").await.status(), 200);
            let asleep = reqwest::Client::new().post(format!(
                "http://{}/api/instances/{name}/standby",
                gateway.admin
            ));
            assert_eq!(asleep.send().await.unwrap().status(), 200);
        }
        assert_eq!(client.get(name, "/").await.status(), 200);
        comes_to_be(&browser, name, "awake").await;
    }
    let background = "return getComputedStyle(document.body).backgroundColor";
    browser.prefer("light").await;
    let light = browser.run(background).await;
    browser.picture("dashboard-light.png").await;
    browser.prefer("dark").await;
    let dark = browser.run(background).await;
    browser.picture("dashboard-dark.png").await;
    assert_ne!(light, dark);
    // The page's own choice wins, and is remembered.
    browser
        .run("document.getElementById('theme').click()")
        .await;
    assert_eq!(text(&browser, "theme").await, "theme: light");
    assert_eq!(browser.run(background).await, light);
    browser.open(&format!("http://{}/", gateway.admin)).await;
    eventually("it is light again", async || {
        browser.run(background).await == light
    })
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}
