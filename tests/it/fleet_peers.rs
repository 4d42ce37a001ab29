//! Requests from a front to the node of an instance's host: who is believed, what is carried, what is
//! sent again and what is not.

mod carried;
mod ends;
mod parked;
mod placed;
mod refused;
mod said;
mod shared;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hypeman::wire::Instance;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::fleet::{Authority, Directory, Node, at};
use crate::support::{Gateway, Plane, spawn};

/// A front and a node with its host.
struct World {
    authority: Authority,
    plane: Plane,
    node: Node,
    directory: Arc<Directory>,
    front: Gateway,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        Self::with("", "").await
    }

    /// Both with more TOML.
    async fn with(front: &str, node: &str) -> Self {
        let (authority, plane) = (Authority::new(), Plane::start().await);
        let identity = authority.identity("node", "h-1");
        let node = Node::start(&plane, identity, node).await;
        let directory = Directory::new();
        let identity = authority.identity("front", "f-1");
        let front = Gateway::front(identity, &directory, front).await;
        Self {
            authority,
            plane,
            node,
            directory,
            front,
        }
    }

    /// The directory has the instance at the node.
    fn claim(&self, instance: &Instance) {
        let place = at(&self.node.member, &instance.id);
        self.directory.put(&instance.name, place);
    }

    async fn peer_requests(&self, outcome: &str) -> f64 {
        let name = format!("wakegate_peer_requests_total{{outcome=\"{outcome}\"}}");
        self.front.metric(&name).await
    }

    async fn stop(self) {
        self.front.stop().await;
        self.node.gateway.stop().await;
        self.plane.stop().await;
    }
}

/// An application that answers each request so and counts those that come.
fn answering(origin: TcpListener, answer: &'static str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    spawn(async move {
        while let Ok((mut stream, _)) = origin.accept().await {
            let counted = Arc::clone(&counted);
            spawn(async move {
                let (mut head, mut part) = (Vec::new(), [0; 4096]);
                while let Ok(some @ 1..) = stream.read(&mut part).await {
                    head.extend_from_slice(&part[..some]);
                    if head.windows(4).any(|four| four == b"\r\n\r\n") {
                        counted.fetch_add(1, Ordering::SeqCst);
                        head.clear();
                        let _sent = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    count
}
