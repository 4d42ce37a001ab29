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
const ARROW_UP: &str = "\u{e013}";
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
    let words = text(&browser, "login").await;
    assert!(
        words.contains("Sign in") && !words.contains("Bearer"),
        "{words}"
    );
    assert_eq!(
        text(&browser, "login-why").await,
        "",
        "nobody was wrong yet"
    );
    browser.look_at_all_sides("sign-in").await;
    enter("0123456789abcdee").await;
    eventually("it says that this is not the token", async || {
        text(&browser, "login-why").await.contains("is not valid")
    })
    .await;
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

/// Waits until a script in the page says yes.
async fn says_yes(browser: &Browser, what: &str, script: &str) {
    eventually(what, async || browser.run(script).await == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_click_opens_an_instance_with_its_wakes_and_what_can_be_done_with_it() {
    let plane = Plane::start().await;
    let idle = Duration::from_secs(60);
    plane.asleep(Wanted::hello("web").idle(idle)).await;
    let gateway = Gateway::start(&plane, "").await;
    assert_eq!(gateway.client().get("web", "/").await.status(), 200);
    let browser = watch(gateway.admin).await;
    comes_to_be(&browser, "web", "awake").await;
    browser
        .run("document.querySelector('.row[data-name=web] .name').click()")
        .await;
    says_yes(
        &browser,
        "its wake is shown with its phases",
        "const rows = document.getElementById('details-rows');\
         return document.getElementById('details').open && rows.rows.length === 1\
             && /restoring [0-9.]+ m?s/.test(rows.textContent)\
             && rows.querySelectorAll('.phases [data-phase]').length > 0",
    )
    .await;
    let facts = text(&browser, "details-facts").await;
    assert!(facts.contains("in force, 127."), "{facts}");
    browser.look_at_all_sides("details").await;
    browser
        .run("document.getElementById('details-standby').click()")
        .await;
    comes_to_be(&browser, "web", "asleep").await;
    says_yes(
        &browser,
        "it can be woken again",
        "return !document.getElementById('details-wake').hidden\
             && document.getElementById('details-standby').hidden",
    )
    .await;
    browser.press(ESCAPE).await;
    // The row's own button does the same.
    let button = "document.querySelector('.row[data-name=web] button.";
    browser.run(&format!("{button}wake').click()")).await;
    comes_to_be(&browser, "web", "awake").await;
    says_yes(
        &browser,
        "the button is ready",
        &format!("return !{button}standby').disabled"),
    )
    .await;
    browser.run(&format!("{button}standby').click()")).await;
    comes_to_be(&browser, "web", "asleep").await;
    says_yes(
        &browser,
        "what came of it is said",
        "return document.getElementById('notice').textContent === 'web is asleep'",
    )
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_screen_has_everything_and_the_timeline_a_line_of_its_own() {
    let plane = Plane::start().await;
    for name in ["web", "an-application-whose-name-goes-on-for-quite-a-while"] {
        plane.asleep(Wanted::hello(name)).await;
    }
    let gateway = Gateway::start(&plane, "").await;
    assert_eq!(gateway.client().get("web", "/").await.status(), 200);
    let browser = watch(gateway.admin).await;
    says_yes(
        &browser,
        "a wake was taken note of",
        "return document.querySelector('.row[data-name=web] .number[data-label=took]')\
             ?.textContent.length > 0",
    )
    .await;
    browser.look_at_all_sides("dashboard").await;
    browser.width(390).await;
    let places = "const row = document.querySelector('.row[data-name=web]');\
                  const place = (it) => row.querySelector(it).getBoundingClientRect();\
                  const [all, name, time] = [row.getBoundingClientRect(), place('.name'), place('canvas')];\
                  const [took, wake, standby] = ['[data-label=took]', '.wake', '.standby'].map(place);\
                  return [time.width > 300, time.top >= name.bottom, took.top >= time.bottom,\
                      [name, time, took, wake, standby].every((it) => it.width > 0 && it.left >= 0\
                          && it.right <= innerWidth && it.top >= all.top && it.bottom <= all.bottom),\
                      getComputedStyle(document.querySelector('.keys')).display === 'none']";
    eventually("each row has three lines", async || {
        browser.run(places).await == json!([true, true, true, true, true])
    })
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_works_from_the_start() {
    let plane = Plane::start().await;
    for name in ["first", "second"] {
        plane.asleep(Wanted::hello(name)).await;
    }
    let gateway = Gateway::start(&plane, "").await;
    let browser = watch(gateway.admin).await;
    comes_to_be(&browser, "second", "asleep").await;
    let focused = "return document.activeElement.dataset.name ?? ''";
    assert_eq!(browser.run(focused).await, "");
    browser.press(ARROW_DOWN).await;
    assert_eq!(browser.run(focused).await, "first");
    browser.press(ARROW_DOWN).await;
    assert_eq!(browser.run(focused).await, "second");
    browser.press(ARROW_UP).await;
    assert_eq!(browser.run(focused).await, "first");
    browser.press("w").await;
    comes_to_be(&browser, "first", "awake").await;
    says_yes(
        &browser,
        "nothing is at it",
        "const row = document.querySelector('.row[data-name=first]');\
         return [...row.querySelectorAll('[data-label]:not([data-label=took])')]\
             .every((it) => !it.textContent)",
    )
    .await;
    browser.press("s").await;
    comes_to_be(&browser, "first", "asleep").await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_and_routes_are_shown_with_their_states() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("shop")).await;
    let nobody = crate::support::reserved::Reserved::new();
    let extra = format!(
        "[[hypeman]]\nname = \"other\"\nurl = \"http://{}\"\n\
         [[route]]\nhost = \"www.shop.test\"\ninstance = \"shop\"\nhypeman = \"default\"\n",
        nobody.address
    );
    let gateway = Gateway::start(&plane, &extra).await;
    let browser = watch(gateway.admin).await;
    eventually("the control planes' states are shown", async || {
        let planes = text(&browser, "planes").await;
        planes.contains("default answers") && planes.contains("other does not answer")
    })
    .await;
    says_yes(
        &browser,
        "each route has its instance's state",
        "const rows = [...document.getElementById('routes').rows].map((row) => row.textContent);\
         return rows.some((row) => row.includes('www.shop.test') && row.includes('asleep'))\
             && rows.some((row) => row.includes('{instance}.test') && row.includes('by host'))",
    )
    .await;
    let about = text(&browser, "about").await;
    assert!(about.contains(env!("CARGO_PKG_VERSION")), "{about}");
    // The filter is the gateway's own.
    browser
        .run("document.getElementById('route-filter').focus()")
        .await;
    browser.press("www").await;
    says_yes(
        &browser,
        "only one route fits",
        "return document.getElementById('routes').rows.length === 1",
    )
    .await;
    browser
        .run("document.querySelector('#routes button').click()")
        .await;
    eventually("a route leads to its instance", async || {
        text(&browser, "details-title").await == "shop"
    })
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_wakes_are_right_and_neither_storage_nor_an_honest_network_is_needed() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    let browser = watch(gateway.admin).await;
    let shares = "return import('/words.js').then(({ quantile }) => [\
                      quantile([17, 3000], 0.5), quantile([4.3, 16.5, 34.8, 35], 0.5),\
                      quantile([1, 2, 3], 0.5), quantile([7], 0.5), quantile([1, 2], 1),\
                      quantile(Array.from({ length: 100 }, (_, at) => at + 1), 0.95)])";
    let shares = browser.run(shares).await;
    let expected = json!([17.0, 16.5, 2.0, 7.0, 2.0, 95.0]);
    let number = |value: &Value| value.as_f64().unwrap();
    for (share, right) in shares
        .as_array()
        .unwrap()
        .iter()
        .zip(expected.as_array().unwrap())
    {
        assert_eq!(number(share), number(right), "{shares}");
    }
    assert_eq!(shares.as_array().unwrap().len(), 6);
    // A stream that is open and says nothing: only the page itself can notice.
    let silent = "const open = ({ signal }) => new ReadableStream({ start(stream) {\
                      signal.addEventListener('abort', () => stream.error(signal.reason)); } });\
                  const before = window.fetch;\
                  window.fetch = (_, fields) => Promise.resolve(new Response(open(fields)));\
                  return new Promise((go) => {\
                      const states = [];\
                      const state = (state) => states.push(state) === 2 && go(states);\
                      import('/stream.js').then(({ follow }) =>\
                          follow('/api/events', () => ({}), { event() {}, state }, 50)); })\
                      .finally(() => { window.fetch = before; })";
    assert_eq!(browser.run(silent).await, json!(["live", "lost"]));
    let kept = "for (const name of ['localStorage', 'sessionStorage'])\
                    Object.defineProperty(window, name, { get() { throw new Error('blocked'); } });\
                return import('/api.js?blocked').then(({ preferences, signIn, signOut, token }) => {\
                    preferences.set('theme', 'dark'); signIn(' secret ');\
                    const kept = [preferences.get('theme'), token()]; signOut();\
                    return [...kept, token() === undefined]; })";
    assert_eq!(browser.run(kept).await, json!(["dark", "secret", true]));
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}
