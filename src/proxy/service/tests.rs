use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, StatusCode};
use hypeman::wire::{AutoStandbyStatus, Instance, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError, InstanceId, InstanceRef};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::ClientBody;
use crate::config::{Variables, load};
use crate::hold::Hold;
use crate::proxy::{Arrival, ConnectionCache, Gateway, GatewayParts};
use crate::telemetry::{AccessSink, Metrics, Tracer};
use crate::upstream::Upstream;
use crate::wake::{Tcp, Wakes};

const ROUTES: &str = r#"
[[route]]
host = "open.test"
instance = "one"

[[route]]
host = "tls.test"
instance = "one"
redirect_http = true

[[route]]
host = "key.test"
instance = "one"
auth = { header = "x-key", value = "0123456789abcdef0123456789abcdef" }
"#;

/// A control plane that has no instances, and counts how often it is asked for one.
#[derive(Debug, Clone, Default)]
struct Empty(Arc<AtomicUsize>);

impl ControlPlane for Empty {
    async fn get(&self, _: &InstanceRef) -> Result<Instance, ControlPlaneError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(ControlPlaneError::api("get", 404, "not_found", ""))
    }

    async fn restore(&self, _: &InstanceId) -> Result<Instance, ControlPlaneError> {
        pending().await
    }

    async fn start(&self, _: &InstanceId) -> Result<Instance, ControlPlaneError> {
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
        pending().await
    }
}

fn gateway(plane: &Empty) -> Arc<Gateway<Empty>> {
    let config = load("test", ROUTES, &Variables::default()).unwrap();
    let metrics = Arc::new(Metrics::new());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
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
        upstream: Upstream::new(config.upstream.clone(), tasks.clone(), Arc::clone(&metrics)),
        response: ArcSwap::from_pointee(config.response.clone()),
        server: Arc::new(ArcSwap::from_pointee(config.server.clone())),
        max_hold: config.wake.max_hold,
        metrics,
        access: Arc::new(AccessSink::off()),
        tracer: Tracer::default(),
        tunnels: tasks,
        cut: stop,
    };
    Gateway::new(&config.route, config.wake.unknown_per_client, parts)
}

async fn status(
    gateway: &Arc<Gateway<Empty>>,
    target: &str,
    fields: &[(&'static str, &'static str)],
) -> StatusCode {
    let mut request: Request<Option<ClientBody>> = Request::new(None);
    *request.uri_mut() = target.parse().unwrap();
    for (name, value) in fields {
        let value = HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    let arrival = Arrival {
        client: SocketAddr::from(([192, 0, 2, 1], 1024)),
        local: SocketAddr::from(([192, 0, 2, 2], 80)),
        secure: false,
        certificate: None,
        interim: None,
        cache: &ConnectionCache::default(),
        covers: &|host| host != "elsewhere.test",
        from_peer: None,
        is_asking: false,
        buffers: None,
    };
    Arc::clone(gateway)
        .handle(Box::new(request.into()), &arrival)
        .await
        .status()
}

#[tokio::test]
async fn what_the_route_phase_refuses_never_reaches_the_control_plane() {
    let plane = Empty::default();
    let gateway = gateway(&plane);
    let open = ("host", "open.test");
    for (target, fields, expected) in [
        ("/", &[][..], 400),
        ("/", &[("host", "a b")], 400),
        ("*", &[open], 400),
        ("/", &[("host", "other.test")], 404),
        ("/", &[("host", "elsewhere.test")], 421),
        ("/", &[("host", "tls.test")], 301),
        ("/", &[("host", "key.test")], 403),
        ("/", &[("host", "key.test"), ("x-key", "wrong")], 403),
    ] {
        let status = status(&gateway, target, fields).await;
        assert_eq!(status.as_u16(), expected, "{target} {fields:?}");
    }
    assert_eq!(plane.0.load(Ordering::Relaxed), 0);
    assert_eq!(status(&gateway, "/", &[open]).await, StatusCode::NOT_FOUND);
    assert_eq!(plane.0.load(Ordering::Relaxed), 1, "resolve asks");
}
