//! What belongs to an epoch ends with it, whatever is spoken on its connections.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{PATIENCE, eventually, reference, spawn};
use hypeman::wire::{AutoStandbyStatus, Instance as Answer, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError, InstanceId, InstanceRef};
use wakegate::client::{ClientBody, ClientBodyError, UpgradeOffer};
use wakegate::config::{Config, Protocol, Variables, load};
use wakegate::hold::Hold;
use wakegate::names::PlaneIndex;
use wakegate::proxy::{Arrival, ConnectionCache, Gateway, GatewayParts, RawKind};
use wakegate::telemetry::{AccessSink, Metrics, Readings, Tracer};
use wakegate::upstream::{
    ForwardError, Hop, InstanceResponse, Outgoing, RequestBody, Upstream, UpstreamBody,
};
use wakegate::wake::{Endpoint, Tcp, Wakes};

/// A control plane with one instance, which is awake until it is put to sleep and then stays so.
#[derive(Debug, Clone, Default)]
struct Plane {
    is_asleep: Arc<AtomicBool>,
    /// Until then a restore takes its time.
    ends: CancellationToken,
}

fn refusal(op: &'static str, status: u16, code: &str) -> ControlPlaneError {
    ControlPlaneError::Api {
        op,
        status,
        code: code.to_owned(),
        message: String::new(),
        from_api: true,
        retry_after: None,
    }
}

impl Plane {
    fn answer(&self) -> Answer {
        let state = match self.is_asleep.load(Ordering::SeqCst) {
            true => "Standby",
            false => "Running",
        };
        serde_json::from_value(json!({
            "id": "one", "name": "one", "image": "i", "state": state,
            "created_at": "2026-01-01T00:00:00Z",
            "network": { "enabled": true, "ip": "127.0.0.1" },
        }))
        .unwrap()
    }
}

impl ControlPlane for Plane {
    async fn get(&self, _: &InstanceRef) -> Result<Answer, ControlPlaneError> {
        Ok(self.answer())
    }

    async fn restore(&self, _: &InstanceId) -> Result<Answer, ControlPlaneError> {
        self.ends.cancelled().await;
        Err(refusal("restore", 500, "internal_error"))
    }

    async fn start(&self, _: &InstanceId) -> Result<Answer, ControlPlaneError> {
        pending().await
    }

    async fn wait(
        &self,
        _: &InstanceId,
        _: &InstanceState,
        _: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        pending().await
    }

    async fn hold(&self, _: &InstanceId) -> Result<AutoStandbyStatus, ControlPlaneError> {
        Err(refusal("hold", 404, "Not Found"))
    }
}

/// What the application sees.
#[derive(Debug, Default)]
struct Seen {
    open: AtomicUsize,
    requests: AtomicUsize,
    /// The connections that took a request, by their number.
    connections: Mutex<Vec<usize>>,
    /// From now on a request breaks its connection.
    breaks: AtomicBool,
}

/// A connection that the application has.
struct Accepted(Arc<Seen>);

impl Drop for Accepted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Seen {
    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn request(&self, connection: usize) {
        self.connections.lock().unwrap().push(connection);
        self.requests.fetch_add(1, Ordering::SeqCst);
    }
}

/// An application: `serve` has each connection that is opened to it, with its number.
async fn application<F>(
    serve: impl Fn(TcpStream, Arc<Seen>, usize) -> F + Send + 'static,
) -> (u16, Arc<Seen>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, seen) = (
        listener.local_addr().unwrap().port(),
        Arc::<Seen>::default(),
    );
    let all = Arc::clone(&seen);
    spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            all.open.fetch_add(1, Ordering::SeqCst);
            let (accepted, serving) = (
                Accepted(Arc::clone(&all)),
                serve(stream, Arc::clone(&all), number),
            );
            spawn(async move {
                serving.await;
                drop(accepted);
            });
        }
    });
    (port, seen)
}

/// An application of HTTP/1.1, or of nothing that anybody knows; a request's path says what it does.
async fn h1(mut stream: TcpStream, seen: Arc<Seen>, number: usize) {
    let (mut input, mut room) = (Vec::new(), [0; 16 * 1024]);
    // Until the other side closes the connection, or breaks it.
    while let Ok(count @ 1..) = stream.read(&mut room).await {
        input.extend_from_slice(&room[..count]);
        let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8(input.drain(..end + 4).collect()).unwrap();
        input.clear();
        seen.request(number);
        if seen.breaks.load(Ordering::SeqCst) {
            return;
        }
        let answer = match head.split(' ').nth(1).unwrap() {
            "/done" => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone",
            "/stream" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "/flood" => "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nhello",
            "/ws" => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 \r\nhello"
            }
            _ => continue,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let flood = vec![b'x'; 64 * 1024];
        while head.contains("/flood") {
            if stream.write_all(&flood).await.is_err() {
                return;
            }
        }
    }
}

