//! What clients have sent to instances that are being woken: it is in their share of the gateway's memory.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::parking::{sleeps, start, stop};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually};
use crate::tunnels::{head, next, open};

/// A whole MiB for all; one client network has somewhat more than half of it.
const KEYS: &str = "[route.wake]\ntimeout = \"50s\"\n[server]\nmax_buffered_bytes = \"1MiB\"\n";
const MOST: f64 = 950_000.0;

async fn buffered(gateway: &Gateway) -> f64 {
    gateway.metric("wakegate_buffered_bytes").await
}

/// More than half of it is used, and what is more than there is room for waits with its clients.
async fn is_bounded(gateway: &Gateway) {
    eventually("much is kept", async || buffered(gateway).await > 500_000.0).await;
    for _ in 0..10 {
        let bytes = buffered(gateway).await;
        assert!(bytes < MOST, "{bytes}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_raw_connections_send_to_an_instance_that_wakes_is_in_their_clients_share() {
    const CLIENTS: usize = 30;
    const BODY: usize = 100_000;
    let rules = format!(
        "[route.tunnel]\npark = {{ after = \"200ms\", buffer = \"64KiB\" }}\n{KEYS}\
         [[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"raw.test\"\n"
    );
    let (plane, instance, gateway) = start("raw", &rules).await;
    let address = gateway.addresses[1];
    let mut streams = join_all((0..CLIENTS).map(async |_| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        stream
    }))
    .await;
    sleeps(&plane, &instance.id).await;
    plane.faults("{ \"error_percent\": 100 }").await;
    let request = format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY}\r\n\r\n");
    let body = vec![b'~'; BODY];
    let ends = join_all(streams.iter_mut().map(async |stream| {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let (mut heard, mut part) = (0, [0; 4096]);
        while heard < BODY {
            let read = stream.read(&mut part).await.unwrap();
            assert!(read > 0, "it was cut");
            let ours = part[..read].iter().map(|byte| usize::from(*byte == b'~'));
            heard += ours.sum::<usize>();
        }
    }));
    let story = async {
        is_bounded(&gateway).await;
        plane.faults("{}").await;
    };
    let all = async { tokio::join!(ends, story) };
    timeout(PATIENCE, all).await.expect("all of it comes");
    eventually("nothing is kept", async || buffered(&gateway).await < 1.0).await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_a_first_frame_is_in_its_clients_share() {
    const CLIENTS: usize = 80;
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("lazy")).await;
    let rules = format!("[route.tunnel]\nwake = \"first-frame\"\n{KEYS}");
    let gateway = Gateway::start(&plane, &rules).await;
    let sockets = join_all((0..CLIENTS).map(|_| open(&gateway, "lazy"))).await;
    plane.faults("{ \"error_percent\": 100 }").await;
    let text = "wake up".repeat(5000);
    let ends = join_all(sockets.into_iter().map(async |socket| {
        let (mut sending, receiving) = socket.split();
        sending.send(Message::text(text.clone())).await.unwrap();
        let mut socket = sending.reunite(receiving).unwrap();
        assert_eq!(next(&mut socket).await, Some(Message::text(text.clone())));
    }));
    let story = async {
        is_bounded(&gateway).await;
        plane.faults("{}").await;
    };
    let all = async { tokio::join!(ends, story) };
    timeout(PATIENCE, all).await.expect("all of it comes");
    eventually("nothing is kept", async || buffered(&gateway).await < 1.0).await;
    stop(plane, gateway).await;
}
