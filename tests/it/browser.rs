//! The waiting page in a real browser: headless Chromium, driven over `WebDriver`.

use std::time::Duration;

use crate::support::browser::Browser;
use crate::support::{Gateway, Plane, Wanted, eventually};

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