/// The same for HTTP/2 without TLS.
async fn h2(stream: TcpStream, seen: Arc<Seen>, number: usize) {
    let service = service_fn(move |request: Request<Incoming>| {
        seen.request(number);
        async move {
            let first = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"hello")));
            let body: UnsyncBoxBody<Bytes, Infallible> = match request.uri().path() {
                "/done" => Full::new(Bytes::from_static(b"done")).boxed_unsync(),
                "/stream" => {
                    // The request's body stays open for as long as the response's.
                    let frames = stream::unfold((Some(first), request), async |next| match next {
                        (Some(frame), request) => Some((frame, (None, request))),
                        (None, _) => pending().await,
                    });
                    StreamBody::new(frames).boxed_unsync()
                }
                _ => pending().await,
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _end = server.serve_connection(TokioIo::new(stream), service).await;
}

/// A gateway in front of an application.
struct Stage {
    plane: Plane,
    gateway: Arc<Gateway<Plane>>,
    upstream_tasks: TaskTracker,
    tasks: TaskTracker,
    stop: CancellationToken,
    port: u16,
}

impl Stage {
    fn set(port: u16, extra: &str) -> Self {
        let text = format!(
            "{extra}\n[[route]]\nhost = \"h1.test\"\ninstance = \"one\"\nport = {port}\n\
             [[route]]\nhost = \"h2.test\"\ninstance = \"one\"\nport = {port}\nprotocol = \"h2c\"\n"
        );
        let config: Config = load("test", &text, &Variables::default()).unwrap();
        let (tasks, upstream_tasks) = (TaskTracker::new(), TaskTracker::new());
        let (stop, metrics) = (CancellationToken::new(), Arc::new(Metrics::new()));
        let plane = Plane::default();
        let wakes = Wakes::new(
            vec![plane.clone()],
            Tcp,
            config.wake.clone(),
            &metrics,
            tasks.clone(),
            &stop,
        );
        let parts = GatewayParts {
            wakes,
            hold: Hold::new(&config.wake, Arc::clone(&metrics)),
            instance_tls: Arc::default(),
            challenges: None,
            upstream: Upstream::new(
                config.upstream.clone(),
                upstream_tasks.clone(),
                Arc::clone(&metrics),
            ),
            response: ArcSwap::from_pointee(config.response.clone()),
            server: Arc::new(ArcSwap::from_pointee(config.server.clone())),
            max_hold: config.wake.max_hold,
            metrics,
            access: Arc::new(AccessSink::off()),
            tracer: Tracer::default(),
            tunnels: tasks.clone(),
            cut: stop.clone(),
        };
        Self {
            plane,
            gateway: Gateway::new(&config.route, config.wake.unknown_per_client, parts),
            upstream_tasks,
            tasks,
            stop,
            port,
        }
    }

    fn upstream(&self) -> &Arc<Upstream> {
        &self.gateway.parts().upstream
    }

    /// The epoch that the instance is in.
    async fn endpoint(&self) -> Option<Endpoint> {
        let wakes = &self.gateway.parts().wakes;
        let (name, patience) = (reference("one"), Duration::from_secs(5));
        let found = wakes
            .find(PlaneIndex(0), &name, patience, [127, 0, 0, 1].into())
            .await;
        found.unwrap().endpoint()
    }

    /// The epoch that the instance is in once it has been found awake.
    async fn awake(&self) -> Endpoint {
        let mut client = self.client(true).await;
        client.write_all(b"hi").await.unwrap();
        let mut endpoint = None;
        eventually("it is awake", async || {
            endpoint = self.endpoint().await;
            endpoint.is_some()
        })
        .await;
        drop(client);
        let endpoint = endpoint.unwrap();
        eventually("nothing is open", async || endpoint.open_connections() == 0).await;
        endpoint
    }

    fn hop(&self, protocol: Protocol) -> Hop {
        Hop {
            port: self.port,
            protocol,
            tls: None,
            proxy_header: None,
        }
    }

    /// Sends a GET for `path` past the gateway's own phases.
    async fn get(
        &self,
        endpoint: &Endpoint,
        protocol: Protocol,
        path: &str,
    ) -> Result<InstanceResponse<UpstreamBody>, ForwardError> {
        let request = Request::get(path).header("host", "one.test");
        let request = request.body(RequestBody::new(None, 0)).unwrap();
        let mut outgoing = Outgoing::new(request, None, false, None);
        let (upstream, hop) = (self.upstream(), self.hop(protocol));
        let sent = upstream.send(endpoint, &hop, None, &mut outgoing, Instant::now());
        sent.await
    }

    /// The same, and the whole response.
    async fn done(&self, endpoint: &Endpoint, protocol: Protocol) {
        let response = self.get(endpoint, protocol, "/done").await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "done");
    }

    /// A client's connection, of HTTP or of bytes that nobody reads on the way.
    async fn client(&self, is_raw: bool) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (stream, address) = listener.accept().await.unwrap();
        let gateway = Arc::clone(&self.gateway);
        spawn(async move {
            let cache = ConnectionCache::default();
            let arrival = || Arrival {
                client: address,
                local: SocketAddr::from(([127, 0, 0, 1], 80)),
                secure: false,
                certificate: None,
                interim: None,
                cache: &cache,
                covers: &|_| true,
                from_peer: None,
                is_asking: false,
                buffers: None,
            };
            if is_raw {
                return gateway
                    .proxy_tcp(stream, "h1.test", RawKind::Tcp, &arrival())
                    .await;
            }
            let service = service_fn(async |mut request: Request<Incoming>| {
                let has_body = !hyper::body::Body::is_end_stream(request.body());
                let (offer, switched) = UpgradeOffer::new();
                let upgrade = hyper::upgrade::on(&mut request);
                request.extensions_mut().insert(offer);
                spawn(async move {
                    if let Ok(stream) = upgrade.await {
                        let _unwanted = switched.send(Box::pin(TokioIo::new(stream)));
                    }
                });
                let request = request.map(|body| {
                    let body = body.map_err(|_| ClientBodyError::Ended);
                    has_body.then(|| ClientBody::of(body))
                });
                let gateway = Arc::clone(&gateway);
                Ok::<_, Infallible>(gateway.handle(Box::new(request.into()), &arrival()).await)
            });
            let server = hyper::server::conn::http1::Builder::new();
            let serving = server.serve_connection(TokioIo::new(stream), service);
            let _end = serving.with_upgrades().await;
        });
        client.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.plane.ends.cancel();
        self.upstream().close();
        for tasks in [self.tasks, self.upstream_tasks] {
            tasks.close();
            let ended = timeout(PATIENCE, tasks.wait()).await;
            ended.expect("no task outlives the gateway");
        }
    }
}

