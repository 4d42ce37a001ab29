//! A browser as the program of an instance: a session of its `DevTools` protocol outlives the instance's sleep.

use std::time::Duration;

use futures_util::SinkExt as _;
use hypeman::wire::{CreateInstance, InstanceState};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::parking::{sleeps, stop, unparks};
use crate::support::skips::{Lacking, skip};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually_within};
use crate::tunnels::{Socket, in_state, next};

/// How long a browser may take to be there on a busy machine.
const START: Duration = Duration::from_secs(90);
/// Its files, its port, and nothing that it would do of its own accord.
const SCRIPT: &str = "exec chromium --headless=new --no-sandbox --disable-gpu \
                      --disable-dev-shm-usage --no-first-run --disable-background-networking \
                      --user-data-dir=\"$PWD/profile\" --remote-debugging-port=\"$PORT\" about:blank";

fn is_installed() -> bool {
    let mut which = std::process::Command::new("sh");
    let found = which.args(["-c", "command -v chromium"]).output();
    let is_there = found.unwrap().status.success();
    if !is_there {
        skip(Lacking::Tool, "chromium is not installed");
    }
    is_there
}

/// Has the page evaluate an expression, and waits for its value.
async fn evaluate(socket: &mut Socket, id: u64, expression: &str) -> Value {
    let question = json!({
        "id": id,
        "method": "Runtime.evaluate",
        "params": { "expression": expression },
    });
    socket
        .send(Message::text(question.to_string()))
        .await
        .unwrap();
    let answer = async {
        loop {
            let said = next(socket).await.expect("it goes on");
            let said: Value = serde_json::from_str(said.to_text().unwrap()).unwrap();
            // It may tell events, too.
            if said["id"] == id {
                return said["result"]["result"]["value"].clone();
            }
        }
    };
    timeout(PATIENCE, answer).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_browsers_devtools_goes_on_in_the_same_page_after_a_sleep() {
    if !is_installed() {
        return;
    }
    let plane = Plane::start().await;
    let wanted = Wanted {
        request: CreateInstance {
            name: "chrome".to_owned(),
            image: "local/exec".to_owned(),
            cmd: Some(["/bin/sh", "-c", SCRIPT].map(str::to_owned).to_vec()),
            tags: [("wakegate.flows".to_owned(), "keep".to_owned())].into(),
            ..CreateInstance::default()
        },
    };
    let instance = plane.running(wanted.idle(Duration::from_secs(3600))).await;
    let ip = instance.network.clone().unwrap().ip.unwrap();
    // A browser takes no other name for itself than this one.
    let more = "[[route]]\nhost = \"localhost\"\ninstance = \"chrome\"\nport = 8080\n\
                [route.tunnel]\npark = { after = \"200ms\" }\n";
    let gateway = Gateway::start(&plane, more).await;
    let mut page = None;
    eventually_within(START, "the browser has a page", async || {
        let Ok(answer) = reqwest::get(format!("http://{ip}:8080/json/list")).await else {
            return false;
        };
        let pages: Value = answer.json().await.unwrap_or_default();
        let pages = pages.as_array().into_iter().flatten();
        page = pages
            .filter(|page| page["type"] == "page")
            .find_map(|page| Some(page["id"].as_str()?.to_owned()));
        page.is_some()
    })
    .await;
    let path = format!("devtools/page/{}", page.unwrap());
    let mut request = format!("ws://{}/{path}", gateway.address)
        .into_client_request()
        .unwrap();
    let host = "localhost".parse().unwrap();
    request.headers_mut().insert("host", host);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(evaluate(&mut socket, 1, "window.x = 41").await, 41);
    for (round, value) in [(1, 42), (2, 43)] {
        crate::support::eventually("it is parked", async || {
            in_state(&gateway, "parked").await == 1.0
        })
        .await;
        let url = format!("http://{}/api/instances/chrome/standby", gateway.admin);
        let done = reqwest::Client::new().post(url).send().await.unwrap();
        assert!(done.status().is_success(), "{}", done.status());
        sleeps(&plane, &instance.id).await;
        let id = 1 + round;
        assert_eq!(evaluate(&mut socket, id, "++window.x").await, value);
        assert_eq!(unparks(&gateway, "client").await, f64::from(round as u32));
    }
    assert_eq!(plane.state(&instance.id).await, InstanceState::Running);
    stop(plane, gateway).await;
}
