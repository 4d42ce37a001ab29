//! The waiting page in a real browser: headless Chromium, driven over `WebDriver`.

use std::time::Duration;

use crate::support::browser::Browser;
use crate::support::{Gateway, Plane, Wanted, eventually, route};

/// A gateway whose instance takes so long to wake that a person sees the page.
async fn slow_to_wake(plane: &Plane, name: &str, keys: &str) -> Gateway {
    plane.asleep(Wanted::hello(name)).await;
    plane
        .faults(r#"{ "initializing_percent": 100, "initializing_ms": 1 }"#)
        .await;
    let route = format!(
        "[[route]]\nhost = \"{name}.test\"\ninstance = \"{name}\"\nwake = {{ ready = \"health\", \
         health_path = \"/drowsy?for=2500ms\" }}\n{keys}\n"
    );
    // So long asleep that the application notices.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Gateway::start(plane, &route).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_how_far_the_wake_is_and_then_the_application() {
    let plane = Plane::start().await;
    let gateway = slow_to_wake(&plane, "paged", "waiting_page = { after = \"100ms\" }").await;
    let browser = Browser::start(true).await;
    let url = format!("http://paged.test:{}/", gateway.address.port());
    browser.open(&url).await;
    eventually("the page is there", async || {
        browser.shows("paged.test is waking up").await
    })
    .await;
    eventually("it tells how far the wake is, by JavaScript", async || {
        browser.shows("waiting for its application").await
    })
    .await;
    eventually("it gives way to the application", async || {
        browser.shows("hello from paged").await
    })
    .await;
    // An awake instance is never hidden behind the page.
    browser.open(&url).await;
    let visits = async || {
        let source = browser.source().await;
        let (before, _) = source.split_once(" of this memory")?;
        before.rsplit(' ').next()?.parse::<u32>().ok()
    };
    // The browser may have asked for an icon, too.
    eventually("the application is there again", async || {
        visits().await.is_some_and(|visits| visits >= 2)
    })
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_without_javascript() {
    let plane = Plane::start().await;
    let gateway = slow_to_wake(&plane, "plain", "waiting_page = { after = \"100ms\" }").await;
    let browser = Browser::start(false).await;
    let url = format!("http://plain.test:{}/", gateway.address.port());
    browser.open(&url).await;
    eventually("the page is there", async || {
        browser.shows("plain.test is waking up").await
    })
    .await;
    eventually("it gives way to the application", async || {
        browser.shows("hello from plain").await
    })
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_browsers_navigation_sees_the_page_and_it_says_what_it_is() {
    let plane = Plane::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page.html");
    std::fs::write(&file, "<p>moment, {{host}} {{usual_ms}}</p>").unwrap();
    let keys = format!("waiting_page = {{ after = \"100ms\", template = {file:?} }}");
    let gateway = slow_to_wake(&plane, "told", &keys).await;
    let client = gateway.client();
    let page = client
        .request("GET", "told", "/")
        .header("accept", "text/html");
    let page = page.send().await.unwrap();
    assert_eq!(page.status(), 503);
    assert_eq!(page.headers()["retry-after"], "1");
    assert_eq!(page.headers()["cache-control"], "no-store");
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.text().await.unwrap(), "<p>moment, told.test 0</p>");

    let events = client.get("told", "/.wakegate/wake").await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let events = spawn_text(events);
    // A program is held, however long it takes, and answered by the application.
    assert_eq!(client.get("told", "/").await.status(), 200);
    let events = events.await.unwrap();
    assert!(events.contains("\"stage\":\"not_listening\""), "{events}");
    assert!(events.ends_with("event: ready\ndata: {}\n\n"), "{events}");
    gateway.stop().await;
    plane.stop().await;
}

fn spawn_text(response: reqwest::Response) -> tokio::task::JoinHandle<String> {
    crate::support::spawn(async move { response.text().await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_the_status_wakes_nobody() {
    let plane = Plane::start().await;
    let gateway = slow_to_wake(&plane, "watched", "waiting_page = true").await;
    let events = gateway.client().get("watched", "/.wakegate/wake").await;
    assert_eq!(events.text().await.unwrap(), "event: over\ndata: {}\n\n");
    assert_eq!(
        gateway.metric("wakegate_restore_calls_total").await as u64,
        0
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_hears_when_a_wake_takes_longer_than_usual() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("late")).await;
    // Nobody listens there.
    let slow = "[[route]]\nhost = \"slow.test\"\ninstance = \"late\"\nport = 9\n\
                wake = { timeout = \"30s\" }\nwaiting_page = { after = \"100ms\" }\n";
    let gateway = Gateway::start(&plane, slow).await;
    // After three wakes it is known how long one takes.
    let asleep = format!("http://{}/api/instances/late/standby", gateway.admin);
    for _ in 0..3 {
        assert_eq!(gateway.client().get("late", "/").await.status(), 200);
        let asleep = reqwest::Client::new().post(&asleep).send().await.unwrap();
        assert_eq!(asleep.status(), 200);
    }
    let browser = Browser::start(true).await;
    let url = format!("http://slow.test:{}/", gateway.address.port());
    browser.open(&url).await;
    eventually("the page is there", async || {
        browser.shows("slow.test is waking up").await
    })
    .await;
    // The script has the words in two parts.
    eventually("it says that this takes longer than usual", async || {
        let words = "This takes longer than usual. You can leave this page open";
        browser.shows(words).await
    })
    .await;
    let bar = "return document.getElementById('bar').hasAttribute('value')";
    assert_eq!(browser.run(bar).await, false, "a full bar would be a lie");
    browser.look_at_all_sides("waiting").await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_hears_that_a_wake_failed_and_gets_a_button_the_second_time() {
    let plane = Plane::start().await;
    plane
        .running(Wanted::hello("mute").env("HELLO_LISTEN_DELAY", "never"))
        .await;
    let keys = "wake = { timeout = \"700ms\" }\nwaiting_page = { after = \"100ms\" }";
    let extra = format!("{}[wake]\nbreaker_failures = 100\n", route("mute", keys));
    let gateway = Gateway::start(&plane, &extra).await;
    let browser = Browser::start(true).await;
    let url = format!("http://mute.test:{}/", gateway.address.port());
    browser.open(&url).await;
    eventually("it says that the wake has failed", async || {
        browser
            .shows("mute.test could not be woken, trying again")
            .await
    })
    .await;
    let source = browser.source().await;
    assert!(source.contains("(app_not_listening)"), "{source}");
    assert!(source.contains("<p id=\"way\" hidden"), "{source}");
    // The page loads again by itself in between.
    eventually("there is a button", async || {
        browser.shows("<p id=\"way\">").await
    })
    .await;
    assert!(browser.shows("2 tries have failed.").await);
    browser.look_at_all_sides("waiting-failed").await;
    // Not by itself, this time.
    let press = "for (let id = 1; id < 10000; id++) clearTimeout(id);\
                 document.body.dataset.seen = 'yes'; document.querySelector('#way a').click()";
    browser.run(press).await;
    eventually("the button asks again", async || {
        let source = browser.source().await;
        source.contains("mute.test") && !source.contains("data-seen")
    })
    .await;
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_page_is_legible_on_every_screen_and_has_a_way_on() {
    let plane = Plane::start().await;
    // No GET may wake it.
    let keys = "admission = { methods = [\"POST\"] }";
    plane.asleep(Wanted::hello("napping")).await;
    let gateway = Gateway::start(&plane, &route("napping", keys)).await;
    let browser = Browser::start(true).await;
    for (host, name, words, has_way) in [
        ("gone.test", "error-404", "Check the address", false),
        ("napping.test", "error-503", "Try again in 60 seconds", true),
    ] {
        let url = format!("http://{host}:{}/", gateway.address.port());
        browser.open(&url).await;
        eventually("the page is there", async || browser.shows(words).await).await;
        browser.look_at_all_sides(name).await;
        let way = "return document.querySelector('a.way')?.href ?? ''";
        let way = browser.run(way).await;
        assert_eq!(way == url, has_way, "{host}: {way}");
    }
    browser.end().await;
    gateway.stop().await;
    plane.stop().await;
}