/// What a client has of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// An answer that begins like this.
    Answer(&'static str),
    /// The end of its connection, and not of the response.
    BreaksOff,
    /// It waits for the next wake.
    Held,
    /// It does not look.
    Ignored,
}

const GET: &str = "GET /{path} HTTP/1.1\r\nhost: {host}.test\r\n\r\n";
const UPLOAD: &str = "POST /{path} HTTP/1.1\r\nhost: {host}.test\r\ntransfer-encoding: chunked\r\n\
    \r\n4\r\nmore\r\n";
const UPGRADE: &str = "GET /{path} HTTP/1.1\r\nhost: {host}.test\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
    \r\n";

/// Which host, request and path, what the client waits for first, and what becomes of it.
const EXCHANGES: &[(&str, &str, &str, &str, Then)] = &[
    ("h1", GET, "silence", "", Then::Held),
    ("h1", GET, "stream", "hello", Then::BreaksOff),
    ("h1", GET, "flood", "200", Then::Ignored),
    ("h1", GET, "done", "done", Then::Ignored),
    ("h1", UPLOAD, "silence", "", Then::Answer("HTTP/1.1 502")),
    ("h1", UPLOAD, "stream", "hello", Then::BreaksOff),
    ("h1", UPLOAD, "flood", "200", Then::Ignored),
    ("h1", UPGRADE, "ws", "hello", Then::BreaksOff),
    ("h1", UPGRADE, "silence", "", Then::Answer("HTTP/1.1 502")),
    ("h2", GET, "silence", "", Then::Held),
    ("h2", GET, "stream", "hello", Then::BreaksOff),
    ("h2", GET, "done", "done", Then::Ignored),
    ("h2", UPLOAD, "silence", "", Then::Answer("HTTP/1.1 502")),
    ("h2", UPLOAD, "stream", "hello", Then::BreaksOff),
    ("raw", GET, "silence", "", Then::BreaksOff),
    ("raw", GET, "stream", "hello", Then::BreaksOff),
];

