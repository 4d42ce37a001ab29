//! A wire between a front and a node, which a test can hold or cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::World;
use crate::support::fleet::{at, member};
use crate::support::spawn;
use wakegate::fleet::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Passing,
    Held,
    Cut,
}

/// A wire for one connection. Nobody else can connect to it: what they send to begin is not answered, as
/// by a host that is away.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    fillers: Vec<TcpStream>,
}

// === impl Wire ===

impl Wire {
    /// A wire to the node, by which the front reaches the instance of this name.
    pub(super) fn of(world: &World, name: &str, id: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let node = world.node.member.endpoints[0].clone();
        let (state, _) = watch::channel(State::Passing);
        let state = Arc::new(state);
        let of_wire = Arc::clone(&state);
        spawn(async move {
            let (front, _) = listener.accept().await.unwrap();
            let node = TcpStream::connect(node).await.unwrap();
            let (from_front, to_front) = front.into_split();
            let (from_node, to_node) = node.into_split();
            let one = pass(from_front, to_node, of_wire.subscribe());
            let other = pass(from_node, to_front, of_wire.subscribe());
            tokio::join!(one, other);
            // It goes on listening, and accepts nobody.
            of_wire.closed().await;
            drop(listener);
        });
        let host = member("h-1", Role::Node, address);
        world.directory.put(name, at(&host, id));
        Self {
            address,
            state,
            fillers: Vec::new(),
        }
    }

    /// From now on nobody can connect to it any more. It has to have its connection already.
    pub(super) async fn close_to_others(&mut self) {
        let moment = Duration::from_millis(300);
        while let Ok(Ok(stream)) = timeout(moment, TcpStream::connect(self.address)).await {
            self.fillers.push(stream);
            assert!(self.fillers.len() < 20, "the queue has no end");
        }
    }

    /// Nothing passes any more, and nobody hears so.
    pub(super) fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    /// Both ends hear that the other one has gone.
    pub(super) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }
}

/// Passes bytes on, one way.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut part = vec![0; 64 * 1024];
    loop {
        let now = *state.borrow_and_update();
        match now {
            State::Cut => return,
            State::Held => {
                if state.changed().await.is_err() {
                    return;
                }
                continue;
            }
            State::Passing => {}
        }
        tokio::select! {
            _ = state.changed() => {}
            read = from.read(&mut part) => match read {
                Ok(count @ 1..) => {
                    if to.write_all(&part[..count]).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => return,
            },
        }
    }
}
