//! What the clients of a front share, which is a connection to the node, and what they do not.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::World;
use crate::support::fleet::at;
use crate::support::{Client, PATIENCE, Wanted, eventually, spawn};

/// What makes a front believe who its client is.
const TRUSTING: &str = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";

/// A request of the client at this address.
fn request_of(client: &Client, of: &str, what: (&str, &str, &str)) -> reqwest::RequestBuilder {
    let (method, instance, path) = what;
    let request = client.request(method, instance, path);
    request.header("x-forwarded-for", of)
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_client_that_wait_stop_no_other_client_of_the_same_front() {
    let route = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\nport = 9000\n";
    let node = "[server]\nmax_buffered_bytes = \"4MiB\"\n";
    let world = World::with(&format!("{route}{TRUSTING}"), node).await;
    let (instance, door) = world.plane.behind_a_door("app").await;
    let other = world.plane.listening(Wanted::hello("other")).await;
    world.claim(&instance);
    world.claim(&other);
    let client = world.front.client();
    // One that is under way, and goes on afterwards.
    let path = "/bytes?size=20000000";
    let download = request_of(&client, "198.51.100.1", ("GET", "other", path));
    let mut download = download.send().await.unwrap();
    let mut had = download.chunk().await.unwrap().unwrap().len();
    let uploads: Vec<_> = (0..64)
        .map(|_| {
            let upload = request_of(&client, "192.0.2.1", ("POST", "app", "/echo"));
            let upload = upload.body(vec![b'y'; 300_000]);
            spawn(async move {
                let answer = upload.send().await.unwrap();
                let status = answer.status().as_u16();
                (status, answer.bytes().await.unwrap().len())
            })
        })
        .collect();
    let held = "wakegate_held_requests";
    eventually("they have their share, and wait", async || {
        let bytes = world.node.gateway.metric("wakegate_buffered_bytes").await;
        world.node.gateway.metric(held).await >= 3.0 && bytes > 1_500_000.0
    })
    .await;
    for _ in 0..5 {
        let get = request_of(&client, "198.51.100.1", ("GET", "other", "/"));
        let answer = timeout(PATIENCE, get.send()).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
    }
    let body = vec![b'z'; 200_000];
    let echo = request_of(&client, "198.51.100.1", ("POST", "other", "/echo")).body(body);
    let echoed = timeout(PATIENCE, echo.send()).await.unwrap().unwrap();
    assert_eq!(echoed.bytes().await.unwrap().len(), 200_000);
    while let Some(part) = timeout(PATIENCE, download.chunk()).await.unwrap().unwrap() {
        had += part.len();
    }
    assert_eq!(had, 20_000_000);
    let bytes = world.node.gateway.metric("wakegate_buffered_bytes").await;
    assert!(bytes <= f64::from(4 << 20), "{bytes}");
    door.open().await;
    let mut answered = 0;
    for upload in uploads {
        match timeout(PATIENCE, upload).await.unwrap().unwrap() {
            (200, length) => {
                assert_eq!(length, 300_000);
                answered += 1;
            }
            // It had no room left.
            (status, _) => assert_eq!(status, 503),
        }
    }
    assert!(answered >= 3, "{answered}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_break_off_their_downloads_end_nobody_elses_connection() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let socket = TcpStream::connect(world.front.address).await.unwrap();
    let request = "ws://app.test/ws".into_client_request().unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket)
        .await
        .unwrap();
    for _ in 0..15 {
        let leaving: Vec<_> = (0..40)
            .map(|_| {
                let address = world.front.address;
                spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let request = "GET /bytes?size=5000000 HTTP/1.1\r\nhost: app.test\r\n\r\n";
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let mut some = [0; 4096];
                    let read = timeout(PATIENCE, stream.read(&mut some)).await;
                    assert!(read.unwrap().unwrap() > 0);
                })
            })
            .collect();
        for one in leaving {
            one.await.unwrap();
        }
        // It lives on the same connection between the two.
        socket.send(Message::text("there?")).await.unwrap();
        let echoed = timeout(PATIENCE, socket.next()).await.unwrap();
        let echoed = echoed.expect("it was ended").unwrap();
        assert_eq!(echoed.into_text().unwrap().as_str(), "there?");
    }
    let made = "wakegate_tls_handshakes_total{outcome=\"full\"}";
    eventually("one connection was enough", async || {
        world.node.gateway.metric(made).await <= 2.0
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_body_byte_by_byte_ends_nobody_elses_connection() {
    let route = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\nport = 9000\n";
    let world = World::with(route, "").await;
    let (instance, door) = world.plane.behind_a_door("app").await;
    let other = world.plane.listening(Wanted::hello("other")).await;
    world.claim(&instance);
    world.claim(&other);
    let client = world.front.client();
    let slow = client.request("GET", "other", "/slow?delay=3s");
    let slow = spawn(async move { slow.send().await.unwrap().status().as_u16() });
    let dripping: Vec<_> = (0..4)
        .map(|_| {
            let address = world.front.address;
            spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = "POST /upload HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\
                            transfer-encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                // Each chunk is a frame of its own, if nobody joins them.
                for _ in 0..200 {
                    stream.write_all(&b"1\r\nx\r\n".repeat(150)).await.unwrap();
                    tokio::task::yield_now().await;
                }
                stream.write_all(b"0\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            })
        })
        .collect();
    assert_eq!(timeout(PATIENCE, slow).await.unwrap().unwrap(), 200);
    door.open().await;
    for one in dripping {
        let answer = timeout(PATIENCE, one).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("{\"bytes\":30000}"), "{answer}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_raw_connection_has_in_a_fronts_memory_is_counted_and_comes_back() {
    const FLOOD: usize = 32 << 20;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"db.test\"\n";
    let world = World::with(listener, "").await;
    let (reference, origin) = world.plane.own_origin("db").await;
    let place = at(&world.node.member, reference.as_str());
    world.directory.put("db", place);
    spawn(async move {
        while let Ok((mut stream, _)) = origin.accept().await {
            spawn(async move {
                // One that only looks says nothing.
                let mut said = [0; 9];
                if stream.read_exact(&mut said).await.is_ok() {
                    let _sent = stream.write_all(&vec![b'x'; FLOOD]).await;
                }
            });
        }
    });
    let mut stream = TcpStream::connect(world.front.addresses[1]).await.unwrap();
    stream.write_all(b"all of it").await.unwrap();
    let buffered = "wakegate_buffered_bytes";
    eventually("what the client does not take is counted", async || {
        world.front.metric(buffered).await > 10_000.0
    })
    .await;
    let (mut had, mut some) = (0, vec![0; 1 << 20]);
    while had < FLOOD {
        let read = timeout(PATIENCE, stream.read(&mut some)).await;
        match read.unwrap().unwrap() {
            0 => break,
            more => had += more,
        }
    }
    assert_eq!(had, FLOOD);
    drop(stream);
    eventually("nothing is counted any more", async || {
        world.front.metric(buffered).await == 0.0
    })
    .await;
    world.stop().await;
}