async fn read_until(client: &mut TcpStream, text: &str) {
    let (mut input, mut room) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&input).contains(text) {
        let count = timeout(PATIENCE, client.read(&mut room)).await.expect(text);
        let count = count.unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&input));
        input.extend_from_slice(&room[..count]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_an_epoch_is_cut_nothing_of_it_stays_open() {
    for (host, request, path, first, then) in EXCHANGES {
        let case = format!("{host} {} /{path}", request.split(' ').next().unwrap());
        let (port, seen) = match *host {
            "h2" => application(h2).await,
            _ => application(h1).await,
        };
        let stage = Stage::set(port, "");
        let mut client = stage.client(*host == "raw").await;
        let request = request.replace("{path}", path).replace("{host}", host);
        client.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut client, first).await;
        eventually("the application has it", async || seen.requests() == 1).await;
        let endpoint = stage.endpoint().await.unwrap();
        eventually("only its connection is open", async || {
            seen.open() == 1 && endpoint.open_connections() == 1
        })
        .await;

        stage.plane.is_asleep.store(true, Ordering::SeqCst);
        endpoint.cut().cancel();
        let all_closed = timeout(Duration::from_secs(1), async {
            while endpoint.open_connections() > 0 || seen.open() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let all_closed = all_closed.await.is_ok();
        let left = (endpoint.open_connections(), seen.open());
        assert!(all_closed, "{case}: {left:?} are open");
        let metrics = stage.gateway.parts().metrics.render(&Readings::default());
        assert!(
            metrics.contains("wakegate_upstream_connections 0\n"),
            "{case}"
        );

        let mut answer = Vec::new();
        let reading = timeout(Duration::from_millis(500), client.read_to_end(&mut answer));
        match then {
            Then::Answer(beginning) => {
                let mut room = vec![0; beginning.len()];
                answer = match timeout(PATIENCE, client.read_exact(&mut room)).await {
                    Ok(_) => room,
                    Err(_) => Vec::new(),
                };
                assert_eq!(String::from_utf8_lossy(&answer), *beginning, "{case}");
            }
            Then::BreaksOff => {
                reading.await.expect(&case).ok();
                assert!(!answer.ends_with(b"0\r\n\r\n"), "{case}: a clean end");
            }
            Then::Held => {
                assert!(reading.await.is_err(), "{case}: it waits for the wake");
                assert!(answer.is_empty(), "{case}");
            }
            Then::Ignored => {}
        }
        drop(client);
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pool_is_looked_after_while_something_is_in_it_and_no_longer() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let (port, _seen) = match protocol {
            Protocol::H2c | Protocol::H2 => application(h2).await,
            Protocol::H1 | Protocol::Https => application(h1).await,
        };
        let stage = Stage::set(port, "[upstream]\nidle_timeout = \"100ms\"");
        let endpoint = stage.awake().await;
        for _ in 0..2 {
            stage.done(&endpoint, protocol).await;
            eventually("it is idle", async || stage.upstream().idle() == 1).await;
            assert!(!stage.upstream_tasks.is_empty());
            eventually("it is closed", async || endpoint.open_connections() == 0).await;
            eventually("nobody looks after nothing", async || {
                stage.upstream_tasks.is_empty()
            })
            .await;
            assert_eq!(stage.upstream().idle(), 0);
        }
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_broke_after_a_nap_takes_those_along_that_napped_as_long() {
    let (port, seen) = application(h1).await;
    let stage = Stage::set(port, "");
    let endpoint = stage.awake().await;
    let open_stream = async |path| {
        let response = stage.get(&endpoint, Protocol::H1, path).await.unwrap();
        response.into_body()
    };
    let finish = |body: UpstreamBody| async { body.collect().await.unwrap() };
    let under_way = open_stream("/stream").await;
    let sleepers = [open_stream("/done").await, open_stream("/done").await];
    for body in sleepers {
        finish(body).await;
    }
    assert_eq!(stage.upstream().idle(), 2);
    // What is idle for so long may have missed that its instance slept.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // The last is used first: these two take the sleepers and a new one.
    let (one, two, three) = (
        open_stream("/done").await,
        open_stream("/done").await,
        open_stream("/done").await,
    );
    for body in [one, two, three] {
        finish(body).await;
    }
    assert_eq!(stage.upstream().idle(), 3, "all three are fresh");

    seen.breaks.store(true, Ordering::SeqCst);
    let broken = stage.get(&endpoint, Protocol::H1, "/done").await;
    assert!(matches!(broken, Err(ForwardError::Broken(_))), "{broken:?}");
    assert_eq!(
        stage.upstream().idle(),
        2,
        "a fresh one says nothing of others"
    );

    tokio::time::sleep(Duration::from_millis(1100)).await;
    let broken = stage.get(&endpoint, Protocol::H1, "/done").await;
    assert!(matches!(broken, Err(ForwardError::Broken(_))), "{broken:?}");
    assert_eq!(
        stage.upstream().idle(),
        0,
        "its fellow sleeper is gone, too"
    );
    assert!(!endpoint.cut().is_cancelled());
    eventually("what is under way goes on", async || {
        seen.open() == 1 && endpoint.open_connections() == 1
    })
    .await;
    drop(under_way);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_gateway_leaves_no_connection_that_a_peer_could_keep() {
    for (protocol, path) in [
        (Protocol::H1, "/stream"),
        (Protocol::H2c, "/stream"),
        (Protocol::H2c, "/done"),
    ] {
        let (port, seen) = match protocol {
            Protocol::H2c | Protocol::H2 => application(h2).await,
            Protocol::H1 | Protocol::Https => application(h1).await,
        };
        let stage = Stage::set(port, "");
        let endpoint = stage.awake().await;
        let response = stage.get(&endpoint, protocol, path).await.unwrap();
        // It is dropped half read, as by a client that leaves.
        drop(response);
        stage.end().await;
        eventually("it is closed", async || seen.open() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_go_with_the_last_handle_of_their_epoch() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let (port, seen) = match protocol {
            Protocol::H2c | Protocol::H2 => application(h2).await,
            Protocol::H1 | Protocol::Https => application(h1).await,
        };
        let stage = Stage::set(port, "[upstream]\nidle_timeout = \"1h\"");
        let endpoint = stage.awake().await;
        stage.done(&endpoint, protocol).await;
        let (upstream, tasks) = (Arc::clone(stage.upstream()), stage.upstream_tasks.clone());
        eventually("it is idle", async || upstream.idle() == 1).await;
        // Nobody cuts the epoch; whoever knows of it lets go of it.
        stage.stop.cancel();
        stage.tasks.close();
        stage.tasks.wait().await;
        drop(stage);
        assert_eq!((upstream.idle(), seen.open()), (1, 1));
        drop(endpoint);
        eventually("it is closed", async || seen.open() == 0).await;
        assert_eq!(upstream.idle(), 0);
        eventually("nobody looks after it", async || tasks.is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_look_before_a_sleep_on_nobody_enters_who_was_not_counted() {
    let (port, seen) = application(h1).await;
    let stage = Stage::set(port, "");
    let endpoint = stage.awake().await;
    let parts = stage.gateway.parts();
    let wakes = &parts.wakes;
    let (name, patience) = (reference("one"), Duration::from_secs(5));
    let found = wakes.find(PlaneIndex(0), &name, patience, [127, 0, 0, 1].into());
    let instance = found.await.unwrap();
    // A warm request that comes while the task looks waits for what comes of the look.
    let (looked, look) = (endpoint.clone(), std::sync::mpsc::channel::<()>());
    let may = move || {
        assert!(looked.is_resting());
        look.1.recv().unwrap();
        false
    };
    let (refusing, requests) = (Arc::clone(&instance), seen.requests());
    let resting = spawn(async move { refusing.rest(may, async { Ok(()) }).await });
    eventually("the task looks", async || endpoint.is_resting()).await;
    let mut client = stage.client(false).await;
    let get = "GET /done HTTP/1.1\r\nhost: h1.test\r\n\r\n";
    client.write_all(get.as_bytes()).await.unwrap();
    let queues = wakegate::proxy::queues_of(&parts.hold, &instance);
    eventually("it waits", async || queues.held() == 1).await;
    assert_eq!(seen.requests(), requests);
    look.0.send(()).unwrap();
    let rested = resting.await.unwrap();
    assert!(matches!(rested, Err(wakegate::wake::RestError::Busy)));
    assert!(!endpoint.is_resting());
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(
        !endpoint.cut().is_cancelled(),
        "it goes on in the same epoch"
    );
    drop(client);
    stage.end().await;
}
