//! What a parked WebSocket costs a gateway that is a process of its own.
//!
//! By hand, with the built program or the one that `WAKEGATE_BIN` names, and with file descriptors for three
//! ends of each (`ulimit -n`): `PARKED_TUNNELS=10000 cargo test --release --test it parked_memory:: -- --ignored
//! --nocapture`. `PARKED_RULES` is more of `park`: `resume = "reconnect"` keeps the handshake, too.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::gateway_process::GatewayProcess;
use crate::support::{PATIENCE, Plane, eventually_within, number};
use crate::tunnels::head;

/// What one may cost in memory, with both of its connections.
const MOST: u64 = 8 * 1024;
/// How long all may take to be parked, and what was freed to go back to the system.
const LONG: Duration = Duration::from_secs(120);
/// Handshakes at once.
const AT_ONCE: usize = 50;

/// Switches with whoever asks, and takes one frame of each.
async fn serve(origin: TcpListener) {
    let mut tunnels = JoinSet::new();
    while let Ok((mut stream, _)) = origin.accept().await {
        tunnels.spawn(async move {
            let mut first = [0];
            if stream.peek(&mut first).await.unwrap_or(0) == 0 {
                return;
            }
            let head = head(&mut stream).await;
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            let key = fields.find(|(name, _)| *name == "sec-websocket-key");
            let accept = derive_accept_key(key.unwrap().1.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut rest = [0; 64];
            while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        });
    }
}

/// A browser's handshake, and a first frame.
async fn connect(gateway: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let request = format!(
        "GET /socket?room=42 HTTP/1.1\r\nhost: own.test\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://own.test\r\n\
         user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         accept-language: de,en;q=0.5\r\ncookie: session={}\r\n\r\n",
        "0123456789abcdef".repeat(8)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream.write_all(b"\x81\x85\0\0\0\0hello").await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "thousands of connections; a number counts only for an optimised program"]
async fn a_parked_websocket_takes_8_kib_of_the_gateway() {
    let count = number("PARKED_TUNNELS").unwrap_or(4000);
    let more = std::env::var_os("PARKED_RULES").unwrap_or_default();
    let more = more.to_str().unwrap();
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("own").await;
    let serving = crate::support::spawn(serve(origin));
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, &plane.token).unwrap();
    let config = format!(
        "[server]\nmax_connections_per_client = 100000\nmax_connections = 100000\n\
         [log]\nlevel = \"error\"\naccess = \"off\"\n\
         [[hypeman]]\nurl = \"http://{}\"\napi_key_file = \"{}\"\n\
         [[route]]\nhost = \"{{instance}}.test\"\ninstance = \"{{instance}}\"\nport = 8080\n\
         [route.limits]\nmax_inflight = 100000\n\
         [route.tunnel]\npark = {{ after = \"2s\", max = 100000, {more} }}\n",
        plane.address,
        key.display()
    );
    let descriptors = 3 * count + 1000;
    let gateway = GatewayProcess::start_under(Some(descriptors), "", &config).await;
    let parked = async || {
        let name = "wakegate_tunnels{state=\"parked\"}";
        gateway.metric(name).await as u64
    };
    let all_parked = async |wanted: u64| {
        eventually_within(LONG, "all are parked", async || parked().await == wanted).await;
        // What was freed goes back to the system for some seconds.
        sleep(Duration::from_secs(15)).await;
        gateway.resident()
    };
    let (mut clients, mut connecting) = (Vec::new(), JoinSet::new());
    // What is there once for all is there before anything is measured.
    let first = 100.min(count / 2);
    let mut before = 0;
    for number in 1..=count {
        connecting.spawn(connect(gateway.listen));
        while connecting.len() >= AT_ONCE || (number == first || number == count) {
            let Some(client) = timeout(PATIENCE, connecting.join_next()).await.unwrap() else {
                break;
            };
            clients.push(client.unwrap());
        }
        if number == first {
            before = all_parked(first).await;
        }
    }
    let after = all_parked(count).await;
    let each = after.saturating_sub(before) / (count - first);
    eprintln!("{count} parked WebSockets: {before} -> {after} bytes, {each} bytes each");
    assert!(each <= MOST, "{each} bytes each");
    drop(clients);
    serving.abort();
    drop(gateway);
    plane.stop().await;
}
