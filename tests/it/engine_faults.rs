//! The engine as the outside sees it, in front of a control plane and applications that misbehave
//! in every way that was ever seen: through the whole gateway, over real sockets.

mod epochs;
mod evidence;
mod fairness;
mod names;
mod patience;
mod unusable;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use wakegate::telemetry::AccessSink;

use crate::support::scripted_plane::ScriptedPlane;
use crate::support::{Client, Gateway};

/// In this time everything here is over, also on a busy machine. What hangs takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// A gateway in front of a scripted control plane.
struct Stage {
    plane: ScriptedPlane,
    gateway: Gateway,
}

/// What a client got.
#[derive(Clone, PartialEq, Eq)]
struct Reply {
    status: u16,
    /// The code of an answer of the gateway's own.
    code: String,
    body: String,
}

type WebSocket = WebSocketStream<TcpStream>;

// === impl Stage ===

impl Stage {
    /// `extra` is more TOML, which begins inside the route of `{instance}.test`.
    async fn set(extra: &str) -> Self {
        let plane = ScriptedPlane::start().await;
        Self::around(plane, extra).await
    }

    async fn around(plane: ScriptedPlane, extra: &str) -> Self {
        let (address, token) = (plane.address, ScriptedPlane::TOKEN);
        let gateway = Gateway::start_with(address, token, extra, AccessSink::off()).await;
        Self { plane, gateway }
    }

    async fn get(&self, instance: &str) -> Reply {
        self.ask("GET", instance, "/").await
    }

    async fn ask(&self, method: &str, instance: &str, path: &str) -> Reply {
        ask(&self.gateway.client(), method, instance, path, &[]).await
    }

    /// So many requests at once, each over a connection of its own.
    async fn crowd(&self, size: usize, method: &str, instance: &str, path: &str) -> Vec<Reply> {
        let mut crowd = JoinSet::new();
        for _ in 0..size {
            let client = self.gateway.client();
            let [method, instance, path] = [method, instance, path].map(str::to_owned);
            crowd.spawn(async move { ask(&client, &method, &instance, &path, &[]).await });
        }
        crowd.join_all().await
    }

    /// A client in another network than the usual one.
    fn client_from(&self, address: [u8; 4]) -> Client {
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .local_address(IpAddr::from(address))
            .build()
            .unwrap();
        Client {
            http,
            address: self.gateway.address,
        }
    }

    async fn websocket(&self, instance: &str) -> WebSocket {
        let stream = TcpStream::connect(self.gateway.address).await.unwrap();
        let url = format!("ws://{instance}.test/ws");
        let request = url.into_client_request().unwrap();
        let opened = tokio_tungstenite::client_async(request, stream);
        timeout(LIMIT, opened).await.unwrap().unwrap().0
    }

    /// The body of something of the operator's.
    async fn operator(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.gateway.admin);
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }
}

// === impl Reply ===

impl Reply {
    fn is(&self, status: u16, code: &str) -> bool {
        (self.status, self.code.as_str()) == (status, code)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, body } = self;
        match code.is_empty() {
            true => write!(f, "{status} {body:?}"),
            false => write!(f, "{status} {code}"),
        }
    }
}

async fn ask(
    client: &Client,
    method: &str,
    instance: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Reply {
    let mut request = client.request(method, instance, path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let exchange = async {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let code = grpc_code(response.headers());
        let body = response.text().await.unwrap();
        let problem = serde_json::from_str::<serde_json::Value>(&body).ok();
        let code = code.or_else(|| Some(problem?["code"].as_str()?.to_owned()));
        let code = code.unwrap_or_default();
        Reply { status, code, body }
    };
    let reply = timeout(LIMIT, exchange).await;
    reply.unwrap_or_else(|_| panic!("{method} {instance}.test{path}: no answer in {LIMIT:?}"))
}

fn grpc_code(headers: &HeaderMap) -> Option<String> {
    let message = headers.get("grpc-message")?.to_str().unwrap();
    Some(message.split(':').next().unwrap().to_owned())
}

/// Whether the WebSocket's other side still answers.
async fn is_open(socket: &mut WebSocket) -> bool {
    if socket.send(Message::text("there?")).await.is_err() {
        return false;
    }
    let heard = timeout(LIMIT, socket.next()).await.unwrap();
    matches!(heard, Some(Ok(message)) if message == Message::text("there?"))
}

/// Waits until the gateway ends the WebSocket.
async fn end_of(mut socket: WebSocket) {
    let end = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(LIMIT, end)
        .await
        .expect("the WebSocket is cut when its epoch ends");
}
