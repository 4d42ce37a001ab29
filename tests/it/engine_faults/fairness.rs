//! Fair shares: one client's network has a part of an instance's places, and the rest is for
//! others.

use tokio::task::JoinSet;

use super::{Stage, ask};
use crate::support::eventually;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Operation, Reaction, Scripted};

/// In the network of no other client here.
const HONEST: [u8; 4] = [127, 9, 9, 9];

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_fill_the_hold_queue_of_an_instance() {
    let stage = Stage::set("[wake]\nmax_held_per_instance = 20\n").await;
    let app = Application::start("app").await;
    let id = stage.plane.add(Scripted::asleep("shop", app.ip));
    stage.plane.on(Operation::Restore, &id, Reaction::Hang);
    let mut greedy = JoinSet::new();
    for _ in 0..60 {
        let client = stage.gateway.client();
        greedy.spawn(async move { ask(&client, "GET", "shop", "/", &[]).await });
    }
    // Some of them wait, and the rest are refused.
    let mut refused = 0;
    while refused < 40 {
        let reply = greedy.join_next().await.unwrap().unwrap();
        assert!(reply.is(503, "hold_queue_share"), "{reply:?}");
        refused += 1;
    }
    let held = stage.gateway.metric("wakegate_held_requests").await;

    let client = stage.client_from(HONEST);
    let honest = ask(&client, "GET", "shop", "/", &[]);
    let healing = async {
        let joins = async || stage.gateway.metric("wakegate_held_requests").await > held;
        // If it is refused instead, its answer says so.
        let joined = eventually("the honest client waits, too", joins);
        let _over = tokio::time::timeout(std::time::Duration::from_secs(3), joined).await;
        stage.plane.heal(Operation::Restore, &id);
    };
    let (honest, ()) = tokio::join!(honest, healing);
    assert_eq!(
        (honest.status, honest.body.as_str()),
        (200, "app"),
        "{honest:?}"
    );
    while let Some(reply) = greedy.join_next().await {
        let reply = reply.unwrap();
        let fair = reply.body == "app" || reply.is(503, "hold_queue_share");
        assert!(fair, "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_every_place_at_an_instance() {
    let limits = "[[route]]\nhost = \"shop.test\"\ninstance = \"shop\"\nport = 8080\n\
                  limits = { max_inflight = 12 }\nwake = { timeout = \"2s\" }\n";
    let stage = Stage::set(limits).await;
    let app = Application::start("app").await;
    stage.plane.add(Scripted::running("shop", app.ip));
    let mut greedy = JoinSet::new();
    for _ in 0..30 {
        let client = stage.gateway.client();
        // Held open for as long as the test.
        greedy.spawn(async move { client.get("shop", "/stream").await });
    }
    // Those that found no place were told so.
    let mut open = Vec::new();
    while let Some(response) = greedy.join_next().await {
        let response = response.unwrap();
        match response.status().as_u16() {
            200 => open.push(response),
            status => assert_eq!(status, 503),
        }
    }
    assert!(open.len() >= 6, "it has a good part: {}", open.len());
    eventually("they are at the instance", async || {
        app.requests("/stream") == open.len()
    })
    .await;
    let honest = ask(&stage.client_from(HONEST), "GET", "shop", "/", &[]).await;
    assert_eq!(
        (honest.status, honest.body.as_str()),
        (200, "app"),
        "{honest:?}"
    );
    drop(open);
}
