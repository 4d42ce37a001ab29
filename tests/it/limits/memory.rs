//! What hostile clients of HTTP/2 cost a gateway that is a process of its own, and what is left of
//! it when they have gone.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Method;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::app::{Greedy, LONG, Speaks};
use super::request;
use crate::support::gateway_process::GatewayProcess;
use crate::support::scripted_plane::{Scripted, ScriptedPlane};
use crate::support::{eventually, eventually_within, number, spawn};

const STREAMS: usize = 64;
const UPLOAD: Bytes = Bytes::from_static(&[b'x'; 240 * 1024]);
const MIB: u64 = 1 << 20;

/// A client whose streams have windows of this size; it goes when it is dropped.
struct Hostile {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    streams: Vec<JoinHandle<()>>,
}

impl Hostile {
    async fn connect(address: SocketAddr, window: u32) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (sender, connection) = builder.handshake(socket).await.unwrap();
        let connection = spawn(async move { drop(connection.await) });
        let streams = Vec::new();
        Self {
            sender,
            connection,
            streams,
        }
    }

    /// Sends a body that nobody reads.
    async fn upload(&mut self, instance: &str) {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let asked = sender.send_request(request(Method::POST, instance, "/deaf"), false);
        let (answer, mut body) = asked.unwrap();
        body.send_data(UPLOAD, true).unwrap();
        self.streams.push(spawn(async move {
            let _body = body;
            drop(answer.await);
        }));
    }

    /// Asks for a body and does not read it.
    async fn download(&mut self, instance: &str) {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let asked = sender.send_request(request(Method::GET, instance, "/endless"), true);
        let (answer, _) = asked.unwrap();
        self.streams.push(spawn(async move {
            let _answer = answer.await;
            std::future::pending::<()>().await;
        }));
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.connection.abort();
        self.streams.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hostile_clients_have_in_memory_is_bounded_and_comes_back() {
    let connections = number("LIMITS_CONNECTIONS").unwrap_or(40);
    let plane = ScriptedPlane::start().await;
    let (app, ip) = Greedy::start(Speaks::H1).await;
    let (_shared, h2c_ip) = Greedy::start(Speaks::H2 {
        streams: 1000,
        window: 65_535,
    })
    .await;
    for (name, ip) in [("deaf", ip), ("honest", ip), ("shared", h2c_ip)] {
        plane.add(Scripted::running(name, ip).id(name));
    }
    let sleeps = Scripted::asleep("sleeps", ip).id("sleeps");
    plane.add(sleeps.restore_takes(Duration::from_secs(300)));
    let keys = "limits = { max_inflight = 100000, max_inflight_per_client = 100000 }\n\
                wake = { timeout = \"5m\" }\n";
    let config = format!(
        "[log]\nlevel = \"error\"\naccess = \"off\"\n\
         [hypeman]\nurl = \"http://{}\"\n\
         [[route]]\nhost = \"{{i}}.test\"\ninstance = \"{{i}}\"\nport = 8080\n{keys}\
         [[route]]\nhost = \"shared.test\"\ninstance = \"shared\"\nport = 8080\n\
         protocol = \"h2c\"\n{keys}",
        plane.address
    );
    let config = config.replace("[hypeman]", "[[hypeman]]");
    let gateway = GatewayProcess::start("", &config).await;
    let honest = async || {
        let began = Instant::now();
        let client = reqwest::Client::builder().no_proxy();
        let client = client
            .resolve("honest.test", gateway.listen)
            .build()
            .unwrap();
        let url = format!("http://honest.test:{}/", gateway.listen.port());
        let answer = timeout(LONG, client.get(url).send()).await;
        let answer = answer.expect("an honest client waits").unwrap();
        assert_eq!(answer.text().await.unwrap(), "short");
        began.elapsed()
    };
    honest().await;
    let all = usize::try_from(connections).unwrap() * STREAMS;
    let start = gateway.resident();
    for case in ["deaf", "sleeps", "downloads", "shared"] {
        let before = gateway.resident();
        let asked = app.asked();
        let mut hostile = Vec::new();
        for _ in 0..connections {
            let window = if case == "downloads" { 1 } else { 65_535 };
            let mut client = Hostile::connect(gateway.listen, window).await;
            for _ in 0..STREAMS {
                match case {
                    "downloads" => client.download("deaf").await,
                    instance => client.upload(instance).await,
                }
            }
            hostile.push(client);
        }
        eventually("they are there", async || match case {
            "sleeps" => gateway.metric("wakegate_held_requests").await as usize >= all,
            "downloads" => app.open() >= all,
            "deaf" => app.asked() - asked >= all,
            _ => gateway.metric("wakegate_inflight_requests").await as usize >= all,
        })
        .await;
        let mut peak = gateway.resident();
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            peak = peak.max(gateway.resident());
        }
        let beside = honest().await;
        drop(hostile);
        let grown = (peak - before.min(peak)) / MIB;
        eventually_within(LONG * 6, "memory comes back", async || {
            gateway.resident() < start + 48 * MIB
        })
        .await;
        let after = gateway.resident() / MIB;
        eprintln!(
            "{case}: {} -> {} -> {after} MiB; an honest client beside them: {beside:?}",
            before / MIB,
            peak / MIB
        );
        let most = 64 + 3 * connections;
        assert!(grown < most, "{case}: {grown} MiB more, of {most}");
    }
}
